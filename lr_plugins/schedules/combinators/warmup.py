"""A rise before a schedule, and a fall after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from lr_plugins import renamed
from lr_plugins.errors import SET_LENGTH, InvalidArgument, TrainingError
from lr_plugins.schedules.combinators.combine import Product, Sequential
from lr_plugins.schedules.combinators.factors import check_factor
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import WARMUP, Milestone, final, share_of
from lr_plugins.schedules.numerics import between, clip, cos, maximum, power, sqrt
from lr_plugins.schedules.position import Length, Position, RunLength, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.schedules.shapes.exponential import ExponentialDecay
from lr_plugins.schedules.shapes.function import as_schedule
from lr_plugins.schedules.shapes.piecewise import PiecewiseInterpolation
from lr_plugins.validation import choice, flag, learning_rate, number

RISES: dict[str, Callable[[float], Schedule]] = {
    "linear": lambda factor: PiecewiseInterpolation([[0, factor], ["100%", 1.0]]),
    "cosine": lambda factor: PiecewiseInterpolation([[0, factor], ["100%", 1.0]], interpolation="cosine"),
    "exponential": lambda factor: ExponentialDecay(factor, decay_steps="100%", decay_rate=1.0 / factor),
    "constant": Constant,
}
"""Factors that lead from a first one to 1 in the course of a warm-up."""

_RATIO = 0.1  # the factor of the exponential fall over its length, before it is made to reach the end

FALLS: dict[str, Callable[[Value], Value]] = {
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + cos(math.pi * share)),
    "1-sqrt": lambda share: 1.0 - sqrt(share),
    "exponential": lambda share: (power(_RATIO, share) - _RATIO) / (1.0 - _RATIO),
}
"""What is left of the height, from 1 to 0, at a share of the fall."""


@renamed.arguments
class Warmup(Sequential):
    """A rise to a schedule's first value, and then the schedule, counting from its own begin.

    `lr(t) = factor(t) * (first value of the schedule)` while `t < length`, then `schedule(t - length)`, which has the
    rest of the run. With p = t / warmup_steps, the factor is `start_factor + (1 - start_factor) * p` (`"linear"`),
    `start_factor + (1 - start_factor) * (1 - cos(pi * p)) / 2` (`"cosine"`), `start_factor ** (1 - p)`
    (`"exponential"`) or `start_factor` (`"constant"`).

    The very first step has `start_factor`, so with 0 it trains nothing, as in transformers; t = `warmup_steps` is the first
    step of the schedule, and has its first value. To begin with 1 / n of it and arrive with step n - 1, as
    `(t + 1) / n` does, take `warmup_steps=n - 1, start_factor=1 / n`. Where the steps per epoch are known, it rises at every
    optimizer step, in whatever unit the length is given (`per_epoch()` holds it within an epoch).

    Without `prefix` the rise takes the place of the schedule's begin instead of pushing it back: while `t < length` it
    is the same, and then `schedule(t)`, which counts from the begin of the run and has gone on meanwhile; where it is
    no longer at its first value, it begins with a jump.

    A schedule that counts what it observes (a plateau's patience) does so from its own begin on: until then its first
    value is that of a run which has observed nothing. One that follows a metric (`LossDriven`) follows it during the
    warm-up, too: the rise is to where it is by then.

    Args:
        schedule: the schedule, or a function of `epoch` or `(epoch, lr)`.
        warmup_steps: how long the rise takes; a plain number counts optimizer steps. 0 for none.
        start_factor: the factor of the very first step, >= 0; > 0 for `"exponential"`. Default 0.
        shape: `"linear"`, `"cosine"`, `"exponential"` or `"constant"`; or a schedule of factors, which sees a run of
            the warm-up's length and takes the place of `start_factor`. Default `"linear"`.
        prefix: the schedule begins after the warm-up. Default True; False: with it.

    Raises:
        InvalidArgument: an argument outside its range.

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
        shape: str | Schedule | Callable[..., float] = "linear",
        prefix: bool = True,
    ) -> None:
        self.schedule = as_schedule(schedule, "Warmup.schedule")
        self.warmup_steps = Duration.of(warmup_steps, field="Warmup.warmup_steps", allow_zero=True)
        self.prefix = flag("Warmup.prefix", prefix)
        self.start_factor = number("Warmup.start_factor", start_factor, "a finite number >= 0", at_least=0.0)
        field = "Warmup.shape"
        self.shape = choice(field, shape, RISES) if isinstance(shape, str) else as_schedule(shape, field)
        if isinstance(self.shape, Schedule):
            if self.start_factor:
                raise InvalidArgument("Warmup.start_factor", start_factor, "0 where shape is a schedule of factors")
            check_factor(self.shape)
            rise = self.shape
        else:
            if self.shape == "exponential" and not self.start_factor:
                raise InvalidArgument("Warmup.start_factor", start_factor, 'greater than 0 for shape="exponential"')
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
        """The rise does."""
        return index == 0

    def local_position(self, index: int, position: Position) -> Position:
        """The factors begin at 1, where they name no begin; a schedule that is not pushed back sees the run itself."""
        if index and not self.prefix:
            return position
        seen = super().local_position(index, position)
        return seen._replace(base_learning_rate=1.0) if self.is_factor(index) else seen

    def of(self, index: int, position: Position, state: State) -> Value:
        """The value of the schedule; of the rise, in terms of the schedule's first."""
        value = super().of(index, position, state)
        return value if index else value * self._first(position, state)

    def _first(self, position: Position, state: State) -> Value:
        begin = self.local_position(1, position.at_begin()).at_begin()
        return self.parts[1].value(begin, (state or {}).get("1"))


