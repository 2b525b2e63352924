"""A learning rate that is a function of the loss."""

import json
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import LossDriven, Position, RunLength
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules import Change, Monitor, Observation
from lr_plugins.schedules.observation import steps_between
from lr_plugins.schedules.serialization import from_config, to_config

LATER = Position(step=30, epoch=1)
BARE = {"max_learning_rate": None}


def seen(loss, when="epoch", name="loss", known=()):
    return Observation(when, {} if loss is None else {name: loss}, known)


def follow(schedule, losses, when="epoch", own=0.01):
    """The learning rate after each of these losses."""
    state, rates = schedule.start(), []
    for index, loss in enumerate(losses):
        position = Position(30 * index, index, base_learning_rate=own)
        state = schedule.observe(json.loads(json.dumps(state, allow_nan=False)), position, seen(loss, when))
        rates.append(schedule(position, state))
    return rates


def told(schedule, losses):
    """What is said at each of these losses."""
    state, said = schedule.start(), []
    for index, loss in enumerate(losses):
        before, state = state, schedule.observe(state, Position(30 * index, index), seen(loss))
        said.append([*schedule.changes(before, state)])
    return said


# --- the rules ----------------------------------------------------------------------------------------------


@given(loss=st.floats(-50, 50), initial=st.floats(1e-6, 10))
def test_the_articles_rule(loss, initial):
    schedule = LossDriven(initial, **BARE)
    state = schedule.observe(schedule.start(), LATER, seen(loss))
    assert schedule(LATER, state) == initial * math.exp(loss)
    assert schedule(LATER, json.loads(json.dumps(state))) == schedule(LATER, state)


@given(loss=st.floats(-5, 5), k=st.floats(-3, 3), reference=st.floats(-5, 5))
def test_the_exponential(loss, k, reference):
    schedule = LossDriven(0.01, k=k, reference=reference, **BARE)
    assert follow(schedule, [loss]) == pytest.approx([0.01 * math.exp(k * (loss - reference))])


@given(loss=st.floats(0.01, 50), k=st.floats(-3, 3), reference=st.floats(0.01, 50))
def test_the_power(loss, k, reference):
    schedule = LossDriven(0.01, rule="power", k=k, reference=reference, **BARE)
    assert follow(schedule, [loss]) == pytest.approx([0.01 * (loss / reference) ** k])


def test_the_relatives():
    losses = [2.0, 1.0, 4.0]
    assert follow(LossDriven(0.1, rule="power", **BARE), losses) == pytest.approx([0.2, 0.1, 0.4])
    ratio = LossDriven(0.1, rule="power", reference="first", **BARE)
    assert follow(ratio, losses) == pytest.approx([0.1, 0.05, 0.2])
    falling = LossDriven(0.1, k=-1, reference="first", **BARE)
    assert follow(falling, losses) == pytest.approx([0.1, 0.1 * math.e, 0.1 * math.exp(-2)])
    assert follow(LossDriven(k=-1), [1.0], own=0.5) == pytest.approx([0.5 / math.e])


def test_a_negative_loss_has_no_power():
    with pytest.raises(TrainingError, match=r'rule is "power", which needs a \'loss\' >= 0 .* it is -0.5'):
        follow(LossDriven(0.1, rule="power"), [-0.5])
    with pytest.raises(TrainingError, match="the first one > 0"):
        follow(LossDriven(0.1, rule="power", reference="first"), [0.0, 1.0])
    assert follow(LossDriven(0.1, rule="power", k=-1), [0.0]) == [1.0]  # 1 / 0: the ceiling


def test_before_the_first_observation():
    for schedule, expected in (
        (LossDriven(0.01), 0.01),
        (LossDriven(0.01, first_learning_rate=0.002), 0.002),
        (LossDriven(0.01, first_learning_rate="0.1x"), 0.001),
        (LossDriven(0.01, first_learning_rate=5), 0.1),
    ):
        state = schedule.observe(schedule.start(), Position(0, 0), seen(None)._replace(complete=False))
        assert schedule(Position(0, 0), state) == schedule(0) == pytest.approx(expected)


# --- its limits ---------------------------------------------------------------------------------------------


@given(loss=st.floats(-10, 1e300))
def test_the_ceiling_and_the_floor_hold(loss):
    schedule = LossDriven(0.01, max_learning_rate=0.5, min_learning_rate="0.5x")
    assert 0.005 <= follow(schedule, [loss])[0] <= 0.5


