"""The process that sends a run's spools, from the training's side."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
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


def stand_by() -> None:
    """Have a process import MLflow now, for the next run that logs: that takes seconds, as other imports do."""
    if not _idle:
        _idle.append(_Idle(_start(Path.cwd(), [], subprocess.DEVNULL), dict(os.environ)))


class _Idle:
    """A process that waits for a run to send.

    Args:
        process: the process.
        environment: its environment variables.
    """

    def __init__(self, process: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
        self.process, self._environment, self._owner = process, environment, os.getpid()

    @property
    def is_usable(self) -> bool:
        """Whether it can send for a run of this process: a fork must not write to its parent's."""
        return self._owner == os.getpid() and self.process.poll() is None

    def place(self, folder: Path) -> str:
        """The message that it is to work in a folder, and with the environment that this program has by now."""
        before, now = self._environment, dict(os.environ)
        changes = {name: now.get(name) for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
        return json.dumps({"folder": str(folder), "environment": changes})


_idle: list[_Idle] = []
"""The process that stands by; at most one."""


class SenderProcess:
    """Starts a sender, restarts it if it has died, and sends it messages.

    Args:
        folder: its working directory, which relative tracking URIs refer to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0  # since something has been sent
        self._environment: dict[str, str] = {}  # that of the process
        self._closing: weakref.finalize[..., SenderProcess] | None = None

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
        if not self._adopt_idle(spools):
            self._starts += 1
            with _errors(spools) as errors:
                self._process = _start(self._folder, [_line(spool) for spool in spools], errors)
        assert self._process is not None
        self._environment = dict(os.environ)
        self._closing = weakref.finalize(self, _close_input, self._process)
        return ""

    def _adopt_idle(self, spools: Sequence[Spool]) -> bool:
        """Have the process that stands by send these spools; whether there was one that can."""
        if self._process is not None or not _idle:
            return False
        idle = _idle.pop()
        if not idle.is_usable:
            _close_input(idle.process)
            return False
        self._process = idle.process
        self._send_line(idle.place(self._folder))
        for spool in spools:
            self.add(spool)
        return True

    def note_progress(self) -> None:
        """Something has been sent: a process that ends later may be started again."""
        self._starts = 0

    def add(self, spool: Spool) -> None:
        """Have it send another spool after those it knows."""
        self._send_line(_line(spool))

    def wake(self) -> None:
        """Have it look for new entries at once."""
        self._send_line("")

    def release(self) -> None:
        """Have it stand by for another run: the training of this one has ended, and everything is sent."""
        if self._process is None or self._process.poll() is not None or _idle:
            self.close()
            return
        self._send_line("null")
        if self._closing is not None:
            self._closing.detach()
        _idle.append(_Idle(self._process, self._environment))
        self._process = None

    def close(self) -> None:
        """Signal that nothing more will come."""
        if self._process is not None:
            _close_input(self._process)
        self._process = None

    def _send_line(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended; the next `ensure` starts another
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()


def _line(spool: Spool) -> str:
    return json.dumps([str(spool.folder), spool.writer])


def _start(folder: Path, spools: Sequence[str], errors: int) -> subprocess.Popen[bytes]:
    """Start a process; its own messages go to the file `errors`."""
    return subprocess.Popen(
        [sys.executable, "-c", _SEND, str(_ROOT), *spools],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=errors,
        stderr=errors,
        start_new_session=True,  # because Ctrl-C is meant for the training
    )


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
