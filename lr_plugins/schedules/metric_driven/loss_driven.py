"""A learning rate that follows the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, get_args

from lr_plugins.checkpoint_state import Check, finite, flag, real
from lr_plugins.errors import TrainingError
from lr_plugins.schedules.metric_driven.base import SHRINK, Memory, MetricDriven, OnNonfinite
from lr_plugins.schedules.metric_driven.bounds import Bound, bound, ceiling, in_order, level, within
from lr_plugins.schedules.observation import Change, Occasion, OnMissing
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import State, start_of
from lr_plugins.validation import choice, number

Rule = Literal["exp", "power"]

_REFERENCE: Mapping[Rule, float] = {"exp": 0.0, "power": 1.0}
_HUGE = math.exp(700.0)  # far above any ceiling, and a number


class LossDriven(MetricDriven):
    """A learning rate that is a function of the loss.

    `lr = initial_learning_rate * exp(k * (loss - reference))` (`rule="exp"`), or
    `lr = initial_learning_rate * (loss / reference) ** k` (`rule="power"`), with the loss last observed, and between
    `min_learning_rate` and `max_learning_rate`. With `reference="first"` it is the first loss observed: `"power"` then
    goes by the ratio of the current to the first loss. With k < 0 the learning rate is low while the loss is high.

    Mind the direction of the default, k = 1: the learning rate *rises* with the loss. A loss of 10 gives a factor of
    22,026, and a high learning rate can raise the loss further. So there is a ceiling, ten times the initial
    learning rate (a loss of 2.3026); `max_learning_rate=None` takes it away. As a part of a sequence it observes before
    its turn, too.

    Args:
        initial_learning_rate: the learning rate at `reference`, >= 0. Default None: the optimizer's own.
        monitor: the logged metric to observe, such as `"loss"`, the mean of the epoch. Default `"loss"`.
        max_learning_rate: the ceiling, a learning rate > 0, or a multiple of the initial one such as `"10x"` (the
            default; as a factor: only that); None: none.
        min_learning_rate: the floor, in the same form. Default 0.
        rule: `"exp"`; or `"power"`, `initial_learning_rate * (loss / reference) ** k`. Default `"exp"`.
        k: how strongly it follows the loss; per unit of the loss (`"exp"`), or the exponent (`"power"`). Below 0 the
            learning rate is low while the loss is high. Default 1.
        reference: the loss at which it is the initial learning rate; a number (> 0 for `"power"`), or `"first"`.
            Default None: 0 for `"exp"`, 1 for `"power"`.
        max_change: the largest factor between a learning rate and the one before, > 1. Default None: any.
        first_learning_rate: what holds before the first observation, a learning rate >= 0 or a multiple such as
            `"0.1x"`. Default None: the initial one.
        when: how often to observe: `"epoch"`, `"validation"`, `"step"`, or every so many optimizer steps, `"50st"`.
            Default `"epoch"`.
        smoothing: the share of the past in a moving average, > 0 and < 1; or the number of observations, >= 2, to
            take the mean of. Default None: none.
        on_missing: `"error"` or `"warn"`, where the metric is not logged. Default `"error"`.
        on_nonfinite: what NaN and infinity do: `"error"`; `"hold"`, nothing; `"shrink"`, half the learning rate each
            time. Default `"error"`.

    Raises:
        InvalidArgumentError: an argument outside its range.
        TrainingError: the metric was never logged, is no single number, NaN or infinite, or negative where the rule
            takes a power; or the factor is too large for a number and there is no ceiling.

    Source: the question "CNN with exponentially decaying learning rate in Keras", `eta = et0 * exp(LossFunction)`.

    Example:
        >>> from lr_plugins.schedules.observation import Observation
        >>> schedule = LossDriven(0.01, monitor="loss")
        >>> observation = Observation("epoch", {"loss": 1.0})
        >>> state = schedule.observe(schedule.start(), Position(step=30, epoch=1), observation)
        >>> round(schedule(30, state), 6)
        0.027183
    """

    remembers: ClassVar[Mapping[str, Check]] = {
        **MetricDriven.remembers,
        "factor": finite,
        "capped": flag,
        "reported": flag,
        "first": real,
    }
    observes_when_inactive = True
    bounds = ("min_learning_rate", "max_learning_rate", "first_learning_rate")

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        monitor: str = "loss",
        max_learning_rate: Bound = "10x",
        min_learning_rate: Bound = 0.0,
        rule: Rule = "exp",
        k: float = 1.0,
        reference: float | Literal["first"] | None = None,
        max_change: float | None = None,
        first_learning_rate: Bound = None,
        when: Occasion | str | int = "epoch",
        smoothing: float | int | None = None,
        on_missing: OnMissing = "error",
        on_nonfinite: OnNonfinite = "error",
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self._observe_arguments(monitor, when, smoothing, on_missing, on_nonfinite)
        self.max_learning_rate = ceiling("LossDriven.max_learning_rate", max_learning_rate)
        self.min_learning_rate = bound("LossDriven.min_learning_rate", min_learning_rate)
        in_order(
            "LossDriven", ("min_learning_rate", self.min_learning_rate), ("max_learning_rate", self.max_learning_rate)
        )
        self.rule = choice("LossDriven.rule", rule, get_args(Rule))
        self.k = number("LossDriven.k", k, "a finite number")
        self.reference = _reference(self.rule, reference)
        self.max_change = (
            None
            if max_change is None
            else number("LossDriven.max_change", max_change, "a finite number > 1, or null", above=1.0)
        )
        self.first_learning_rate = (
            None if first_learning_rate is None else bound("LossDriven.first_learning_rate", first_learning_rate)
        )

    def value(self, position: Position, state: State) -> Value:
        """The initial learning rate times the factor of the last observation, between floor and ceiling."""
        initial = self.initial(position)
        return position.broadcast(self._bounded(initial * self._current(state or {}, initial), initial))

    def decide(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        """The factor of this loss, and whether the ceiling is in its way."""
        initial = self.initial(position)
        first = memory.get("first", observed) if self.reference == "first" else None
        factor = self._limited(self._factor(observed, first), memory, initial)
        most = level(self.max_learning_rate, initial)
        return {
            "factor": factor,
            "verb": "setting",
            "capped": most is not None and initial * factor > most,
            "reported": bool(memory.get("reported") or (memory.get("capped") and not memory.get("inactive"))),
            **({} if first is None else {"first": first}),
        }

    def rescaled(self, memory: Memory, position: Position) -> dict[str, Any]:
        """Half of the current factor."""
        initial = self.initial(position)
        return {"factor": SHRINK * self._current_within(memory, initial), "verb": "reducing"}

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """What the last decision did; that it has led to the ceiling is worth a warning."""
        capped = bool(after and after.get("capped") and not after.get("reported"))
        return [change._replace(warning=capped) for change in super().changes(before, after)]

    def reason(self, before: Memory, after: Memory) -> str:
        """The loss; and, once, that it has led to the ceiling."""
        why = f"{self.monitor} {after['observed']:.5g}"
        if after["capped"] and not after["reported"]:
            times = self.max_learning_rate
            what = f"{times[:-1]} times the initial one" if isinstance(times, str) else f"{times:g}"
            why += f"; max_learning_rate, {what}, holds it down"
        return why

    # --- the factor -------------------------------------------------------------------------------------

    def _factor(self, observed: float, first: float | None) -> float:
        reference = first if first is not None else self.reference
        if reference is None:
            reference = _REFERENCE[self.rule]
        assert not isinstance(reference, str)
        try:
            factor = self._exp(observed, reference) if self.rule == "exp" else self._power(observed, reference)
        except (OverflowError, ZeroDivisionError):
            factor = math.inf
        if not math.isfinite(factor):
            if self.max_learning_rate is None and self.max_change is None:
                raise TrainingError(
                    f"LossDriven: {self._formula()} is too large for a number at {self.monitor} = {observed:g}. "
                    "Training has diverged: set max_learning_rate as a ceiling, or a lower initial_learning_rate."
                )
            return _HUGE
        return factor

    def _exp(self, observed: float, reference: float) -> float:
        # Without the check, 0 times a difference that is too large for a number were NaN.
        return math.exp(self.k * (observed - reference)) if self.k else 1.0

    def _power(self, observed: float, reference: float) -> float:
        if observed < 0 or reference <= 0:
            raise TrainingError(
                f'LossDriven.rule is "power", which needs a {self.monitor!r} >= 0 (the first one > 0); it is '
                f'{min(observed, reference):g}. rule="exp" takes any number.'
            )
        return float((observed / reference) ** self.k)

    def _formula(self) -> str:
        if self.rule == "power":
            return f"({self.monitor} / reference) ** {self.k:g}"
        plainest = self.k == 1.0 and not self.reference
        return f"exp({self.monitor})" if plainest else f"exp({self.k:g} * ({self.monitor} - reference))"

    def _limited(self, factor: float, memory: Memory, initial: float) -> float:
        """At most `max_change` away from the one before."""
        if self.max_change is None:
            return factor
        before = self._current_within(memory, initial)
        return min(max(factor, before / self.max_change), before * self.max_change, _HUGE)

    def _current(self, memory: Mapping[str, Any], initial: float) -> float:
        if "factor" in memory:
            return float(memory["factor"])
        first = level(self.first_learning_rate, initial)
        return 1.0 if first is None or not initial else first / initial

    def _current_within(self, memory: Memory, initial: float) -> float:
        """The current factor as floor and ceiling leave it."""
        factor = self._current(memory, initial)
        return min(self._bounded(initial * factor, initial) / initial, _HUGE) if initial else factor

    def _bounded(self, value: float, initial: float) -> float:
        return within(value, initial, self.min_learning_rate, self.max_learning_rate)


def _reference(rule: str, value: object) -> float | str | None:
    if value is None or (isinstance(value, str) and value == "first"):
        return None if value is None else "first"
    field, allowed = "LossDriven.reference", "a finite number{}, first, or null"
    if rule == "power":
        return number(field, value, allowed.format(" > 0"), above=0.0)
    return number(field, value, allowed.format(""))
