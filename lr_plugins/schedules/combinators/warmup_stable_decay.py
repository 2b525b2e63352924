"""Up, then constant, and down at the end of the run."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import SET_LENGTH, InvalidArgumentError, TrainingError
from lr_plugins.schedules.combinators.cooldown import Cooldown, Fall
from lr_plugins.schedules.combinators.product import Product
from lr_plugins.schedules.combinators.sequential import Sequential
from lr_plugins.schedules.combinators.warmup import RISES
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import WARMUP, Milestone, share_of
from lr_plugins.schedules.position import Length, Position, RunLength
from lr_plugins.schedules.schedule import start_of
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.validation import choice, learning_rate, number


class WarmupStableDecay(Sequential):
    """Up, then constant, and down at the end of the run.

    From `start_factor * initial_learning_rate` in a line to `initial_learning_rate`, which is reached at t =
    `warmup_steps` and holds until `decay_steps` before the end of the run; from there down to `end_learning_rate` in
    one of the shapes of `Cooldown`, which is reached at the end of the run: by the step that would follow the last one,
    as in timm and transformers. After it, the end value stays.

    `warmup_steps` and `decay_steps` are lengths of the whole run, also in percent. Where together they are longer than
    the run, the warm-up comes first and the decay takes the rest. Where the steps per epoch are known, it moves at
    every optimizer step, in whatever unit the lengths are given.

    Args:
        initial_learning_rate: the stable value, >= 0. Default None: the optimizer's own.
        warmup_steps: how long it rises; a plain number counts optimizer steps. 0 for none. Default `"5%"`.
        decay_steps: how long it falls, > 0; a plain number counts optimizer steps. Default `"20%"`.
        decay_shape: `"linear"`, `"cosine"`, `"1-sqrt"` or `"exponential"`. Default `"linear"`.
        end_learning_rate: where it ends, >= 0. Default 0.
        start_factor: the share of the stable value that the very first step has, >= 0. Default 0.

    Raises:
        InvalidArgumentError: an argument outside its range.
        TrainingError: the length of the run is unknown, and with it the start of the decay.

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
        decay_shape: Fall = "linear",
        end_learning_rate: float = 0.0,
        start_factor: float = 0.0,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.warmup_steps = Duration.of(warmup_steps, field="WarmupStableDecay.warmup_steps", allow_zero=True)
        self.decay_steps = Duration.of(decay_steps, field="WarmupStableDecay.decay_steps")
        self.decay_shape = choice("WarmupStableDecay.decay_shape", decay_shape, get_args(Fall))
        self.end_learning_rate = learning_rate("WarmupStableDecay.end_learning_rate", end_learning_rate)
        allowed = "a finite number >= 0"
        self.start_factor = number("WarmupStableDecay.start_factor", start_factor, allowed, at_least=0.0)
        if (
            self.warmup_steps.unit == self.decay_steps.unit == "%"
            and self.warmup_steps.value + self.decay_steps.value > 100
        ):
            raise InvalidArgumentError(
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
                f"WarmupStableDecay falls over the last {self.decay_steps} of the run, whose length is unknown in that "
                f"unit; set max_epochs, or {SET_LENGTH}"
            )
        steps, epochs = (None if count is None else max(count, 0.0) for count in (rest.steps, rest.epochs))
        return Length(steps, epochs, clock)

    def begin_of(self, index: int, at: npt.NDArray[np.intp], position: Position) -> Milestone:
        """The end of the warm-up, or the start of the decay."""
        if index == 1:
            share = share_of(self.warmup_steps, position.run)
            return Milestone(
                "warm-up ends", at, f"WarmupStableDecay.warmup_steps={self.warmup_steps}", WARMUP, share, position.run
            )
        return Milestone("decay begins", at)
