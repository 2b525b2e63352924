"""A run's spool and the process that sends it, as the training sees them."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

from lr_plugins._lightning import rank_zero_warn
from lr_plugins.errors import TrackingError
from lr_plugins.tracking.spool import BY_SPOOL, ERRORS, Spool, State, guarded, line_of, spools

# The package of this very program, which need not be installed; installed, it is found as it is.
_ROOT = Path(__file__).parents[2]
_SEND = """import sys
root = sys.argv.pop(1)
sys.path = [folder for folder in sys.path if folder]
if root not in sys.path: sys.path.insert(0, root)
from lr_plugins.tracking.sender import main
main()"""
_LOOK_EVERY = 2.0  # seconds between looks at how the sending goes
_BEGIN_SECONDS = 120.0  # for MLflow to make its tables and the run, on a slow disk
_STARTS = 5  # of a sender, that ends by itself, before we give it up


class MissingRun(TrackingError):
    """The run to go on with is not there."""


class Delivery:
    """Writes entries to a spool and sees to it that a process sends them.

    Args:
        parent: the folder that the spools are in.
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent.absolute()
        self._folder = Path.cwd()  # for what a tracking URI is relative to, whatever folder the program goes to
        self.state = State()
        self.is_open = False  # between the begin of a run and its end
        self._spool: Spool | None = None
        self._sender: subprocess.Popen[bytes] | None = None
        self.process = os.getpid()
        self._starts = 0  # of senders, since something has been sent
        atexit.register(_end_at_exit, weakref.ref(self))
        self._announced = False
        self._looked_at = 0.0

    @property
    def spool(self) -> Spool:
        """The spool of a run that has begun."""
        assert self._spool is not None
        return self._spool

    @property
    def reference(self) -> str | None:
        """What the run is found by again, also where it has no id yet; None before it has begun."""
        if self._spool is None:
            return None
        self._look()
        return self.state.run_id or f"{BY_SPOOL}{self._spool.folder.name}"

    @property
    def trouble(self) -> str:
        """Why nothing can be sent at the moment; empty if all is well."""
        return self.state.error or self.state.trouble or (self._spool.trouble if self._spool is not None else "")

    def open(self, entry: dict[str, Any], known: str | None) -> None:
        """Begin a run, or go on with it; at once, whatever MLflow does.

        Args:
            entry: what to begin (see `Store`).
            known: the id or the reference of a run to go on with.

        Raises:
            TrackingError: the spool cannot be written.
        """
        try:
            with guarded(self.parent):
                if self._spool is None or not self._spool.is_there:
                    self._let_go()
                    self._spool = _left_by(known, self.parent) or Spool.new(self.parent)
                spool = self._spool
                spool.write({**entry, "writer": spool.writer, "spool": spool.folder.name, "folder": str(self._folder)})
        except OSError as error:
            raise TrackingError(f"MLflowLogger.spool_dir: {self.parent} cannot be written to ({error})") from error
        self.is_open, self._announced, self._starts = True, False, 0
        self.state = replace(self.state, done=0, trouble="", error="", differing=0)
        self._look()

    def write(self, line: bytes) -> None:
        """Write an entry of a run that has begun."""
        self.spool.append(line)
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY:
            self._looked_at = now
            self._look()
            if self.state.error and self.state.run_id is None:
                self._refuse()

    def close(self, entry: dict[str, Any], patience: float) -> bool:
        """End a run; whether all of it has been sent."""
        self.write(line_of(entry))
        self.is_open = False
        return self.await_sent(patience)

    def _look(self) -> None:
        """See to it that somebody sends, and tell of trouble once."""
        read = State.read(self.spool.folder)
        if read.done > self.state.done:
            self._starts = 0
        if read.done >= self.state.done:  # its file is gone once everything is sent
            self.state = read
        ended = self._sender is not None and self._sender.poll() is not None
        if (self._sender is None or ended) and not self.state.error:
            if self._starts == _STARTS:
                self.state.error = f"its process ends again and again; see {self.spool.folder / ERRORS}"
            else:
                self._start(self.spool)
        if self.trouble and not self._announced:
            self._announced = True
            rank_zero_warn(
                f"MLflow cannot be reached ({self.trouble}). The training goes on; what it logs waits in "
                f"{self.spool.folder}."
            )

    def _start(self, spool: Spool) -> None:
        command = [sys.executable, "-c", _SEND, str(_ROOT), str(spool.folder), spool.writer]
        self._starts += 1
        with (spool.folder / ERRORS).open("ab") as errors:
            # In a session of its own: Ctrl-C is for the training.
            self._sender = subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        weakref.finalize(self, _close_input, self._sender)

    def await_run(self) -> None:
        """Wait until there is a run, or nobody to make one.

        Raises:
            MissingRun: the run to go on with is not there.
            TrackingError: MLflow cannot be used like this at all.
        """
        deadline = time.monotonic() + _BEGIN_SECONDS
        while self.state.writer != self.spool.writer and time.monotonic() < deadline:
            self._look()
            if self.state.missing:
                raise MissingRun("the MLflow run to go on with is not there")
            if self.state.error:
                self._refuse()
            if self.state.trouble:
                return
            self._poke()
            time.sleep(0.02)

    def _refuse(self) -> None:
        """Tell that nothing can be recorded like this."""
        place, error = self.state.tracking_uri or "its default place", self.state.error
        self.abandon()
        raise TrackingError(f"MLflow at {place}: {error}")

    def await_sent(self, patience: float) -> bool:
        """Wait until all is sent, as long as something arrives; whether it is."""
        size, done, since = self.spool.size, -1, time.monotonic()
        while True:
            self._look()
            if self.state.done >= size:
                return True
            if self.state.done != done:
                done, since = self.state.done, time.monotonic()
            if self.state.error or time.monotonic() - since > (patience if self.trouble else _BEGIN_SECONDS):
                return False
            self._poke()
            time.sleep(0.02)

    def _poke(self) -> None:
        """Have the sender look at once."""
        assert self._sender is not None
        assert self._sender.stdin is not None
        with contextlib.suppress(OSError):  # it has ended; the next look starts another
            self._sender.stdin.write(b"\n")
            self._sender.stdin.flush()

    def abandon(self) -> None:
        """Give up a run that cannot begin."""
        self._let_go()
        self._spool, self.is_open, self.state = None, False, State()

    def _let_go(self) -> None:
        if self._sender is not None:
            _close_input(self._sender)
        self._sender = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process."""
        return {**self.__dict__, "_spool": None, "_sender": None, "is_open": False}


def _end_at_exit(delivery: weakref.ref[Delivery]) -> None:
    """End a run that nobody has ended when the program does; its sender goes on until it is done."""
    one = delivery()
    if one is not None and one.is_open and one.process == os.getpid():  # not that of a fork
        error = getattr(sys, "last_value", None)  # of a program that an exception ends
        status = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        one.spool.write({"do": "end", "time": int(time.time() * 1000), "status": status})


def _left_by(known: str | None, parent: Path) -> Spool | None:
    """The spool that a run to go on with has left, if it has not been sent."""
    for folder in spools(parent) if known is not None else ():
        if known in (State.read(folder).run_id, f"{BY_SPOOL}{folder.name}"):
            return Spool(folder)
    return None


def _close_input(sender: subprocess.Popen[bytes]) -> None:
    """Tell a sender that nothing more will come."""
    if sender.stdin is not None:
        with contextlib.suppress(OSError):
            sender.stdin.close()
