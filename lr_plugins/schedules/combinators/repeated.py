"""A schedule over and over again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lr_plugins.schedules.combinators.base import Wrapper
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, recurring
from lr_plugins.schedules.position import Length, Position, Value
from lr_plugins.schedules.schedule import Schedule


class Repeated(Wrapper):
    """A schedule over and over again.

    `lr(t) = schedule(t mod every)`. The schedule sees a run of length `every`.

    Args:
        schedule: the schedule.
        every: the period, > 0; a plain number counts optimizer steps.

    Raises:
        InvalidArgumentError: `every` is no length.

    Example:
        >>> from lr_plugins import StepDecay
        >>> [Repeated(StepDecay(0.1, every="1st"), every="3st")(step) for step in range(5)]
        [0.1, 0.05, 0.025, 0.1, 0.05]
    """

    def __init__(self, schedule: Schedule, *, every: DurationLike) -> None:
        super().__init__(schedule)
        self.every = Duration.of(every, field="Repeated.every")

    def local_position(self, index: int, position: Position) -> Position:
        """Counted from the start of the current repetition."""
        once, done = self.every.known(position.run), self._done(position)
        start = Length(_times(once.steps, done), _times(once.epochs, done), once.counted_in)
        if position.run.clock is not None and self.every.unit == "ep":  # its steps are not the same each time
            start = start._replace(steps=position.run.steps_at(start.epochs))
        return position.slice(start, position.run.slice(once, start))

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each repetition, and the milestones within, which do not last."""
        yield recurring("begins anew", "Repeated.every", self.every, self._done(position), position)
        for moment in super().milestones_in(position):
            yield moment._replace(stays=False)

    def _done(self, position: Position) -> Value:
        """How many repetitions have passed."""
        if self.every.unit == "sp":  # counted exactly, where steps would be fractions
            passed, length = self.every.measure(position)
            return passed // length
        once, clock = self.every.known(position.run), position.run.clock
        passed = position.elapsed(once.counted_in)
        if clock is not None and self.every.unit == "ep" and once.counted_in == "st":
            epochs: Value = position.run.epochs_at(passed)
            return epochs // self.every.value
        return passed // (once.exact or math.inf)


def _times(length: float | None, count: Value) -> Any:
    return None if length is None else length * count
