"""The process that sends to MLflow what trainings log: `python -m lr_plugins.tracking.sender_program [SPOOL...]`.

Each SPOOL is a JSON list of its folder and the name of its writer.

Sending costs MLflow some 80 us of CPU time per point. A thread of the training would take that from the training,
because of the interpreter lock.

Each line on standard input is a message:

* an empty line: there may be new entries, look at once;
* a SPOOL: the training continues in it, or a new training starts with it;
* `null`: the training has ended and will log nothing more;
* an object: the `folder` of the training that follows, and the changes of its `environment` (null: not set).

When the input ends, the training has ended. Then the rest is sent, and a run that was not ended is marked KILLED.
Without a SPOOL the process stands by: it imports MLflow, which takes seconds, while the training still starts.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lr_plugins.tracking.private_files import open_private
from lr_plugins.tracking.secrets import MaskedStream
from lr_plugins.tracking.sender import Sender, close
from lr_plugins.tracking.spool import ERRORS, SENDING, clean_up, own_lock


class _Training:
    """A training whose spools are sent, as its messages tell.

    Args:
        place: its folder and its environment, if they are not those of this process.
    """

    def __init__(self, place: dict[str, Any]) -> None:
        self.place = place
        self.spools: list[tuple[Path, str]] = []
        self._message, self.is_gone = threading.Event(), False

    def wake(self) -> None:
        """Look for new entries at once."""
        self._message.set()

    def end(self) -> None:
        """Nothing more will come."""
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


class _Trainings:
    """The trainings of the program that started this process, one after the other, known from standard input.

    Args:
        spools: those of the first training; none while the process stands by.
    """

    def __init__(self, spools: Sequence[str]) -> None:
        self._started: queue.SimpleQueue[_Training | None] = queue.SimpleQueue()
        self._running: _Training | None = None
        self._place: dict[str, Any] = {}  # of the next training
        self._is_new = True
        for spool in spools:
            self._add(json.loads(spool))
        threading.Thread(target=self._listen, daemon=True).start()

    def __iter__(self) -> Iterator[_Training]:
        return iter(self._started.get, None)

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line) if line.strip() else ""
            if isinstance(message, list):
                self._add(message)
            elif isinstance(message, dict):
                self._place = message
            elif message is None and self._running is not None:
                self._running.end()
                self._running = None
            if self._running is not None:
                self._running.wake()
        if self._running is not None:
            self._running.end()
        elif self._is_new:  # the program has ended before it trained: there is no need to finish importing
            os._exit(0)
        self._started.put(None)

    def _add(self, spool: Sequence[str]) -> None:
        folder, writer = spool
        is_first = self._running is None
        if self._running is None:
            self._running, self._place, self._is_new = _Training(self._place), {}, False
        self._running.spools.append((Path(folder), writer))
        if is_first:
            self._started.put(self._running)


def _move(folder: str, environment: dict[str, str | None]) -> None:
    """Work in a folder from now on, with changes of the environment."""
    with contextlib.suppress(OSError):  # MLflow refuses relative paths that cannot be used
        os.chdir(folder)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


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
    """Send the spools of one training after the other, as they grow."""
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    ask_once()
    _lift_limit()
    if hasattr(os, "nice"):
        os.nice(5)  # the training comes first
    # A call creates thousands of objects that are all needed: searching them, and MLflow's modules, for garbage would
    # take a third of the time.
    gc.set_threshold(100_000, 50, 100)
    trainings = _Trainings(sys.argv[1:])
    if len(sys.argv) == 1:
        _import_mlflow()
    for training in trainings:
        if training.place:
            _move(**training.place)
        _write_errors_beside(training.spools[0][0])
        _send_all(training)
    gc.freeze()  # the end of the process need not search MLflow's modules for garbage


def _import_mlflow() -> None:
    """Import what sending to a database will need; a server takes little more."""
    with contextlib.suppress(Exception):  # then sending says why
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.tracking.context.registry
        import mlflow.tracking.fluent  # noqa: F401


def _write_errors_beside(folder: Path) -> None:
    """Send this process's own messages to the spool's file for them."""
    with contextlib.suppress(OSError):
        descriptor = open_private(folder / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)


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
