"""The learning rate of each epoch and update, against the real Keras in a fit of its own.

Keras computes in float32 and ours in float64: the tolerances here are those of float32 and nothing else.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_plugins import ExponentialDecay, InverseTimeDecay, LearningRateScheduler, PiecewiseConstant, StepDecay

from .deviation import assert_agrees
from .side_by_side import Tiny, article_mnist, keras_fit, keras_update_rates, loader, our_fit, our_update_rates, trainer

theirs = keras.optimizers.schedules
ROUNDING = 1.001 * 2**-24  # the largest relative error of one rounding to float32; 1.001 for errors of second order


# --- of each epoch ------------------------------------------------------------------------------------------

EPOCH_FUNCTIONS = {
    "constant": lambda epoch: 1 / 3,
    "the MNIST article": article_mnist,
    "the Iris article": lambda epoch: 0.01 * 0.05 ** ((1 + epoch) / 10),
    "down to 1e-31": lambda epoch: 1e-20 * 0.1**epoch,
    "of both, forgetting the lr": lambda epoch, lr: 0.1 / (1 + epoch),
    "warm-up from 0": lambda epoch: 0.1 * epoch / 5,
}


@pytest.mark.parametrize("function", EPOCH_FUNCTIONS.values(), ids=EPOCH_FUNCTIONS)
def test_functions_of_the_epoch(function):
    keras_rates = keras_fit(function, 12).rates
    assert len(keras_rates) == 12
    assert our_fit(function, 12).rates == pytest.approx(keras_rates, rel=ROUNDING, abs=0)


SCHEDULES_OF_THE_EPOCH = {
    "step": (StepDecay(0.1, drop=0.5, every="3ep"), lambda epoch: 0.1 * 0.5 ** (epoch // 3)),
    "piecewise": (PiecewiseConstant(["3ep", "5ep"], [0.002, 0.001, 0.0005]), article_mnist),
    "exponential": (ExponentialDecay(0.1, decay_steps="4ep", decay_rate=0.05), lambda epoch: 0.1 * 0.05 ** (epoch / 4)),
    "inverse time": (
        InverseTimeDecay(0.1, decay_steps="2ep", decay_rate=0.7),
        lambda epoch: 0.1 / (1 + 0.7 * epoch / 2),
    ),
    "from the optimizer's own": (StepDecay(drop=0.25, every="2ep"), lambda epoch: 0.5 * 0.25 ** (epoch // 2)),
    # Exact in float32, so that Keras' own recursion of the lr can stand beside the closed form.
    "as a recursion": (StepDecay(drop=0.25, every="2ep"), lambda epoch, lr: lr / 4 if epoch in (2, 4, 6, 8) else lr),
}


@pytest.mark.parametrize(("schedule", "function"), SCHEDULES_OF_THE_EPOCH.values(), ids=SCHEDULES_OF_THE_EPOCH)
def test_epoch_schedules_equal_the_functions_of_a_keras_script(schedule, function):
    ours = our_fit(schedule, 9)
    assert ours.rates == pytest.approx(keras_fit(function, 9).rates, rel=ROUNDING, abs=0)
    # Within an epoch nothing moves, as under Keras' callback.
    per_update = our_update_rates(schedule, updates=3, epochs=9)
    assert per_update == np.repeat(ours.rates, 3).tolist()
    scheduler = keras.callbacks.LearningRateScheduler(function)
    assert per_update == pytest.approx(keras_update_rates(0.5, 3, 9, [scheduler]), rel=ROUNDING, abs=0)


# --- of each update -----------------------------------------------------------------------------------------

UPDATES, EPOCHS = 30, 10

OF_THE_UPDATE = {
    "inverse time of the Iris article": (
        InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005),
        theirs.InverseTimeDecay(0.1, 1, 0.005),
    ),
    "inverse time": (InverseTimeDecay(0.3, decay_steps=70, decay_rate=1.5), theirs.InverseTimeDecay(0.3, 70, 1.5)),
    "inverse time, staircase": (
        InverseTimeDecay(0.3, decay_steps=7, decay_rate=0.5, staircase=True),
        theirs.InverseTimeDecay(0.3, 7, 0.5, staircase=True),
    ),
    "exponential": (ExponentialDecay(0.1, decay_steps=100, decay_rate=0.05), theirs.ExponentialDecay(0.1, 100, 0.05)),
    "exponential, staircase": (
        ExponentialDecay(0.1, decay_steps=45, decay_rate=0.96, staircase=True),
        theirs.ExponentialDecay(0.1, 45, 0.96, staircase=True),
    ),
    "exponential, staircase of whole epochs": (
        ExponentialDecay(0.1, decay_steps="2ep", decay_rate=0.5, staircase=True),
        theirs.ExponentialDecay(0.1, 2 * UPDATES, 0.5, staircase=True),
    ),
    "exponential, in percent of the run": (
        ExponentialDecay(0.1, decay_steps="25%", decay_rate=0.1),
        theirs.ExponentialDecay(0.1, UPDATES * EPOCHS // 4, 0.1),
    ),
    "exponential, growing": (
        ExponentialDecay(1e-5, decay_steps=150, decay_rate=1000.0),
        theirs.ExponentialDecay(1e-5, 150, 1000.0),
    ),
}


@pytest.mark.parametrize(("ours", "keras_schedule"), OF_THE_UPDATE.values(), ids=OF_THE_UPDATE)
def test_schedules_of_the_update(ours, keras_schedule):
    keras_rates = keras_update_rates(keras_schedule, UPDATES, EPOCHS)
    assert len(keras_rates) == UPDATES * EPOCHS
    assert len(set(keras_rates)) >= 5  # it moves
    mine, name = our_update_rates(ours, UPDATES, EPOCHS), type(keras_schedule).__name__
    assert_agrees(ours, mine, keras_rates, original=f"keras {name}, in a training", relative=1e-6)


starts, rates = st.floats(1e-6, 10), st.floats(1e-3, 2)
lengths, steps = st.integers(1, 500), st.integers(0, 1000)


@given(starts, lengths, rates, st.booleans(), steps)
@settings(max_examples=150)
def test_inverse_time_anywhere(start, length, rate, staircase, step):
    """Keras rounds six times: lr, rate, step / length, their product, the sum, the quotient."""
    expected = float(theirs.InverseTimeDecay(start, length, rate, staircase)(step))
    assert InverseTimeDecay(start, decay_steps=length, decay_rate=rate, staircase=staircase)(step) == pytest.approx(
        expected, rel=6 * ROUNDING, abs=0
    )


@given(starts, lengths, rates, st.booleans(), st.floats(0, 8))
@settings(max_examples=150)
def test_exponential_anywhere(start, length, rate, staircase, periods):
    """Of rate ** p, an error in p counts |log(rate)| * p times and one in rate p times; both are rounded once."""
    step = round(periods * length)  # beyond eight periods of 0.001 float32 has no such small numbers
    sensitivity = step / length * (1 + abs(np.log(rate)))
    ours = ExponentialDecay(start, decay_steps=length, decay_rate=rate, staircase=staircase)(step)
    expected = float(theirs.ExponentialDecay(start, length, rate, staircase)(step))
    assert ours == pytest.approx(expected, rel=(3 + sensitivity) * ROUNDING, abs=0)


# --- piecewise: the boundary rule ---------------------------------------------------------------------------
#
# Keras keeps the old value while step <= boundary; ours changes at the boundary, as its StepDecay does. So Keras'
# boundary b is our (b + 1)st.


@pytest.mark.parametrize("boundaries", [[3], [1, 2], [5, 10, 11], [17]])
def test_piecewise_boundaries_are_those_of_keras_plus_one(boundaries):
    values = [0.1 / (1 + index) for index in range(len(boundaries) + 1)]
    keras_rates = keras_update_rates(theirs.PiecewiseConstantDecay(boundaries, values), updates=6, epochs=3)
    plus_one = PiecewiseConstant([f"{boundary + 1}st" for boundary in boundaries], values)
    same = PiecewiseConstant([f"{boundary}st" for boundary in boundaries], values)
    original = "keras PiecewiseConstantDecay, its boundaries + 1, in a training"
    assert_agrees(plus_one, our_update_rates(plus_one, 6, 3), keras_rates, original=original, relative=ROUNDING)
    # With the same numbers, exactly the updates at the boundaries differ.
    differ = ~np.isclose(our_update_rates(same, 6, 3), keras_rates, rtol=1e-6)
    assert np.flatnonzero(differ).tolist() == boundaries


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True).map(sorted), st.data())
@settings(max_examples=40)
def test_piecewise_anywhere(boundaries, data):
    size = len(boundaries) + 1
    values = data.draw(st.lists(st.floats(1e-6, 10), min_size=size, max_size=size))
    ours = PiecewiseConstant([f"{boundary + 1}st" for boundary in boundaries], values)
    keras_schedule = theirs.PiecewiseConstantDecay(boundaries, values)
    around = sorted({0, 100} | {boundary + offset for boundary in boundaries for offset in (-1, 0, 1)})
    expected = [float(keras_schedule(step)) for step in around]
    # Keras adds the values of all pieces, zeros but for one: one rounding.
    assert ours(np.array(around)).tolist() == pytest.approx(expected, rel=ROUNDING, abs=0)


# --- what the weights say -----------------------------------------------------------------------------------


class Descent(Tiny):
    """A weight whose gradient is 1 at every update: each change is the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.path = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, batch_idx):
        self.path.append(self.weight.item())
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.5)


