"""The arguments, names and configurations of constraints."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.keras.constraints import (
    Constraints,
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    UnitNorm,
    deserialize,
    get,
    serialize,
)
from tests.constraints.helpers import EACH, Halved


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxNorm(-1), r"MaxNorm\.max_value must be a finite number >= 0; got -1\."),
        (lambda: MaxNorm("2"), r"MaxNorm\.max_value must be a finite number >= 0; got '2'\."),
        (lambda: MaxNorm(math.nan), r"MaxNorm\.max_value must be a finite number >= 0"),
        (lambda: MaxNorm(True), r"MaxNorm\.max_value must be a finite number >= 0"),
        (lambda: MaxNorm(2, axis=None), r"MaxNorm\.axis must be an integer, or a list of at least one; got None\."),
        (lambda: UnitNorm([]), r"UnitNorm\.axis must be an integer, or a list of at least one; got \[\]\."),
        (
            lambda: UnitNorm([0, 1.5]),
            r"UnitNorm\.axis must be an integer, or a list of at least one; got \[0, 1.5\]",
        ),
        (lambda: UnitNorm(True), r"UnitNorm\.axis must be an integer"),
        (lambda: UnitNorm("0"), r"UnitNorm\.axis must be an integer"),
        (lambda: MinMaxNorm(-0.1), r"MinMaxNorm\.min_value must be a finite number >= 0; got -0\.1\."),
        (lambda: MinMaxNorm(2.0, 1.0), r"MinMaxNorm\.max_value must be a number >= min_value, 2\.0; got 1\.0\."),
        (lambda: MinMaxNorm(rate=1.5), r"MinMaxNorm\.rate must be a number from 0 to 1; got 1\.5\."),
        (lambda: NonNeg("keras4"), r"NonNeg\.style must be one of keras2, keras3; got 'keras4'\."),
        (
            lambda: MaxNorm(2)(torch.tensor([1, 2])),
            "the weight must be a tensor of floating-point numbers for MaxNorm; got",
        ),
        (lambda: NonNeg()([1.0]), "the weight must be a tensor of floating-point numbers for NonNeg; got a list"),
        (
            lambda: MaxNorm(axis=2)(torch.zeros(3, 4)),
            r"MaxNorm\.axis must be different axes of the weight, whose shape \(3, 4\) has the axes -2 to 1; got 2\.",
        ),
        (lambda: UnitNorm([0, -2])(torch.zeros(3, 4)), r"UnitNorm\.axis must be different axes of .*; got \[0, -2\]\."),
        (
            lambda: get("maxi"),
            "the constraint must be a function of a tensor, None, or one of constraint, max_norm, min_",
        ),
        (lambda: get(3), "the constraint must be a function of a tensor, None, or one of .*; got 3"),
        (
            lambda: deserialize({"class_name": "Mine", "config": {}}),
            "the serialized constraint must be a dictionary with",
        ),
        (lambda: deserialize("MaxNorm"), "the serialized constraint must be a dictionary with class_name, one of"),
        (
            lambda: deserialize({"class_name": "MaxNorm", "config": {"m": 2}}),
            "the config of MaxNorm must be its arguments; got {'m': 2}.*unexpected keyword argument 'm'",
        ),
        (lambda: Constraints({}), r"Constraints\.constraints must be a dictionary from regular expressions .*; got {}"),
        (lambda: Constraints(MaxNorm()), r"Constraints\.constraints must be a dictionary from .*; got MaxNorm\("),
        (lambda: Constraints({"(": "max_norm"}), r"a key of Constraints\.constraints must be a regular expression \("),
        (
            lambda: Constraints({"": "max_norm"}),
            r"a key of Constraints\.constraints must be a regular expression for the",
        ),
        (lambda: Constraints({"w": "max"}), "the constraint must be a function of a tensor, None, or one of"),
        (lambda: Constraints({"w": NonNeg()}, "tf"), r"Constraints\.layout must be one of keras, torch; got 'tf'\."),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


@pytest.mark.parametrize("constraint", [*EACH, MaxNorm(), MaxNorm(3, [0, 1]), UnitNorm((1, 2))], ids=repr)
def test_constraint_survives_config_pickle_and_checkpoint(constraint):
    assert deserialize(serialize(constraint)) == constraint
    assert get(serialize(constraint)) == constraint
    assert pickle.loads(pickle.dumps(constraint)) == constraint
    assert eval(repr(constraint)) == constraint
    assert hash(copy.deepcopy(constraint)) == hash(constraint)
    file = io.BytesIO()
    torch.save({"hyper_parameters": {"constraint": constraint}}, file)
    read = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert read["hyper_parameters"]["constraint"] == constraint


def test_constraints_with_different_settings_are_unequal():
    assert len({MaxNorm(), MaxNorm(2, 0), MaxNorm(3), MaxNorm(2, 1), UnitNorm(), NonNeg(), NonNeg("keras2")}) == 6


def test_numpy_numbers_become_plain_numbers():
    config = MinMaxNorm(np.float32(0.5), np.int64(2), np.float64(1.0), axis=[np.int64(0)]).get_config()
    assert config == {"min_value": 0.5, "max_value": 2.0, "rate": 1.0, "axis": [0]}
    assert {type(value) for value in config.values()} == {float, list}


def test_custom_constraint_is_found_by_its_given_name():
    assert isinstance(deserialize({"class_name": "Halved", "config": {}}, {"Halved": Halved}), Halved)
    assert isinstance(get(Halved), Halved)
    assert get(torch.abs) is torch.abs


def test_keras_schedules_do_not_import_torch():
    code = (
        "import sys, lr_plugins.keras as k; assert 'torch' not in sys.modules; "
        "print('constraints' in dir(k), k.constraints.max_norm().max_value, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "2", "True"]


def test_a_plain_loop_does_not_import_lightning():
    program = """
import sys
import torch
from lr_plugins.keras import constraints
from lr_plugins.keras.constraints import MaxNorm, constrain

layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
handle = constrain(optimizer, layer, {"weight$": MaxNorm(0.5)})
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
assert layer.weight.norm() <= 0.5
assert not any(name.partition(".")[0] in ("lightning", "pytorch_lightning") for name in sys.modules)
constraints.Constraints({"weight$": MaxNorm(0.5)})
assert "pytorch_lightning" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