@renamed.arguments
class Cooldown(Schedule):
    """A fall from one learning rate to another, in one of the usual shapes.

    `lr = end_learning_rate + (initial_learning_rate - end_learning_rate) * left`, where with p = t / decay_steps, at most
    1, `left` is `1 - p` (`"linear"`), `(1 + cos(pi * p)) / 2` (`"cosine"`), `1 - sqrt(p)` (`"1-sqrt"`) or
    `(0.1 ** p - 0.1) / 0.9` (`"exponential"`: towards a tenth, and stretched so as to arrive). t is counted in the
    unit of `decay_steps`. Before 0 it is the initial value, after the end the end value.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        end_learning_rate: where it ends, >= 0. Default 0.
        decay_steps: how long it takes, > 0; a plain number counts optimizer steps. Default `"100%"`: the whole run.
        shape: `"linear"`, `"cosine"`, `"1-sqrt"` or `"exponential"`. Default `"linear"`.

    Raises:
        InvalidArgument: an argument outside its range.

    Source: the decay functions of timm's WSDLRScheduler; "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", Hägele et al., for 1-sqrt.

    Example:
        >>> cooldown = Cooldown(0.1, decay_steps=100, shape="1-sqrt")
        >>> [round(cooldown(step), 6) for step in (0, 25, 100, 999)]
        [0.1, 0.05, 0.0, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        end_learning_rate: float = 0.0,
        decay_steps: DurationLike = "100%",
        shape: str = "linear",
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.end_learning_rate = learning_rate("Cooldown.end_learning_rate", end_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="Cooldown.decay_steps")
        self.shape = choice("Cooldown.shape", shape, FALLS)

    def value(self, position: Position, state: State) -> Value:
        """`end_learning_rate + (initial_learning_rate - end_learning_rate) * left`."""
        left = FALLS[self.shape](clip(self.decay_steps.ratio(position), 0.0, 1.0))
        return between(self.end_learning_rate, self.initial(position), left)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The end."""
        yield final("Cooldown.decay_steps", self.decay_steps, position, self.initial(position) > self.end_learning_rate)


