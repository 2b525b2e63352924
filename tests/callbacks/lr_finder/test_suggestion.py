"""Suggestions from loss curves."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest

from lr_plugins.callbacks.lr_finder.curve import LossCurve, rates_between
from lr_plugins.callbacks.lr_finder.suggestion import METHODS, Method, suggest


def curve_of(losses, smoothing=0.0, low=1e-6, high=1.0, mode="exponential"):
    curve = LossCurve(smoothing)
    for rate, loss in zip(rates_between(low, high, len(losses), mode), losses, strict=True):
        curve.add(rate, loss)
    return curve


AXIS = np.linspace(-6, 0, 61)  # powers of ten
FALL = 2.0 - 1.5 / (1 + np.exp(-6 * (AXIS + 2.5))) + np.where(AXIS > -1, 10 * (AXIS + 1), 0)


@pytest.mark.parametrize(("method", "power"), [("steepest", -2.5), ("minimum", -1 - 1)])
def test_each_method_suggests_its_own_point(method, power):
    assert suggest(curve_of(FALL), method, "exponential").learning_rate == pytest.approx(10**power)


def test_valley_equals_fastai():
    def fastais(losses):
        lengths, start, end = [1] * len(losses), 0, 0
        for at in range(1, len(losses)):
            for before in range(at):
                if losses[at] < losses[before] and lengths[at] < lengths[before] + 1:
                    lengths[at] = lengths[before] + 1
                if lengths[end] < lengths[at]:
                    end, start = at, at - lengths[at]
        third = (end - start) / 3
        return start + int(third) + int(third / 2)

    generator = np.random.default_rng(0)
    for count in (10, 37, 90):
        losses = np.cumsum(generator.normal(-0.05, 0.3, count)) + 10
        rates = np.geomspace(1e-6, 1, count)
        at = int(np.flatnonzero(rates == METHODS["valley"](rates, losses, "exponential"))[0])
        assert abs(at - max(fastais(losses), 0)) <= 1  # theirs is rounded twice


def test_steepest_fall_uses_linear_distances_in_linear_mode():
    losses = [1.0] * 20 + [0.9, 0.8, 0.2, 0.1] + [0.05] * 6
    rates = rates_between(0.1, 3.0, 30, "linear")
    found = suggest(curve_of(losses, low=0.1, high=3.0, mode="linear"), "steepest", "linear").learning_rate
    assert found in rates[20:23]


@pytest.mark.parametrize("seed", range(20))
def test_steep_noise_before_the_fall_is_ignored(seed):
    """The first smoothed losses are nearly those of single batches; the fall is between steps 60 and 80."""
    level = np.interp(np.arange(90), [60, 80], [3.0, 1.0])
    losses = level + np.random.default_rng(seed).normal(0, 0.4, 90)
    curve = curve_of(list(losses), low=1e-6, high=1.0, smoothing=0.9)
    found = suggest(curve, "steepest", "exponential").learning_rate
    assert curve.rates[58] < found < curve.rates[89]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ([2.0] * 60, "falls by no more than its noise between"),
        (2.0 + np.random.default_rng(1).normal(0, 0.1, 60), "falls by no more than its noise between"),
        (np.linspace(1, 3, 60), "falls by no more than its noise between"),
        ([float("nan")], "the loss is nan at the first step"),
        ([2.0, 1.9, 1.8], "losses of 3 steps are too few to judge by"),
        ([], "losses of 0 steps are too few to judge by"),
    ],
    ids=["constant", "noise", "rising", "nan", "few", "none"],
)
def test_without_a_fall_there_is_no_suggestion(losses, why, method):
    curve = LossCurve(0.9)
    for rate, loss in zip(itertools.count(1), losses, strict=False):
        curve.add(float(rate), float(loss))
    found = suggest(curve, method, "exponential")
    assert found.learning_rate is None
    assert why in found.note


def test_fall_within_noise_is_found():
    noisy = FALL + np.random.default_rng(2).normal(0, 0.2, len(FALL))
    found = suggest(curve_of(noisy, 0.9), "steepest", "exponential").learning_rate
    assert 1e-3 < found < 0.1


def test_smoothed_constant_loss_stays_constant():
    assert curve_of([3.0] * 9, 0.98).smoothed == pytest.approx([3.0] * 9, rel=1e-12)


def test_divergence_is_a_loss_far_above_the_lowest_or_not_finite():
    assert not curve_of([2.0, 1.0, 3.9]).has_diverged(4.0)
    assert curve_of([2.0, 1.0, 4.1]).has_diverged(4.0)
    assert not curve_of([2.0, 1.0, 99.0]).has_diverged(None)
    assert curve_of([2.0, float("inf")]).has_diverged(None)
    assert not curve_of([-1.0, -5.0, 9.0]).has_diverged(4.0)  # a likelihood's loss may be negative
    assert curve_of([-1.0, -5.0, 11.0]).has_diverged(4.0)


def test_each_choice_has_a_method():
    assert tuple(METHODS) == get_args(Method)
