"""A learning rate that falls when a metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from lr_plugins.checkpoint_state import Check, count, finite, number_or_name, optional
from lr_plugins.metric_direction import Mode, better_in_keras2, improves
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
from lr_plugins.schedules.metric_driven.bounds import Bound, bound, level
from lr_plugins.schedules.numerics import Dtype
from lr_plugins.schedules.observation import Change, Occasion, OnMissing
from lr_plugins.schedules.position import Position
from lr_plugins.schedules.schedule import State, start_of
from lr_plugins.validation import choice, integer, number

Rule = Literal["keras", "keras2", "torch"]
OnNonfinite = Literal["error", "hold", "shrink", "compare"]

_OWN: Mapping[Rule, tuple[ThresholdMode, float]] = {
    "keras": ("abs", 0.0),
    "keras2": ("abs", 0.0),
    "torch": ("rel", 1e-8),
}  # threshold_mode and eps where they are not given


class ReduceLROnPlateau(Adjusting):
    """A learning rate that is multiplied by a factor when a metric has stopped improving.

    `lr = max(lr * factor, min_learning_rate)` at a plateau. `rule` defines what counts as a plateau:

    `rule="keras"`: an observation improves if `observed + min_delta < best` (mode min), compared in float32. The
    `patience`-th in a row that does not is the plateau. After it the next `cooldown - 1` are not counted. At
    `min_learning_rate` counting continues. The first value is the best, whatever it is.

    `rule="keras2"`: the same, compared in float64, as Keras 2.2.4 has it. NaN and infinity never are the best, and at a
    `min_learning_rate` that float32 does not hold exactly the learning rate is reduced to it again and again.

    `rule="torch"`: an observation improves if `observed < best * (1 - min_delta)`. The one after `patience` in a row
    that do not is the plateau. After it the next `cooldown` are not counted. A change of at most `eps` is not made.

    As a factor of a `Product` it begins at 1: `min_learning_rate` is a multiple there, `"0.01x"` (a learning rate is
    refused), and `eps` is a change of the factor. As a part of a sequence (after a warm-up) it counts in its own time
    only.

    It has as many arguments as the originals in Keras and torch have together, and an attribute for each.

    Args:
        initial_learning_rate: where it begins, >= 0. Default None: the optimizer's own.
        monitor: the logged metric to observe. Default `"val_loss"`.
        factor: by which it is multiplied, > 0 and < 1. Default 0.1.
        patience: how many observations in a row may fail to improve, a whole number >= 0, in units of `when`: the
            last of them is the plateau (in Keras), or the one after (`"torch"`). Default 10.
        rule: `"keras"` (or `"keras2"`): the last of `patience` observations reduces, and `min_delta` is absolute;
            `"torch"`: the one after it, and `min_delta` is relative. Default `"keras"`.
        mode: `"min"` or `"max"`, the direction that is better; `"auto"` goes by the name of the metric. Default
            `"auto"`.
        min_delta: by how much it must be better, >= 0. Default 1e-4.
        threshold_mode: how `min_delta` counts: `"abs"`, in units of the metric; `"rel"`, as a share of the best.
            Default None: the rule's own, `"abs"` in Keras and `"rel"` in torch.
        cooldown: how many observations are not counted after a change, a whole number >= 0. Default 0.
        min_learning_rate: the floor, a learning rate >= 0, or a multiple of the initial one such as `"0.01x"`; not
            above the initial one. Default 0.
        eps: the largest change that is not worth making, a learning rate >= 0. Default None: the rule's own, 0 in
            Keras and 1e-8 in torch.
        when: how often to observe: `"epoch"`, `"validation"`, `"step"`, or every so many optimizer steps, `"50st"`.
            Observations without a new value do not count. Default `"epoch"`.
        smoothing: the share of the past in a moving average, > 0 and < 1; or the number of observations, >= 2, to
            take the mean of. Default None: none.
        on_missing: `"error"`, or `"warn"` as Keras does, where the metric is not logged. Default `"error"`.
        on_nonfinite: what NaN and infinity do: `"error"`; `"hold"`, nothing; `"shrink"`, half the learning rate each
            time; `"compare"`, what they do in the original: NaN never improves (in Keras a NaN that comes first stays
            the best for ever, and nothing improves on it). Default `"error"`.
        dtype: the precision that the learning rate is kept in: `"float64"` (default), or `"float32"` as in Keras, whose
            messages show `old * factor` before it is rounded, e.g. 0.010000000149011612 for a tenth of 0.1.

    Raises:
        InvalidArgumentError: an argument outside its range.
        TrainingError: the metric was never logged, is no single number, NaN or infinite.

    Source: keras.callbacks.ReduceLROnPlateau; torch.optim.lr_scheduler.ReduceLROnPlateau.

    Example:
        >>> from lr_plugins.schedules.observation import Observation
        >>> schedule = ReduceLROnPlateau(0.1, factor=0.5, patience=2)
        >>> state, rates = schedule.start(), []
        >>> for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.9, 0.9, 0.9]):
        ...     state = schedule.observe(state, Position(0, epoch + 1), Observation("epoch", {"val_loss": loss}))
        ...     rates.append(schedule(0, state))
        >>> rates
        [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]
    """

    remembers: ClassVar[Mapping[str, Check]] = {
        **Adjusting.remembers,
        "best": optional(number_or_name),
        "bad": count,
        "cooldown": count,
        "computed": finite,
        "reductions": count,
    }
    non_finite = get_args(OnNonfinite)
    bounds: ClassVar[tuple[str, ...]] = ("min_learning_rate",)
    floor_argument: ClassVar[str] = "min_learning_rate"  # its name in messages

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        rule: Rule = "keras",
        mode: Mode = "auto",
        min_delta: float = 1e-4,
        threshold_mode: ThresholdMode | None = None,
        cooldown: int = 0,
        min_learning_rate: Bound = 0.0,
        eps: float | None = None,
        when: Occasion | str | int = "epoch",
        smoothing: float | int | None = None,
        on_missing: OnMissing = "error",
        on_nonfinite: OnNonfinite = "error",
        dtype: Dtype = "float64",
    ) -> None:
        name = "ReduceLROnPlateau"
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self._observe_arguments(monitor, when, smoothing, on_missing, on_nonfinite)
        self.factor = self.checked_factor(f"{name}.factor", factor)
        self.patience = integer(f"{name}.patience", patience, 0)
        self.rule = choice(f"{name}.rule", rule, get_args(Rule))
        judged = better_in_keras2(monitor) if self.rule == "keras2" and mode == "auto" else mode
        self._sign, self.mode = direction(self, judged, monitor), mode
        self.min_delta = number(f"{name}.min_delta", min_delta, "a finite number >= 0", at_least=0.0)
        own_mode, own_eps = _OWN[self.rule]
        self.threshold_mode = (
            None
            if threshold_mode is None
            else choice(f"{name}.threshold_mode", threshold_mode, get_args(ThresholdMode))
        )
        self._relative = (self.threshold_mode or own_mode) == "rel"
        self.cooldown = integer(f"{name}.cooldown", cooldown, 0)
        self.min_learning_rate = bound(f"{name}.{self.floor_argument}", min_learning_rate)
        self.eps = None if eps is None else number(f"{name}.eps", eps, "a finite number >= 0, or null", at_least=0.0)
        self._eps = own_eps if self.eps is None else self.eps
        self.dtype = choice(f"{name}.dtype", dtype, get_args(Dtype))
        check_start(self, self.initial_learning_rate)

    @staticmethod
    def checked_factor(field: str, value: object) -> float:
        """The factor: > 0 and < 1."""
        return factor_below_1(field, value)

    def current(self, memory: Memory, position: Position) -> float:
        """The learning rate that the last decision left, in the precision of `dtype`."""
        return _ROUNDED[self.dtype](super().current(memory, position))

    def floor(self, position: Position) -> float:
        """`min_learning_rate`."""
        return level(self.min_learning_rate, self.initial(position)) or 0.0

    def decide(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        """Count, and reduce at a plateau."""
        return (self._torch if self.rule == "torch" else self._keras)(memory, position, observed)

    def _keras(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        best, bad, cooldown = memory.get("best"), memory.get("bad", 0), memory.get("cooldown", 0)
        rate, reductions = self.current(memory, position), memory.get("reductions", 0)
        if cooldown:
            cooldown, bad = cooldown - 1, 0
        if self._improves_in_keras(observed, None if best is None else float(best)):
            best, bad = plain(observed), 0
        elif not cooldown:
            bad += 1
            reduced = self._reduced(rate, position)
            # At the floor Keras does not begin to count anew.
            if bad >= self.patience and self._compared(rate) > self._compared(self.floor(position)) and reduced < rate:
                rate, bad, cooldown, reductions = reduced, 0, self.cooldown, reductions + 1
        # Keras tells of a reduction that float32 does not show, too.
        verb = "reducing" if reductions > memory.get("reductions", 0) else None
        counts = {"best": best, "bad": bad, "cooldown": cooldown, "reductions": reductions}
        return {**counts, **self.left_at(memory, position, rate, verb)}

    def _torch(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        bad, cooldown = memory.get("bad", 0), memory.get("cooldown", 0)
        best = float(memory.get("best", self._sign * math.inf))
        rate = self.current(memory, position)
        if better(observed, best, self._sign, self.min_delta, self._relative):
            best, bad = observed, 0
        else:
            bad += 1
        if cooldown:
            cooldown, bad = cooldown - 1, 0
        if bad > self.patience:
            rate, bad, cooldown = self._reduced(rate, position), 0, self.cooldown
        return {"best": plain(best), "bad": bad, "cooldown": cooldown, **self.left_at(memory, position, rate)}

    def left_at(self, memory: Memory, position: Position, rate: float, verb: str | None = None) -> dict[str, Any]:
        """What to remember of a learning rate; where it is rounded, what it was before as well: Keras prints that."""
        left = super().left_at(memory, position, _ROUNDED[self.dtype](rate), verb)
        return left if self.dtype == "float64" else {**left, "computed": rate}

    def _improves_in_keras(self, observed: float, best: float | None) -> bool:
        if best is None:
            if self.rule == "keras":
                return True
            best = self._sign * math.inf
        if self._relative:
            return better(self._compared(observed), self._compared(best), self._sign, self.min_delta, True)
        if self.rule == "keras2":  # it subtracts `min_delta` from the best, which rounds differently
            return better(observed, best, self._sign, self.min_delta, False)
        return improves(observed, best, self._sign, self.min_delta, in_float32=True)

    def _compared(self, value: float) -> float:
        """A number in the precision in which Keras compares: that of float32 since Keras 3.11."""
        return _single(value) if self.rule == "keras" else value

    def _reduced(self, rate: float, position: Position) -> float:
        """What a plateau makes of a learning rate: itself, where that would change too little."""
        reduced = max(rate * self.factor, self.floor(position))
        return reduced if rate - reduced > self._eps else rate

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """The last decision; its number is the one that was computed."""
        return [change._replace(value=(after or {}).get("computed")) for change in super().changes(before, after)]

    def reason(self, before: Memory, after: Memory) -> str:
        """How long it has not improved; nothing for Keras' rule, whose line says no more."""
        if self.rule != "torch":
            return ""
        count = counted(self.patience + 1, self.when)
        return f"{self.monitor} {float(after['observed']):.5g} has not improved for {count}"


def factor_below_1(field: str, value: object) -> float:
    """A finite number > 0 and < 1."""
    return number(field, value, "a number > 0 and < 1", above=0.0, at_most=math.nextafter(1.0, 0.0))


def _single(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


_ROUNDED: Mapping[Dtype, Callable[[float], float]] = {"float64": float, "float32": _single}
"""What each `dtype` keeps of a number."""
