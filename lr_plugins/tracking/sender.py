"""Sends a spool to MLflow as it grows.

While a server is unreachable or refuses everything, sending is retried until the training has ended; what still waits
then stays in the spool. An entry that MLflow refuses while it accepts others is moved to `refused.jsonl`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lr_plugins.tracking.answers import RefusedError, is_answer, is_permanent, reason_of
from lr_plugins.tracking.contents import BATCH
from lr_plugins.tracking.entries import Point, UnreadableEntryError, line_of, lines, parse, points_of
from lr_plugins.tracking.private_files import ForeignFileError, open_private, read_private, replace_private
from lr_plugins.tracking.spool import HELD, LOG, REFUSED, guarded, remove
from lr_plugins.tracking.state import State
from lr_plugins.tracking.store import Store

_SEND_EVERY = 0.5  # seconds; what accumulates meanwhile is sent in one call, which is cheaper
_LONGEST_PAUSE = 10.0  # seconds between attempts to reach a server
_PATIENCE = 15.0  # seconds in which other processes may be creating the database's tables
_ATTEMPTS = 3  # before entries are tried one by one; and in all, once the training has ended
_IDLE = 10.0  # seconds after which a process with nothing left to do ends
_FINGERPRINT = 256  # bytes of the log that identify it


class _ImpossibleError(Exception):
    """The run cannot be started; its entries wait until the cause is fixed."""


class Sender:
    """Sends one spool.

    Its attributes are the position in one log and what is pending there: one state, which several classes would share.

    Args:
        folder: the spool's.
        writer: who writes to it (`Spool.writer`); empty for the last writer.
        wait: waits for a number of seconds, or until there may be something new.
        is_over: whether the training is over.
        is_complete: whether the run continues in another spool. Default None: it does not.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        wait: Callable[[float], object],
        is_over: Callable[[], bool],
        is_complete: Callable[[], bool] | None = None,
    ) -> None:
        self.folder, self._writer = folder, writer
        self.state = State.read(folder)
        self.was_shortened = False  # whether the log lost something after a part of it was sent
        self._wait, self._is_over, self._is_complete = wait, is_over, is_complete or (lambda: False)
        self._store = Store(folder, self.state)
        self._points: list[Point] = []  # to be sent in one call
        self._position = self._end_of_points = self.state.done  # in the log
        # The position of an entry that could neither be sent nor, for lack of room, be set aside.
        self._unkept: int | None = None
        self._done: list[dict[str, Any]] = []
        self._started_at = time.monotonic()
        self._one_by_one = False  # whether entries are tried one by one, because one of them is refused
        self._resent: list[bytes] | None = None  # refused entries, while they are sent again

    def run(self) -> bool:
        """Send until the spool is complete and sent; False if something could not be sent."""
        attempts, idle = 0, time.monotonic()
        while not self.state.error:
            over = self._is_over()  # before reading, so that everything written earlier is seen
            complete = over or self._is_complete()
            try:
                if self._send():
                    attempts, idle = 0, time.monotonic()
                elif complete or (self.state.ended and time.monotonic() - idle > _IDLE):
                    return self._unkept is None
                if not complete:
                    self._wait(_SEND_EVERY)
            except _ImpossibleError as error:
                self.state.error = str(error)
                self._save()
            except Exception as error:
                attempts += 1
                waits = self.note(error)
                if attempts >= _ATTEMPTS and not self._one_by_one and self._takes_others():
                    self._one_by_one = True
                    continue
                if over and not waits and (attempts >= _ATTEMPTS or isinstance(error, ForeignFileError)):
                    return False
                self._wait(min(0.5 * 2 ** min(attempts, 10), _LONGEST_PAUSE))
        return False

    def note(self, error: Exception) -> bool:
        """Record why nothing can be sent; whether other processes may still be creating the database's tables."""
        reason, is_new = reason_of(error), self.state.run_id is None
        is_of_database = not self._is_remote and not isinstance(error, ForeignFileError)
        may_pass = is_new and is_of_database and not is_permanent(error)
        waits = may_pass and time.monotonic() - self._started_at < _PATIENCE
        if is_new and (is_permanent(error) or (may_pass and not waits and "locked" not in reason)):
            self.state.error = reason
        elif not waits:
            self.state.trouble, self.state.answered = reason, self._is_remote and is_answer(error)
        self._points, self._end_of_points = [], self._position
        self._save()
        return waits

    @property
    def _is_remote(self) -> bool:
        return (self.state.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "").startswith("http")

    def _takes_others(self) -> bool:
        return self.state.run_id is not None and self._store.takes_anything()

    # --- the log -----------------------------------------------------------------------------------------------

    def _send(self) -> bool:
        """Send what the log has; whether there was anything."""
        self._check_log()
        any_new = False
        for line, end in lines(self.folder / LOG, self._position):
            any_new = True
            self._take(line, end)
        self._send_points()
        self._one_by_one = False
        return any_new

    def _check_log(self) -> None:
        """Check that the log is still the one that was partly sent; if not, send all of it."""
        done, known = self.state.done, self.state.before_done
        before = self._before(done)
        if before is None or (known and before != known):
            self.was_shortened = True
            self.state.done, self.state.before_done, self.state.ended = 0, "", False
            self._points, self._position, self._end_of_points, self._unkept = [], 0, 0, None
            self._save()

    def _before(self, done: int) -> str | None:
        """The fingerprint of a log at a position; None if no entry ends there."""
        if not done:
            return ""
        with os.fdopen(open_private(self.folder / LOG, os.O_RDONLY), "rb") as file:
            file.seek(max(0, done - _FINGERPRINT))
            tail = file.read(min(done, _FINGERPRINT))
        if len(tail) < min(done, _FINGERPRINT) or not tail.endswith(b"\n"):
            return None
        return hashlib.sha256(tail).hexdigest()[:16]

    def _take(self, line: bytes, end: int) -> None:
        try:
            entry = parse(line) if line else None
        except UnreadableEntryError as error:
            self._send_points()
            self._refuse({"do": "unreadable", "line": line.decode("utf-8", "backslashreplace")}, error)
            self._sent(end)
            return
        if entry is None or entry["do"] in ("points", "series"):
            self._points += points_of(entry) if entry is not None else ()
            self._end_of_points = end
            if len(self._points) >= BATCH:
                self._send_points()
            return
        self._send_points()
        self._do(entry, line)
        if entry["do"] == "run":
            self.state.writer = entry["writer"]
        self.state.ended = entry["do"] == "end"
        self._sent(end)
        self._discard()

    def _discard(self) -> None:
        """Delete the spool's copies for entries that MLflow has and that will not be sent again."""
        while self._done:
            self._store.contents.discard(self._done.pop())

    def _do(self, entry: dict[str, Any], line: bytes) -> None:
        try:
            self._store.do(entry)
        except RefusedError as error:
            if entry["do"] == "run":
                raise _ImpossibleError(str(error)) from error
            self._refuse(json.loads(line), error)
        except Exception as error:
            if entry["do"] == "run" or not (self._one_by_one and self._takes_others()):
                raise
            self._refuse(json.loads(line), error)
        else:
            self._done.append(entry)
        if self.state.missing:
            raise _ImpossibleError(self.state.missing)

    def _send_points(self) -> None:
        if self._points:
            if self.state.run_id is None:
                raise _ImpossibleError("its log does not start with a readable entry of a run")
            for start in range(0, len(self._points), BATCH):
                self._send_some(self._points[start : start + BATCH])
            self._points = []
        if self._end_of_points > self._position:
            self._sent(self._end_of_points)

    def _send_some(self, points: Sequence[Point]) -> None:
        try:
            self._store.contents.add_points(points)
        except Exception as error:
            if not isinstance(error, RefusedError) and not (self._one_by_one and self._takes_others()):
                raise
            if len(points) == 1:
                [(name, value, at, step)] = points
                self._refuse({"do": "points", "time": at, "step": step, "values": {name: value}}, error)
                return
            for half in (points[: len(points) // 2], points[len(points) // 2 :]):
                self._send_some(half)

    def _sent(self, end: int) -> None:
        self._position = end
        self.state.done = end if self._unkept is None else self._unkept
        self.state.before_done = self._before(self.state.done) or ""
        if self._unkept is None:
            self.state.trouble, self.state.answered = "", False
        self._save()

    def _save(self) -> None:
        with contextlib.suppress(OSError):  # a full disk; what is sent twice is recorded once
            self.state.write(self.folder)

    # --- what is refused ---------------------------------------------------------------------------------------

    def _refuse(self, entry: dict[str, Any], error: Exception) -> None:
        """Set an entry aside with the reason; if there is no room for that, it stays in the log to be sent."""
        reason = reason_of(error)
        line = line_of({**entry, "refused": reason})
        if self._resent is not None:
            self._resent.append(line)
        else:
            try:
                self._set_aside(line)
            except OSError:
                self._unkept = self._position if self._unkept is None else self._unkept
                self.state.trouble = reason
                return
        self.state.refused, self.state.refusal = self.state.refused + 1, reason

    def _set_aside(self, line: bytes) -> None:
        with os.fdopen(open_private(self.folder / REFUSED, os.O_RDWR | os.O_CREAT | os.O_APPEND), "r+b", 0) as file:
            size = os.fstat(file.fileno()).st_size
            if file.write(line) < len(line):
                file.truncate(size)
                raise OSError("no room")

    def resend_refused(self) -> None:
        """Send what was set aside once more, because the reason may have passed."""
        try:
            waiting = read_private(self.folder / REFUSED).splitlines(keepends=True)
        except FileNotFoundError:
            return
        self._resent, self.state.refused, self._one_by_one = [], 0, True
        try:
            while waiting:
                self._resend(waiting[0])
                del waiting[0]
        finally:  # if sending fails, the rest stays
            left, self._resent, self._one_by_one = [*self._resent, *waiting], None, False
            self.state.refused = len(left)
            if left:
                replace_private(self.folder / REFUSED, b"".join(left))
            else:
                (self.folder / REFUSED).unlink()
            self._save()

    def _resend(self, line: bytes) -> None:
        try:
            entry = parse(line)
        except UnreadableEntryError:
            assert self._resent is not None
            self._resent.append(line)
            return
        if entry["do"] in ("points", "series"):
            points = list(points_of(entry))
            for start in range(0, len(points), BATCH):
                self._send_some(points[start : start + BATCH])
        else:
            self._do(entry, line)
            self._discard()

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self, is_last: bool = True) -> None:
        """End a run whose process has ended, and delete the spool if MLflow has everything.

        Args:
            is_last: whether this is the last spool of the run. Default True.
        """
        with guarded(self.folder.parent):
            others = self._writer not in ("", self.state.writer)
            if others or any(True for _ in lines(self.folder / LOG, self.state.done)):
                return  # another process resumes the run
            known = self.state.run_id is not None and not self.state.missing
            if known:
                self.resend_refused()
                if self.lost:
                    self._store.note_lost(self.lost)
            if known and is_last and not self.state.ended:
                self._store.kill(int((self.folder / LOG).stat().st_mtime * 1000))
            if not self.state.refused and not self.lost:
                remove(self.folder)

    @property
    def lost(self) -> int:
        """Points that found no room on the disk before the process that held them ended."""
        with contextlib.suppress(OSError):
            return max((self.folder / HELD).lstat().st_size, 1)
        return 0


def send(folder: Path, writer: str, wait: Callable[[float], object], is_over: Callable[[], bool]) -> Sender:
    """Send a spool; the caller holds its lock. Returns the sender, with its final state.

    Args:
        folder: the spool's.
        writer: who writes to it; empty for the last writer.
        wait: waits for a number of seconds, or until there may be something new.
        is_over: whether the training is over.
    """
    sender = Sender(folder.absolute(), writer, wait, is_over)
    if sender.run():
        close(sender)
    return sender


def close(sender: Sender, is_last: bool = True) -> None:
    """End a run that is completely sent (`Sender.close`), or record why that is not possible now."""
    try:
        sender.close(is_last)
    except Exception as error:
        sender.note(error)
