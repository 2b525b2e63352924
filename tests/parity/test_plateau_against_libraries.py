"""ReduceLROnPlateau against the two originals: Keras' callback and torch's scheduler, over random metrics.

Keras keeps the learning rate in float32 and prints what it computed from it: 1e-6 relative. torch: 1e-12.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings

import keras
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lr_plugins import keras as keras_named
from lr_plugins.schedules import ReduceLROnPlateau
from tests.parity.side_by_side import keras_model
from tests.schedules.listening import listen

MODEL = keras_model()  # of whose optimizer only the learning rate matters
EXAMPLES = settings(max_examples=300)

# Values that come again and differ by about the thresholds, so that comparisons are close.
losses = st.lists(
    st.one_of(st.sampled_from([1.0, 0.9999, 0.9998, 0.99, 0.9, 0.5, 0.1]), st.floats(-2, 2)), min_size=1, max_size=60
)
shared = {
    "factor": st.sampled_from([0.1, 0.2, 0.5, 0.9]) | st.floats(0.05, 0.95),
    "patience": st.integers(0, 5),
    "mode": st.sampled_from(["min", "max"]),
    "cooldown": st.integers(0, 4),
    "min_lr": st.sampled_from([0.0, 1e-3, 0.05, 0.3, 0.7]),
}
rates = st.sampled_from([0.5, 0.1, 0.01, 3e-4])
for_keras = st.fixed_dictionaries({**shared, "min_delta": st.sampled_from([0.0, 1e-4, 1e-2, 0.3])})
for_torch = st.fixed_dictionaries(
    {**shared, "eps": st.sampled_from([1e-8, 0.0, 1e-2]), "threshold_mode": st.sampled_from(["rel", "abs"])}
)


def within(arguments, learning_rate):
    """With the floor at most the initial value: above it, theirs silently never reduces, and ours raises."""
    return {**arguments, "min_lr": min(arguments["min_lr"], learning_rate)}


def keras_run(values, learning_rate, **arguments):
    """The learning rate after each epoch, and the output."""
    callback = keras.callbacks.ReduceLROnPlateau("val_loss", verbose=1, **arguments)
    MODEL.optimizer.learning_rate = learning_rate
    callback.set_model(MODEL)
    callback.on_train_begin()
    trace = []
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for epoch, value in enumerate(values):
            callback.on_epoch_end(epoch, {} if value is None else {"val_loss": value})
            trace.append(float(MODEL.optimizer.learning_rate.numpy()))
    return trace, out.getvalue()


def renamed(arguments):
    """The arguments of Keras and torch under our names."""
    return {"min_learning_rate" if name == "min_lr" else name: value for name, value in arguments.items()}


def our_run(values, learning_rate, **arguments):
    """The same of ours, with the line that a run prints."""
    run = listen(ReduceLROnPlateau(**renamed(arguments)), values, own=learning_rate)
    lines = [
        f"\nEpoch {epoch + 1}: {change.who} {change.verb} learning rate to {rate}.\n"
        for epoch, (rate, said) in enumerate(zip(run.rates, run.said, strict=True))
        for change in said
        if not change.why
    ]
    return run.rates, "".join(lines)


def numbers(text):
    """A text as its words and its learning rates."""
    found = re.findall(r"to (\S+)\.\n", text)
    return re.sub(r"to \S+\.\n", "", text), [float(one) for one in found]


PLAIN = {"factor": 0.1, "patience": 1, "mode": "min", "cooldown": 0, "min_lr": 0.0, "min_delta": 0.0}


@given(values=losses, learning_rate=rates, arguments=for_keras)
@example(values=[1.0, 1.0 - 1e-8, 1.0 - 2e-8], learning_rate=0.5, arguments=PLAIN)  # the same in float32
@example(values=[1.0] * 4, learning_rate=0.1, arguments={**PLAIN, "min_lr": 0.01})  # 0.1 * 0.1 is more than 0.01
@EXAMPLES
def test_keras_rates_and_lines(values, learning_rate, arguments):
    arguments = within(arguments, learning_rate)
    (theirs, they_said), (ours, we_said) = (run(values, learning_rate, **arguments) for run in (keras_run, our_run))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-37)
    our_words, our_numbers = numbers(we_said)
    their_words, their_numbers = numbers(they_said)
    assert our_words == their_words
    np.testing.assert_allclose(our_numbers, their_numbers, rtol=1e-6, atol=1e-37)


@given(values=losses, arguments=for_keras)
@EXAMPLES
def test_keras_lines_to_the_last_digit_if_float32_is_exact(values, arguments):
    arguments = {**arguments, "factor": 0.5, "min_lr": 0.0}
    assert our_run(values, 0.5, **arguments) == keras_run(values, 0.5, **arguments)


@given(values=losses, learning_rate=rates, arguments=for_keras)
@example(values=[1.0] * 30, learning_rate=0.1, arguments={**PLAIN, "factor": 0.0})
@example(values=[1.0] * 30, learning_rate=0.1, arguments={**PLAIN, "min_delta": -0.1})
@example(values=[1.0] * 4, learning_rate=0.1, arguments={**PLAIN, "min_lr": 0.7})  # above the start
@EXAMPLES
def test_the_keras_named_schedule_is_keras_to_the_last_bit(values, learning_rate, arguments):
    run = listen(keras_named.ReduceLROnPlateau(**arguments, verbose=1), values, own=learning_rate)
    lines = [
        f"\nEpoch {epoch + 1}: {change.who} {change.verb} learning rate to {change.value}.\n"
        for epoch, said in enumerate(run.said)
        for change in said
    ]
    assert (run.rates, "".join(lines)) == keras_run(values, learning_rate, **arguments)


@given(values=losses, learning_rate=rates, arguments=for_torch, threshold=st.sampled_from([0.0, 1e-4, 1e-2, 0.3]))
@EXAMPLES
def test_torch_rates(values, learning_rate, arguments, threshold):
    arguments = within(arguments, learning_rate)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, threshold=threshold, **arguments)
    theirs = []
    for value in values:
        scheduler.step(value)
        theirs.append(optimizer.param_groups[0]["lr"])
    schedule = ReduceLROnPlateau(rule="torch", min_delta=threshold, **renamed(arguments))
    np.testing.assert_allclose(listen(schedule, values, own=learning_rate).rates, theirs, rtol=1e-12, atol=0)


broken = st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 1.0, 0.5, 0.7, 0.2]), min_size=1, max_size=20)


@given(values=broken, mode=st.sampled_from(["min", "max"]), patience=st.integers(0, 3))
@EXAMPLES
def test_nan_and_infinity_if_they_are_compared(values, mode, patience):
    arguments = {"mode": mode, "patience": patience, "factor": 0.5}
    ours = our_run(values, 0.5, on_nonfinite="compare", **arguments)
    assert ours == keras_run(values, 0.5, **arguments)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments), []
    for value in values:
        scheduler.step(value)
        theirs.append(optimizer.param_groups[0]["lr"])
    schedule = ReduceLROnPlateau(rule="torch", on_nonfinite="compare", **arguments)
    assert listen(schedule, values, own=0.5).rates == theirs


@given(values=st.lists(st.none() | st.sampled_from([1.0, 0.5, 0.75]), min_size=1, max_size=20))
@settings(max_examples=50)
def test_a_missing_metric_changes_nothing(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = keras_run(values, 0.5, factor=0.5, patience=2, cooldown=2)
    assert our_run(values, 0.5, factor=0.5, patience=2, cooldown=2) == theirs


def test_the_defaults_are_theirs():
    for theirs, ours in (
        (keras.callbacks.ReduceLROnPlateau(), ReduceLROnPlateau()),
        (
            torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([torch.zeros(1)])),
            ReduceLROnPlateau(rule="torch"),
        ),
    ):
        for name in ("factor", "patience", "cooldown"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.min_delta == (theirs.min_delta if hasattr(theirs, "min_delta") else theirs.threshold)


@pytest.mark.parametrize("monitor", ["val_loss", "loss"])
def test_auto_means_what_keras_means(monitor):
    values = [1.0, 0.9, 0.95, 0.95, 0.95]
    callback = keras.callbacks.ReduceLROnPlateau(monitor, patience=2, factor=0.5)
    MODEL.optimizer.learning_rate = 0.5
    callback.set_model(MODEL)
    theirs = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {monitor: value})
        theirs.append(float(MODEL.optimizer.learning_rate.numpy()))
    assert listen(ReduceLROnPlateau(monitor=monitor, patience=2, factor=0.5), values, own=0.5).rates == theirs
