"""Where a run is spooled when the disk is full."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lr_plugins.tracking.spool import DEFAULT, ELSEWHERE

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_LEAST = 16 << 20  # bytes that must be free, so that this disk does not fill up soon, too


def is_full(error: OSError) -> bool:
    """Whether an error means that a disk cannot take any more data."""
    return _number(error) in _NO_ROOM


def places_with_room(parent: Path, error: OSError, start: Path) -> Iterator[Path]:
    """Folders in which a spool may find room.

    Args:
        parent: the folder of the spool whose disk is full.
        error: the error that writing raised.
        start: the folder in which the program was started.
    """
    if _number(error) == errno.EFBIG:  # only the file has reached its limit
        yield parent
    full = {_device(parent)}
    for place in (Path(tempfile.gettempdir()), _home(), start):
        if place is None or _device(place) in (None, *full) or shutil.disk_usage(place).free < _LEAST:
            continue
        full.add(_device(place))
        if place == Path(tempfile.gettempdir()):
            yield Path(tempfile.mkdtemp(prefix=ELSEWHERE))  # an unpredictable name
        else:
            yield place / DEFAULT


def _number(error: OSError) -> int | None:
    """The number of an error; the first of those that `shutil.copytree` collects."""
    if error.errno is not None:
        return error.errno
    match = re.search(r"\[Errno (\d+)\]", str(error))
    return int(match[1]) if match else None


def _device(place: Path) -> int | None:
    try:
        return os.stat(place).st_dev
    except OSError:
        return None


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home
        return None
