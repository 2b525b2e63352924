"""SQLite databases: a lock for creating their tables, and a check that they can be opened."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

_FILE = re.compile(r"sqlite(?:\+\w+)?:///(?:file:)?([^?]+)(?:\?.*)?")
_PATIENCE = 60.0  # seconds; another program may never release the lock
_PAUSE = 0.05  # seconds between attempts


@contextlib.contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Lock a database against other processes on this machine.

    The directory that contains the database file is locked, so the lock needs no file of its own and works for every
    user who can open the directory. Other databases, and systems without `flock`, have no lock; the sender retries
    what fails there.

    Args:
        uri: a tracking URI with an absolute path.
    """
    file = database_file(uri)
    descriptor = _locked(file.parent) if file is not None else None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def check_database(uri: str) -> None:
    """Check that an SQLite database can be opened, and create it if necessary: MLflow would retry for minutes.

    Args:
        uri: a tracking URI with an absolute path; other databases are not checked.

    Raises:
        OSError: its directory cannot be created.
        sqlite3.Error: the file cannot be opened, or is not a database.
    """
    file = database_file(uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rwc", uri=True)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def database_file(uri: str) -> Path | None:
    """The file of an SQLite database, with symbolic links resolved; None for other databases and servers.

    Example:
        >>> database_file("sqlite:////no/such/runs.db?timeout=5"), database_file("http://127.0.0.1:5000")
        (PosixPath('/no/such/runs.db'), None)
    """
    match = _FILE.fullmatch(uri)
    return Path(unquote(match[1])).resolve() if match else None


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the directory's lock; None if it cannot be locked."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError:  # a file system without locks
            break
    os.close(descriptor)
    return None
