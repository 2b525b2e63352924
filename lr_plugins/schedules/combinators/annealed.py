"""A schedule that is annealed to an end value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import SET_LENGTH, TrainingError
from lr_plugins.schedules.combinators.cooldown import Cooldown, Fall
from lr_plugins.schedules.combinators.factors import check_factor
from lr_plugins.schedules.combinators.sequential import Sequential
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, share_of
from lr_plugins.schedules.numerics import between, maximum
from lr_plugins.schedules.position import Length, Position, RunLength, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.schedules.shapes.function import as_schedule
from lr_plugins.validation import choice, flag, learning_rate


class Annealed(Sequential):
    """A schedule that is annealed to an end value from some time on, whatever value it has by then.

    `lr(t) = schedule(t)` while `t < after`, and from there on `lr(t) = end_learning_rate + (held - end_learning_rate) *
    left(t - after)`, where `held` is the schedule's value at t = `after`, and `left` goes from 1 to 0 over
    `decay_steps`, in one of the shapes of `Cooldown`. At t = `after` nothing jumps, and from t = `after + decay_steps`
    on the end value stays. Before 0 it is what the schedule is there.

    `after` and `decay_steps` are lengths of the whole run, also in percent. Where the steps per epoch are known, it
    moves at every optimizer step, in whatever unit they are given (`per_epoch()` holds it within an epoch).

    Without `hold` the schedule itself takes the place of `held`: it continues, and its height above the end value
    shrinks. Where the schedule sinks below the end value, the learning rate is the end value from
    `after` on.

    Args:
        schedule: the schedule, or a function of `epoch` or `(epoch, lr)`.
        end_learning_rate: where it ends, >= 0; may be above. Default 0.
        after: when it begins, 0 or more; a plain number counts optimizer steps. Default `"80%"`.
        decay_steps: how long it takes, > 0; a plain number counts optimizer steps. Default None: the rest of the run.
        shape: `"linear"`, `"cosine"`, `"1-sqrt"` or `"exponential"`; or a schedule of what is left, from 1 to 0, which
            sees a run of this length. Default `"linear"`.
        hold: anneal from the value that the schedule has at `after`. Default True; False: from the values that it
            continues with, kept at or above the end value.

    Raises:
        InvalidArgumentError: an argument outside its range.
        TrainingError: no `decay_steps` is given, and that of the run is unknown.

    Source: torch.optim.swa_utils.SWALR; the decay phase of timm's WSDLRScheduler (`hold=False`), also after its stable
    functions rsqrt and power.

    Example:
        >>> from lr_plugins import StepDecay
        >>> halved = StepDecay(0.1, drop=0.5, every="10st")
        >>> schedule = Annealed(halved, end_learning_rate=0.01, after="20st", decay_steps="4st")
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
        shape: Fall | Schedule | Callable[..., float] = "linear",
        hold: bool = True,
    ) -> None:
        self.schedule = as_schedule(schedule, "Annealed.schedule")
        self.end_learning_rate = learning_rate("Annealed.end_learning_rate", end_learning_rate)
        self.after = Duration.of(after, field="Annealed.after", allow_zero=True)
        self.decay_steps = None if decay_steps is None else Duration.of(decay_steps, field="Annealed.decay_steps")
        self.shape = (
            choice("Annealed.shape", shape, get_args(Fall))
            if isinstance(shape, str)
            else as_schedule(shape, "Annealed.shape")
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
        """What is left is one."""
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
        """A schedule that is held no longer observes."""
        return super().active(index, position) or (index == 0 and not self.hold)

    def part_observes_when_inactive(self, index: int, position: Position) -> bool:
        """Never: a schedule that is held stays as it is."""
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
        """The start of the annealing."""
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
