"""Greedy against transformers' GreedyLR over random metrics, to 1e-12."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.optimization import GreedyLR

from lr_plugins.schedules import Greedy
from tests.schedules.listening import listen

losses = st.lists(
    st.one_of(st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.1]), st.floats(-2, 2), st.integers(-50, 0)),
    min_size=1,
    max_size=80,
)
arguments = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.floats(0.3, 0.97),
        "patience": st.integers(0, 3),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 3),
        "warmup": st.integers(0, 3),
        "min_lr": st.sampled_from([0.0, 1e-3, 0.05, 0.4]),
        "max_lr": st.sampled_from([0.4, 1.0, 3.0]),
        "eps": st.sampled_from([1e-8, 0.0, 1e-2]),
        "reset_start": st.sampled_from([1, 2, 3, 500]),
    }
)


def renamed(arguments):
    """The arguments of GreedyLR under our names."""
    return {f"{name[:4]}learning_rate" if name in ("min_lr", "max_lr") else name: arguments[name] for name in arguments}


def their_rates(values, learning_rate, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler, rates = GreedyLR(optimizer, **arguments), []
    for value in values:
        scheduler.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@given(
    values=losses,
    learning_rate=st.sampled_from([0.5, 0.1, 0.01, 5e-5]),
    arguments=arguments,
    threshold=st.sampled_from([1e-6, 1e-3, 0.2]),
    window=st.sampled_from([None, 2, 3, 50]),
)
@settings(max_examples=500)
def test_the_learning_rates_are_theirs(values, learning_rate, arguments, threshold, window):
    # Ours rejects bounds that exclude the initial value.
    low, high = min(arguments["min_lr"], learning_rate), max(arguments["max_lr"], learning_rate)
    smoothing, arguments = {}, {**arguments, "min_lr": low, "max_lr": high}
    if window is not None:
        # GreedyLR keeps a running sum, which accumulates rounding errors; ours sums again. With 64ths both are exact.
        smoothing, values = {"smooth": True, "window_size": window}, [round(64 * value) / 64 for value in values]
    theirs = their_rates(values, learning_rate, threshold=threshold, **arguments, **smoothing)
    schedule = Greedy(min_delta=threshold, smoothing=window, **renamed(arguments))
    np.testing.assert_allclose(listen(schedule, values, own=learning_rate).rates, theirs, rtol=1e-12, atol=0)


@given(values=st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 1.0, 0.5, 0.7]), min_size=1, max_size=30))
@settings(max_examples=100)
def test_nan_and_infinity_if_they_are_compared(values):
    schedule = Greedy(patience=1, min_learning_rate=1e-3, max_learning_rate=1.0, eps=1e-8, on_nonfinite="compare")
    np.testing.assert_allclose(listen(schedule, values).rates, their_rates(values, 0.5, patience=1), rtol=1e-12, atol=0)


def test_only_ours_can_lower_a_fine_tuning_rate_by_default():
    values = [1.0] * 30
    assert their_rates(values, 5e-5)[-1] == 5e-5
    assert listen(Greedy(), values, own=5e-5).rates[-1] < 5e-5