def test_default_ceiling_is_ten_times_the_initial_rate():
    assert follow(LossDriven(0.01), [2.0, 2.31, 10.0]) == pytest.approx([0.01 * math.exp(2), 0.1, 0.1])
    assert follow(LossDriven(), [10.0], own=0.5) == [5.0]
    assert follow(LossDriven(0.01, **BARE), [10.0]) == [0.01 * math.exp(10)] == pytest.approx([220.26], rel=1e-4)


@given(losses=st.lists(st.floats(-20, 20), min_size=1, max_size=10), most=st.floats(1.1, 5))
def test_the_largest_change(losses, most):
    rates = [0.01, *follow(LossDriven(0.01, max_change=most), losses)]
    for before, after, loss in zip(rates, rates[1:], losses, strict=False):
        free = min(0.01 * math.exp(loss), 0.1)
        assert after == pytest.approx(min(max(free, before / most), before * most))


def test_overflowing_exponential_error_names_the_ceiling():
    with pytest.raises(TrainingError, match=r"exp\(loss\) is too large .* loss = 1000.*set max_learning_rate"):
        follow(LossDriven(0.01, **BARE), [1000.0])
    assert follow(LossDriven(0.01, max_change=2, **BARE), [1000.0, 1000.0]) == [0.02, 0.04]


# --- what it observes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_finite_number(loss):
    with pytest.raises(TrainingError, match=r"LossDriven needs a finite 'loss'; it is .* at the end of epoch 1"):
        follow(LossDriven(0.01), [1.0, loss])
    normal = 0.01 * math.exp(1.0)
    assert follow(LossDriven(0.01, on_nonfinite="hold"), [1.0, loss, 0.0]) == [normal, normal, 0.01]
    shrink = LossDriven(0.01, on_nonfinite="shrink", smoothing=2)
    assert follow(shrink, [1.0, loss, loss, 1.0]) == [normal, normal / 2, normal / 4, normal]


def test_shrinking_begins_below_the_ceiling():
    assert follow(LossDriven(0.01, on_nonfinite="shrink"), [1e9, math.nan]) == [0.1, 0.05]


@pytest.mark.parametrize("metric", [np.ones(3), [1.0, 2.0], None, "high"])
def test_a_metric_that_is_no_single_number(metric):
    with pytest.raises(TrainingError, match=r"monitor is 'loss', which must be a single number; it is"):
        LossDriven(0.01).observe({}, LATER, Observation("epoch", {"loss": metric}))


def test_the_shape_of_a_metric_is_told():
    with pytest.raises(TrainingError, match=r"it is a ndarray of shape \(3,\)"):
        follow(LossDriven(0.01), [np.ones(3)])


def test_anything_that_float_takes_is_a_number():
    assert follow(LossDriven(0.01), [np.float32(0.5)]) == follow(LossDriven(0.01), [Fraction(1, 2)])


def test_unlogged_metric_error_lists_the_logged_ones():
    schedule, logged = LossDriven(0.01, monitor="val_los"), seen(1.0, name="val_loss", known=["val_loss", "acc"])
    state = schedule.observe(schedule.start(), LATER, logged._replace(complete=False))  # it may still be logged
    assert schedule(LATER, state) == 0.01
    with pytest.raises(TrainingError, match=r"monitor is 'val_los'.*in epoch 1; logged metrics: acc, val_loss"):
        schedule.observe(state, LATER, logged)


def test_a_metric_that_is_not_logged_may_be_a_warning():
    schedule = LossDriven(0.01, on_missing="warn")
    assert schedule.monitors == (Monitor("loss", "epoch", "warn"),)
    state = {}
    with pytest.warns(
        UserWarning, match=r"no metric of that name .* logged metrics: acc\. The learning rate is unchanged"
    ):
        assert schedule.observe(state, LATER, seen(None, known=["acc"])) == state


