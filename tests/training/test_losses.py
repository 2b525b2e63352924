"""The clipped cross-entropy against real Keras, values and gradients."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_plugins.training.losses import KerasCategoricalCrossentropy


def ours(logits, target):
    logits = logits.clone().requires_grad_()
    value = KerasCategoricalCrossentropy()(logits, target)
    value.backward()
    return value.detach(), logits.grad


def real(logits, target):
    """Keras' loss behind Keras' softmax, as a model with a softmax layer has them."""
    with keras.device("cpu"):
        logits = logits.clone().requires_grad_()
        one_hot = torch.nn.functional.one_hot(target, logits.shape[1]).to(logits.dtype)
        probability = keras.activations.softmax(logits)
        value = keras.losses.CategoricalCrossentropy(dtype="float32")(one_hot, probability)
    value.backward()
    return value.detach(), logits.grad


@settings(max_examples=60)
@given(
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0, 20.0, 60.0]),
    samples=st.integers(1, 17),
    classes=st.integers(2, 11),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_are_those_of_keras(scale, samples, classes, seed):
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=random)
    target = torch.randint(classes, (samples,), generator=random)
    (value, gradient), (expected, expected_gradient) = ours(logits, target), real(logits, target)
    torch.testing.assert_close(value, expected, rtol=3e-7, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=3e-7, atol=1e-12)
    assert torch.equal(gradient == 0, expected_gradient == 0)


@pytest.mark.parametrize("margin", [16.0, 17.0, -15.9, -16.2, -40.0, -200.0])
def test_each_side_of_the_clip(margin):
    logits, target = torch.tensor([[margin, 0.0]]), torch.tensor([0])
    (value, gradient), (expected, expected_gradient) = ours(logits, target), real(logits, target)
    torch.testing.assert_close(value, expected, rtol=3e-7, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=3e-7, atol=0)
    assert (gradient.abs().max() == 0) == (abs(margin) >= 16)


def test_a_hopeless_sample_costs_at_most_16_118():
    value, gradient = ours(torch.tensor([[0.0, 500.0, 0.0]]), torch.tensor([2]))
    assert value.item() == pytest.approx(16.118, abs=1e-3)
    assert not gradient.any()


def test_half_precision_keeps_the_upper_clip():
    value = KerasCategoricalCrossentropy()(torch.tensor([[50.0, 0.0]], dtype=torch.float16), torch.tensor([0]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1.19e-7, rel=0.01)
