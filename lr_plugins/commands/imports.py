"""How a command imports large packages without losing time to garbage collection."""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import without garbage collection, and exclude what has been imported from it until the program ends.

    Imported modules contain no garbage. Searching them costs a short training half a second while importing, and a
    second at its end.
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
