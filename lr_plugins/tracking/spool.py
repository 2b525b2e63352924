"""What a run has logged and MLflow may not have yet: a file that one process appends to and another one reads.

Each entry (`entries`) is a line of JSON, written with one system call as soon as it is logged, so that a process that
is killed loses none. Beside it, the sender keeps how much of it MLflow has (`State`). If the disk is full, the run
continues in another spool (`Delivery`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # torch brings it

from lr_plugins.tracking.entries import line_of
from lr_plugins.tracking.names import encodable
from lr_plugins.tracking.private_files import (
    ForeignFileError,
    check_file,
    check_folder,
    make_private_folder,
    open_private,
    read_private,
    replace_private,
)
from lr_plugins.tracking.secrets import has_secret, masked
from lr_plugins.tracking.state import STATE, State

LOG, LOCK, FILES, REFUSED = "log.jsonl", "lock", "files", "refused.jsonl"
ADDRESSES = "addresses.json"  # addresses with passwords, by their masked form in the log
HELD = "held"  # exists while entries find no room; its size in bytes is the number of points held in memory
SENDING, ERRORS = ".sending", "sender.log"
DEFAULT = Path(".lr_plugins") / "spool"  # in the current folder, like mlflow.db
ELSEWHERE = "lr_plugins-spool-"  # prefix of folders that are created when another disk is full
_OWN_NAME = re.compile(r"[0-9a-f]{32}")


class Spool:
    """The writer's side.

    Args:
        folder: the spool's own.

    Raises:
        ForeignFileError: something in it is a link, or belongs to another user.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = uuid.uuid4().hex
        make_private_folder(folder)
        make_private_folder(folder / FILES)
        self._file = open_private(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        weakref.finalize(self, os.close, self._file)
        if not (folder / STATE).exists():
            State().write(folder)  # now, while there is room
        size = self.size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self.append(b"\n")  # after a line that was cut off

    @classmethod
    def new(cls, parent: Path) -> Spool:
        """A new spool below `parent`.

        Raises:
            OSError: it cannot be written; then nothing is left of it.
        """
        folder = parent / uuid.uuid4().hex
        try:
            return cls(folder)
        except OSError:
            remove(folder)
            raise

    @property
    def size(self) -> int:
        """Bytes in the log."""
        return os.fstat(self._file).st_size

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry.

        Raises:
            OSError: the disk is full.
        """
        self.append(line_of(entry))

    def append(self, line: bytes) -> None:
        """Append a line.

        Raises:
            OSError: the disk is full; then the file has no part of the line.
        """
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            if written:
                os.ftruncate(self._file, self.size - written)
            raise

    def keep(self, path: Path) -> str:
        """Copy a file or a folder into the spool, because the original may change before it is sent; the copy's name.

        Raises:
            OSError: it cannot be read, or the disk is full.
        """

        def copy(place: Path) -> None:
            target = place / encodable(path.name or path.resolve().name)
            if not path.is_dir():
                shutil.copyfile(path, target)
                return
            # Without the spool itself, which may be below the folder.
            own = {self.folder.parent.resolve()}
            shutil.copytree(
                path,
                target,
                copy_function=shutil.copyfile,
                ignore=lambda folder, names: [name for name in names if (Path(folder) / name).resolve() in own],
            )
            for folder, _, _ in os.walk(target):
                os.chmod(folder, 0o700)  # the original's mode may forbid reading or deleting it

        return self._kept(copy)

    def keep_text(self, text: str, file_name: str) -> str:
        """Store a string as a file of that name; the copy's name.

        Raises:
            OSError: the disk is full.
        """
        return self._kept(lambda place: (place / file_name).write_bytes(text.encode("utf-8", "backslashreplace")))

    def _kept(self, copy: Callable[[Path], object]) -> str:
        name = uuid.uuid4().hex
        place = self.folder / FILES / name
        place.mkdir(mode=0o700)
        try:
            copy(place)
        except BaseException:
            remove(place)
            raise
        return name

    def keep_address(self, address: str | None) -> str | None:
        """An address without its password, which goes into a file of its own.

        Raises:
            OSError: the disk is full.
        """
        return keep_address(self.folder, address) if address is not None else None

    def mark_held(self, points: int) -> None:
        """Record beside the log how many points find no room; 0 if all have found it.

        The record itself needs no room: it is a sparse file whose size is the number of points.
        """
        with contextlib.suppress(OSError, ForeignFileError):
            if points:
                descriptor = open_private(self.folder / HELD, os.O_WRONLY | os.O_CREAT)
                try:
                    os.ftruncate(descriptor, points)
                finally:
                    os.close(descriptor)
            else:
                (self.folder / HELD).unlink(missing_ok=True)

    @property
    def is_there(self) -> bool:
        """Whether the file that is written to is still the one in the folder."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.folder / LOG))
        except OSError:
            return False


def keep_address(folder: Path, address: str) -> str:
    """An address without its password, which is stored in a file of the spool that only the owner can read.

    Raises:
        OSError: the disk is full.
    """
    if has_secret(address):
        replace_private(folder / ADDRESSES, json.dumps({**addresses(folder), masked(address): address}).encode())
    return masked(address)


def addresses(folder: Path) -> dict[str, str]:
    """The addresses with passwords of a spool, by their masked form in its log."""
    try:
        content = json.loads(read_private(folder / ADDRESSES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {shown: address for shown, address in content.items() if isinstance(address, str)}


def guarded(parent: Path) -> FileLock:
    """The lock that is held while a spool is adopted or deleted.

    Raises:
        ForeignFileError: the lock file is a link, or belongs to another user.
        OSError: the folder cannot be created.
    """
    if not parent.is_dir():
        make_private_folder(parent)
    return own_lock(parent / LOCK)


def own_lock(path: Path) -> FileLock:
    """A lock whose file belongs to this user.

    Raises:
        ForeignFileError: it is a link, not a regular file, or belongs to another user.
    """
    check_file(path)
    return FileLock(path, mode=0o600)


def spools(parent: Path) -> list[Path]:
    """This user's spools below a folder, the oldest first."""
    dated = []
    for path in parent.iterdir() if parent.is_dir() else ():
        with contextlib.suppress(OSError, ForeignFileError):
            check_folder(path)
            dated.append(((path / LOG).lstat().st_mtime_ns, path))
    return [path for _, path in sorted(dated)]


def strange_spools(parent: Path) -> list[str]:
    """Why folders that look like spools are not this user's."""
    reasons = []
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        try:
            check_folder(path)
        except ForeignFileError as error:
            if _OWN_NAME.fullmatch(path.name) or os.path.lexists(path / LOG):
                reasons.append(str(error))
        except OSError:
            continue
    return reasons


def default_folder(start: Path) -> Path:
    """The default folder for this user's spools; users who share a working directory have separate ones.

    Args:
        start: the working directory.
    """
    place = start / DEFAULT
    with contextlib.suppress(OSError):
        about = place.lstat()
        if stat.S_ISDIR(about.st_mode) and hasattr(os, "geteuid") and about.st_uid != os.geteuid():
            return place.with_name(f"{place.name}-{os.geteuid()}")
    return place


def clean_up(folder: Path) -> None:
    """Delete what is left beside a spool that no longer exists."""
    if folder.is_dir():
        return
    folder.with_suffix(SENDING).unlink(missing_ok=True)
    if folder.parent.name.startswith(ELSEWHERE):
        with contextlib.suppress(OSError):  # the run continues there
            if not spools(folder.parent):
                (folder.parent / LOCK).unlink(missing_ok=True)
                folder.parent.rmdir()


def redirect(folder: Path, address: str) -> None:
    """Have a whole spool sent to another server or database, as a new run; the caller holds its lock.

    Args:
        folder: the spool's.
        address: the tracking URI, with its password.

    Raises:
        OSError: the disk is full.
    """
    state = State.read(folder)
    if masked(address) == (state.instead or state.tracking_uri):
        return  # it is already sent there
    State(instead=keep_address(folder, address), before=state.before or state.place).write(folder)
    (folder / REFUSED).unlink(missing_ok=True)  # the log has it


def is_left(folder: Path) -> bool:
    """Whether a spool exists that no process is sending."""
    try:
        with own_lock(folder.with_suffix(SENDING)).acquire(timeout=0):
            return folder.is_dir()
    except Timeout:
        return False
    except (OSError, ForeignFileError):
        return folder.is_dir()


def remove(folder: Path) -> None:
    """Delete a spool, or a copy in it, without following links."""
    shutil.rmtree(folder, ignore_errors=True)
