"""The process that sends a run's spools, from the training's side."""

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

# The package may be used from a folder, without being installed.
_ROOT = Path(__file__).parents[2]
_SEND = """import sys
root = sys.argv.pop(1)
sys.path = [folder for folder in sys.path if folder]
if root not in sys.path: sys.path.insert(0, root)
from lr_plugins.tracking.sender_program import main
main()"""
_STARTS = 5  # of a process that keeps ending, before giving up


class SenderProcess:
    """Starts a sender, restarts it if it has died, and sends it messages.

    Args:
        folder: its working directory, which relative tracking URIs refer to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0  # since something has been sent

    @property
    def pid(self) -> int:
        """The process ID."""
        return self.process.pid

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that has been started."""
        assert self._process is not None
        return self._process

    def ensure(self, spools: Sequence[Spool]) -> str:
        """Ensure that a process sends these spools; the reason if that is impossible, or else an empty string."""
        if self._process is not None and self._process.poll() is None:
            return ""
        if self._starts == _STARTS:
            return f"the process that sends keeps ending; see {spools[0].folder / ERRORS}"
        self._starts += 1
        arguments = [json.dumps([str(spool.folder), spool.writer]) for spool in spools]
        with _errors(spools) as errors:
            # In a session of its own, because Ctrl-C is meant for the training.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SEND, str(_ROOT), *arguments],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        weakref.finalize(self, _close_input, self._process)
        return ""

    def note_progress(self) -> None:
        """Something has been sent: a process that ends later may be started again."""
        self._starts = 0

    def add(self, spool: Spool) -> None:
        """Have it send another spool after those it knows."""
        self._send_line(json.dumps([str(spool.folder), spool.writer]).encode())

    def wake(self) -> None:
        """Have it look for new entries at once."""
        self._send_line(b"")

    def close(self) -> None:
        """Signal that nothing more will come."""
        if self._process is not None:
            _close_input(self._process)
        self._process = None

    def _send_line(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended; the next `ensure` starts another
                self._process.stdin.write(line + b"\n")
                self._process.stdin.flush()


@contextlib.contextmanager
def _errors(spools: Sequence[Spool]) -> Iterator[int]:
    """The file for its own messages; none, if the disk is full."""
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
