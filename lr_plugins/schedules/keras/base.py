"""What Keras' schedules share: a formula of the optimizer step alone, in a precision of choice.

They are ordinary schedules: they combine, drive any optimizer through `LearningRateScheduler`, and are traced. Where
Keras' rule differs from that of `lr_plugins.schedules`, it is Keras' here: lengths count optimizer steps only, and
`PiecewiseConstantDecay` keeps the old value while `step <= boundary`.

`dtype="float32"` computes as Keras does by default, in single precision; the default here is float64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.numerics import Dtype
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.validation import build_from, choice, number

DTYPES: Mapping[Dtype, type[np.floating[Any]]] = {"float64": np.float64, "float32": np.float32}


class LearningRateSchedule(Schedule):
    """Base of the schedules below: a formula of the optimizer step alone, in a precision of choice."""

    def __init__(self, name: str | None, dtype: Dtype) -> None:
        if name is not None and not isinstance(name, str):
            raise InvalidArgumentError(f"{type(self).__name__}.name", name, "a text, or None")
        self.name, self.dtype = name, choice(f"{type(self).__name__}.dtype", dtype, get_args(Dtype))

    def value(self, position: Position, state: State) -> Value:
        """The formula in the precision of `dtype`."""
        exact = DTYPES[self.dtype]
        with np.errstate(all="ignore"):  # an overflow gives no value, and `__call__` raises an error for it
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
        return build_from(cls, config)


def steps(owner: Schedule, name: str, value: object) -> float:
    """A number of optimizer steps > 0."""
    allowed = "a finite number > 0 (optimizer steps)"
    return whole_step(owner, name, number(f"{type(owner).__name__}.{name}", value, allowed, above=0.0))


def whole_step(owner: Schedule, name: str, steps: float) -> float:
    """A number of steps; a fraction of one is meant as something else."""
    if 0 < steps < 1:
        hint = 'For a share of the run, take the schedule of that kind in lr_plugins, which reads "5%".'
        raise InvalidArgumentError(f"{type(owner).__name__}.{name}", steps, "at least one optimizer step", hint)
    return steps


def alpha_of(owner: Schedule, value: object) -> float:
    """A schedule's `alpha`: a finite number >= 0."""
    return number(f"{type(owner).__name__}.alpha", value, "a finite number >= 0", at_least=0.0)
