"""KerasSGD: its update rule compared with Keras and torch.optim.SGD."""

from __future__ import annotations

import os
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_plugins.optim import KerasSGD
from tests.optim.helpers import MOVING, ROUNDING, RULES, UPDATES, parameter, prescribed, the_rule, updates

MOMENTUM_RULES = pytest.mark.parametrize("nesterov", [False, True], ids=["plain", "nesterov"])


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    os.environ["KERAS_BACKEND"] = "torch"  # read at the first import of the process; ignored after it
    import keras

    assert keras.backend.backend() == "torch"
    return keras


def keras_updates(keras, start, gradients, lrs, momentum, nesterov):
    with keras.device("cpu"):
        weight = keras.Variable(start)
        optimizer = keras.optimizers.SGD(learning_rate=0.5, momentum=momentum, nesterov=nesterov)
        optimizer.build([weight])
        trajectory = []
        for gradient, lr in zip(gradients, lrs, strict=True):
            optimizer.learning_rate = lr
            optimizer.apply([torch.as_tensor(gradient).clone()], [weight])
            trajectory.append(weight.value.detach().numpy().copy())
    return np.array(trajectory)


@st.composite
def runs(draw):
    steps, size = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    numbers = st.floats(-10, 10, allow_subnormal=False)
    vectors = st.lists(numbers, min_size=size, max_size=size)
    gradients = draw(st.lists(vectors, min_size=steps, max_size=steps))
    lrs = draw(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=steps, max_size=steps))
    return draw(vectors), gradients, lrs, draw(st.floats(0, 1, allow_subnormal=False)), draw(st.booleans())


@given(runs())
@settings(max_examples=200)
def test_follows_the_rule_for_any_gradients_and_learning_rates(run):
    start, gradients, lrs, momentum, nesterov = run
    weight = parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = KerasSGD([weight], lr=lrs[0], momentum=momentum, nesterov=nesterov)
    ours = updates(optimizer, weight, torch.tensor(gradients, dtype=torch.float64), lrs)
    # Every number of such a run is below 20 * 20 * 10, so 1e-11 is some ten roundings of the largest.
    np.testing.assert_allclose(ours, the_rule(start, gradients, lrs, momentum, nesterov), rtol=0, atol=1e-11)


@RULES
def test_float32_stays_with_the_rule_in_float64(momentum, nesterov):
    start, gradients = prescribed()
    weight = parameter(start)
    ours = updates(KerasSGD([weight], momentum=momentum, nesterov=nesterov), weight, gradients, MOVING)
    assert np.abs(ours - the_rule(start, gradients, MOVING, momentum, nesterov)).max() <= ROUNDING


@RULES
def test_is_real_keras_bit_for_bit(keras, momentum, nesterov):
    start, gradients = prescribed()
    weight = parameter(start)
    ours = updates(KerasSGD([weight], momentum=momentum, nesterov=nesterov), weight, gradients, MOVING)
    theirs = keras_updates(keras, start, gradients, MOVING, momentum, nesterov)
    assert np.abs(ours - theirs).max() == 0.0


@RULES
def test_equals_the_stepwise_float32_rule_up_to_rounding(momentum, nesterov):
    start, gradients = prescribed()
    weight = parameter(start)
    ours = updates(KerasSGD([weight], momentum=momentum, nesterov=nesterov), weight, gradients, MOVING)
    w, v, stepwise = torch.as_tensor(start), torch.zeros(start.shape), []
    for gradient, lr in zip(torch.as_tensor(gradients), MOVING, strict=True):
        v = momentum * v - lr * gradient
        w = w + (momentum * v - lr * gradient if nesterov else v)
        stepwise.append(w.numpy())
    assert np.abs(ours - np.array(stepwise)).max() <= ROUNDING


def test_defaults_are_those_of_keras(keras):
    theirs, ours = keras.optimizers.SGD().get_config(), KerasSGD([parameter([1.0])]).defaults
    assert ours["lr"] == pytest.approx(theirs["learning_rate"], rel=1e-7)
    assert (ours["momentum"], ours["nesterov"]) == (theirs["momentum"], theirs["nesterov"]) == (0.0, False)


