"""Whether every step got what the plan says, and who else has written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from lr_plugins.errors import TrainingError
from lr_plugins.rank_zero import rank_zero_warn

OnConflict = Literal["ours", "theirs", "error"]
"""What to do when other code writes what a schedule drives: use the schedule's value; give way, and only record from
then on; stop training."""

ON_CONFLICT: tuple[OnConflict, ...] = get_args(OnConflict)


def unknown(found: float) -> str:
    """Who has written a value, where nothing is known of schedulers that Lightning runs."""
    return "other code"


@dataclass
class ForeignWrite:
    """A value that was found where the plan's should have been.

    Args:
        step: the optimizer step before which (or during which) it was written.
        name: what it was written to, as the trace names it.
        expected: the plan's value.
        found: the other one.
        count: how often it has happened, from the same source.
    """

    step: int
    name: str
    expected: float
    found: float
    count: int = 1


@dataclass
class Audit:
    """Counts the steps that followed the plan, and those who have written something else.

    Args:
        choice: what happens then: `"ours"`, `"theirs"` or `"error"`.
        source: found value -> the name of who has written it.
        who: whose plan it is, as messages name it.
    """

    choice: OnConflict = "ours"
    source: Callable[[float], str] = unknown
    steps: int = 0
    followed: int = 0
    foreign: dict[str, ForeignWrite] = field(default_factory=dict)
    who: str = "LearningRateScheduler"

    def count(self, followed: bool) -> None:
        """One more step."""
        self.steps += 1
        self.followed += followed

    def note(self, step: int, name: str, expected: float, found: float, during: bool = False) -> None:
        """Count a foreign write; the first one of each source is reported.

        Raises:
            TrainingError: the choice is `"error"`.
        """
        source = self.source(found)
        known = self.foreign.get(source)
        if known is not None:
            known.count += 1
            return
        self.foreign[source] = ForeignWrite(step, name, expected, found)
        when = "during" if during else "before"
        told = f"{when} step {step}, {source} has set {name} to {found:.6g}; the plan has {expected:.6g}"
        if self.choice == "error":
            raise TrainingError(f"{told} (on_conflict=error). on_conflict can also be ours or theirs.")
        if self.choice == "theirs":
            rank_zero_warn(f"{self.who}: {told}. From here on it gives way, and only records (on_conflict=theirs).")
            return
        used = "The step may have used it" if during else "The plan's value is used"
        rank_zero_warn(f"{self.who}: {told}. {used}; further writes by {source} are only counted.")

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
        """At how many steps the plan was followed, and who else has written."""
        told = [
            f"{source} wrote something else {one.count:,} time{'s' * (one.count != 1)}"
            for source, one in self.foreign.items()
        ]
        return "; ".join([f"at {self.followed:,} of {self.steps:,} steps", *told])
