"""Multiplication by a factor again and again."""

from __future__ import annotations

from collections.abc import Iterator

from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, recurring
from lr_plugins.schedules.numerics import floor, power
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import flag, number


class ExponentialDecay(Schedule):
    """Multiply the learning rate by `decay_rate` over every `decay_steps`, smoothly or in steps.

    `lr = initial_learning_rate * decay_rate ** (t / decay_steps)`, with t counted in the unit of `decay_steps`;
    t / decay_steps is rounded down if `staircase`.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        decay_steps: the length of time over which `decay_rate` applies once, > 0; a plain number counts
            optimizer steps, `"10ep"` makes it a schedule of epochs. Default `"10ep"`.
        decay_rate: the factor, > 0. Default 0.5.
        staircase: decay in steps instead of smoothly. Default False.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.ExponentialDecay.

    Example:
        >>> decay = ExponentialDecay(0.1, decay_steps=1000, decay_rate=0.01)
        >>> [round(float(decay(step)), 6) for step in (0, 500, 1000)]
        [0.1, 0.01, 0.001]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        decay_steps: DurationLike = "10ep",
        decay_rate: float = 0.5,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="ExponentialDecay.decay_steps")
        self.decay_rate = number("ExponentialDecay.decay_rate", decay_rate, "a finite number > 0", above=0.0)
        self.staircase = flag("ExponentialDecay.staircase", staircase)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate * decay_rate ** (t / decay_steps)`."""
        ratio = self.decay_steps.ratio(position)
        return self.initial(position) * power(self.decay_rate, floor(ratio) if self.staircase else ratio)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each stair."""
        if self.staircase:
            count = floor(self.decay_steps.ratio(position))
            yield recurring(
                f"times {self.decay_rate:g}", "ExponentialDecay.decay_steps", self.decay_steps, count, position
            )
