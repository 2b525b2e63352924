"""The process that sends to MLflow what a training logs: `python -m lr_plugins.tracking.sender_program SPOOL...`.

Each SPOOL is a JSON list of its folder and the name of its writer.

Sending costs MLflow some 80 us of CPU time per point. A thread of the training would take that from the training,
because of the interpreter lock.

A line on standard input wakes it at once, or names another spool in which the run continues. When the input ends, the
training has ended: the rest is sent, and a run that was not ended is marked KILLED.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lr_plugins.tracking.secrets import MaskedStream
from lr_plugins.tracking.sender import Sender, close
from lr_plugins.tracking.spool import SENDING, clean_up, own_lock


class _Training:
    """The training whose spools are sent, known from its messages on standard input."""

    def __init__(self, spools: Sequence[str]) -> None:
        self.spools = [_spool(spool) for spool in spools]
        self._message, self.is_gone = threading.Event(), False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            if line.strip():
                self.spools.append(_spool(line))
            self._message.set()
        self.is_gone = True
        self._message.set()

    def wait(self, seconds: float) -> None:
        self._message.wait(seconds)
        if not self.is_gone:
            self._message.clear()
        else:
            time.sleep(min(seconds, 0.2))

    def sender_of(self, index: int) -> Sender:
        folder, writer = self.spools[index]
        return Sender(
            folder.absolute(),
            writer,
            self.wait,
            lambda: self.is_gone,
            lambda: len(self.spools) > index + 1,
        )


def _spool(text: str | bytes) -> tuple[Path, str]:
    folder, writer = json.loads(text)
    return Path(folder), writer


def _send_all(training: _Training) -> None:
    """Send the spools of a training in order, including those in which it continues."""
    done: list[Sender] = []
    with contextlib.ExitStack() as locks:
        for index, folder in _in_turn(training):
            locks.enter_context(own_lock(folder.with_suffix(SENDING)))
            if not folder.is_dir():
                continue
            done.append(training.sender_of(index))  # read the state under the lock: another process may have sent
            if not done[-1].run():
                return
        for sender in done:
            close(sender, is_last=sender is done[-1])
        for folder, _ in training.spools:
            clean_up(folder)


def _in_turn(training: _Training) -> Iterator[tuple[int, Path]]:
    index = 0
    while index < len(training.spools):
        yield index, training.spools[index][0]
        index += 1


def main() -> None:
    """Send the spools named on the command line as they grow."""
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    ask_once()
    _lift_limit()
    if hasattr(os, "nice"):
        os.nice(5)  # the training comes first
    # A call creates thousands of objects that are all needed: searching them, and MLflow's modules, for garbage would
    # take a third of the time.
    gc.set_threshold(100_000, 50, 100)
    _send_all(_Training(sys.argv[1:]))


def ask_once() -> None:
    """Have MLflow report an unreachable server at once: the sender does its own retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def _lift_limit() -> None:
    """Let the database grow, even if the training may only write small files."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


if __name__ == "__main__":
    main()
