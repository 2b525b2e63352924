"""What a run has logged and MLflow may not have yet: a file that one process appends to and another one reads.

One line of JSON per entry (`entries`). A line is written by a single call of the operating system as soon as it is
logged, so that a process that is killed loses none. The sender keeps beside it what of it MLflow has (`State`). If
the disk is full, the run continues in another spool (`Delivery`).
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
    NotOurs,
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
ADDRESSES = "addresses.json"  # those that have a password in them, by what stands in the log
HELD = "held"  # is there while entries find no room; as long, in bytes, as points are held in memory
SENDING, ERRORS = ".sending", "sender.log"
DEFAULT = Path(".lr_plugins") / "spool"  # in the current folder, as mlflow.db is
ELSEWHERE = "lr_plugins-spool-"  # how the folders begin that are made where another disk is full
_OWN_NAME = re.compile(r"[0-9a-f]{32}")


class Spool:
    """The writer's side.

    Args:
        folder: the spool's own.

    Raises:
        NotOurs: something in it is a link, or belongs to another user.
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
            State().write(folder)  # now, while there is room for it
        size = self.size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self.append(b"\n")  # after a line that was cut off

    @classmethod
    def new(cls, parent: Path) -> Spool:
        """One of its own below `parent`.

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
            OSError: the disk takes no more.
        """
        self.append(line_of(entry))

    def append(self, line: bytes) -> None:
        """Append a line.

        Raises:
            OSError: the disk takes no more; then nothing of the line is in the file.
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
        """Copy a file or a folder into the spool, for the original may change before it is sent; the copy's name.

        Raises:
            OSError: it cannot be read, or the disk takes no more.
        """

        def copy(place: Path) -> None:
            target = place / encodable(path.name or path.resolve().name)
            if not path.is_dir():
                shutil.copyfile(path, target)
                return
            # Not the spool itself, where it is below the folder.
            own = {self.folder.parent.resolve()}
            shutil.copytree(
                path,
                target,
                copy_function=shutil.copyfile,
                ignore=lambda folder, names: [name for name in names if (Path(folder) / name).resolve() in own],
            )
            for folder, _, _ in os.walk(target):
                os.chmod(folder, 0o700)  # that of the original may forbid what is to be done here

        return self._kept(copy)

    def keep_text(self, text: str, file_name: str) -> str:
        """Keep a text as a file of that name; the copy's name.

        Raises:
            OSError: the disk takes no more.
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
        """What may stand in the log for an address; where that has a password, it is kept in a file of its own.

        Raises:
            OSError: the disk takes no more.
        """
        return keep_address(self.folder, address) if address is not None else None

    def mark_held(self, points: int) -> None:
        """Note beside the log that so many points find no room; 0 where all have found it.

        The note itself needs none: it is a file without content, as long as there are points.
        """
        with contextlib.suppress(OSError, NotOurs):
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
        OSError: the disk takes no more.
    """
    if has_secret(address):
        replace_private(folder / ADDRESSES, json.dumps({**addresses(folder), masked(address): address}).encode())
    return masked(address)


def addresses(folder: Path) -> dict[str, str]:
    """The addresses with passwords that a spool has, by what stands in its log."""
    try:
        found = json.loads(read_private(folder / ADDRESSES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {shown: address for shown, address in found.items() if isinstance(address, str)}


def guarded(parent: Path) -> FileLock:
    """Held while a spool is taken up or thrown away.

    Raises:
        NotOurs: the lock file is a link, or belongs to another user.
        OSError: there can be no such folder.
    """
    if not parent.is_dir():
        make_private_folder(parent)
    return own_lock(parent / LOCK)


def own_lock(path: Path) -> FileLock:
    """A lock whose file is this user's own.

    Raises:
        NotOurs: it is a link, not a regular file, or belongs to another user.
    """
    check_file(path)
    return FileLock(path, mode=0o600)


def spools(parent: Path) -> list[Path]:
    """This user's spools below a folder, the oldest first."""
    found = []
    for path in parent.iterdir() if parent.is_dir() else ():
        with contextlib.suppress(OSError, NotOurs):
            check_folder(path)
            found.append(((path / LOG).lstat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def strange_spools(parent: Path) -> list[str]:
    """Why what looks like a spool below a folder is not this user's."""
    found = []
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        try:
            check_folder(path)
        except NotOurs as error:
            if _OWN_NAME.fullmatch(path.name) or os.path.lexists(path / LOG):
                found.append(str(error))
        except OSError:
            continue
    return found


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


def tidy(folder: Path) -> None:
    """Throw away what is left beside a spool that is gone."""
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
        OSError: the disk takes no more.
    """
    state = State.read(folder)
    if masked(address) == (state.instead or state.tracking_uri):
        return  # it is already sent there
    State(instead=keep_address(folder, address), before=state.before or state.place).write(folder)
    (folder / REFUSED).unlink(missing_ok=True)  # the log has it


def is_left(folder: Path) -> bool:
    """Whether a spool is there that no process sends."""
    try:
        with own_lock(folder.with_suffix(SENDING)).acquire(timeout=0):
            return folder.is_dir()
    except Timeout:
        return False
    except (OSError, NotOurs):
        return folder.is_dir()


def remove(folder: Path) -> None:
    """Throw a spool, or a copy in it, away; what links in it point to stays."""
    shutil.rmtree(folder, ignore_errors=True)
