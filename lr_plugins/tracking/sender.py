"""The process that sends to MLflow what a training logs: `python -m lr_plugins.tracking.sender SPOOL`.

Sending takes MLflow some 80 us of processor time a point. In a thread of the training it would take them from the
training, which holds the same interpreter lock.

It reads the spool as it grows, and words on its standard input tell it to look at once. When that input ends, the
training is gone: what is left is sent, and a run that has not ended is KILLED. A server that is away is asked again and
again, until the training has ended; then what waits stays where it is.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from lr_plugins.tracking.spool import LOG, REFUSED, SENDING, State, entries, guarded, remove
from lr_plugins.tracking.store import BATCH, Point, Refused, Store, points_of

_LONGEST_REASON = 200  # characters
_LOOK_EVERY = 0.5  # seconds; what gathers meanwhile goes in one call, which makes it cheaper
_LONGEST_PAUSE = 10.0  # seconds between attempts to reach a server
_ATTEMPTS_AFTER_THE_END = 3
_IDLE = 10.0  # seconds after which a process that has nothing to do any more ends


class _Impossible(Exception):
    """A run that cannot begin; what is logged of it waits until somebody has mended that."""


class Sender:
    """Sends what a spool has.

    Args:
        folder: the spool's.
        writer: who writes to it (`Spool.writer`); empty for whoever has.
        wait: waits so many seconds, or until there may be something new.
        is_over: whether nobody will write to the spool any more.
    """

    def __init__(self, folder: Path, writer: str, wait: Callable[[float], object], is_over: Callable[[], bool]) -> None:
        self.folder, self._writer = folder, writer
        self.state = State.read(folder)
        self._wait, self._is_over = wait, is_over
        self._store = Store(folder, self.state)
        self._points: list[Point] = []  # to go in one call
        self._end_of_points = self.state.done

    def run(self) -> bool:
        """Send until all is sent and nobody writes any more; whether all is sent."""
        attempts, idle = 0, time.monotonic()
        while not self.state.error:
            over = self._is_over()  # asked first: what was written before is seen then
            try:
                if self._send():
                    attempts, idle = 0, time.monotonic()
                elif over or (self.state.ended and time.monotonic() - idle > _IDLE):
                    return True
                if not over:
                    self._wait(_LOOK_EVERY)
            except _Impossible as error:
                self.state.error = str(error)
                self.state.write(self.folder)
            except Exception as error:
                attempts += 1
                self.note(error)
                if over and attempts >= _ATTEMPTS_AFTER_THE_END:
                    return False
                self._wait(min(0.5 * 2 ** min(attempts, 10), _LONGEST_PAUSE))
        return False

    def note(self, error: Exception) -> None:
        """Tell why nothing can be sent; for good, where the run cannot even begin and no server is asked."""
        reason = (str(error).strip().splitlines() or [""])[0][:_LONGEST_REASON] or type(error).__name__
        remote = (self._uri or "").startswith("http")
        if self.state.run_id is None and not remote and "locked" not in reason:
            self.state.error = reason
        else:
            self.state.trouble = reason
        self._points, self._end_of_points = [], self.state.done
        self.state.write(self.folder)

    @property
    def _uri(self) -> str | None:
        return self.state.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")

    def _send(self) -> bool:
        """Send what is there; whether there was anything."""
        found = False
        for entry, end in entries(self.folder, self.state.done):
            found = True
            self._take(entry, end)
        if self._points:
            self._send_points()
        return found

    def _take(self, entry: dict[str, Any] | None, end: int) -> None:
        points = list(points_of(entry)) if entry is not None else []
        if entry is None or points or entry["do"] in ("points", "series"):
            self._points += points
            self._end_of_points = end
            if len(self._points) >= BATCH:
                self._send_points()
            return
        if self._points:
            self._send_points()
        try:
            self._store.do(entry)
        except Refused as error:
            if entry["do"] == "run":
                raise _Impossible(str(error)) from error
            self._refuse(entry, error)
        if self.state.missing:
            raise _Impossible(f"run {entry['run_id']} is not there")
        if entry["do"] == "run":
            self.state.writer = entry["writer"]
        self.state.ended = entry["do"] == "end"
        self._sent(end)

    def _send_points(self) -> None:
        for start in range(0, len(self._points), BATCH):
            self._send_some(self._points[start : start + BATCH])
        self._points = []
        self._sent(self._end_of_points)

    def _send_some(self, points: list[Point]) -> None:
        try:
            self._store.add_points(points)
        except Refused as error:
            if len(points) == 1:
                self._refuse({"do": "points", "point": points[0]}, error)
                return
            for half in (points[: len(points) // 2], points[len(points) // 2 :]):
                self._send_some(half)

    def _refuse(self, entry: dict[str, Any], error: Exception) -> None:
        self.state.refused, self.state.refusal = self.state.refused + 1, str(error)
        with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**entry, "refused": str(error)}) + "\n")

    def _sent(self, end: int) -> None:
        self.state.done, self.state.trouble = end, ""
        self.state.write(self.folder)

    def close(self) -> None:
        """End a run whose process has gone, and throw away what MLflow has."""
        with guarded(self.folder.parent):
            others = self._writer not in ("", self.state.writer)
            if others or any(True for _ in entries(self.folder, self.state.done)):
                return  # somebody goes on with the run
            if self.state.run_id is not None and not (self.state.ended or self.state.missing):
                self._store.kill(int((self.folder / LOG).stat().st_mtime * 1000))
            if not self.state.refused:
                remove(self.folder)


class _Writer:
    """The process that writes to the spool, as its messages tell it."""

    def __init__(self) -> None:
        self._news, self._gone = threading.Event(), False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for _ in sys.stdin.buffer:
            self._news.set()
        self._gone = True
        self._news.set()

    def wait(self, seconds: float) -> None:
        self._news.wait(seconds)
        if not self._gone:
            self._news.clear()
        else:
            time.sleep(min(seconds, 0.2))

    def is_gone(self) -> bool:
        return self._gone


def send(folder: Path, writer: str, wait: Callable[[float], object], is_over: Callable[[], bool]) -> State:
    """Send a spool, when no other process does any more; what has been sent by the end.

    Args:
        folder: the spool's.
        writer: who writes to it; empty for whoever has.
        wait: waits so many seconds, or until there may be something new.
        is_over: whether nobody will write to the spool any more.
    """
    sender = Sender(folder.absolute(), writer, wait, is_over)
    if sender.run():
        try:
            sender.close()
        except Exception as error:
            sender.note(error)
    return sender.state


def main() -> None:
    """Send the spool that is named on the command line while it grows."""
    ask_once()
    if hasattr(os, "nice"):
        os.nice(5)  # the training comes first
    # A call makes thousands of objects at once, all of which are needed: looking for garbage among them, and among
    # what MLflow's modules hold, would take a third of the time.
    gc.set_threshold(100_000, 50, 100)
    folder, writer = Path(sys.argv[1]), _Writer()
    with FileLock(folder.with_suffix(SENDING)):
        if folder.is_dir():
            send(folder, sys.argv[2], writer.wait, writer.is_gone)
        if not folder.is_dir():
            folder.with_suffix(SENDING).unlink(missing_ok=True)


def ask_once() -> None:
    """Have a server that is away told of at once: whoever sends asks again by itself."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


if __name__ == "__main__":
    main()
