"""Counts the steps that followed the plan, and the writes of other code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from lr_plugins.errors import TrainingError
from lr_plugins.rank_zero import rank_zero_warn

OnConflict = Literal["ours", "theirs", "error"]
"""What to do when other code writes what a schedule drives: overwrite it, stop writing and only record, or raise."""

ON_CONFLICT: tuple[OnConflict, ...] = get_args(OnConflict)


def unknown(found: float) -> str:
    """The source of a value if no schedulers are known."""
    return "other code"


@dataclass
class ForeignWrite:
    """A value of other code, found in place of the plan's.

    Args:
        step: the optimizer step before or during which it was written.
        name: the series of the trace that was overwritten.
        expected: the plan's value.
        found: the other value.
        count: the number of writes by the same source.
    """

    step: int
    name: str
    expected: float
    found: float
    count: int = 1


@dataclass
class Audit:
    """Counts the steps that followed the plan, and the writes of other code.

    Args:
        choice: what happens when other code writes.
        source: maps a value to the name of the code that wrote it.
        who: the sender of messages.
    """

    choice: OnConflict = "ours"
    source: Callable[[float], str] = unknown
    steps: int = 0
    followed: int = 0
    foreign: dict[str, ForeignWrite] = field(default_factory=dict)
    who: str = "LearningRateScheduler"

    def count(self, followed: bool) -> None:
        """Count a step."""
        self.steps += 1
        self.followed += followed

    def note(self, step: int, name: str, expected: float, found: float, during: bool = False) -> None:
        """Count a foreign write; report the first of each source.

        Raises:
            TrainingError: `choice` is `"error"`.
        """
        source = self.source(found)
        known = self.foreign.get(source)
        if known is not None:
            known.count += 1
            return
        self.foreign[source] = ForeignWrite(step, name, expected, found)
        when = "during" if during else "before"
        message = f"{when} step {step}, {source} has set {name} to {found:.6g}; the plan has {expected:.6g}"
        if self.choice == "error":
            raise TrainingError(f"{message} (on_conflict=error). on_conflict can also be ours or theirs.")
        if self.choice == "theirs":
            rank_zero_warn(f"{self.who}: {message}. From here on it only records (on_conflict=theirs).")
            return
        used = "The step may have used it" if during else "The plan's value is used"
        rank_zero_warn(f"{self.who}: {message}. {used}; further writes by {source} are only counted.")

    def __str__(self) -> str:
        """One line.

        Example:
            >>> audit = Audit()
            >>> for _ in range(12_000): audit.count(followed=True)
            >>> print(audit)
            lr followed the plan at 12,000 of 12,000 steps
        """
        return f"lr followed the plan {self.summary}"

    @property
    def summary(self) -> str:
        """The number of steps that followed the plan, and the writes of other code."""
        writes = [
            f"overwritten by {source} {write.count:,} time{'s' * (write.count != 1)}"
            for source, write in self.foreign.items()
        ]
        return "; ".join([f"at {self.followed:,} of {self.steps:,} steps", *writes])