@renamed.arguments
class Annealed(Sequential):
    """A schedule that is led to an end value from some time on, whatever value it has by then.

    `lr(t) = schedule(t)` while `t < after`, and from there on
    `lr(t) = end_learning_rate + (held - end_learning_rate) * left(t - after)`, where `held` is the schedule's value at
    t = `after`, and `left` goes from 1 to 0 over `decay_steps`, in one of the shapes of `Cooldown`. At t = `after` nothing
    jumps, and from t = `after + decay_steps` on the end value stays. Before 0 it is what the schedule is there.

    `after` and `decay_steps` are lengths of the whole run, also in percent. Where the steps per epoch are known, it moves at
    every optimizer step, in whatever unit they are given (`per_epoch()` holds it within an epoch).

    Without `hold` the schedule itself takes the place of `held`: it goes on, and what is left of its height above
    the end value shrinks. Where the schedule sinks below the end value, the learning rate is the end value from
    `after` on.

    Args:
        schedule: the schedule, or a function of `epoch` or `(epoch, lr)`.
        end_learning_rate: where it ends, >= 0; may be above. Default 0.
        after: when it begins, 0 or more; a plain number counts optimizer steps. Default `"80%"`.
        decay_steps: how long it takes, > 0; a plain number counts optimizer steps. Default None: the rest of the run.
        shape: `"linear"`, `"cosine"`, `"1-sqrt"` or `"exponential"`; or a schedule of what is left, from 1 to 0, which
            sees a run of this length. Default `"linear"`.
        hold: from the value that the schedule has at `after`. Default True; False: from the values it goes on to
            have, kept at or above the end value.

    Raises:
        InvalidArgument: an argument outside its range.
        TrainingError: no `decay_steps` is given, and that of the run is unknown.

    Source: torch.optim.swa_utils.SWALR; the decay phase of timm's WSDLRScheduler (`hold=False`), also after its stable
    functions rsqrt and power.

    Example:
        >>> from lr_plugins import StepDecay
        >>> schedule = Annealed(StepDecay(0.1, drop=0.5, every="10st"), end_learning_rate=0.01, after="20st", decay_steps="4st")
        >>> [round(schedule(step), 6) for step in (0, 10, 19, 20, 22, 24, 99)]
        [0.1, 0.05, 0.05, 0.025, 0.0175, 0.01, 0.01]
    """

    def __init__(
        self,
        schedule: Schedule | Callable[..., float],
        *,
        end_learning_rate: float = 0.0,
        after: DurationLike = "80%",
        decay_steps: DurationLike | None = None,
        shape: str | Schedule | Callable[..., float] = "linear",
        hold: bool = True,
    ) -> None:
        self.schedule = as_schedule(schedule, "Annealed.schedule")
        self.end_learning_rate = learning_rate("Annealed.end_learning_rate", end_learning_rate)
        self.after = Duration.of(after, field="Annealed.after", allow_zero=True)
        self.decay_steps = None if decay_steps is None else Duration.of(decay_steps, field="Annealed.decay_steps")
        self.shape = (
            choice("Annealed.shape", shape, FALLS) if isinstance(shape, str) else as_schedule(shape, "Annealed.shape")
        )
        self.hold = flag("Annealed.hold", hold)
        if isinstance(self.shape, Schedule):
            check_factor(self.shape)
        left = self.shape if isinstance(self.shape, Schedule) else Cooldown(1.0, shape=self.shape)
        self.parts = (self.schedule, left)

    def part_length(self, index: int, run: RunLength) -> Length:
        """Until the annealing begins."""
        return self.after.known(run)

    def is_factor(self, index: int) -> bool:
        """What is left does."""
        return index == 1

    def local_position(self, index: int, position: Position) -> Position:
        """The schedule sees the run; what is left of it is counted from `after`, and begins at 1."""
        if not index:
            return position
        start, run = self._plan(position.run)[1]
        if self.decay_steps is None and run.steps is None and run.epochs is None:
            raise TrainingError(
                f"Annealed takes the rest of the run, whose length is unknown; give decay_steps, or {SET_LENGTH}"
            )
        return position.slice(start, run)._replace(base_learning_rate=1.0)

    def active(self, index: int, position: Position) -> bool:
        """A schedule that is held observes no more."""
        return super().active(index, position) or (index == 0 and not self.hold)

    def part_observes_when_inactive(self, index: int, position: Position) -> bool:
        """Nor does it overhear anything."""
        return False

    def of(self, index: int, position: Position, state: State) -> Value:
        """The schedule's value; from `after` on, what is left of its height above the end."""
        if not index:
            return super().of(0, position, state)
        if self.hold:
            height = super().of(0, self._switch(position), state)
        else:
            height = maximum(super().of(0, position, state), self.end_learning_rate)
        return between(self.end_learning_rate, height, super().of(1, position, state))

    def begin_of(self, index: int, at: npt.NDArray[np.intp], position: Position) -> Milestone:
        """The begin of the annealing."""
        share = share_of(self.after, position.run)
        return Milestone("annealing begins", at, f"Annealed.after={self.after}", share=share, run=position.run)

    def _switch(self, position: Position) -> Position:
        """The position of one step at which the annealing begins."""
        start, _ = self._plan(position.run)[1]
        epoch = start.epochs if start.epochs is None or position.smooth else start.epochs // 1
        return position._replace(step=start.steps, epoch=epoch)

    def _parts_of(self, run: RunLength) -> Iterator[tuple[Length, RunLength]]:
        before, (start, rest) = super()._parts_of(run)
        yield before
        yield start, rest if self.decay_steps is None else run.slice(self.decay_steps.known(run.since(start)), start)


