"""SQLite files: whether one opens, and one process at a time for what MLflow does not do safely in several."""

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
_PATIENCE = 60.0  # seconds; somebody may hold it who will not let go
_PAUSE = 0.05  # seconds between two looks


@contextlib.contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Hold the lock of a database, whichever folder, process or user of this machine asks for it.

    The lock is one on the folder that the database file is in: everybody who can use the database can open its folder,
    and nothing has to be written there. Databases that are no files have none, and neither has a system without such
    locks: what fails there because of others is tried again.

    Args:
        uri: MLflow's address, with an absolute path.
    """
    file = database_file(uri)
    descriptor = _locked(file.parent) if file is not None else None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def check_database(uri: str) -> None:
    """Open the file of an SQLite database, and make it if there is none: MLflow would try for minutes.

    Args:
        uri: MLflow's address, with an absolute path.

    Raises:
        OSError: there can be no such folder.
        sqlite3.Error: it cannot be opened, or is no database.
    """
    file = database_file(uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rwc", uri=True)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def database_file(uri: str) -> Path | None:
    """The file of an SQLite database, links followed; None of other databases, and of servers.

    Example:
        >>> database_file("sqlite:////no/such/runs.db?timeout=5"), database_file("http://127.0.0.1:5000")
        (PosixPath('/no/such/runs.db'), None)
    """
    match = _FILE.fullmatch(uri)
    return Path(unquote(match[1])).resolve() if match else None


def _locked(folder: Path) -> int | None:
    """The folder's descriptor, with the lock on it; None if there can be none."""
    try:
        import fcntl
    except ImportError:  # not on Windows
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
