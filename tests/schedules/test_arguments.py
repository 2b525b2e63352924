"""Every argument of every schedule refuses what it cannot be, by its name; the bounds of each are tested beside it."""

import inspect
import math

import numpy as np
import pytest

from lr_plugins import keras
from lr_plugins import schedules as s
from lr_plugins.errors import InvalidArgumentError

from .instances import INSTANCES

ONE = s.Constant(0.1)
# What has to be given; all else has defaults.
GIVEN = {
    s.PiecewiseConstant: {"boundaries": [1], "values": [1, 2]},
    s.PiecewiseInterpolation: {"points": [[0, 1], [2, 3]]},
    s.CycleThrough: {"first": 1, "peak": 2, "last": 3},
    s.Cyclic: {"min_learning_rate": 1, "max_learning_rate": 2},
    s.FunctionSchedule: {"function": lambda epoch: 0.1},
    s.Chain: {"schedules": [ONE, ONE], "lengths": [3]},
    s.Product: {"schedules": [ONE]},
    s.Bounded: {"schedule": ONE},
    s.Repeated: {"schedule": ONE, "every": 3},
    s.Stretched: {"schedule": ONE, "ratio": 2},
    s.Smooth: {"schedule": ONE},
    s.PerEpoch: {"schedule": ONE},
    s.Warmup: {"schedule": ONE, "warmup_steps": 3},
    s.Replanned: {"schedule": ONE},
    s.Annealed: {"schedule": ONE},
    s.Noise: {"schedule": ONE},
    keras.ExponentialDecay: {"initial_learning_rate": 0.1, "decay_steps": 3, "decay_rate": 0.5},
    keras.InverseTimeDecay: {"initial_learning_rate": 0.1, "decay_steps": 3, "decay_rate": 0.5},
    keras.PiecewiseConstantDecay: {"boundaries": [1], "values": [1, 2]},
    keras.PolynomialDecay: {"initial_learning_rate": 0.1, "decay_steps": 3},
    keras.CosineDecay: {"initial_learning_rate": 0.1, "decay_steps": 3},
    keras.CosineDecayRestarts: {"initial_learning_rate": 0.1, "first_decay_steps": 3},
}
KINDS = [*INSTANCES, *(kind for kind in GIVEN if kind not in INSTANCES)]
NOTHING_CAN_BE = [object(), 1j, {"a": 1}, b"ab", [None], [[1, 2, 3]], np.array([1.0]), math.nan, 10**400, s.Constant]
ARGUMENTS = [
    pytest.param(kind, name, id=f"{kind.__module__.split('.')[1]}.{kind.__name__}.{name}")
    for kind in KINDS
    for name in inspect.signature(kind).parameters
]


@pytest.mark.parametrize(("kind", "name"), ARGUMENTS)
def test_what_nothing_can_be(kind, name):
    arrays = kind is keras.PiecewiseConstantDecay  # which takes them, as Keras does
    for value in NOTHING_CAN_BE:
        if arrays and isinstance(value, np.ndarray):
            continue
        # The class, the field (or one of its elements), what is allowed.
        with pytest.raises(InvalidArgumentError, match=rf"^{kind.__name__}\.{name}[\[\]0-9]* must be .*; got "):
            kind(**{**GIVEN.get(kind, {}), name: value})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_has_to_be_given_is_enough(kind):
    schedule = kind(**GIVEN.get(kind, {}))
    assert schedule == type(schedule)(**schedule.config())
