"""Keras' decays without a cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.keras.base import LearningRateSchedule, steps, whole_step
from lr_plugins.schedules.numerics import Dtype
from lr_plugins.schedules.position import Position
from lr_plugins.schedules.schedule import start_of
from lr_plugins.validation import flag, number


class ExponentialDecay(LearningRateSchedule):
    """Multiply by `decay_rate` over every `decay_steps`.

    `lr = initial_learning_rate * decay_rate ** (step / decay_steps)`, the quotient rounded down if `staircase`.

    Args:
        initial_learning_rate: learning rate at step 0, >= 0; None: the optimizer's own.
        decay_steps: optimizer steps over which `decay_rate` applies once, > 0.
        decay_rate: the factor, >= 0.
        staircase: in steps instead of smoothly. Default False.
        name: kept for Keras' sake.
        dtype: `"float64"` (default) or `"float32"`, Keras' own precision.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.ExponentialDecay.

    Example:
        >>> ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5, staircase=True)(19)
        0.05
    """

    def __init__(
        self,
        initial_learning_rate: float | None,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = "ExponentialDecay",
        dtype: Dtype = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = steps(self, "decay_steps", decay_steps)
        self.decay_rate = number("ExponentialDecay.decay_rate", decay_rate, "a finite number >= 0", at_least=0.0)
        self.staircase = flag("ExponentialDecay.staircase", staircase)

    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """`initial_learning_rate * decay_rate ** (step / decay_steps)`."""
        passed = step / exact(self.decay_steps)
        passed = np.floor(passed) if self.staircase else passed
        return exact(self.initial(position)) * np.power(exact(self.decay_rate), passed)


class InverseTimeDecay(LearningRateSchedule):
    """Divide by a number that grows linearly with the step.

    `lr = initial_learning_rate / (1 + decay_rate * step / decay_steps)`, the quotient rounded down if `staircase`.

    Args:
        initial_learning_rate: learning rate at step 0, >= 0; None: the optimizer's own.
        decay_steps: optimizer steps after which `decay_rate` counts once, > 0.
        decay_rate: how strongly it decays; below 0 it grows, until the divisor is 0.
        staircase: in steps instead of smoothly. Default False.
        name: kept for Keras' sake.
        dtype: `"float64"` (default) or `"float32"`, Keras' own precision.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.InverseTimeDecay.

    Example:
        >>> InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)(200)
        0.05
    """

    def __init__(
        self,
        initial_learning_rate: float | None,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str | None = "InverseTimeDecay",
        dtype: Dtype = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = steps(self, "decay_steps", decay_steps)
        self.decay_rate = number("InverseTimeDecay.decay_rate", decay_rate, "a finite number")
        self.staircase = flag("InverseTimeDecay.staircase", staircase)

    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`."""
        passed = step / exact(self.decay_steps)
        passed = np.floor(passed) if self.staircase else passed
        return exact(self.initial(position)) / (exact(1) + exact(self.decay_rate) * passed)


class PiecewiseConstantDecay(LearningRateSchedule):
    """Absolute values between boundaries; the old value still holds at the boundary.

    `values[0]` while `step <= boundaries[0]`, `values[i]` while `boundaries[i - 1] < step <= boundaries[i]`, the last
    value after the last boundary. As in Keras 3, the values of all pieces that a step lies in are added up: boundaries
    that do not increase make pieces overlap, or leave a step with 0.

    Args:
        boundaries: optimizer steps, at least one; a list, a tuple or an array.
        values: the learning rates, each >= 0; one more than there are boundaries.
        name: kept for Keras' sake.
        dtype: `"float64"` (default) or `"float32"`, Keras' own precision.

    Raises:
        InvalidArgumentError: values do not fit the boundaries, or one is outside its range.

    Source: keras.optimizers.schedules.PiecewiseConstantDecay.

    Example:
        >>> schedule = PiecewiseConstantDecay([100], [0.1, 0.01])
        >>> schedule(100), schedule(101)
        (0.1, 0.01)
    """

    def __init__(
        self,
        boundaries: Sequence[float],
        values: Sequence[float],
        name: str | None = "PiecewiseConstant",
        dtype: Dtype = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.boundaries = _numbers("PiecewiseConstantDecay.boundaries", boundaries)
        self.values = _numbers("PiecewiseConstantDecay.values", values)
        if len(self.values) != len(self.boundaries) + 1:
            raise InvalidArgumentError(
                "PiecewiseConstantDecay.values",
                values,
                f"one longer than boundaries ({len(self.boundaries) + 1} values for {len(self.boundaries)} boundaries)",
            )
        for index, boundary in enumerate(self.boundaries):
            whole_step(self, f"boundaries[{index}]", boundary)

    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """The sum of the values of the pieces that a step lies in."""
        # Keras casts the boundaries to the type of the step, an integer.
        step, bounds = position.elapsed("st"), np.trunc(self.boundaries)
        values = np.asarray(self.values, dtype=exact)
        total = (step <= bounds[0]) * values[0] + (step > bounds[-1]) * values[-1]
        for low, high, value in zip(bounds[:-1], bounds[1:], values[1:-1], strict=True):
            total = total + ((step > low) & (step <= high)) * value
        return total


class PolynomialDecay(LearningRateSchedule):
    """Fall along a power of the remaining time, once or again and again.

    `lr = (initial_learning_rate - end_learning_rate) * (1 - step / decay_steps) ** power + end_learning_rate`, with
    step not above `decay_steps`; if `cycle`, with `decay_steps` times the number of cycles begun.

    Args:
        initial_learning_rate: learning rate at step 0, >= 0; None: the optimizer's own.
        decay_steps: optimizer steps of the fall, > 0.
        end_learning_rate: learning rate at its end, >= 0. Default 0.0001.
        power: the exponent, >= 0. Default 1 (a straight line).
        cycle: whether to rise and fall again past the end. Default False.
        name: kept for Keras' sake.
        dtype: `"float64"` (default) or `"float32"`, Keras' own precision.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: keras.optimizers.schedules.PolynomialDecay.

    Example:
        >>> PolynomialDecay(0.1, decay_steps=100, end_learning_rate=0.0)(50)
        0.05
    """

    def __init__(
        self,
        initial_learning_rate: float | None,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str | None = "PolynomialDecay",
        dtype: Dtype = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = steps(self, "decay_steps", decay_steps)
        self.end_learning_rate = number(
            "PolynomialDecay.end_learning_rate", end_learning_rate, "a finite number >= 0", at_least=0.0
        )
        self.power = number("PolynomialDecay.power", power, "a finite number >= 0", at_least=0.0)
        self.cycle = flag("PolynomialDecay.cycle", cycle)

    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """`(initial - end) * (1 - step / decay_steps) ** power + end`."""
        length = exact(self.decay_steps)
        if self.cycle:
            length = length * np.where(step == 0, exact(1), np.ceil(step / length))
        else:
            step = np.minimum(step, length)
        initial, end = exact(self.initial(position)), exact(self.end_learning_rate)
        return (initial - end) * np.power(exact(1) - step / length, exact(self.power)) + end


def _numbers(field: str, values: object) -> list[float]:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise InvalidArgumentError(field, values, "a list of at least one number")
    return [
        number(f"{field}[{index}]", item, "a finite number >= 0", at_least=0.0) for index, item in enumerate(values)
    ]
