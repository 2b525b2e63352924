"""The process that sends a run's spools, as the training sees it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from lr_plugins.tracking.private_files import open_private
from lr_plugins.tracking.spool import ERRORS, Spool

# The package of this very program, which need not be installed; installed, it is found as it is.
_ROOT = Path(__file__).parents[2]
_SEND = """import sys
root = sys.argv.pop(1)
sys.path = [folder for folder in sys.path if folder]
if root not in sys.path: sys.path.insert(0, root)
from lr_plugins.tracking.sender_program import main
main()"""
_STARTS = 5  # of a process that ends by itself, before it is given up


class SenderProcess:
    """Starts a sender, again where it has died, and speaks to it.

    Args:
        folder: where it works, for what a tracking URI is relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0  # since something has been sent

    @property
    def pid(self) -> int:
        """Of the process that has been started."""
        return self.process.pid

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that has been started."""
        assert self._process is not None
        return self._process

    def ensure(self, spools: Sequence[Spool]) -> str:
        """Ensure that a process sends these spools; the reason if there can be none, else an empty text."""
        if self._process is not None and self._process.poll() is None:
            return ""
        if self._starts == _STARTS:
            return f"its process ends again and again; see {spools[0].folder / ERRORS}"
        self._starts += 1
        told = [json.dumps([str(spool.folder), spool.writer]) for spool in spools]
        with _errors(spools) as errors:
            # In a session of its own: Ctrl-C is for the training.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SEND, str(_ROOT), *told],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        weakref.finalize(self, _close_input, self._process)
        return ""

    def has_sent(self) -> None:
        """Something has been sent: the process is of use."""
        self._starts = 0

    def add(self, spool: Spool) -> None:
        """Have it send another spool when it has sent those that it knows."""
        self._say(json.dumps([str(spool.folder), spool.writer]).encode())

    def wake(self) -> None:
        """Have it look at once."""
        self._say(b"")

    def close(self) -> None:
        """Tell it that nothing more will come."""
        if self._process is not None:
            _close_input(self._process)
        self._process = None

    def _say(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended; the next look starts another
                self._process.stdin.write(line + b"\n")
                self._process.stdin.flush()


@contextlib.contextmanager
def _errors(spools: Sequence[Spool]) -> Iterator[int]:
    """Where it writes what it has to say of itself; nowhere, if the disk takes no more."""
    try:
        descriptor = open_private(spools[0].folder / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
