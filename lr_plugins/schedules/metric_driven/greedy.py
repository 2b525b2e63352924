"""A learning rate that rises while a metric improves and falls while it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from lr_plugins.checkpoint_state import Check, count, number_or_name, optional
from lr_plugins.metric_direction import Mode
from lr_plugins.schedules.metric_driven.base import (
    Adjusting,
    Memory,
    ThresholdMode,
    better,
    check_start,
    counted,
    direction,
    plain,
)
from lr_plugins.schedules.metric_driven.bounds import Bound, bound, ceiling, in_order, level
from lr_plugins.schedules.metric_driven.plateau import OnNonfinite, factor_below_1
from lr_plugins.schedules.observation import Occasion, OnMissing
from lr_plugins.schedules.position import Position
from lr_plugins.schedules.schedule import start_of
from lr_plugins.validation import choice, integer, number


class Greedy(Adjusting):
    """A learning rate that rises while a metric keeps improving, and falls while it does not.

    `lr = min(lr / factor, max_learning_rate)` after more than `patience` observations in a row that improve on the
    best, and `lr = max(lr * factor, min_learning_rate)` after more than `patience` in a row that do not. After
    `reset_start` attempted decreases at the floor it returns to its initial learning rate and forgets what it has
    observed.

    The rule is that of transformers' GreedyLR; the defaults are not. GreedyLR has min_lr=0.001 and max_lr=1.0: from a
    fine-tuning learning rate of 5e-5 it can only rise, by up to 20,000 times. Here floor and ceiling are a
    hundredth and ten times of where it begins, and no change is too small to be made. As a factor of a `Product` it
    begins at 1. As a part of a sequence it counts in its own time only.

    Args:
        initial_learning_rate: where it begins, >= 0. Default None: the optimizer's own.
        monitor: the logged metric to observe. Default `"val_loss"`.
        factor: by which it is multiplied to fall, and divided to rise, > 0 and < 1. Default 0.95.
        patience: consecutive observations to tolerate before acting, a whole number >= 0, in units of `when`. Default
            10.
        mode: `"min"` or `"max"`, the direction that is better; `"auto"` goes by the name of the metric. Default
            `"auto"`.
        min_delta: by how much it must be better, >= 0. Default 1e-6.
        threshold_mode: how `min_delta` counts: `"abs"`, in units of the metric; `"rel"`, as a share of the best.
            Default `"abs"`.
        cooldown: observations to ignore after a decrease, a whole number >= 0. Default 0.
        warmup: observations to ignore after an increase, a whole number >= 0. Default 0.
        min_learning_rate: the floor, a learning rate >= 0, or a multiple of the initial one (as a factor: only that);
            not above the initial one. Default `"0.01x"`.
        max_learning_rate: the ceiling, in the same form, not below the initial one; None: none. Default `"10x"`.
        eps: the largest change that is not worth making, a learning rate >= 0. Default 0.
        reset_start: how many times it must have been due to fall at the floor to begin anew, a whole number >= 1;
            None: never. Default 500.
        when: how often to observe: `"epoch"`, `"validation"`, `"step"`, or every so many optimizer steps, `"50st"`.
            Default `"epoch"`.
        smoothing: the share of the past in a moving average, > 0 and < 1; or the number of observations, >= 2, to
            take the mean of, which is GreedyLR's. Default None: none.
        on_missing: `"error"` or `"warn"`, where the metric is not logged. Default `"error"`.
        on_nonfinite: what NaN and infinity do: `"error"`; `"hold"`, nothing; `"shrink"`, half the learning rate each
            time; `"compare"`, what they do in GreedyLR: NaN never improves. Default `"error"`.

    Raises:
        InvalidArgumentError: an argument outside its range.
        TrainingError: the metric was never logged, is no single number, NaN or infinite.

    Source: "GreedyLR: A Novel Adaptive Learning Rate Scheduler"; transformers.GreedyLR.

    Example:
        >>> from lr_plugins.schedules.observation import Observation
        >>> schedule = Greedy(0.1, factor=0.5, patience=1)
        >>> state, rates = schedule.start(), []
        >>> for epoch, loss in enumerate([1.0, 0.9, 0.8, 0.9, 0.9]):
        ...     state = schedule.observe(state, Position(0, epoch + 1), Observation("epoch", {"val_loss": loss}))
        ...     rates.append(schedule(0, state))
        >>> rates
        [0.1, 0.2, 0.2, 0.2, 0.1]
    """

    remembers: ClassVar[Mapping[str, Check]] = {
        **Adjusting.remembers,
        "best": optional(number_or_name),
        **dict.fromkeys(("due", "good", "bad", "cooldown", "warmup"), count),
    }
    non_finite = get_args(OnNonfinite)
    bounds = ("min_learning_rate", "max_learning_rate")

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        monitor: str = "val_loss",
        factor: float = 0.95,
        patience: int = 10,
        mode: Mode = "auto",
        min_delta: float = 1e-6,
        threshold_mode: ThresholdMode = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_learning_rate: Bound = "0.01x",
        max_learning_rate: Bound = "10x",
        eps: float = 0.0,
        reset_start: int | None = 500,
        when: Occasion | str | int = "epoch",
        smoothing: float | int | None = None,
        on_missing: OnMissing = "error",
        on_nonfinite: OnNonfinite = "error",
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self._observe_arguments(monitor, when, smoothing, on_missing, on_nonfinite)
        self.factor = factor_below_1("Greedy.factor", factor)
        self.patience = integer("Greedy.patience", patience, 0)
        self._sign, self.mode = direction(self, mode, monitor), mode
        self.min_delta = number("Greedy.min_delta", min_delta, "a finite number >= 0", at_least=0.0)
        self.threshold_mode = choice("Greedy.threshold_mode", threshold_mode, get_args(ThresholdMode))
        self.cooldown, self.warmup = integer("Greedy.cooldown", cooldown, 0), integer("Greedy.warmup", warmup, 0)
        self.min_learning_rate = bound("Greedy.min_learning_rate", min_learning_rate)
        self.max_learning_rate = ceiling("Greedy.max_learning_rate", max_learning_rate)
        in_order("Greedy", ("min_learning_rate", self.min_learning_rate), ("max_learning_rate", self.max_learning_rate))
        self.eps = number("Greedy.eps", eps, "a finite number >= 0", at_least=0.0)
        self.reset_start = None if reset_start is None else integer("Greedy.reset_start", reset_start, 1)
        check_start(self, self.initial_learning_rate)

    def floor(self, position: Position) -> float:
        """`min_learning_rate`."""
        return level(self.min_learning_rate, self.initial(position)) or 0.0

    def decide(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        """Rest after a change; count, and rise or fall when the patience is over."""
        kept = {"best": memory.get("best"), "due": memory.get("due", 0), "verb": None}
        for rest in ("cooldown", "warmup"):
            if memory.get(rest):
                return {**kept, rest: memory[rest] - 1, "good": 0, "bad": 0}
        good, bad = memory.get("good", 0), memory.get("bad", 0)
        best = self._sign * math.inf if kept["best"] is None else float(kept["best"])
        if better(observed, best, self._sign, self.min_delta, self.threshold_mode == "rel"):
            kept["best"], good, bad = plain(observed), good + 1, 0
        else:
            good, bad = 0, bad + 1
        counted = {**kept, "good": good, "bad": bad}
        if good > self.patience:
            return {**counted, **self._up(memory, position), "good": 0, "warmup": self.warmup}
        if bad > self.patience:
            return {**counted, **self._down(memory, position), "bad": 0, "cooldown": self.cooldown}
        return counted

    def _up(self, memory: Memory, position: Position) -> dict[str, Any]:
        rate, most = self.current(memory, position), level(self.max_learning_rate, self.initial(position))
        raised = rate / self.factor if most is None else min(rate / self.factor, most)
        return {"due": 0, **self.left_at(memory, position, raised if raised - rate > self.eps else rate)}

    def _down(self, memory: Memory, position: Position) -> dict[str, Any]:
        rate, floor, due = self.current(memory, position), self.floor(position), memory.get("due", 0)
        reduced = max(rate * self.factor, floor)
        if rate - reduced > self.eps:
            rate = reduced
        if rate <= floor:
            due += 1
            if due == self.reset_start:
                return self._anew(memory, position)
        return {"due": due, **self.left_at(memory, position, rate)}

    def _anew(self, memory: Memory, position: Position) -> dict[str, Any]:
        begin = self.left_at(memory, position, self.initial(position), "resetting")
        return {"due": 0, "best": None, "good": 0, "warmup": 0, "smoothed": None, **begin}

    def reason(self, before: Memory, after: Memory) -> str:
        """How long it has improved, or has not."""
        if after["verb"] == "resetting":
            return f"due to fall {self.reset_start} times at min_learning_rate"
        what = "has improved" if after["verb"] == "raising" else "has not improved"
        return f"{self.monitor} {float(after['observed']):.5g} {what} for {counted(self.patience + 1, self.when)}"
