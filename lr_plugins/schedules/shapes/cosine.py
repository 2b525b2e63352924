"""Half a wave of the cosine, once or again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, final, recurring
from lr_plugins.schedules.numerics import EXACT_BLOCK, between, clip, cos, floor, log1p, maximum, power
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.schedules.shapes.polynomial import delayed, k_decay_of
from lr_plugins.validation import flag, learning_rate, number

# Times this close to a restart, relative to the time since the start, count as having reached it. The rounding of
# logarithms and of lengths such as 10 * 1.1 is a hundred times smaller; one step of 10**11 is ten times larger.
_CLOSE = 1e-12


class CosineDecay(Schedule):
    """Go from one learning rate to another along half a wave of the cosine: slow at first, fast, and slow again.

    `lr = end_learning_rate + (initial_learning_rate - end_learning_rate) * c ** power`, where
    `c = (1 + cos(pi * (t / decay_steps) ** k_decay)) / 2`, with t counted in the unit of `decay_steps` and at most
    `decay_steps`: from there on it stays at the end value (torch's and transformers' go up again), before 0 it is the
    initial one, both exactly.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        decay_steps: the length of time it takes, > 0; a plain number counts optimizer steps, `"10ep"` makes it a
            schedule of epochs. Default `"100%"`: the whole run.
        end_learning_rate: where it ends, >= 0; may be above the start. Default 0. (Keras' `alpha` is the share of
            the initial learning rate: `end_learning_rate = alpha * initial_learning_rate`. torch's `eta_min` is the
            same for all param groups; here a group with a learning rate of its own keeps its ratio to the end, too.)
        power: the exponent of the cosine factor, > 0; above 1 it falls earlier. Default 1.
        k_decay: the exponent of the time, > 0; above 1 it falls later. Default 1.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: "SGDR", Loshchilov and Hutter; keras.optimizers.schedules.CosineDecay, torch's CosineAnnealingLR, timm's
    cosine, also for `k_decay` ("k-decay", Zhang and Li); `power` is the `exponent` of optax' cosine_decay_schedule.

    Example:
        >>> cosine = CosineDecay(0.1, decay_steps=100)
        >>> [round(cosine(step), 6) for step in (0, 25, 50, 75, 100, 999)]
        [0.1, 0.085355, 0.05, 0.014645, 0.0, 0.0]
        >>> round(CosineDecay(0.1, decay_steps=100, k_decay=2.0)(50), 6)
        0.085355
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        decay_steps: DurationLike = "100%",
        end_learning_rate: float = 0.0,
        power: float = 1.0,
        k_decay: float = 1.0,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="CosineDecay.decay_steps")
        self.end_learning_rate = learning_rate("CosineDecay.end_learning_rate", end_learning_rate)
        self.power = number("CosineDecay.power", power, "a finite number > 0 (1 is the plain cosine)", above=0.0)
        self.k_decay = k_decay_of(self, k_decay)

    def value(self, position: Position, state: State) -> Value:
        """`end + (initial - end) * ((1 + cos(pi * (t / decay_steps) ** k_decay)) / 2) ** power`."""
        share = clip(self.decay_steps.ratio(position), 0.0, 1.0)
        left = 0.5 * (1.0 + cos(math.pi * delayed(share, self.k_decay)))
        if self.power != 1.0:
            left = power(left, self.power)
        return between(self.end_learning_rate, self.initial(position), left)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The end."""
        falls = self.initial(position) > self.end_learning_rate
        yield final("CosineDecay.decay_steps", self.decay_steps, position, falls)


class CosineRestarts(Schedule):
    """Fall along half a wave of the cosine, jump back up, and again, with periods that grow.

    Period i, counted from 0, is `first_decay_steps * t_mul ** i` long; in it
    `lr = end_learning_rate + (peak_i - end_learning_rate) * (1 + cos(pi * (t_i / period_i) ** k_decay)) / 2`, with t_i
    the time since its start, in the unit of `first_decay_steps`. The peak's height above `end_learning_rate` is
    multiplied by `m_mul` at each restart. At the restart's own step (the first step at or after it, where it falls
    between two) the learning rate is the peak; the end value is what each period comes close to and never shows.
    Before 0 it is the initial value; it goes on for ever.

    Args:
        initial_learning_rate: the first peak, >= 0. Default None: the optimizer's own.
        first_decay_steps: how long the first period is, > 0; a plain number counts optimizer steps, `"10ep"` makes it
            a schedule of epochs. Default `"10ep"`.
        t_mul: how many times as long each period is as the one before, >= 1. Default 2; 1 for equal periods.
        m_mul: the factor of the peak's height at each restart, > 0. Default 1: equal peaks.
        end_learning_rate: what it falls to in each period, >= 0. Default 0.
        whole_peak: multiply the whole peak by `m_mul`, and not its height above `end_learning_rate`, as timm does; it
            may then sink below `end_learning_rate`. Default False, as in Keras. No difference where
            `end_learning_rate` is 0 or `m_mul` is 1.
        k_decay: the exponent of the time within a period, > 0; above 1 it falls later. Default 1.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: "SGDR", Loshchilov and Hutter; keras.optimizers.schedules.CosineDecayRestarts (which in float32 misses
    some of the restarts by one step), torch's CosineAnnealingWarmRestarts, timm's cosine with cycles.

    Example:
        >>> restarts = CosineRestarts(0.1, first_decay_steps=10, t_mul=2.0, m_mul=0.5)
        >>> [round(restarts(step), 6) for step in (0, 5, 9, 10, 20, 29, 30)]
        [0.1, 0.05, 0.002447, 0.05, 0.025, 0.000308, 0.025]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        first_decay_steps: DurationLike = "10ep",
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        end_learning_rate: float = 0.0,
        whole_peak: bool = False,
        k_decay: float = 1.0,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.first_decay_steps = Duration.of(first_decay_steps, field="CosineRestarts.first_decay_steps")
        self.t_mul = number("CosineRestarts.t_mul", t_mul, "a finite number >= 1 (2 doubles each period)", at_least=1.0)
        self.m_mul = number("CosineRestarts.m_mul", m_mul, "a finite number > 0 (0.5 halves each peak)", above=0.0)
        self.end_learning_rate = learning_rate("CosineRestarts.end_learning_rate", end_learning_rate)
        self.whole_peak = flag("CosineRestarts.whole_peak", whole_peak)
        self.k_decay = k_decay_of(self, k_decay)

    def value(self, position: Position, state: State) -> Value:
        """The cosine between the peak of the period and the end value."""
        index, share = self._period(position)
        left = 0.5 * (1.0 + cos(math.pi * delayed(share, self.k_decay)))
        return between(self.end_learning_rate, self._peak(self.initial(position), index), left)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each restart."""
        count, _ = self._period(position)
        yield recurring("restart", "CosineRestarts.first_decay_steps", self.first_decay_steps, count, position)

    def _period(self, position: Position) -> tuple[Value, Value]:
        """Which period it is, and how much of it has passed, from 0 to 1."""
        passed, first = self.first_decay_steps.measure(position)
        return period_of(passed, first, self.t_mul)

    def _peak(self, first: float, index: Value) -> Value:
        if self.m_mul == 1.0:
            return first
        if self.whole_peak:
            return first * power(self.m_mul, index)
        return between(self.end_learning_rate, first, power(self.m_mul, index))


def period_of(passed: Value, first: float, t_mul: float) -> tuple[Value, Value]:
    """Which of growing periods it is, and how much of it has passed, from 0 to 1.

    A restart that falls between two steps counts from the step after it; what is one but for rounding is exact.

    Args:
        passed: the time since the first period's start.
        first: how long the first period is, > 0.
        t_mul: how many times as long each period is as the one before, >= 1.

    Example:
        >>> period_of(23, 10, 1.3), period_of(22, 10, 1.3)[0]  # 10 + 13 = 23
        ((2.0, 0.0), 1.0)
    """
    passed = maximum(passed, 0.0)
    soon = passed * ((1.0 + _CLOSE) / first)
    if t_mul == 1.0:
        index = floor(soon)
        return index, maximum(passed - index * first, 0.0) / first
    growth = t_mul - 1.0
    index = floor(log1p(soon * growth) / math.log1p(growth))
    times = _powers(t_mul, index)
    return index, maximum(passed - (times - 1.0) * (first / growth), 0.0) / (times * first)


def _powers(base: float, index: Value) -> Value:
    """`base ** index`, for whole numbers, in a long array, too, the same to the last bit as one by one.

    NumPy's own may differ there, and the time since a late period's start would show it tenfold.
    """
    if isinstance(index, np.ndarray) and index.size > EXACT_BLOCK and (most := int(index.max())) < 100_000:
        return np.array([base**each for each in range(most + 1)])[index.astype(np.intp)]
    return power(base, index)