def test_a_stale_value_is_no_observation():
    schedule = LossDriven(0.01)
    state = schedule.observe({}, LATER, seen(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schedule.observe(state, LATER, seen(None, known=["loss"])) is state
        assert schedule.observe(state, LATER, seen(None)) is state  # it has been seen: the name is right
        assert schedule.observe({}, LATER, seen(None, known=["loss"])) == {}


@pytest.mark.parametrize(
    ("when", "normal", "steps"),
    [("epoch", "epoch", None), ("validation", "validation", None), ("step", "step", 1), (50, "50st", 50)],
)
def test_it_observes_on_its_own_occasion(when, normal, steps):
    schedule = LossDriven(0.01, when=when)
    assert (schedule.when, steps_between(schedule.when)) == (normal, steps)
    for other in {"epoch", "validation", "step", "50st"} - {normal}:
        state = schedule.start()
        assert schedule.observe(state, LATER, seen(1.0, other)) is state
    assert schedule(LATER, schedule.observe({}, LATER, seen(1.0, normal))) == 0.01 * math.exp(1.0)


def test_occasions_have_one_form():
    assert [LossDriven(when=when).when for when in ("1st", 1, "50", "50 st")] == ["step", "step", "50st", "50st"]


def test_smoothing():
    bare = {"rule": "power", **BARE}
    moving = [1.0, 0.75 * 1 + 0.25 * 3, 0.75 * 1.5 + 0.25 * 0.5]
    assert follow(LossDriven(1.0, smoothing=0.75, **bare), [1.0, 3.0, 0.5]) == pytest.approx(moving)
    assert follow(LossDriven(1.0, smoothing=2, **bare), [1.0, 3.0, 0.5]) == pytest.approx([1.0, 2.0, 1.75])


# --- what it says -------------------------------------------------------------------------------------------


def test_observation_is_printed_and_the_ceiling_once():
    (first,), (second,), (third,), (fourth,) = told(LossDriven(0.01), [1.0, 3.0, 4.0, 2.30258509])
    assert first == Change("LossDriven", "setting", "loss 1")
    assert second.why == "loss 3; max_learning_rate, 10 times the initial one, holds it down"
    assert (third.why, fourth.why) == ("loss 4", "loss 2.3026")


def test_it_says_nothing_where_nothing_was_decided():
    assert told(LossDriven(0.01), [1.0, None])[1] == []
    assert told(LossDriven(0.01, on_nonfinite="hold"), [1.0, math.nan])[1] == []
    (change,) = told(LossDriven(0.01, on_nonfinite="shrink"), [1.0, math.nan])[1]
    assert change == Change("LossDriven", "reducing", "loss is nan")


def test_the_ceiling_is_told_of_when_it_matters():
    schedule, state, said = LossDriven(0.01), {}, []
    for in_turn in (False, False, True, True):
        before, state = state, schedule.observe(state, LATER, seen(4.0 + len(said))._replace(in_turn=in_turn))
        said.append([change.why for change in schedule.changes(before, state)])
    assert said == [[], [], ["loss 6; max_learning_rate, 10 times the initial one, holds it down"], ["loss 7"]]


# --- values and arguments -----------------------------------------------------------------------------------


def test_a_curve_under_one_observation_is_flat():
    positions = RunLength.of(steps_per_epoch=3, epochs=1).position(np.arange(3))
    schedule = LossDriven(0.5)
    assert schedule(positions, schedule.observe({}, LATER, seen(0.0))).tolist() == [0.5, 0.5, 0.5]


def test_its_configuration_makes_it_again():
    schedule = LossDriven(
        0.1,
        monitor="val_loss",
        max_learning_rate="5x",
        min_learning_rate=0.001,
        rule="power",
        k=-2,
        reference="first",
        max_change=3,
        first_learning_rate="0.1x",
        when=50,
        smoothing=0.9,
        on_missing="warn",
        on_nonfinite="hold",
    )
    assert from_config(json.loads(json.dumps(to_config(schedule)))) == schedule
    assert schedule.config()["when"] == "50st"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("monitor", ""),
        ("monitor", None),
        ("max_learning_rate", -1),
        ("max_learning_rate", "ten"),
        ("max_learning_rate", "x"),
        ("min_learning_rate", None),
        ("min_learning_rate", "-1x"),
        ("rule", "log"),
        ("k", math.inf),
        ("reference", "last"),
        ("max_change", 1.0),
        ("when", "2ep"),
        ("when", "0.5st"),
        ("when", "never"),
        ("when", None),
        ("when", True),
        ("smoothing", 1),
        ("smoothing", 0.0),
        ("smoothing", 2.5),
        ("smoothing", True),
        ("on_missing", "ignore"),
        ("on_nonfinite", "compare"),
    ],
)
def test_what_is_no_setting_is_refused(argument, value):
    with pytest.raises(InvalidArgumentError, match=rf"LossDriven\.{argument} must be"):
        LossDriven(**{argument: value})


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(
        InvalidArgumentError, match=r"LossDriven\.reference must be a finite number > 0, first, or null"
    ):
        LossDriven(rule="power", reference=0)
    with pytest.raises(InvalidArgumentError, match=r"max_learning_rate must be at least min_learning_rate \(2x\)"):
        LossDriven(min_learning_rate="2x", max_learning_rate="1x")