@renamed.arguments
class WarmupStableDecay(Sequential):
    """Up, then constant, and down at the end of the run.

    From `start_factor * initial_learning_rate` in a line to `initial_learning_rate`, which is reached at t = `warmup_steps`
    and holds until `decay_steps` before the end of the run; from there down to `end_learning_rate` in one of the shapes of
    `Cooldown`, which is reached at the end of the run: by the step that would follow the last one, as in timm and
    transformers. After it, the end value stays.

    `warmup_steps` and `decay_steps` are lengths of the whole run, also in percent. Where together they are longer than the run,
    the warm-up comes first and the decay takes the rest. Where the steps per epoch are known, it moves at every
    optimizer step, in whatever unit the lengths are given.

    Args:
        initial_learning_rate: the stable value, >= 0. Default None: the optimizer's own.
        warmup_steps: how long it rises; a plain number counts optimizer steps. 0 for none. Default `"5%"`.
        decay_steps: how long it falls, > 0; a plain number counts optimizer steps. Default `"20%"`.
        decay_shape: `"linear"`, `"cosine"`, `"1-sqrt"` or `"exponential"`. Default `"linear"`.
        end_learning_rate: where it ends, >= 0. Default 0.
        start_factor: the share of the stable value that the very first step has, >= 0. Default 0.

    Raises:
        InvalidArgument: an argument outside its range.
        TrainingError: the length of the run is unknown, and with it the begin of the decay.

    Source: "MiniCPM", Hu et al.; timm's WSDLRScheduler, transformers.get_wsd_schedule.

    Example:
        >>> run = RunLength.of(steps_per_epoch=10, epochs=10)
        >>> schedule = WarmupStableDecay(0.1, warmup_steps="10%", decay_steps="20%")
        >>> [round(schedule(run.position(step)), 6) for step in (0, 5, 10, 80, 90, 99)]
        [0.0, 0.05, 0.1, 0.1, 0.05, 0.005]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        warmup_steps: DurationLike = "5%",
        decay_steps: DurationLike = "20%",
        decay_shape: str = "linear",
        end_learning_rate: float = 0.0,
        start_factor: float = 0.0,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.warmup_steps = Duration.of(warmup_steps, field="WarmupStableDecay.warmup_steps", allow_zero=True)
        self.decay_steps = Duration.of(decay_steps, field="WarmupStableDecay.decay_steps")
        self.decay_shape = choice("WarmupStableDecay.decay_shape", decay_shape, FALLS)
        self.end_learning_rate = learning_rate("WarmupStableDecay.end_learning_rate", end_learning_rate)
        allowed = "a finite number >= 0"
        self.start_factor = number("WarmupStableDecay.start_factor", start_factor, allowed, at_least=0.0)
        if (
            self.warmup_steps.unit == self.decay_steps.unit == "%"
            and self.warmup_steps.value + self.decay_steps.value > 100
        ):
            raise InvalidArgument(
                "WarmupStableDecay.decay_steps",
                self.decay_steps,
                f"at most what warmup_steps ({self.warmup_steps}) leaves",
            )
        stable = Constant(self.initial_learning_rate)
        self.parts = (
            Product([stable, RISES["linear"](self.start_factor)]),
            stable,
            Cooldown(self.initial_learning_rate, end_learning_rate=self.end_learning_rate, shape=self.decay_shape),
        )

    def part_length(self, index: int, run: RunLength) -> Length:
        """The warm-up's; or, of the stable part, what the other two leave of the run."""
        warmup = self.warmup_steps.known(run)
        if index == 0:
            return warmup
        decay = self.decay_steps.known(run)
        clock = "ep" if warmup.counted_in == decay.counted_in == "ep" else "st"
        rest = Length(run.steps, run.epochs, clock) - warmup - decay
        if rest.exact is None:
            raise TrainingError(
                f"WarmupStableDecay falls over the last {self.decay_steps} of the run, whose length is unknown in that unit; "
                f"set max_epochs, or {SET_LENGTH}"
            )
        steps, epochs = (None if one is None else max(one, 0.0) for one in (rest.steps, rest.epochs))
        return Length(steps, epochs, clock)

    def begin_of(self, index: int, at: npt.NDArray[np.intp], position: Position) -> Milestone:
        """The end of the warm-up, or the begin of the decay."""
        if index == 1:
            share = share_of(self.warmup_steps, position.run)
            return Milestone(
                "warm-up ends", at, f"WarmupStableDecay.warmup_steps={self.warmup_steps}", WARMUP, share, position.run
            )
        return Milestone("decay begins", at)
