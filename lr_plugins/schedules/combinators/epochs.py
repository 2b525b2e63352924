"""How a schedule moves within an epoch: at every step, or not at all."""

from __future__ import annotations

from lr_plugins.schedules.combinators.base import Wrapper
from lr_plugins.schedules.position import Position


class Smooth(Wrapper):
    """A schedule whose epochs move at every step instead of holding.

    `lr(step) = schedule(epoch = step / steps per epoch)`

    Args:
        schedule: the schedule.

    Source: MMEngine's convert_to_iter_based.

    Example:
        >>> from lr_plugins import ExponentialDecay, RunLength
        >>> schedule = Smooth(ExponentialDecay(1.0, decay_steps="1ep", decay_rate=0.25))
        >>> schedule(RunLength.of(steps_per_epoch=10).position(5))
        0.5
    """

    def local_position(self, index: int, position: Position) -> Position:
        """With the epoch as a fraction."""
        return position.smoothly()


class PerEpoch(Wrapper):
    """A schedule that is evaluated at the first step of each epoch and holds until the next.

    `lr(step) = schedule(first step of the epoch)`

    Args:
        schedule: the schedule.

    Example:
        >>> from lr_plugins import InverseTimeDecay, RunLength
        >>> schedule = PerEpoch(InverseTimeDecay(1.0, decay_steps=10, decay_rate=1.0))
        >>> [schedule(RunLength.of(steps_per_epoch=10).position(step)) for step in (0, 9, 10)]
        [1.0, 1.0, 0.5]
    """

    def local_position(self, index: int, position: Position) -> Position:
        """With the step held at the epoch's first."""
        return position.at_epoch_begin()
