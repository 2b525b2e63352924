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
from lr_plugins.tracking.entries import BY_SPOOL, line_of, number_of_points
from lr_plugins.tracking.private_files import NotOurs
from lr_plugins.tracking.room import is_full, places_with_room
from lr_plugins.tracking.secrets import masked
from lr_plugins.tracking.sender_process import SenderProcess
from lr_plugins.tracking.shortfalls import lost_points
from lr_plugins.tracking.spool import DEFAULT, Spool, default_folder, guarded, remove, spools, tidy
from lr_plugins.tracking.state import State

_LOOK_EVERY = 2.0  # seconds between looks at how the sending goes
_BEGIN_SECONDS = 120.0  # for MLflow to make its tables and the run, on a slow disk
_ANSWER_SECONDS = 30.0  # for a server to say which run it has made
_TRY_EVERY = 0.5  # seconds between attempts to find room for what is held in memory


class MissingRun(TrackingError):
    """The run to resume is not there."""


class Part:
    """A spool of a run, and what of it has been sent."""

    def __init__(self, spool: Spool) -> None:
        self.spool, self.state = spool, State()

    def look(self) -> bool:
        """See what has been sent; whether that is more than before."""
        read = State.read(self.spool.folder)
        more = read.done > self.state.done
        if read.done >= self.state.done:  # its file is gone once everything is sent
            self.state = read
        return more

    @property
    def is_sent(self) -> bool:
        """Whether MLflow has all of it."""
        return self.state.done >= self.spool.size or not self.spool.is_there


