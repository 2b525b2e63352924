"""The formulas of the constraints, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from lr_plugins.keras.constraints import (
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    UnitNorm,
    constrain,
)
from tests.constraints.helpers import EACH, EPS


def norms(weight, axis=0):
    return np.sqrt(np.sum(np.square(np.asarray(weight, np.float64)), axis=axis, keepdims=True))


def numbers(least, most):
    """Those whose squares have all their digits."""
    return st.floats(least, most, allow_subnormal=False).map(lambda one: one if abs(one) > 1e-100 else 0.0)


matrices = arrays.arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=numbers(-1e6, 1e6))
bounds = numbers(0, 100)


@given(matrices, bounds, bounds, st.floats(0, 1), st.sampled_from([0, 1, -1, [0, 1]]))
@settings(max_examples=300)
def test_formulas_match_their_docstrings(weight, low, high, rate, axis):
    low, high = sorted((low, high))
    given_, n = torch.tensor(weight), norms(weight, tuple(axis) if isinstance(axis, list) else axis)
    clipped = np.clip(n, low, high)
    expected = {
        MaxNorm(high, axis): weight * (np.minimum(n, high) / (EPS + n)),
        UnitNorm(axis): weight / (EPS + n),
        MinMaxNorm(low, high, rate, axis): weight * ((rate * clipped + (1 - rate) * n) / (EPS + n)),
        NonNeg(): np.maximum(weight, 0.0),
        NonNeg("keras2"): weight * (weight >= 0),
    }
    for constraint, result in expected.items():
        np.testing.assert_allclose(constraint(given_).numpy(), result, rtol=1e-12, atol=0)


@given(matrices, bounds, bounds)
@settings(max_examples=300)
def test_norms_stay_within_bounds_and_reapplying_changes_little(weight, low, high):
    low, high = sorted((low, high))
    weight = torch.tensor(weight)
    n = norms(weight)
    for constraint, least, most in (
        (MaxNorm(high), np.minimum(n, high), high),
        (UnitNorm(), np.ones_like(n), 1.0),
        (MinMaxNorm(low, high), np.clip(n, low, high), high),
    ):
        once = constraint(weight)
        found = norms(once)
        assert (found <= most * (1 + 1e-12)).all()
        # The 1e-7 in the divisor takes the share 1e-7 / (1e-7 + n) away, which is all of it where the norm is 0.
        np.testing.assert_allclose(found, least * n / (EPS + n), rtol=1e-9, atol=1e-15)
        again = norms(constraint(once))
        away = EPS / np.maximum(n, 1e-300) + EPS / (EPS + found)  # the first time, and the second
        assert (np.abs(again - found) <= (away + 1e-9) * found).all()
        assert not (constraint(once) * weight < 0).any()


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
@settings(max_examples=200)
def test_only_negative_numbers_are_changed(weight):
    weight = torch.tensor(weight)
    for constraint in (NonNeg(), NonNeg("keras2")):
        result = constraint(weight)
        kept = weight > 0
        finite = kept & weight.isfinite()
        assert torch.equal(result[finite], weight[finite])
        assert not (result < 0).any()
        assert (result[weight.isnan()].isnan()).all()
    assert (NonNeg()(weight)[weight == -math.inf] == 0).all()
    assert NonNeg("keras2")(weight)[weight == -math.inf].isnan().all()
    assert NonNeg("keras2")(weight)[(weight < 0) & weight.isfinite()].signbit().all()
    assert not NonNeg()(weight)[weight < 0].signbit().any()


def test_a_weight_within_the_bounds_still_shrinks_by_the_epsilon():
    weight = torch.tensor([1e-6])
    for constraint in (MaxNorm(2), MinMaxNorm(0.0, 1.0)):
        assert constraint(weight).item() == pytest.approx(1e-6 / 1.1, rel=1e-6)


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_constraint_called_as_a_function_is_differentiable(constraint):
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(constraint, weight)


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_nothing_is_fetched_from_a_device(constraint):
    # The meta device has no numbers: fetching one, which on an accelerator means waiting for it, is an error there.
    weights = [torch.empty(shape, device="meta") for shape in ((4, 3), (5,), (2, 3, 4))]
    constraint.apply_(weights)
    assert [constraint(weight).shape for weight in weights] == [weight.shape for weight in weights]


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_weights_constrained_together_equal_single_ones(constraint):
    generator = torch.Generator().manual_seed(0)
    shapes = [(300, 250), (1, 1), (0, 3), (3, 0), (200, 200), (7,), (4, 5, 6), (40, 2), ()]
    module = nn.ParameterList([torch.randn(shape, generator=generator) for shape in shapes])
    alone = [constraint(weight.detach()) for weight in module]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    constrain(optimizer, module, {r"\d": constraint})
    for weight in module:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(module, alone, strict=True))
