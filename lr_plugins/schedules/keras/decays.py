"""Keras' schedules under Keras' names, with Keras' arguments, defaults and rules.

They are ordinary schedules here: they combine, drive any optimizer through `LearningRateScheduler`, and are traced.
Where Keras' rule differs from that of `lr_plugins.schedules`, it is Keras' here: lengths count optimizer steps only,
and `PiecewiseConstantDecay` keeps the old value while `step <= boundary`.

`dtype="float32"` computes as Keras does by default, in single precision; the default here is float64.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.schedules.shapes.cosine import period_of
from lr_plugins.validation import choice, flag, number

DTYPES = {"float64": np.float64, "float32": np.float32}


class LearningRateSchedule(Schedule):
    """Base of the schedules below: a formula of the optimizer step alone, in a precision of choice."""

    def __init__(self, name: str | None, dtype: str) -> None:
        if name is not None and not isinstance(name, str):
            raise InvalidArgument(f"{type(self).__name__}.name", name, "a text, or None")
        self.name, self.dtype = name, choice(f"{type(self).__name__}.dtype", dtype, DTYPES)

    def value(self, position: Position, state: State) -> Value:
        """The formula in the precision of `dtype`."""
        exact = DTYPES[self.dtype]
        with np.errstate(all="ignore"):  # what overflows is no value, which whoever asks is told
            step = np.asarray(position.elapsed("st"), dtype=exact)
            result = np.asarray(self.formula(step, exact, position))
        return result.astype(np.float64) if isinstance(position.step, np.ndarray) else float(result)

    @abstractmethod
    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """The learning rate at steps of type `exact`, each operation in that type."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras' own `get_config` gives them (and `dtype`, where it is not Keras')."""
        config = self.config()
        if config["dtype"] == "float64":
            del config["dtype"]
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LearningRateSchedule:
        """Build one from its `get_config`, Keras' or ours."""
        try:
            return cls(**config)
        except TypeError as error:
            raise InvalidArgument(f"the config of {cls.__name__}", dict(config), "its arguments", str(error)) from error


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
        InvalidArgument: an argument outside its range.

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
        dtype: str = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = _steps(self, "decay_steps", decay_steps)
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
        InvalidArgument: an argument outside its range.

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
        dtype: str = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = _steps(self, "decay_steps", decay_steps)
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
        InvalidArgument: values do not fit the boundaries, or one is outside its range.

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
        dtype: str = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.boundaries = _numbers("PiecewiseConstantDecay.boundaries", boundaries)
        self.values = _numbers("PiecewiseConstantDecay.values", values)
        if len(self.values) != len(self.boundaries) + 1:
            raise InvalidArgument(
                "PiecewiseConstantDecay.values",
                values,
                f"one longer than boundaries ({len(self.boundaries) + 1} values for {len(self.boundaries)} boundaries)",
            )
        for index, boundary in enumerate(self.boundaries):
            _whole_step(self, f"boundaries[{index}]", boundary)

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
        InvalidArgument: an argument outside its range.

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
        dtype: str = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = _steps(self, "decay_steps", decay_steps)
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
        InvalidArgument: an argument outside its range.

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
        dtype: str = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = _steps(self, "decay_steps", decay_steps)
        self.alpha = _share(self, alpha)
        self.warmup_target = None
        if warmup_target is not None:
            self.warmup_target = number(
                "CosineDecay.warmup_target", warmup_target, "a finite number >= 0, or None", at_least=0.0
            )
        self.warmup_steps = number("CosineDecay.warmup_steps", warmup_steps, "a finite number >= 0", at_least=0.0)
        _whole_step(self, "warmup_steps", self.warmup_steps)

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
        InvalidArgument: an argument outside its range.

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
        dtype: str = "float64",
    ) -> None:
        super().__init__(name, dtype)
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.first_decay_steps = _steps(self, "first_decay_steps", first_decay_steps)
        self.t_mul = number("CosineDecayRestarts.t_mul", t_mul, "a finite number >= 1", at_least=1.0)
        self.m_mul = number("CosineDecayRestarts.m_mul", m_mul, "a finite number >= 0", at_least=0.0)
        self.alpha = _share(self, alpha)

    def formula(self, step: Any, exact: Any, position: Position) -> Any:
        """Half a cosine of the current period."""
        period = period_of(np.asarray(position.elapsed("st"), np.float64), self.first_decay_steps, self.t_mul)
        restarts, passed = (np.asarray(one, dtype=exact) for one in period)
        cosine = exact(0.5) * np.power(exact(self.m_mul), restarts)
        cosine = cosine * (exact(1) + np.cos(exact(math.pi) * passed))
        return exact(self.initial(position)) * ((exact(1) - exact(self.alpha)) * cosine + exact(self.alpha))


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        CosineDecay,
        CosineDecayRestarts,
        ExponentialDecay,
        InverseTimeDecay,
        PiecewiseConstantDecay,
        PolynomialDecay,
    )
}


def serialize(schedule: LearningRateSchedule) -> dict[str, Any]:
    """A schedule as a dictionary of plain values: `{"class_name": ..., "config": ...}`."""
    return {"class_name": type(schedule).__name__, "config": schedule.get_config()}


def deserialize(config: Mapping[str, Any]) -> LearningRateSchedule:
    """The schedule of a dictionary that Keras' `serialize` (or ours) made.

    Raises:
        InvalidArgument: it names no schedule of Keras.
    """
    name = config.get("class_name") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or name not in SCHEDULES or not isinstance(config.get("config"), Mapping):
        allowed = f"a dictionary with class_name, one of {', '.join(SCHEDULES)}, and config"
        raise InvalidArgument("the serialized schedule", config, allowed)
    return SCHEDULES[name].from_config(config["config"])


def _steps(owner: Schedule, name: str, value: object) -> float:
    allowed = "a finite number > 0 (optimizer steps)"
    return _whole_step(owner, name, number(f"{type(owner).__name__}.{name}", value, allowed, above=0.0))


def _whole_step(owner: Schedule, name: str, steps: float) -> float:
    """A number of steps; a fraction of one is meant as something else."""
    if 0 < steps < 1:
        hint = 'For a share of the run, take the schedule of that kind in lr_plugins, which reads "5%".'
        raise InvalidArgument(f"{type(owner).__name__}.{name}", steps, "at least one optimizer step", hint)
    return steps


def _share(owner: Schedule, value: object) -> float:
    return number(f"{type(owner).__name__}.alpha", value, "a finite number >= 0", at_least=0.0)


def _numbers(field: str, values: object) -> list[float]:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise InvalidArgument(field, values, "a list of at least one number")
    return [number(f"{field}[{index}]", one, "a finite number >= 0", at_least=0.0) for index, one in enumerate(values)]