class Delivery:
    """Writes entries to a spool and sees to it that a process sends them.

    If the disk is full, the run continues in a spool on another disk; if no disk has room, entries are held in memory
    until one does.

    Args:
        parent: the folder that the spools are in.
        start: the folder that relative paths refer to.
    """

    def __init__(self, parent: Path, start: Path) -> None:
        self.parent, self.folder = default_folder(start) if parent == DEFAULT else start / parent, start
        self.parts: list[Part] = []
        self.is_open = False  # between the start of a run and its end
        self.is_settled = False  # MLflow has accepted the run or is unreachable: from now on training is never stopped
        self._made: Path | None = None  # the spool, if it was created for this run
        self.sender = SenderProcess(self.folder)
        self.process = os.getpid()
        self.lost = self.lost_entries = 0  # points, and entries in all, that have found no room
        atexit.register(_end_at_exit, weakref.ref(self))
        self._first: dict[str, Any] = {}  # the first entry of the run
        self._held: list[bytes] = []
        self._held_points, self._full, self._warned_of_held = 0, "", False
        self._tried_at = self._looked_at = 0.0
        self._state = State()
        self._announced = False

    @property
    def spool(self) -> Spool:
        """The spool of a run that has begun: what is logged now goes there."""
        return self.parts[-1].spool

    @property
    def state(self) -> State:
        """What has been sent of the run, as it was seen last."""
        return self.parts[0].state if self.parts else self._state

    @property
    def reference(self) -> str | None:
        """What the run is found by again, also where it has no id yet; None before it has begun."""
        if not self.parts:
            return None
        self._look()
        return self.state.run_id or f"{BY_SPOOL}{self._first['spool']}"

    @property
    def resumes(self) -> bool:
        """Whether the run was started elsewhere and is continued here."""
        return self._first.get("run_id") is not None and bool(self._first.get("resumes") or self._first.get("adds"))

    @property
    def error(self) -> str:
        """Why nothing can be sent at all; empty if all is well."""
        return next((part.state.error for part in self.parts if part.state.error), "")

    @property
    def trouble(self) -> str:
        """Why nothing can be sent at the moment; empty if all is well."""
        found = (part.state.error or part.state.trouble for part in self.parts)
        return next((one for one in found if one), "")

    @property
    def trouble_in_words(self) -> str:
        """The same as the beginning of a sentence."""
        if self.error:
            return f"MLflow at {self._place} cannot be used ({self.error})"
        if any(part.state.answered for part in self.parts if part.state.trouble):
            return f"MLflow does not take what is sent ({self.trouble})"
        return f"MLflow cannot be reached ({self.trouble or 'no answer'})"

    @property
    def _place(self) -> str:
        return self.state.tracking_uri or masked(self._first.get("uri") or "") or "its default place"

    @property
    def differing_params(self) -> list[str]:
        """Params whose recorded value differs from the one logged last."""
        return list(dict.fromkeys(name for part in self.parts for name in part.state.differing_params))

    @property
    def refused(self) -> int:
        """Entries that MLflow does not take."""
        return sum(part.state.refused for part in self.parts)

    @property
    def differing(self) -> int:
        """Points that had another value before the run was resumed."""
        return sum(part.state.differing for part in self.parts)

    @property
    def waiting(self) -> list[Path]:
        """The folders of the spools that have something which MLflow lacks."""
        return [part.spool.folder for part in self.parts if not part.is_sent or part.state.refused]

    # --- writing -----------------------------------------------------------------------------------------------

    def open(self, entry: dict[str, Any], known: str | None) -> None:
        """Begin a run, or resume it; at once, whatever MLflow does.

        Args:
            entry: what to begin (see `Store`).
            known: the id or the reference of a run to resume.

        Raises:
            TrackingError: the spool cannot be written.
        """
        before, self._first = self.state, self._first if self.parts else {}
        try:
            with guarded(self.parent):
                if not self.parts or not self.spool.is_there:
                    self._release()
                    left = _left_by(known, self.parent)
                    self.parts, self._first = [Part(left or self._new_spool())], {}
                    self._made = None if left is not None else self.spool.folder
                spool = self.spool
                first = self._first.get("spool", spool.folder.name)
                spool.write({**entry, **self._addresses(spool, entry), "writer": spool.writer, "spool": first})
        except (OSError, NotOurs) as error:
            raise TrackingError(f"MLflowLogger.spool_dir: {self.parent} cannot be written to ({error})") from error
        self._first = {**entry, "spool": first}
        self.is_open, self._announced, self.is_settled = True, False, False
        self.sender.has_sent()
        for part in self.parts:
            part.state = replace(
                before, done=0, trouble="", error="", asked_at=0.0, differing=0, differing_params=[], refused=0
            )
        self._look()

    def _new_spool(self) -> Spool:
        """An empty one, elsewhere if the disk takes nothing."""
        try:
            return Spool.new(self.parent)
        except OSError as error:
            for place in places_with_room(self.parent, error, self.folder) if is_full(error) else ():
                spool = Spool.new(place)
                self._warn_of_full_disk(self.parent, error, spool)
                return spool
            raise

    def _addresses(self, spool: Spool, entry: dict[str, Any]) -> dict[str, str | None]:
        """The addresses of an entry as they may stand in a log, and the folder that they are relative to."""
        found = {name: spool.keep_address(entry[name]) for name in ("uri", "artifact_location")}
        return {**found, "folder": str(self.folder)}

    def _warn_of_full_disk(self, full: Path, error: OSError, spool: Spool) -> None:
        rank_zero_warn(
            f"The disk under {full} takes no more ({error.strerror or error}). The training goes on; what it logs "
            f"from now on waits in {spool.folder} until MLflow has it."
        )

    def write(self, line: bytes) -> None:
        """Write an entry of a run that has begun."""
        if self._held:
            self._hold(line)
            if time.monotonic() - self._tried_at > _TRY_EVERY:
                self._place_held()
        else:
            self._append(line)
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY:
            self._looked_at = now
            self._look()

    def keep(self, keep: Callable[[Spool], str]) -> str | None:
        """Copy something into the spool; the copy's name, None where no disk has room for it.

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
            return kept[0] if self._go_on_elsewhere(error, lambda spool: kept.append(keep(spool))) else None

    def _append(self, line: bytes) -> None:
        try:
            self.spool.append(line)
        except OSError as error:
            if not self._go_on_elsewhere(error, lambda spool: spool.append(line)):
                self._hold(line)

    def _go_on_elsewhere(self, error: OSError, write: Callable[[Spool], object]) -> bool:
        """Continue the run in a spool on another disk; False if no disk has room for what is to be written."""
        full = self.spool.folder
        for place in places_with_room(full.parent, error, self.folder):
            spool = None
            try:
                spool = Spool.new(place)
                again = {
                    "run_id": self.state.run_id,
                    "resumes": False,
                    "adds": False,
                    "checks": self._first["resumes"],
                }
                here = {**self._addresses(spool, self._first), "writer": spool.writer, "system_metrics": False}
                spool.write({**self._first, **again, **here})
                write(spool)
            except (OSError, NotOurs):
                if spool is not None:
                    remove(spool.folder)
                continue
            self.parts.append(Part(spool))
            self.sender.add(spool)
            self._warn_of_full_disk(full, error, spool)
            return True
        self._full = str(error.strerror or error)
        return False

    def _hold(self, line: bytes) -> None:
        if not self._warned_of_held:
            self._warned_of_held = True
            rank_zero_warn(
                f"The disk under {self.spool.folder} takes no more ({self._full}), and no other one has room. The "
                f"training goes on; what it logs is held in memory, and is lost if it is killed."
            )
        self._held.append(line)
        self._held_points += number_of_points(line)
        if len(self._held) == 1:
            self.spool.mark_held(max(self._held_points, 1))

    def _place_held(self) -> None:
        """Write what is held, if there is room for it now."""
        lines, self._held, self._held_points = self._held, [], 0
        for line in lines:
            if self._held:
                self._hold(line)  # in order
            else:
                self._append(line)
        self._tried_at = time.monotonic()
        self.spool.mark_held(self._held_points or len(self._held))

    def end(self, entry: dict[str, Any]) -> None:
        """Write the last entry of a run, and count what has found no room until now."""
        if self._held:
            self._held.append(line_of(entry))
            self._place_held()
        else:
            self._append(line_of(entry))
        self.lost, self.lost_entries, self._held = self._held_points, len(self._held), []
        self.is_open = False

    # --- sending -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Ensure that a sender runs, and warn of trouble once."""
        looks = [part.look() for part in self.parts]
        if any(looks):
            self.sender.has_sent()
        if not self.error:
            self.state.error = self.sender.ensure([part.spool for part in self.parts])
        if self.trouble and not self._announced and (self.is_settled or not self.error):
            self._announced = True
            rank_zero_warn(
                f"{self.trouble_in_words}. The training goes on; what it logs waits in {self.spool.folder}"
                f"{', as far as there is room for it' if self._held else ''}."
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
            MissingRun: the run to resume is not there.
            TrackingError: MLflow cannot be used like this at all.
        """
        deadline, writer = time.monotonic() + _BEGIN_SECONDS, self.parts[0].spool.writer
        while self.state.writer != writer and time.monotonic() < deadline:
            self._look()
            if self.state.missing and not self.is_settled:
                missing = f"MLflow at {self._place}: {self.state.missing}"
                self.abandon()
                raise MissingRun(missing)
            if self.error and not self.is_settled:
                self._refuse()
            if self.trouble or self._has_waited(patience):
                return
            self.sender.wake()
            time.sleep(0.02)

    def _refuse(self) -> None:
        """Report that nothing can be recorded like this."""
        place, error = self._place, self.error
        self.abandon()
        raise TrackingError(f"MLflow at {place}: {error}")

    def await_sent(self, patience: float) -> bool:
        """Wait until all is sent, as long as something arrives; whether it is.

        Args:
            patience: seconds to wait for a server that does not answer.
        """
        done, since = -1, time.monotonic()
        while True:
            self._look()
            if all(part.is_sent for part in self.parts):
                return True
            now = sum(part.state.done for part in self.parts)
            if now != done:
                done, since = now, time.monotonic()
            waited = time.monotonic() - since
            if self.error or waited > (patience if self.trouble else _BEGIN_SECONDS) or self._has_waited(patience):
                return False
            self.sender.wake()
            time.sleep(0.02)

    def _has_waited(self, patience: float) -> bool:
        """Whether a server has not answered for so many seconds."""
        return any(0 < part.state.asked_at < time.time() - patience for part in self.parts)

    def abandon(self) -> None:
        """Give up a run that cannot start, and delete the spool that was created for it."""
        self._release()
        if self._made is not None:
            remove(self._made)
            tidy(self._made)
        self.parts, self.is_open, self._state = [], False, State()

    def _release(self) -> None:
        self.sender.close()
        self.sender = SenderProcess(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process."""
        sender = SenderProcess(self.folder)
        return {**self.__dict__, "parts": [], "sender": sender, "_state": self.state, "is_open": False}


def _end_at_exit(delivery: weakref.ref[Delivery]) -> None:
    """End a run that is still open when the program exits; its sender continues until it is done."""
    one = delivery()
    if one is not None and one.is_open and one.process == os.getpid():  # not that of a fork
        error = getattr(sys, "last_value", None)  # of a program that an exception ends
        status = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        # Logging after a failed run has ended does not make it successful; a resumed run may still succeed.
        only_looks = not one.resumes
        one.end({"do": "end", "time": int(time.time() * 1000), "status": status, "only_looks": only_looks})
        if one.lost_entries:
            print(lost_points(one), file=sys.stderr)


def _left_by(known: str | None, parent: Path) -> Spool | None:
    """The spool that a run to resume has left, if it has not been sent."""
    for folder in spools(parent) if known is not None else ():
        if known in (State.read(folder).run_id, f"{BY_SPOOL}{folder.name}"):
            return Spool(folder)
    return None