def test_layout_and_dtype_of_a_parameter_do_not_matter():
    start, gradients = prescribed(4 * 3 * 5 * 5)
    shape = (4, 3, 5, 5)
    plain, strided, double = (
        parameter(torch.as_tensor(start).reshape(shape)),
        parameter(torch.as_tensor(start).reshape(shape).to(memory_format=torch.channels_last)),
        parameter(torch.as_tensor(start).reshape(shape).double()),
    )
    optimizer = KerasSGD([plain, strided, double], lr=0.1, momentum=0.9)
    for gradient in torch.as_tensor(gradients).reshape(-1, *shape):
        plain.grad, strided.grad, double.grad = gradient.clone(), gradient.clone(), gradient.double()
        optimizer.step()
    assert optimizer.state[strided]["velocity"].is_contiguous(memory_format=torch.channels_last)
    assert (plain - strided).abs().max() <= 1e-6
    assert double.dtype == torch.float64
    assert (plain - double).abs().max() <= ROUNDING


def test_tensors_updated_together_equal_single_updates():
    generator = torch.Generator().manual_seed(0)
    sizes = [70_000, 1, 3, 0, 40_000, 40_000, 200_000, 5]  # on both sides of what one batch takes, and empty
    together = [parameter(torch.randn(size, generator=generator)) for size in sizes]
    alone = [parameter(weight.detach()) for weight in together]
    optimizers = [KerasSGD(together, 0.1, 0.9)] + [KerasSGD([weight], 0.1, 0.9) for weight in alone]
    for _ in range(3):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


@RULES
def test_agrees_with_torch_at_a_constant_learning_rate(momentum, nesterov):
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, nesterov=nesterov and momentum > 0)
    a = updates(KerasSGD([ours], 0.1, momentum, nesterov), ours, gradients, [0.1] * UPDATES)
    b = updates(torch_optimizer, theirs, gradients, [0.1] * UPDATES)
    assert np.abs(a - b).max() <= ROUNDING


@MOMENTUM_RULES
def test_differs_from_torch_once_the_learning_rate_moves(nesterov):
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    a = updates(KerasSGD([ours], 0.1, 0.9, nesterov), ours, gradients, MOVING)
    b = updates(torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=nesterov), theirs, gradients, MOVING)
    assert np.abs(a - b)[:5].max() <= 1e-6  # until the first change
    assert np.abs(a - b).max() > 0.5


def test_zero_learning_rate_coasts_unlike_torch():
    ours, theirs = parameter([1.0]), parameter([1.0])
    a = updates(KerasSGD([ours], momentum=0.5), ours, torch.ones(4, 1), [0.5, 0.0, 0.0, 0.0])
    b = updates(torch.optim.SGD([theirs], momentum=0.5), theirs, torch.ones(4, 1), [0.5, 0.0, 0.0, 0.0])
    assert a.ravel().tolist() == [0.5, 0.25, 0.125, 0.0625]
    assert b.ravel().tolist() == [0.5, 0.5, 0.5, 0.5]


def test_velocity_is_minus_lr_times_the_buffer_of_torch():
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    optimizer, torch_optimizer = KerasSGD([ours], momentum=0.9), torch.optim.SGD([theirs], momentum=0.9)
    updates(optimizer, ours, gradients[:20], [0.1] * 20)
    updates(torch_optimizer, theirs, gradients[:20], [0.1] * 20)
    buffer = torch_optimizer.state[theirs]["momentum_buffer"]
    assert (optimizer.state[ours]["velocity"] + 0.1 * buffer).abs().max() <= 5e-7


@MOMENTUM_RULES
def test_torch_with_a_rescaled_buffer_is_the_same_rule(nesterov):
    start, gradients = prescribed()
    lrs = [lr or 0.07 for lr in MOVING]  # the conversion divides by the new learning rate
    ours, theirs = parameter(start), parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], lr=lrs[0], momentum=0.9, nesterov=nesterov)
    a, b = updates(KerasSGD([ours], momentum=0.9, nesterov=nesterov), ours, gradients, lrs), []
    for gradient, lr, previous in zip(gradients, lrs, [lrs[0], *lrs], strict=False):
        if lr != previous:
            torch_optimizer.state[theirs]["momentum_buffer"].mul_(previous / lr)
        b.append(updates(torch_optimizer, theirs, [gradient], [lr])[0])
    assert np.abs(a - np.array(b)).max() <= ROUNDING


@MOMENTUM_RULES
def test_torch_with_the_rate_in_the_gradient_is_the_same_rule(nesterov):
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], lr=1.0, momentum=0.9, nesterov=nesterov)
    a = updates(KerasSGD([ours], momentum=0.9, nesterov=nesterov), ours, gradients, MOVING)
    scaled = gradients * np.array(MOVING, np.float32)[:, None]
    assert np.abs(a - updates(torch_optimizer, theirs, scaled, [1.0] * UPDATES)).max() <= ROUNDING
