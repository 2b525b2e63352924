"""The spools of a run, and what of them MLflow has."""

from __future__ import annotations

from pathlib import Path

from lr_plugins.tracking.spool import Spool
from lr_plugins.tracking.state import State


class Part:
    """One spool of a run, and what of it has been sent."""

    def __init__(self, spool: Spool) -> None:
        self.spool, self.state = spool, State()

    def refresh(self) -> bool:
        """Read what the sender has noted; whether more has been sent since the last time."""
        read = State.read(self.spool.folder)
        more = read.done > self.state.done
        if read.done >= self.state.done:  # the file is gone once everything is sent
            self.state = read
        return more

    @property
    def is_sent(self) -> bool:
        """Whether MLflow has all of it."""
        return self.state.done >= self.spool.size or not self.spool.is_there


class Parts(list[Part]):
    """All spools of a run, in the order in which they were filled: more than one if a disk became full."""

    @property
    def are_sent(self) -> bool:
        """Whether MLflow has everything."""
        return all(part.is_sent for part in self)

    @property
    def done(self) -> int:
        """Bytes that have been sent."""
        return sum(part.state.done for part in self)

    @property
    def error(self) -> str:
        """Why nothing can be sent at all; empty if all is well."""
        return next((part.state.error for part in self if part.state.error), "")

    @property
    def trouble(self) -> str:
        """Why nothing can be sent at the moment; empty if all is well."""
        reasons = (part.state.error or part.state.trouble for part in self)
        return next((reason for reason in reasons if reason), "")

    @property
    def is_answered(self) -> bool:
        """Whether something answered where there is trouble."""
        return any(part.state.answered for part in self if part.state.trouble)

    @property
    def refused(self) -> int:
        """Entries that MLflow does not accept."""
        return sum(part.state.refused for part in self)

    @property
    def refusal(self) -> str:
        """Why MLflow does not accept the last of them; empty without any."""
        return next((part.state.refusal for part in self if part.state.refused), "")

    @property
    def differing(self) -> int:
        """Points that had another value before the run was resumed."""
        return sum(part.state.differing for part in self)

    @property
    def differing_params(self) -> list[str]:
        """Params whose recorded value differs from the one logged last."""
        return list(dict.fromkeys(name for part in self for name in part.state.differing_params))

    @property
    def waiting(self) -> list[Path]:
        """The folders of the spools that hold something MLflow lacks."""
        return [part.spool.folder for part in self if not part.is_sent or part.state.refused]
