"""Imports of large packages by a command, which takes nothing else from its user's time."""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_garbage() -> Iterator[None]:
    """Keep Python from searching what is imported for garbage, of which it has none, now and at the program's end.

    Of a short training that takes half a second of the import, and a second of the end.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()
    atexit.register(gc.freeze)
