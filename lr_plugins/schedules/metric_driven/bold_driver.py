"""A learning rate that rises a little while training goes well, and falls a lot when it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lr_plugins.checkpoint_state import Check, real
from lr_plugins.metric_direction import Mode
from lr_plugins.schedules.metric_driven.base import (
    Adjusting,
    Memory,
    OnNonfinite,
    check_start,
    direction,
)
from lr_plugins.schedules.metric_driven.bounds import Bound, bound, ceiling, in_order, level, within
from lr_plugins.schedules.metric_driven.plateau import factor_below_1
from lr_plugins.schedules.observation import Occasion, OnMissing
from lr_plugins.schedules.position import Position
from lr_plugins.schedules.schedule import start_of
from lr_plugins.validation import number


class BoldDriver(Adjusting):
    """A learning rate that rises a little with each improvement of a metric, and falls a lot when it worsens.

    `lr = lr * raise_factor` if the observed value is better than the one before, `lr = lr * cut_factor` if it is
    worse; between `min_learning_rate` and `max_learning_rate`. The first observation, and one equal to the one
    before, change nothing. The weights of a step that made things worse are kept; the original takes them back.

    The loss of mini-batches is noisy: observe the loss of whole epochs, or smooth it. As a factor of a `Product` it
    begins at 1. As a part of a sequence it observes in its own time only.

    Args:
        initial_learning_rate: where it begins, >= 0. Default None: the optimizer's own.
        monitor: the logged metric to observe. Default `"loss"`.
        raise_factor: the factor of an improvement, >= 1. Default 1.05.
        cut_factor: the factor where it worsens, > 0 and < 1. Default 0.5.
        max_learning_rate: the ceiling, a learning rate > 0, or a multiple of the initial one such as `"10x"` (the
            default; as a factor: only that); not below the initial one; None: none.
        min_learning_rate: the floor, in the same form, not above the initial one. Default 0.
        mode: `"min"` or `"max"`, the direction that is better; `"auto"` goes by the name of the metric. Default
            `"auto"`.
        when: how often to observe: `"epoch"`, `"validation"`, `"step"`, or every so many optimizer steps, `"50st"`.
            Default `"epoch"`.
        smoothing: the share of the past in a moving average, > 0 and < 1; or the number of observations, >= 2, to
            take the mean of. Default None: none.
        on_missing: `"error"` or `"warn"`, where the metric is not logged. Default `"error"`.
        on_nonfinite: what NaN and infinity do: `"error"`; `"hold"`, nothing; `"shrink"`, half the learning rate each
            time. Default `"error"`.

    Raises:
        InvalidArgumentError: an argument outside its range.
        TrainingError: the metric was never logged, is no single number, NaN or infinite.

    Source: "Accelerating the convergence of the back-propagation method", Vogl et al. 1988, with 1.05 and 0.7; the
    name is that of "Accelerated backpropagation learning: two optimization methods", Battiti 1989, with 1.1 and 0.5.

    Example:
        >>> from lr_plugins.schedules.observation import Observation
        >>> schedule = BoldDriver(0.1, raise_factor=1.5)
        >>> state, rates = schedule.start(), []
        >>> for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.7]):
        ...     state = schedule.observe(state, Position(0, epoch + 1), Observation("epoch", {"loss": loss}))
        ...     rates.append(round(schedule(0, state), 6))
        >>> rates
        [0.1, 0.15, 0.075, 0.1125]
    """

    remembers: ClassVar[Mapping[str, Check]] = {**Adjusting.remembers, "last": real}
    bounds = ("min_learning_rate", "max_learning_rate")

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        monitor: str = "loss",
        raise_factor: float = 1.05,
        cut_factor: float = 0.5,
        max_learning_rate: Bound = "10x",
        min_learning_rate: Bound = 0.0,
        mode: Mode = "auto",
        when: Occasion | str | int = "epoch",
        smoothing: float | int | None = None,
        on_missing: OnMissing = "error",
        on_nonfinite: OnNonfinite = "error",
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self._observe_arguments(monitor, when, smoothing, on_missing, on_nonfinite)
        self.raise_factor = number("BoldDriver.raise_factor", raise_factor, "a finite number >= 1", at_least=1.0)
        self.cut_factor = factor_below_1("BoldDriver.cut_factor", cut_factor)
        self.max_learning_rate = ceiling("BoldDriver.max_learning_rate", max_learning_rate)
        self.min_learning_rate = bound("BoldDriver.min_learning_rate", min_learning_rate)
        in_order(
            "BoldDriver", ("min_learning_rate", self.min_learning_rate), ("max_learning_rate", self.max_learning_rate)
        )
        self._sign, self.mode = direction(self, mode, monitor), mode
        check_start(self, self.initial_learning_rate)

    def floor(self, position: Position) -> float:
        """`min_learning_rate`."""
        return level(self.min_learning_rate, self.initial(position)) or 0.0

    def decide(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        """Up or down, compared with the observation before."""
        rate, before = self.current(memory, position), self._sign * memory.get("last", observed)
        if self._sign * observed != before:
            rate *= self.raise_factor if self._sign * observed < before else self.cut_factor
            rate = within(rate, self.initial(position), self.min_learning_rate, self.max_learning_rate)
        return {"last": observed, **self.left_at(memory, position, rate)}

    def reason(self, before: Memory, after: Memory) -> str:
        """The value, and the one before."""
        return f"{self.monitor} {after['last']:.5g} after {before['last']:.5g}"
