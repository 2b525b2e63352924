"""lr = lr0 * exp(loss)."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import LossDriven, Position, RunLength
from lr_plugins.errors import TrainingError

LATER = Position(step=30, epoch=1)


@given(loss=st.floats(-50, 50), initial=st.floats(1e-6, 10))
def test_the_rule(loss, initial):
    schedule = LossDriven(initial)
    state = schedule.observe(schedule.start(), LATER, {"loss": loss})
    assert schedule(LATER, state) == initial * math.exp(loss)
    assert schedule(LATER, json.loads(json.dumps(state))) == schedule(LATER, state)


def test_before_the_first_observation_it_is_the_initial_learning_rate():
    schedule = LossDriven(0.01)
    state = schedule.observe(schedule.start(), Position(0, 0), {})
    assert schedule(Position(0, 0), state) == 0.01
    assert schedule(0) == 0.01


@given(loss=st.floats(-10, 1e6))
def test_the_ceiling_holds(loss):
    schedule = LossDriven(0.01, max_learning_rate=0.5)
    assert schedule(LATER, schedule.observe({}, LATER, {"loss": loss})) <= 0.5


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_finite_number_is_an_error(loss):
    with pytest.raises(TrainingError, match=r"LossDriven needs a finite 'loss'; it is .* at the end of epoch 1"):
        LossDriven(0.01).observe({}, LATER, {"loss": loss})


def test_a_loss_whose_exponential_is_too_large_is_an_error_that_names_the_ceiling():
    with pytest.raises(TrainingError, match=r"exp\(loss\) is too large .* loss = 1000.*set max_learning_rate"):
        LossDriven(0.01).observe({}, LATER, {"loss": 1000.0})


def test_a_metric_that_is_not_logged_is_an_error_that_lists_those_that_are():
    schedule, logged = LossDriven(0.01, monitor="val_los"), {"val_loss": 1.0, "acc": 0.5}
    state = schedule.observe(schedule.start(), LATER, logged)  # the first epoch that it sees: nothing can be known yet
    assert schedule(LATER, state) == 0.01
    with pytest.raises(TrainingError, match=r"monitor is 'val_los'.*logged are: acc, val_loss"):
        schedule.observe(state, LATER, logged)


def test_a_curve_under_one_observation_is_flat():
    positions = RunLength.of(steps_per_epoch=3, epochs=1).position(np.arange(3))
    assert LossDriven(0.5)(positions, {"observed": 0.0}).tolist() == [0.5, 0.5, 0.5]
