"""Division by a number that grows with time."""

from __future__ import annotations

from collections.abc import Iterator

from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, recurring
from lr_plugins.schedules.numerics import floor, maximum, power
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import flag, number


class InverseTimeDecay(Schedule):
    """Divide the learning rate by a number that grows linearly with time.

    `lr = initial_learning_rate / (1 + decay_rate * t / decay_steps)`, with t counted in the unit of
    `decay_steps`; t / decay_steps is rounded down if `staircase`. Keras' old `SGD(decay=d)` is
    `InverseTimeDecay(lr, decay_steps=1, decay_rate=d)`: it counts optimizer steps ("updates"), not epochs.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        decay_steps: the length of time after which `decay_rate` counts once, > 0; a plain number counts
            optimizer steps, `"1ep"` makes it a schedule of epochs. Default 1.
        decay_rate: how strongly it decays, >= 0. Default 0.005.
        staircase: decay in steps instead of smoothly. Default False.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.InverseTimeDecay.

    Example:
        >>> decay = InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
        >>> [round(float(decay(step)), 6) for step in (0, 270, 300)]
        [0.1, 0.042553, 0.04]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        decay_steps: DurationLike = 1,
        decay_rate: float = 0.005,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="InverseTimeDecay.decay_steps")
        self.decay_rate = number("InverseTimeDecay.decay_rate", decay_rate, "a finite number >= 0", at_least=0.0)
        self.staircase = flag("InverseTimeDecay.staircase", staircase)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate / (1 + decay_rate * t / decay_steps)`."""
        ratio = self.decay_steps.ratio(position)
        return self.initial(position) / (1 + self.decay_rate * (floor(ratio) if self.staircase else ratio))

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each stair."""
        if self.staircase:
            count = floor(self.decay_steps.ratio(position))
            yield recurring("next stair", "InverseTimeDecay.decay_steps", self.decay_steps, count, position)


class InverseSquareRoot(Schedule):
    """Divide the learning rate by the square root of a number that grows linearly with time.

    `lr = initial_learning_rate / (1 + t / decay_steps) ** power`, with t counted in the unit of `decay_steps`. After
    three times `decay_steps` it has halved. It never ends; before 0 it is the initial value. A linear warm-up of the
    length `decay_steps` in front of it makes the well-known `warmup ** 0.5 * t ** -0.5`, t counted from the warm-up's
    begin.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        decay_steps: the time scale, > 0; a plain number counts optimizer steps, `"1ep"` makes it a schedule of epochs.
            After three times as long the learning rate has halved. Default 10000.
        power: the exponent, > 0. Default 0.5: the square root.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: transformers.get_inverse_sqrt_schedule, whose `timescale` is `decay_steps`; the "Noam" schedule of
    "Attention Is All You Need".

    Example:
        >>> decay = InverseSquareRoot(0.1, decay_steps=100)
        >>> [decay(step) for step in (0, 300, 9900)]
        [0.1, 0.05, 0.01]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        decay_steps: DurationLike = 10_000,
        power: float = 0.5,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="InverseSquareRoot.decay_steps")
        self.power = number("InverseSquareRoot.power", power, "a finite number > 0 (0.5: the root)", above=0.0)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate / (1 + t / decay_steps) ** power`."""
        ratio = maximum(self.decay_steps.ratio(position), 0.0)
        return self.initial(position) / power(1.0 + ratio, self.power)
