"""A schedule with a floor and a ceiling."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lr_plugins.schedules.combinators.base import Wrapper
from lr_plugins.schedules.milestones import FLOOR, Milestone, begins
from lr_plugins.schedules.numerics import clip
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.validation import learning_rate, number


class Bounded(Wrapper):
    """A schedule kept between a floor and a ceiling.

    `lr = min(max(schedule, min_learning_rate), max_learning_rate)`

    The bounds are those of a param group at the optimizer's default; other groups keep their ratio to it (torch's
    `eta_min` and `min_lr` are the same for all).

    Args:
        schedule: the schedule.
        min_learning_rate: the floor, >= 0. Default 0.
        max_learning_rate: the ceiling, >= the floor. Default None: no ceiling.

    Raises:
        InvalidArgumentError: a bound outside its range.

    Example:
        >>> from lr_plugins import ExponentialDecay
        >>> Bounded(ExponentialDecay(0.1, decay_steps="10st", decay_rate=0.1), min_learning_rate=1e-3)(500)
        0.001
    """

    def __init__(
        self, schedule: Schedule, *, min_learning_rate: float = 0.0, max_learning_rate: float | None = None
    ) -> None:
        super().__init__(schedule)
        self.min_learning_rate = learning_rate("Bounded.min_learning_rate", min_learning_rate)
        self.max_learning_rate = None
        if max_learning_rate is not None:
            allowed = f"a finite number >= min_learning_rate ({self.min_learning_rate:g}), or null"
            self.max_learning_rate = number(
                "Bounded.max_learning_rate", max_learning_rate, allowed, at_least=self.min_learning_rate
            )

    def value(self, position: Position, state: State) -> Value:
        """The nearest value within the bounds."""
        most = np.inf if self.max_learning_rate is None else self.max_learning_rate
        return clip(self.of(0, position, state), self.min_learning_rate, most)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Those of the schedule, and where it reaches the bounds, unless a metric decides that."""
        yield from super().milestones_in(position)
        if self.start() is None:
            value = self.of(0, position, None)
            held = value < self.min_learning_rate
            always = f"Bounded.min_learning_rate={self.min_learning_rate:g}" if np.all(held) else ""
            at = begins(held, position)
            yield Milestone("held at min_learning_rate", at, always, FLOOR, 1.0 if always else None, position.run)
            if self.max_learning_rate is not None:
                yield Milestone("held at max_learning_rate", begins(value > self.max_learning_rate, position))
