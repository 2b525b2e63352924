"""A learning rate that falls when a metric no longer improves; the originals are in tests/parity."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import CosineDecay, Position, RunLength, keras
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules import BoldDriver, Change, Greedy, LossDriven, Monitor, Observation, ReduceLROnPlateau
from lr_plugins.schedules.serialization import from_config, to_config
from tests.schedules.listening import listen

FLAT = [1.0] * 12


def halvings(schedule, values=FLAT):
    """After which values it fell."""
    rates = [schedule.initial(Position(0, base_learning_rate=0.5)), *listen(schedule, values).rates]
    return [index for index, (one, two) in enumerate(itertools.pairwise(rates)) if two < one]


def plateau(**arguments):
    return ReduceLROnPlateau(**{"factor": 0.5, "patience": 2, **arguments})


# --- the rules ----------------------------------------------------------------------------------------------


def test_keras_reduces_at_the_last_bad_one_and_torch_after_it():
    assert halvings(plateau()) == [2, 4, 6, 8, 10]
    assert halvings(plateau(rule="torch")) == [3, 6, 9]


def test_cooldown():
    assert halvings(plateau(cooldown=1)) == halvings(plateau())
    assert halvings(plateau(cooldown=3)) == [2, 6, 10]
    assert halvings(plateau(rule="torch", cooldown=1)) == [3, 7, 11]


def test_no_patience():
    assert halvings(plateau(patience=0)) == halvings(plateau(patience=1)) == [*range(1, 12)]
    assert halvings(plateau(patience=0, rule="torch")) == [*range(1, 12)]


def test_improvements_begin_the_count_anew():
    assert halvings(plateau(), [1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.8]) == [6]
    assert halvings(plateau(min_delta=0.15), [1.0, 1.0, 0.9, 0.8]) == [2]


def test_threshold_is_absolute_in_keras_and_relative_in_torch():
    values = [1000.0, 999.95, 999.9, 999.85]  # better by 0.05 each time, which is less than 1e-4 of 1000
    assert halvings(plateau(), values) == []
    assert halvings(plateau(threshold_mode="rel"), values) == [2]
    assert halvings(plateau(patience=1, rule="torch"), values) == [2]
    assert halvings(plateau(patience=1, rule="torch", threshold_mode="abs"), values) == []


@pytest.mark.parametrize("rule", ["keras", "torch"])
@given(values=st.lists(st.floats(-10, 10), max_size=20))
def test_the_two_directions_mirror_each_other(rule, values):
    lower, higher = (plateau(rule=rule, mode=mode, threshold_mode="abs") for mode in ("min", "max"))
    assert listen(lower, values).rates == listen(higher, [-value for value in values]).rates


@pytest.mark.parametrize(
    ("monitor", "better"),
    [("val_loss", "min"), ("train/Loss", "min"), ("val_rmse", "min"), ("val_acc", "max"), ("test_f1", "max")],
)
def test_the_direction_follows_from_the_name(monitor, better):
    rising = listen(plateau(monitor=monitor), range(10)).rates
    assert rising == listen(plateau(monitor=monitor, mode=better), range(10)).rates
    assert rising[-1] == (0.5 if better == "max" else 0.5**5)


def test_a_name_that_does_not_tell_is_refused():
    with pytest.raises(
        InvalidArgumentError, match=r"""mode must be "min" or "max" for 'val_x'; got 'auto'\. It cannot be inferred"""
    ):
        plateau(monitor="val_x")


def test_the_floor():
    assert listen(plateau(min_learning_rate=0.2), FLAT).rates[-1] == 0.2
    assert listen(plateau(min_learning_rate="0.1x"), FLAT).rates[-1] == 0.05
    assert listen(plateau(rule="torch", min_learning_rate=0.3), FLAT).rates[-1] == 0.3
    with pytest.raises(
        InvalidArgumentError, match=r"min_learning_rate must be at most .* \(the optimizer's own, 0\.5\); got 0\.7"
    ):
        listen(plateau(min_learning_rate=0.7), FLAT)


def test_changes_that_are_too_small_are_not_made():
    assert listen(plateau(rule="torch", initial_learning_rate=1e-8), FLAT).rates == [1e-8] * 12
    assert listen(plateau(initial_learning_rate=1e-8), FLAT).rates[-1] == pytest.approx(1e-8 / 32)
    assert listen(plateau(eps=0.2), FLAT).rates[-1] == 0.25


# --- what it observes ---------------------------------------------------------------------------------------


def test_what_is_not_logged_anew_does_not_count():
    assert halvings(plateau(), [None, 1.0, None, None, 1.0, None, 1.0]) == [6]


def test_patience_counts_validation_runs():
    schedule = plateau(when="validation", patience=3)
    assert schedule.monitors == (Monitor("val_loss", "validation"),)
    state, counts = schedule.start(), []
    for when in ("epoch", "validation", "50st", "validation", "epoch", "validation", "validation"):
        state = schedule.observe(state, Position(0, 0, base_learning_rate=0.5), Observation(when, {"val_loss": 1.0}))
        counts.append(state.get("bad"))
    assert counts == [None, 0, 0, 1, 1, 2, 0]
    assert state["learning_rate"] == 0.25


def test_nan():
    with pytest.raises(TrainingError, match="ReduceLROnPlateau needs a finite 'val_loss'; it is nan at the end of"):
        listen(plateau(), [math.nan])
    values = [1.0, math.nan, math.nan, 0.5]
    assert listen(plateau(on_nonfinite="hold"), values).rates == [0.5] * 4
    shrink = listen(plateau(on_nonfinite="shrink", min_learning_rate=0.2), values)
    assert shrink.rates == [0.5, 0.25, 0.2, 0.2]
    assert shrink.said[1] == [Change("ReduceLROnPlateau", "reducing", "val_loss is nan")]
    assert listen(plateau(on_nonfinite="compare"), values).rates == [0.5, 0.5, 0.25, 0.25]


def test_initial_nan_stays_best_in_keras_and_not_in_torch():
    values = [math.nan, 1.0, 0.5, 0.25, 0.125]
    assert halvings(plateau(on_nonfinite="compare"), values) == [2, 4]
    assert halvings(plateau(on_nonfinite="compare", rule="torch", patience=0), values) == [0]


def test_smoothing_sees_through_noise():
    noisy = [1.0, 0.8, 0.9, 0.7, 0.8, 0.6, 0.7, 0.5, 0.6, 0.4]
    assert halvings(plateau(patience=1), noisy) == [2, 4, 6, 8]
    assert halvings(plateau(patience=2, smoothing=2), noisy) == []


# --- what it says -------------------------------------------------------------------------------------------


def test_it_says_what_keras_says_and_for_torchs_rule_why():
    assert listen(plateau(), FLAT).said[:4] == [[], [], [Change("ReduceLROnPlateau", "reducing")], []]
    (change,) = listen(plateau(rule="torch"), [0.53124] * 4).said[3]
    assert change.why == "val_loss 0.53124 has not improved for 3 epochs"
    (change,) = listen(plateau(rule="torch", when=50, patience=0, monitor="loss"), [1.0, 1.0]).said[1]
    assert change.why == "loss 1 has not improved for 50 steps"


# --- laws ---------------------------------------------------------------------------------------------------

listeners = st.one_of(
    st.builds(
        ReduceLROnPlateau,
        st.none() | st.floats(0.01, 1),
        rule=st.sampled_from(["keras", "torch"]),
        factor=st.floats(0.1, 0.9),
        patience=st.integers(0, 3),
        cooldown=st.integers(0, 3),
        min_learning_rate=st.sampled_from([0.0, 0.01, "0.3x"]),
        smoothing=st.sampled_from([None, 0.5, 3]),
        on_nonfinite=st.sampled_from(["hold", "shrink", "compare"]),
    ),
    st.builds(
        Greedy,
        st.none() | st.floats(0.01, 1),
        patience=st.integers(0, 2),
        cooldown=st.integers(0, 2),
        warmup=st.integers(0, 2),
        min_learning_rate=st.sampled_from(["0.9x", 0.0]),
        reset_start=st.sampled_from([None, 1, 2]),
        smoothing=st.sampled_from([None, 0.5, 3]),
        on_nonfinite=st.sampled_from(["hold", "shrink", "compare"]),
    ),
    st.builds(BoldDriver, smoothing=st.sampled_from([None, 0.5, 3]), on_nonfinite=st.sampled_from(["hold", "shrink"])),
    st.builds(
        LossDriven,
        k=st.floats(-2, 2),
        reference=st.sampled_from([None, 0.5, "first"]),
        max_change=st.none() | st.floats(1.1, 3),
        smoothing=st.sampled_from([None, 0.5, 3]),
        on_nonfinite=st.sampled_from(["hold", "shrink"]),
    ),
)
logged = st.lists(st.none() | st.floats(-3, 3) | st.sampled_from([1.0, 0.5, math.nan, math.inf]), max_size=25)


@given(schedule=listeners, values=logged)
def test_an_interrupted_run_decides_as_one_that_was_not(schedule, values):
    assert listen(schedule, values, interrupted=True) == listen(schedule, values)


@given(schedule=listeners, values=logged, own=st.floats(0.01, 10))
def test_only_with_what_it_is_given_does_it_decide(schedule, values, own):
    assert from_config(json.loads(json.dumps(to_config(schedule)))) == schedule
    factor, named = listen(schedule, values, own=1.0), listen(schedule, values, own=own)
    if schedule.initial_learning_rate is None and "min_learning_rate=0.01" not in repr(schedule):  # no absolute floor
        assert named.rates == pytest.approx([own * rate for rate in factor.rates])


def test_another_optimizer_is_changed_in_the_same_ratio():
    schedule = plateau()
    state = schedule.start()
    for _ in range(3):
        state = schedule.observe(state, Position(0, 0, base_learning_rate=0.5), Observation("epoch", {"val_loss": 1.0}))
    assert schedule(Position(0, base_learning_rate=0.5), state) == 0.25
    assert schedule(Position(0, base_learning_rate=3.0), state) == 1.5


def test_it_composes():
    run = RunLength.of(steps_per_epoch=10, epochs=10)
    shape = CosineDecay(0.1).with_warmup("5%")
    whole = shape * plateau()
    state = whole.start()
    for epoch in range(4):
        state = whole.observe(state, run.position(10 * epoch), Observation("epoch", {"val_loss": 1.0}))
    steps = run.position(np.arange(100))
    assert np.array_equal(whole(steps, state), 0.5 * shape(steps))
    assert np.array_equal(whole(steps), shape(steps))


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("factor", 1.0),
        ("factor", 0),
        ("patience", -1),
        ("patience", 1.5),
        ("patience", True),
        ("rule", "timm"),
        ("mode", "lowest"),
        ("min_delta", -1e-4),
        ("threshold_mode", "both"),
        ("cooldown", -1),
        ("min_learning_rate", -1),
        ("min_learning_rate", None),
        ("eps", -1),
        ("when", "10%"),
        ("on_nonfinite", "ignore"),
    ],
)
def test_what_is_no_setting_is_refused(argument, value):
    with pytest.raises(InvalidArgumentError, match=rf"ReduceLROnPlateau\.{argument} must be"):
        ReduceLROnPlateau(**{argument: value})


# --- as a factor --------------------------------------------------------------------------------------------


def test_the_plateau_of_keras_name_is_a_factor_like_the_other():
    with pytest.raises(InvalidArgumentError, match=r"ReduceLROnPlateau\.min_lr must be a multiple"):
        CosineDecay(0.1) * keras.ReduceLROnPlateau(min_lr=0.05)
    product = CosineDecay(0.1, decay_steps="100ep") * keras.ReduceLROnPlateau(factor=0.5, patience=1)
    (change,) = listen(product, [1.0, 1.0], own=0.1).said[1]
    assert (change.verb, change.value) == ("reducing", None)  # told with the learning rate of the whole


def test_min_lr_of_keras_can_be_set():
    schedule = keras.ReduceLROnPlateau(min_lr=0.05)
    schedule.min_lr = 0.01
    assert (schedule.min_lr, schedule.min_learning_rate) == (0.01, 0.01)
    with pytest.raises(InvalidArgumentError, match=r"^ReduceLROnPlateau\.min_lr must be a finite number >= 0"):
        schedule.min_lr = -1
