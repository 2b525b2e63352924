"""Keras' ReduceLROnPlateau with Keras' arguments, as a schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal, get_args

from lr_plugins.metric_direction import Mode
from lr_plugins.schedules.metric_driven import plateau
from lr_plugins.schedules.metric_driven.bounds import Bound, bound
from lr_plugins.schedules.numerics import Dtype
from lr_plugins.schedules.observation import Change
from lr_plugins.schedules.schedule import State
from lr_plugins.validation import choice, number, verbosity

Rule = Literal["keras", "keras2"]


class ReduceLROnPlateau(plateau.ReduceLROnPlateau):
    """Multiply the learning rate by a factor when a metric has stopped improving: Keras' rule in Keras' precision.

    `lr = max(lr * factor, min_lr)`, kept in float32, after `patience` epochs in a row without an improvement. It is a
    schedule: give it to a `LearningRateScheduler`. The rule is explained at `lr_plugins.ReduceLROnPlateau`.

    Args:
        monitor: the logged metric. Default `"val_loss"`. Where it is missing, a warning says so, and nothing changes.
        factor: by which the learning rate is multiplied, >= 0 and < 1. Default 0.1.
        patience: epochs without an improvement before it is, >= 0. Default 10.
        verbose: 1 prints its messages whatever the scheduler's own `verbose` is. Default 0.
        mode: `"min"`, `"max"`, or `"auto"` (default), by the metric's name. Another one is an error here.
        min_delta: by how much the metric must be better. Default 1e-4. Keras 3 takes a negative one as positive.
        cooldown: epochs that do not count after a reduction, >= 0. Default 0.
        min_lr: the floor, >= 0. Default 0.
        initial_learning_rate: where it begins, >= 0. Default None: the optimizer's own.
        rule: `"keras"` (default) is Keras 3's rule, `"keras2"` that of Keras 2.2.4.
        dtype: `"float32"` (default), Keras' own precision, or `"float64"`.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.callbacks.ReduceLROnPlateau.

    Example:
        >>> from lr_plugins import LearningRateScheduler
        >>> callback = LearningRateScheduler(ReduceLROnPlateau("val_loss", factor=0.2, patience=5), verbose=1)
    """

    floor_argument: ClassVar[str] = "min_lr"
    bounds: ClassVar[tuple[str, ...]] = ("min_lr",)
    starts_within_bounds: ClassVar[bool] = False  # Keras takes a floor above the start, and never reduces then

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: Mode = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        initial_learning_rate: float | None = None,
        rule: Rule = "keras",
        dtype: Dtype = "float32",
    ) -> None:
        self.verbose = verbosity("ReduceLROnPlateau.verbose", verbose, "an integer: 0 (nothing) or 1 (Keras' messages)")
        rule = choice("ReduceLROnPlateau.rule", rule, get_args(Rule))
        given = number("ReduceLROnPlateau.min_delta", min_delta, "a finite number")
        super().__init__(
            initial_learning_rate,
            monitor=monitor,
            factor=factor,
            patience=patience,
            rule=rule,
            mode=mode,
            min_delta=abs(given),
            cooldown=cooldown,
            min_learning_rate=min_lr,
            on_missing="warn",
            on_nonfinite="compare",
            dtype=dtype,
        )
        self.min_delta = given if rule == "keras2" else abs(given)

    @property
    def min_lr(self) -> Bound:
        """The floor, under Keras' name."""
        return self.min_learning_rate

    @min_lr.setter
    def min_lr(self, value: Bound) -> None:
        self.min_learning_rate = bound("ReduceLROnPlateau.min_lr", value)

    @staticmethod
    def checked_factor(field: str, value: object) -> float:
        """The factor: 0 is allowed, too."""
        return number(field, value, "a number >= 0 and < 1", at_least=0.0, at_most=math.nextafter(1.0, 0.0))

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """The last decision, which `verbose` asks for."""
        return [change._replace(asked=self.verbose > 0) for change in super().changes(before, after)]