class KerasPath(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.path: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.path.append(float(self.model.layers[-1].bias[0]))


def keras_path(schedule, updates, epochs):
    """The bias of a network whose loss is its mean output, so that the gradient of the bias is 1."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), lambda target, output: output)
    zeros, recorder = np.zeros((updates, 1), np.float32), KerasPath()
    model.fit(zeros, zeros, batch_size=1, epochs=epochs, verbose=0, callbacks=[recorder])
    return recorder.path


@pytest.mark.parametrize(("ours", "keras_schedule"), OF_THE_UPDATE.values(), ids=OF_THE_UPDATE)
def test_each_update_uses_the_recorded_learning_rate(ours, keras_schedule):
    """The trace and Keras' attribute say what they say; the weights cannot be mistaken about it."""
    module, scheduler = Descent(), LearningRateScheduler(ours)
    trainer(scheduler, max_epochs=EPOCHS).fit(module, loader(UPDATES))
    recorded = -np.concatenate([[0], np.cumsum(scheduler.trace["lr"].values)[:-1]])
    assert len(module.path) == UPDATES * EPOCHS
    # Each update rounds a sum, which only grows: the errors add up to that many roundings at most.
    assert module.path == pytest.approx(recorded.tolist(), rel=len(module.path) * ROUNDING, abs=0)
    assert module.path == pytest.approx(keras_path(keras_schedule, UPDATES, EPOCHS), rel=1e-6, abs=0)
