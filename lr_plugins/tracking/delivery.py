"""A run's spools and the process that sends them, as the training sees them."""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lr_plugins.errors import TrackingError
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.tracking.disk_space import is_full, places_with_room
from lr_plugins.tracking.entries import BY_SPOOL, line_of
from lr_plugins.tracking.overflow import Overflow
from lr_plugins.tracking.parts import Part, Parts
from lr_plugins.tracking.private_files import ForeignFileError
from lr_plugins.tracking.secrets import masked
from lr_plugins.tracking.sender_process import SenderProcess
from lr_plugins.tracking.spool import DEFAULT, Spool, clean_up, default_folder, guarded, remove, spools
from lr_plugins.tracking.state import State

_REFRESH_EVERY = 2.0  # seconds between reads of the sender's state
_START_SECONDS = 120.0  # for MLflow to create its tables and the run, on a slow disk
_ANSWER_SECONDS = 30.0  # for a server to say which run it has created


class MissingRunError(TrackingError):
    """The run to resume does not exist."""


class Delivery:
    """Writes entries to a spool and ensures that a process sends them.

    If the disk is full, the run continues in a spool on another disk; if no disk has room, entries are held in memory
    until one does.

    Args:
        parent: the folder that the spools are in.
        start: the folder that relative paths refer to.
    """

    def __init__(self, parent: Path, start: Path) -> None:
        self.parent, self.folder = default_folder(start) if parent == DEFAULT else start / parent, start
        self.parts = Parts()
        self.overflow = Overflow()
        self.sender = SenderProcess(self.folder)
        self.process = os.getpid()
        self.is_open = False  # between the start of a run and its end
        self.is_settled = False  # MLflow has accepted the run or is unreachable: from now on training is never stopped
        self._created: Path | None = None  # the spool, if it was created for this run
        self._first: dict[str, Any] = {}  # the first entry of the run
        self._state = State()  # of the run before this one
        self._has_warned = False
        self._refreshed_at = 0.0
        atexit.register(_end_at_exit, weakref.ref(self))

    @property
    def spool(self) -> Spool:
        """The spool of a run that has started: what is logged now goes there."""
        return self.parts[-1].spool

    @property
    def state(self) -> State:
        """What has been sent of the run, as of the last refresh."""
        return self.parts[0].state if self.parts else self._state

    @property
    def reference(self) -> str | None:
        """A name by which the run can be found again, even before it has an ID; None before it has started."""
        if not self.parts:  # not started, or released
            return self.state.run_id
        self._refresh()
        return self.state.run_id or f"{BY_SPOOL}{self._first['spool']}"

    @property
    def resumes(self) -> bool:
        """Whether the run was started elsewhere and is continued here."""
        return self._first.get("run_id") is not None and bool(self._first.get("resumes") or self._first.get("adds"))

    def describe_trouble(self) -> str:
        """Why nothing is sent, as the beginning of a sentence."""
        if self.parts.error:
            return f"MLflow at {self._place} cannot be used ({self.parts.error})"
        if self.parts.is_answered:
            return f"MLflow does not accept what is sent ({self.parts.trouble})"
        return f"MLflow cannot be reached ({self.parts.trouble or 'no answer'})"

    def describe_loss(self) -> str:
        """What to report of points that no disk had room for."""
        return (
            f"{self.overflow.lost_points} points of the run ({self.overflow.lost_entries} entries) are lost: no disk "
            f"had room for them before the training ended. {self.spool.folder} has what was logged earlier."
        )

    @property
    def _place(self) -> str:
        return self.state.tracking_uri or masked(self._first.get("uri") or "") or "its default place"

    # --- writing -----------------------------------------------------------------------------------------------

    def open(self, entry: dict[str, Any], known: str | None) -> None:
        """Start a run, or resume it, without waiting for MLflow.

        Args:
            entry: what to start (see `Store`).
            known: the ID or the reference of a run to resume.

        Raises:
            TrackingError: the spool cannot be written.
        """
        before, self._first = self.state, self._first if self.parts else {}
        try:
            with guarded(self.parent):
                if not self.parts or not self.spool.is_there:
                    self._close_sender()
                    left = _left_by(known, self.parent)
                    self.parts, self._first = Parts([Part(left or self._new_spool())]), {}
                    self._created = None if left is not None else self.spool.folder
                spool = self.spool
                first = self._first.get("spool", spool.folder.name)
                spool.write({**entry, **self._addresses(spool, entry), "writer": spool.writer, "spool": first})
        except (OSError, ForeignFileError) as error:
            raise TrackingError(f"MLflowLogger.spool_dir: {self.parent} cannot be written to ({error})") from error
        self._first = {**entry, "spool": first}
        self.is_open, self._has_warned, self.is_settled = True, False, False
        self.sender.note_progress()
        for part in self.parts:
            part.state = replace(
                before, done=0, trouble="", error="", asked_at=0.0, differing=0, differing_params=[], refused=0
            )
        self._refresh()

    def _new_spool(self) -> Spool:
        """An empty one, elsewhere if the disk is full."""
        try:
            return Spool.new(self.parent)
        except OSError as error:
            for place in places_with_room(self.parent, error, self.folder) if is_full(error) else ():
                spool = Spool.new(place)
                self._warn_of_full_disk(self.parent, error, spool)
                return spool
            raise

    def _addresses(self, spool: Spool, entry: dict[str, Any]) -> dict[str, str | None]:
        """The addresses of an entry without their passwords, and the folder that they are relative to."""
        addresses = {name: spool.keep_address(entry[name]) for name in ("uri", "artifact_location")}
        return {**addresses, "folder": str(self.folder)}

    def _warn_of_full_disk(self, full: Path, error: OSError, spool: Spool) -> None:
        rank_zero_warn(
            f"No more data can be written under {full} ({error.strerror or error}). The training continues; what it "
            f"logs from now on waits in {spool.folder} until MLflow has it."
        )

    def write(self, line: bytes) -> None:
        """Write an entry of a run that has started."""
        if self.overflow:
            self._hold(line, "")
            if self.overflow.is_due:
                self._place_overflow()
        else:
            self._append(line)
        now = time.monotonic()
        if now - self._refreshed_at > _REFRESH_EVERY:
            self._refreshed_at = now
            self._refresh()

    def keep(self, keep: Callable[[Spool], str]) -> str | None:
        """Copy something into the spool; the copy's name, or None if no disk has room for it.

        Args:
            keep: copies it into the given spool.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return keep(self.spool)
        except OSError as error:
            if not is_full(error):
                raise
            kept: list[str] = []
            return kept[0] if self._continue_elsewhere(error, lambda spool: kept.append(keep(spool))) else None

    def _append(self, line: bytes) -> None:
        try:
            self.spool.append(line)
        except OSError as error:
            if not self._continue_elsewhere(error, lambda spool: spool.append(line)):
                self._hold(line, str(error.strerror or error))

    def _continue_elsewhere(self, error: OSError, write: Callable[[Spool], object]) -> bool:
        """Continue the run in a spool on another disk; False if no disk has room for what is to be written."""
        full = self.spool.folder
        for place in places_with_room(full.parent, error, self.folder):
            spool = None
            try:
                spool = Spool.new(place)
                continued = {
                    "run_id": self.state.run_id,
                    "resumes": False,
                    "adds": False,
                    "checks": self._first["resumes"],
                }
                here = {**self._addresses(spool, self._first), "writer": spool.writer, "system_metrics": False}
                spool.write({**self._first, **continued, **here})
                write(spool)
            except (OSError, ForeignFileError):
                if spool is not None:
                    remove(spool.folder)
                continue
            self.parts.append(Part(spool))
            self.sender.add(spool)
            self._warn_of_full_disk(full, error, spool)
            return True
        return False

    def _hold(self, line: bytes, error: str) -> None:
        if not self.overflow.has_warned:
            self.overflow.has_warned = True
            rank_zero_warn(
                f"No more data can be written under {self.spool.folder} ({error}), and no other disk has room. The "
                f"training continues; what it logs is held in memory, and is lost if the process is killed."
            )
        is_first = not self.overflow
        self.overflow.add(line)
        if is_first:
            self.spool.mark_held(max(self.overflow.points, 1))

    def _place_overflow(self) -> None:
        """Write what is held in memory, if there is room for it now."""
        for line in self.overflow.take():
            if self.overflow:
                self._hold(line, "")  # keeps the order
            else:
                self._append(line)
        self.spool.mark_held(self.overflow.points or len(self.overflow.lines))

    def end(self, entry: dict[str, Any]) -> None:
        """Write the last entry of a run, and count what has found no room as lost."""
        if self.overflow:
            self.overflow.add(line_of(entry))
            self._place_overflow()
        else:
            self._append(line_of(entry))
        self.overflow.give_up()
        self.is_open = False

    # --- sending -----------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Read what has been sent, ensure that a sender runs, and warn of trouble once."""
        progress = [part.refresh() for part in self.parts]
        if any(progress):
            self.sender.note_progress()
        if not self.parts.error:
            self.state.error = self.sender.ensure([part.spool for part in self.parts])
        if self.parts.trouble and not self._has_warned and (self.is_settled or not self.parts.error):
            self._has_warned = True
            rank_zero_warn(
                f"{self.describe_trouble()}. The training continues; what it logs waits in {self.spool.folder}"
                f"{', as far as there is room for it' if self.overflow else ''}."
            )

    def settle(self, patience: float) -> None:
        """Wait until MLflow has accepted the run or is known to be unreachable; later errors only cause warnings.

        Args:
            patience: seconds to wait for a server that does not answer.

        Raises:
            TrackingError: MLflow refuses the run permanently.
        """
        if not self.is_settled:
            self.await_run(patience)
            self.is_settled = True

    def await_run(self, patience: float = _ANSWER_SECONDS) -> None:
        """Wait until the run exists, or cannot be created now.

        Args:
            patience: seconds to wait for a server that does not answer. Default 30.

        Raises:
            MissingRunError: the run to resume does not exist.
            TrackingError: MLflow cannot be used like this at all.
        """
        deadline, writer = time.monotonic() + _START_SECONDS, self.parts[0].spool.writer
        while self.state.writer != writer and time.monotonic() < deadline:
            self._refresh()
            if self.state.missing and not self.is_settled:
                missing = f"MLflow at {self._place}: {self.state.missing}"
                self.abandon()
                raise MissingRunError(missing)
            if self.parts.error and not self.is_settled:
                self._refuse()
            if self.parts.trouble or self._has_waited(patience):
                return
            self.sender.wake()
            time.sleep(0.02)

    def _refuse(self) -> None:
        """Raise the error that keeps the run from being recorded."""
        place, error = self._place, self.parts.error
        self.abandon()
        raise TrackingError(f"MLflow at {place}: {error}")

    def await_sent(self, patience: float) -> bool:
        """Wait until everything is sent, for as long as there is progress; whether it is.

        Args:
            patience: seconds to wait for a server that does not answer.
        """
        done, since = -1, time.monotonic()
        while True:
            self._refresh()
            if self.parts.are_sent:
                return True
            if self.parts.done != done:
                done, since = self.parts.done, time.monotonic()
            waited, allowed = time.monotonic() - since, patience if self.parts.trouble else _START_SECONDS
            if self.parts.error or waited > allowed or self._has_waited(patience):
                return False
            self.sender.wake()
            time.sleep(0.02)

    def _has_waited(self, patience: float) -> bool:
        """Whether a request to a server has been pending for this many seconds."""
        return any(0 < part.state.asked_at < time.time() - patience for part in self.parts)

    def abandon(self) -> None:
        """Give up a run that cannot start, and delete the spool that was created for it."""
        self._close_sender()
        if self._created is not None:
            remove(self._created)
            clean_up(self._created)
        self.parts, self.is_open, self._state = Parts(), False, State()

    def release(self) -> None:
        """Have the sender stand by for another run, if MLflow has all of this one."""
        for part in self.parts:
            part.refresh()
        is_left = self.is_open or not self.parts.are_sent or self.parts.refused or self.overflow.lost_entries
        if self.parts and not is_left:
            self.sender.release()
            self._state, self.parts = self.state, Parts()

    def _close_sender(self) -> None:
        self.sender.close()
        self.sender = SenderProcess(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process."""
        sender = SenderProcess(self.folder)
        return {**self.__dict__, "parts": Parts(), "sender": sender, "_state": self.state, "is_open": False}


def _end_at_exit(reference: weakref.ref[Delivery]) -> None:
    """End a run that is still open when the program exits; its sender continues until it is done."""
    delivery = reference()
    if delivery is not None and delivery.is_open and delivery.process == os.getpid():  # not that of a fork
        error = getattr(sys, "last_value", None)  # set if an exception ends the program
        status = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        # Logging after a failed run has ended does not make it successful; a resumed run may still succeed.
        only_looks = not delivery.resumes
        delivery.end({"do": "end", "time": int(time.time() * 1000), "status": status, "only_looks": only_looks})
        if delivery.overflow.lost_entries:
            print(delivery.describe_loss(), file=sys.stderr)


def _left_by(known: str | None, parent: Path) -> Spool | None:
    """The spool that a run to resume has left behind, if it has not been sent."""
    for folder in spools(parent) if known is not None else ():
        if known in (State.read(folder).run_id, f"{BY_SPOOL}{folder.name}"):
            return Spool(folder)
    return None
