"""From one value to another, along a line or a power of it."""

from __future__ import annotations

from collections.abc import Iterator

from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, final, recurring
from lr_plugins.schedules.numerics import between, ceil, clip, maximum, power
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import flag, learning_rate, number


class LinearDecay(Schedule):
    """Go from one learning rate to another in a straight line: down, or up.

    `lr = initial_learning_rate + (end_learning_rate - initial_learning_rate) * min(t / decay_steps, 1)`, with t
    counted in the unit of `decay_steps`. Before 0 it is the initial value, from `decay_steps` on the end value, both
    exactly. With the end above the start it rises: a warm-up.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        end_learning_rate: where it ends, >= 0; may be above the start. Default 0.
        decay_steps: the length of time it takes, > 0; a plain number counts optimizer steps, `"10ep"` makes it a
            schedule of epochs. Default `"100%"`: the whole run.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: torch.optim.lr_scheduler.LinearLR, transformers.get_linear_schedule_with_warmup.

    Example:
        >>> fall = LinearDecay(0.1, end_learning_rate=0.0, decay_steps=100)
        >>> [fall(step) for step in (0, 50, 100, 999)]
        [0.1, 0.05, 0.0, 0.0]
        >>> rise = LinearDecay(0.0, end_learning_rate=0.1, decay_steps=100)
        >>> [rise(step) for step in (0, 50, 100, 999)]
        [0.0, 0.05, 0.1, 0.1]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        end_learning_rate: float = 0.0,
        decay_steps: DurationLike = "100%",
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.end_learning_rate = learning_rate("LinearDecay.end_learning_rate", end_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="LinearDecay.decay_steps")

    def value(self, position: Position, state: State) -> Value:
        """The point of the line at t, or its nearer end."""
        share = clip(self.decay_steps.ratio(position), 0.0, 1.0)
        return between(self.initial(position), self.end_learning_rate, share)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The end."""
        falls = self.initial(position) > self.end_learning_rate
        yield final("LinearDecay.decay_steps", self.decay_steps, position, falls)


class PolynomialDecay(Schedule):
    """Go from one learning rate to another along a power of the time that is left.

    `lr = end_learning_rate + (initial_learning_rate - end_learning_rate) * (1 - p ** k_decay) ** power`, where
    `p = t / decay_steps`, with t counted in the unit of `decay_steps` and at most `decay_steps`: from there on it is
    the end value, before 0 the initial one, both exactly. `power=1` is a straight line, above 1 it falls fast at first,
    below 1 at last; with `k_decay` above 1 it stays high for longer.

    With `cycle` it does not stay at the end: each time it has been reached, `decay_steps` counts once more, from the
    very begin. At t = k * `decay_steps` it is the end value, and right after that it jumps up, to
    `1 / (k + 1)` of the height (`power=1`).

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        decay_steps: the length of time it takes, > 0; a plain number counts optimizer steps, `"10ep"` makes it a
            schedule of epochs. Default `"100%"`: the whole run.
        end_learning_rate: where it ends, >= 0; may be above the start. Default 0 (in Keras 0.0001).
        power: the exponent, > 0. Default 1.
        cycle: start again at the end, as above, instead of staying there. Default False.
        k_decay: the exponent of the time, > 0. Default 1. With `power=1` the fall is `1 - p ** k_decay`.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.PolynomialDecay; torch's PolynomialLR, timm's poly with its k_decay; fastai's
    SchedPoly, whose power is `k_decay`.

    Example:
        >>> square = PolynomialDecay(0.1, decay_steps=100, power=2.0)
        >>> [square(step) for step in (0, 50, 100, 999)]
        [0.1, 0.025, 0.0, 0.0]
        >>> late = PolynomialDecay(0.1, decay_steps=100, k_decay=2.0)
        >>> [late(step) for step in (0, 50, 100)]
        [0.1, 0.07500000000000001, 0.0]
        >>> again = PolynomialDecay(0.1, decay_steps=100, cycle=True)
        >>> [again(step) for step in (0, 50, 100, 150, 200)]
        [0.1, 0.05, 0.0, 0.025, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        decay_steps: DurationLike = "100%",
        end_learning_rate: float = 0.0,
        power: float = 1.0,
        cycle: bool = False,
        k_decay: float = 1.0,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="PolynomialDecay.decay_steps")
        self.end_learning_rate = learning_rate("PolynomialDecay.end_learning_rate", end_learning_rate)
        self.power = number("PolynomialDecay.power", power, "a finite number > 0 (1 is a line)", above=0.0)
        self.cycle = flag("PolynomialDecay.cycle", cycle)
        self.k_decay = k_decay_of(self, k_decay)

    def value(self, position: Position, state: State) -> Value:
        """`end + (initial - end) * (1 - (t / decay_steps) ** k_decay) ** power`."""
        ratio = self.decay_steps.ratio(position)
        if self.cycle:
            ratio = maximum(ratio, 0.0)
            share = ratio / maximum(ceil(ratio), 1.0)
        else:
            share = clip(ratio, 0.0, 1.0)
        left = power(1.0 - delayed(share, self.k_decay), self.power)
        return between(self.end_learning_rate, self.initial(position), left)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The end, or each time that it begins to fall again."""
        field = "PolynomialDecay.decay_steps"
        if self.cycle:
            count = maximum(ceil(self.decay_steps.ratio(position)), 1.0)
            yield recurring("falls again", field, self.decay_steps, count, position)
        else:
            falls = self.initial(position) > self.end_learning_rate
            yield final(field, self.decay_steps, position, falls)


def k_decay_of(owner: Schedule, value: object) -> float:
    """A schedule's `k_decay`: the exponent of the time, a finite number > 0."""
    return number(f"{type(owner).__name__}.k_decay", value, "a finite number > 0 (1: the plain time)", above=0.0)


def delayed(share: Value, k_decay: float) -> Value:
    """A share of the time, from 0 to 1, that passes slowly at first where `k_decay` is above 1."""
    return share if k_decay == 1.0 else power(share, k_decay)
