"""A rise to a schedule's first value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.combinators.factors import check_factor
from lr_plugins.schedules.combinators.sequential import Sequential
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import WARMUP, Milestone, share_of
from lr_plugins.schedules.position import Length, Position, RunLength, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.schedules.shapes.exponential import ExponentialDecay
from lr_plugins.schedules.shapes.function import as_schedule
from lr_plugins.schedules.shapes.piecewise import PiecewiseInterpolation
from lr_plugins.validation import choice, flag, number

Rise = Literal["linear", "cosine", "exponential", "constant"]
"""The shapes of a rise."""

RISES: dict[Rise, Callable[[float], Schedule]] = {
    "linear": lambda factor: PiecewiseInterpolation([[0, factor], ["100%", 1.0]]),
    "cosine": lambda factor: PiecewiseInterpolation([[0, factor], ["100%", 1.0]], interpolation="cosine"),
    "exponential": lambda factor: ExponentialDecay(factor, decay_steps="100%", decay_rate=1.0 / factor),
    "constant": Constant,
}
"""Schedules of factors from a first one to 1, over the run they see: the length of the warm-up."""


class Warmup(Sequential):
    """A rise to a schedule's first value, and then the schedule, counting from its own start.

    `lr(t) = factor(t) * (first value of the schedule)` while `t < length`, then `schedule(t - length)`, which has the
    rest of the run. With p = t / warmup_steps, the factor is `start_factor + (1 - start_factor) * p` (`"linear"`),
    `start_factor + (1 - start_factor) * (1 - cos(pi * p)) / 2` (`"cosine"`), `start_factor ** (1 - p)`
    (`"exponential"`) or `start_factor` (`"constant"`).

    The very first step has `start_factor`, so with 0 it trains nothing, as in transformers; t = `warmup_steps` is the
    first step of the schedule, and has its first value. To start at 1 / n of it and reach it at step n - 1, as `(t +
    1) / n` does, use `warmup_steps=n - 1, start_factor=1 / n`. Where the steps per epoch are known, it rises at every
    optimizer step, in whatever unit the length is given (`per_epoch()` holds it within an epoch).

    Without `prefix` the rise takes the place of the schedule's start instead of pushing it back: while `t < length` it
    is the same, and then `schedule(t)`, which counts from the start of the run and has moved on meanwhile; where it is
    no longer at its first value, there is a jump.

    A schedule that counts observations (a plateau's patience) starts to count after the warm-up: until then its first
    value is that of a run which has observed nothing. `LossDriven` observes during the warm-up, too: the rise leads to
    where it is by then.

    Args:
        schedule: the schedule, or a function of `epoch` or `(epoch, lr)`.
        warmup_steps: how long the rise takes; a plain number counts optimizer steps. 0 for none.
        start_factor: the factor of the very first step, >= 0; > 0 for `"exponential"`. Default 0.
        shape: `"linear"`, `"cosine"`, `"exponential"` or `"constant"`; or a schedule of factors, which sees a run of
            the warm-up's length and takes the place of `start_factor`. Default `"linear"`.
        prefix: the schedule begins after the warm-up. Default True; False: with it.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: "Accurate, Large Minibatch SGD", Goyal et al.; torch's LinearLR and ConstantLR in front, the `_with_warmup`
    schedules of transformers, `warmup_target` of Keras' CosineDecay; `prefix=False` is timm's `warmup_prefix=False`
    and the rule of Composer's MultiStepWithWarmupScheduler.

    Example:
        >>> from lr_plugins import StepDecay
        >>> schedule = Warmup(StepDecay(0.1, drop=0.5, every="10st"), warmup_steps="4st")
        >>> [schedule(step) for step in (0, 1, 2, 4, 13, 14)]
        [0.0, 0.025, 0.05, 0.1, 0.1, 0.05]
        >>> schedule = Warmup(StepDecay(0.1, drop=0.5, every="10st"), warmup_steps="4st", prefix=False)
        >>> [schedule(step) for step in (0, 1, 2, 4, 9, 10)]
        [0.0, 0.025, 0.05, 0.1, 0.1, 0.05]
    """

    def __init__(
        self,
        schedule: Schedule | Callable[..., float],
        *,
        warmup_steps: DurationLike,
        start_factor: float = 0.0,
        shape: Rise | Schedule | Callable[..., float] = "linear",
        prefix: bool = True,
    ) -> None:
        self.schedule = as_schedule(schedule, "Warmup.schedule")
        self.warmup_steps = Duration.of(warmup_steps, field="Warmup.warmup_steps", allow_zero=True)
        self.prefix = flag("Warmup.prefix", prefix)
        self.start_factor = number("Warmup.start_factor", start_factor, "a finite number >= 0", at_least=0.0)
        field = "Warmup.shape"
        self.shape = choice(field, shape, get_args(Rise)) if isinstance(shape, str) else as_schedule(shape, field)
        if isinstance(self.shape, Schedule):
            if self.start_factor:
                raise InvalidArgumentError(
                    "Warmup.start_factor", start_factor, "0 where shape is a schedule of factors"
                )
            check_factor(self.shape)
            rise = self.shape
        else:
            if self.shape == "exponential" and not self.start_factor:
                raise InvalidArgumentError(
                    "Warmup.start_factor", start_factor, 'greater than 0 for shape="exponential"'
                )
            rise = RISES[self.shape](self.start_factor)
        self.parts = (rise, self.schedule)

    def part_length(self, index: int, run: RunLength) -> Length:
        """The warm-up's."""
        return self.warmup_steps.known(run)

    def begin_of(self, index: int, at: npt.NDArray[np.intp], position: Position) -> Milestone:
        """The end of the warm-up."""
        share = share_of(self.warmup_steps, position.run)
        return Milestone("warm-up ends", at, f"Warmup.warmup_steps={self.warmup_steps}", WARMUP, share, position.run)

    def is_factor(self, index: int) -> bool:
        """The rise is one."""
        return index == 0

    def local_position(self, index: int, position: Position) -> Position:
        """The rise sees a base of 1; a schedule that is not pushed back sees the run itself."""
        if index and not self.prefix:
            return position
        seen = super().local_position(index, position)
        return seen._replace(base_learning_rate=1.0) if self.is_factor(index) else seen

    def of(self, index: int, position: Position, state: State) -> Value:
        """The value of the schedule, or the rise times its first value."""
        value = super().of(index, position, state)
        return value if index else value * self._first(position, state)

    def _first(self, position: Position, state: State) -> Value:
        begin = self.local_position(1, position.at_begin()).at_begin()
        return self.parts[1].value(begin, (state or {}).get("1"))
