"""Keras' cosine decays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lr_plugins.schedules.keras.base import LearningRateSchedule, alpha_of, steps, whole_step
from lr_plugins.schedules.numerics import Dtype
from lr_plugins.schedules.position import Position
from lr_plugins.schedules.schedule import start_of
from lr_plugins.schedules.shapes.cosine import period_of
from lr_plugins.validation import number


class CosineDecay(LearningRateSchedule):
    """Fall along half a cosine, after a straight warm-up if one is asked for.

    `lr = peak * ((1 - alpha) * 0.5 * (1 + cos(pi * t / decay_steps)) + alpha)`, with t not above `decay_steps`.
    Without `warmup_target`, peak is `initial_learning_rate` and t the step (`warmup_steps` is not used). With it, the
    learning rate rises in a straight line from `initial_learning_rate` to `warmup_target` over `warmup_steps`; then
    peak is `warmup_target` and t counts from the end of the warm-up.

    Args:
        initial_learning_rate: learning rate at step 0, >= 0; None: the optimizer's own.
        decay_steps: optimizer steps of the fall, > 0; the warm-up comes on top.
        alpha: the floor as a share of the peak, >= 0. Default 0.
        name: kept for Keras' sake.
        warmup_target: learning rate at the end of the warm-up, >= 0. Default None: no warm-up.
        warmup_steps: optimizer steps of the warm-up, >= 0. Default 0.
        dtype: `"float64"` (default) or `"float32"`, Keras' own precision.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.CosineDecay.

    Example:
        >>> schedule = CosineDecay(0.0, decay_steps=100, warmup_target=0.1, warmup_steps=10)
        >>> schedule(5), schedule(10), round(schedule(60), 9), schedule(110)
        (0.05, 0.1, 0.05, 0.0)
    """

    def __init__(
        self,
        initial_learning_rate: float | None,
        decay_steps: float,
        alpha: float = 0.0,
        name: str | None = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: float = 0,
        dtype: Dtype = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = steps(self, "decay_steps", decay_steps)
        self.alpha = alpha_of(self, alpha)
        self.warmup_target = None
        if warmup_target is not None:
            self.warmup_target = number(
                "CosineDecay.warmup_target", warmup_target, "a finite number >= 0, or None", at_least=0.0
            )
        self.warmup_steps = number("CosineDecay.warmup_steps", warmup_steps, "a finite number >= 0", at_least=0.0)
        whole_step(self, "warmup_steps", self.warmup_steps)

    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """Half a cosine, behind a straight line if there is a warm-up."""
        initial = exact(self.initial(position))
        if self.warmup_target is None:
            return self._fall(step, initial, exact)
        target, warmup = exact(self.warmup_target), exact(self.warmup_steps)
        with np.errstate(divide="ignore", invalid="ignore"):  # no warm-up: the first branch is not taken then
            rise = (target - initial) * (step / warmup) + initial
        return np.where(step < warmup, rise, self._fall(step - warmup, target, exact))

    def _fall(self, step: Any, peak: Any, exact: Any) -> Any:
        length = exact(self.decay_steps)
        cosine = exact(0.5) * (exact(1) + np.cos(exact(math.pi) * (np.minimum(step, length) / length)))
        return peak * ((exact(1) - exact(self.alpha)) * cosine + exact(self.alpha))


class CosineDecayRestarts(LearningRateSchedule):
    """Half a cosine again and again, each longer than the one before and possibly lower.

    `lr = initial_learning_rate * ((1 - alpha) * 0.5 * m_mul**i * (1 + cos(pi * f)) + alpha)`, where i counts the
    restarts and f is the share of the current period that has passed. Period i is `first_decay_steps * t_mul**i` long.
    (In single precision Keras restarts one step late at some restarts; here all of them are at their own steps.)

    Args:
        initial_learning_rate: learning rate at step 0, >= 0; None: the optimizer's own.
        first_decay_steps: optimizer steps of the first period, > 0.
        t_mul: how many times as long each period is as the one before, >= 1. Default 2.
        m_mul: how many times as high each peak is as the one before, >= 0. Default 1.
        alpha: the floor as a share of `initial_learning_rate`, >= 0. Default 0.
        name: kept for Keras' sake.
        dtype: `"float64"` (default) or `"float32"`, Keras' own precision.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.CosineDecayRestarts.

    Example:
        >>> schedule = CosineDecayRestarts(0.1, first_decay_steps=10, t_mul=2.0, m_mul=0.5)
        >>> schedule(0), schedule(10), schedule(30)
        (0.1, 0.05, 0.025)
    """

    def __init__(
        self,
        initial_learning_rate: float | None,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str | None = "SGDRDecay",
        dtype: Dtype = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.first_decay_steps = steps(self, "first_decay_steps", first_decay_steps)
        self.t_mul = number("CosineDecayRestarts.t_mul", t_mul, "a finite number >= 1", at_least=1.0)
        self.m_mul = number("CosineDecayRestarts.m_mul", m_mul, "a finite number >= 0", at_least=0.0)
        self.alpha = alpha_of(self, alpha)

    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """Half a cosine of the current period."""
        period = period_of(np.asarray(position.elapsed("st"), np.float64), self.first_decay_steps, self.t_mul)
        restarts, passed = (np.asarray(value, dtype=exact) for value in period)
        cosine = exact(0.5) * np.power(exact(self.m_mul), restarts)
        cosine = cosine * (exact(1) + np.cos(exact(math.pi) * passed))
        return exact(self.initial(position)) * ((exact(1) - exact(self.alpha)) * cosine + exact(self.alpha))
