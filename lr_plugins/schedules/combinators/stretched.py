"""A schedule on a longer or a shorter run."""

from __future__ import annotations

from lr_plugins.schedules.combinators.base import Wrapper
from lr_plugins.schedules.position import Position
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.validation import number


class Stretched(Wrapper):
    """A schedule on a run `ratio` times as long as it was made for.

    `lr(t) = schedule(t / ratio)`: every length in it, of whatever unit, becomes `ratio` times as long.

    Args:
        schedule: the schedule.
        ratio: how many times as long, > 0: 0.1 for a run of a tenth of the length.

    Raises:
        InvalidArgumentError: the ratio is not a finite number > 0.

    Source: Composer's scale_schedule_ratio.

    Example:
        >>> from lr_plugins import StepDecay
        >>> Stretched(StepDecay(0.1, drop=0.5, every="100st"), ratio=0.1)(10)
        0.05
    """

    def __init__(self, schedule: Schedule, *, ratio: float) -> None:
        super().__init__(schedule)
        self.ratio = number("Stretched.ratio", ratio, "a finite number > 0", above=0.0)

    def local_position(self, index: int, position: Position) -> Position:
        """The same share of the run that the schedule was made for."""
        return position.rescaled(self.ratio)
