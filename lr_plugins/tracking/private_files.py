"""Files that only their owner can read and write, opened without following links."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lr_plugins.errors import TrackingError

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class ForeignFileError(TrackingError):
    """A link, or a file or folder of another user, where this user's own is expected."""


def make_private_folder(folder: Path) -> None:
    """Create a folder that nobody else can read.

    Raises:
        ForeignFileError: there is something else in its place.
        OSError: it cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Check that a path is a folder of this user.

    Raises:
        ForeignFileError: it is a link, not a folder, or belongs to another user.
        OSError: it does not exist.
    """
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise ForeignFileError(f"{folder} is a link; remove it, or give the folder itself")
    if not stat.S_ISDIR(status.st_mode):
        raise ForeignFileError(f"{folder} is not a folder")
    _check_owner(folder, status)


def open_private(path: Path, flags: int) -> int:
    """Open a regular file of this user; only the owner can read a new one.

    Args:
        path: the file.
        flags: as for `os.open`.

    Returns:
        The file's descriptor.

    Raises:
        ForeignFileError: it is a link, has a second hard link, is not a regular file, or belongs to another user.
        OSError: it cannot be opened.
    """
    check_file(path)
    descriptor = os.open(path, flags | _NO_LINKS, 0o600)
    try:
        _check_status(path, os.fstat(descriptor))
    except ForeignFileError:
        os.close(descriptor)
        raise
    return descriptor


def check_file(path: Path) -> None:
    """Check that a file, if there is one, may be opened.

    Raises:
        ForeignFileError: see `open_private`.
    """
    with contextlib.suppress(FileNotFoundError):
        _check_status(path, path.lstat())


def read_private(path: Path) -> bytes:
    """Read a file.

    Raises:
        ForeignFileError: see `open_private`.
        OSError: it cannot be read.
    """
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        return file.read()


def replace_private(path: Path, content: bytes) -> None:
    """Replace a file atomically; on a full disk, overwrite it in the room that it has.

    Raises:
        ForeignFileError: see `open_private`.
        OSError: it cannot be written.
    """
    try:
        descriptor, partly = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600, a new file
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(partly, path)
        except BaseException:
            os.unlink(partly)
            raise
    except OSError:
        if not path.exists():
            raise
        _overwrite(path, content)


def _overwrite(path: Path, content: bytes) -> None:
    """Overwrite a file without needing more room on the disk; spaces fill the rest."""
    with os.fdopen(open_private(path, os.O_WRONLY), "wb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if file.write(content.ljust(size)) < len(content):
            raise OSError(f"{path} has no room")


def files_below(folder: Path) -> Iterator[Path]:
    """The regular files in and below a folder, sorted by name.

    Raises:
        ForeignFileError: it contains a link, or something that is neither a file nor a folder.
        OSError: it cannot be read.
    """
    check_folder(folder)
    for path in sorted(folder.iterdir()):
        if stat.S_ISDIR(path.lstat().st_mode):
            yield from files_below(path)
        else:
            check_file(path)
            yield path


def _check_status(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ForeignFileError(f"{path} is a link to another file; remove it")
    if not stat.S_ISREG(status.st_mode):
        raise ForeignFileError(f"{path} is not a regular file; remove it")
    if status.st_nlink > 1:
        raise ForeignFileError(f"{path} is also linked under another name; remove it")
    _check_owner(path, status)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise ForeignFileError(f"{path} belongs to another user ({status.st_uid}); only its owner can use it")
