"""Each shape against its formula, the laws that hold for all of them, and what they refuse."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import (
    Constant,
    Duration,
    ExponentialDecay,
    InverseTimeDecay,
    LossDriven,
    PiecewiseConstant,
    Position,
    RunLength,
    StepDecay,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError

RUN = RunLength.of(steps_per_epoch=30, epochs=200)
EXACT = {"rel": 1e-15, "abs": 0}

FORMULAS = [
    (Constant(0.3), lambda t, e: 0.3),
    (StepDecay(0.1, drop=0.5, every="10ep"), lambda t, e: 0.1 * 0.5 ** (e // 10)),
    (StepDecay(0.1, drop=0.5, every="10ep"), lambda t, e: 0.1 * 0.5 ** (e // 10)),
    (StepDecay(0.1, drop=0.3, every="7st"), lambda t, e: 0.1 * 0.3 ** (t // 7)),
    (StepDecay(0.1, drop=0.5, every="5%"), lambda t, e: 0.1 * 0.5 ** (t // 300)),
    (
        PiecewiseConstant(["3ep", "5ep"], [0.002, 0.001, 0.0005]),
        lambda t, e: 0.002 if e < 3 else 0.001 if e < 5 else 0.0005,
    ),
    (PiecewiseConstant(["100st", "20ep"], [3, 2, 1]), lambda t, e: 3 if t < 100 else 2 if e < 20 else 1),
    (InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005), lambda t, e: 0.1 / (1 + 0.005 * t)),
    (InverseTimeDecay(0.1, decay_steps="1ep", decay_rate=0.5), lambda t, e: 0.1 / (1 + 0.5 * e)),
    (
        InverseTimeDecay(0.1, decay_steps=9, decay_rate=0.5, staircase=True),
        lambda t, e: 0.1 / (1 + 0.5 * (t // 9)),
    ),
    (ExponentialDecay(0.1, decay_steps=100, decay_rate=0.9), lambda t, e: 0.1 * 0.9 ** (t / 100)),
    (ExponentialDecay(0.1, decay_steps="10ep", decay_rate=0.05), lambda t, e: 0.1 * 0.05 ** (e / 10)),
    (
        ExponentialDecay(0.1, decay_steps="10ep", decay_rate=0.05, staircase=True),
        lambda t, e: 0.1 * 0.05 ** (e // 10),
    ),
]
IDS = [repr(schedule) for schedule, _ in FORMULAS]


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=IDS)
def test_every_step_of_a_run_follows_the_formula(schedule, formula):
    for step in range(RUN.steps):
        assert schedule(RUN.position(step)) == pytest.approx(formula(step, step // 30), **EXACT)


@given(
    step=st.integers(0, 10**9),
    rate=st.floats(0, 10),
    drop=st.floats(1e-3, 1),
    length=st.integers(1, 10**6),
    initial=st.floats(0, 100),
)
def test_decays_never_rise_above_their_begin_nor_fall_below_zero(step, rate, drop, length, initial):
    position = RunLength.of(steps_per_epoch=7).position(step)
    for schedule in (
        StepDecay(initial, drop=drop, every=length),
        InverseTimeDecay(initial, decay_steps=length, decay_rate=rate),
        ExponentialDecay(initial, decay_steps=length, decay_rate=drop),
    ):
        assert 0 <= schedule(position) <= initial


@given(step=st.integers(0, 10**6), own=st.floats(1e-6, 10))
def test_missing_initial_rate_is_that_of_the_optimizer(step, own):
    position = RUN.position(step, own)
    assert StepDecay(drop=0.5)(position) == StepDecay(own, drop=0.5)(position)
    assert InverseTimeDecay()(position) == InverseTimeDecay(own)(position)
    assert ExponentialDecay()(position) == ExponentialDecay(own)(position)
    assert Constant()(position) == own


def test_without_either_the_error_says_so():
    with pytest.raises(
        InvalidArgumentError, match=r"StepDecay\.initial_learning_rate must be given where no optimizer"
    ):
        StepDecay()(RUN.position(0))


def test_a_number_is_a_step_for_schedules_that_count_steps_only():
    assert InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)(200) == 0.05
    with pytest.raises(TrainingError, match="counts epochs"):
        StepDecay(0.1)(200)


@pytest.mark.parametrize("position", [1.5, "3", None, True])
def test_a_position_is_a_whole_number_or_a_position(position):
    with pytest.raises(InvalidArgumentError, match="position must be a Position, a whole number of steps"):
        Constant(0.1)(position)


def test_percent_of_an_unknown_length_names_max_steps():
    with pytest.raises(TrainingError, match=r"5% is relative to the length of the run.*set max_steps"):
        StepDecay(0.1, every="5%")(Position(3, 0))


def test_boundaries_in_mixed_units_must_increase_in_the_run():
    schedule = PiecewiseConstant(["10ep", "500st"], [3, 2, 1])
    assert schedule(RunLength.of(steps_per_epoch=49).position(490)) == 2
    for per_epoch in (50, 100):
        with pytest.raises(TrainingError, match="must increase, and in this run 500st is not after 10ep"):
            schedule(RunLength.of(steps_per_epoch=per_epoch).position(0))
    assert schedule(RunLength.of(steps_per_epoch=49).position(500)) == 1  # each run for itself
    assert schedule(Position(600, 3)) == 1  # where nothing is known of the run, nothing can be said
    with pytest.raises(
        InvalidArgumentError, match=r"boundaries\[2\] must be greater than the one before it, 10ep; got 5ep"
    ):
        PiecewiseConstant(["10ep", "500st", "5ep"], [4, 3, 2, 1])


def test_run_length_takes_the_shorter_of_epochs_and_steps():
    assert RunLength.of(steps_per_epoch=10, epochs=5, steps=30).steps == 30
    assert RunLength.of(steps_per_epoch=10, epochs=2, steps=30).steps == 20
    assert RunLength.of(epochs=2).steps is None


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (10, 10, "st"),
        ("10ep", 10, "ep"),
        (" 500 st ", 500, "st"),
        ("5%", 5, "%"),
        ("0.5%", 0.5, "%"),
        ("1e3st", 1000, "st"),
        (2.5, 2.5, "st"),
        ("7", 7, "st"),
        (np.int64(3), 3, "st"),
    ],
)
def test_durations_read_numbers_and_texts(text, value, unit):
    duration = Duration.of(text)
    assert (duration.value, duration.unit) == (value, unit)
    assert Duration.of(str(duration)) == duration


@pytest.mark.parametrize("text", [0, -1, "0ep", "ep", "10parsecs", "", None, True, math.nan, math.inf, [1], "-3st"])
def test_durations_refuse_the_rest(text):
    with pytest.raises(InvalidArgumentError, match=r"StepDecay\.every must be a number > 0, or a text like"):
        StepDecay(0.1, every=text)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StepDecay(-0.1), r"StepDecay\.initial_learning_rate must be a finite number >= 0.*got -0\.1"),
        (lambda: StepDecay("0.1"), r"StepDecay\.initial_learning_rate must be .*got '0\.1'"),
        (lambda: StepDecay(math.nan), r"StepDecay\.initial_learning_rate .*got nan"),
        (lambda: StepDecay(True), r"StepDecay\.initial_learning_rate .*got True"),
        (lambda: StepDecay(0.1, drop=0), r"StepDecay\.drop must be a finite number > 0.*got 0"),
        (lambda: InverseTimeDecay(0.1, decay_rate=-1), r"InverseTimeDecay\.decay_rate must be a finite number >= 0"),
        (lambda: InverseTimeDecay(0.1, staircase=1), r"InverseTimeDecay\.staircase must be true or false; got 1"),
        (lambda: ExponentialDecay(0.1, decay_rate=0), r"ExponentialDecay\.decay_rate must be a finite number > 0"),
        (lambda: PiecewiseConstant(["3ep"], [1]), r"values must be one longer than boundaries \(2 values for 1 bound"),
        (lambda: PiecewiseConstant("3ep", [1]), r"PiecewiseConstant\.boundaries must be a list; got '3ep'"),
        (lambda: PiecewiseConstant(["3ep"], "ab"), r"PiecewiseConstant\.values must be a list; got 'ab'"),
        (
            lambda: PiecewiseConstant(["5ep", "3ep"], [1, 2, 3]),
            r"boundaries\[1\] must be greater than the one before it, 5ep",
        ),
        (lambda: PiecewiseConstant(["3ep"], [1, -2]), r"PiecewiseConstant\.values\[1\] must be .*got -2"),
        (lambda: LossDriven(0.1, monitor=""), r"LossDriven\.monitor must be the name of a logged metric"),
        (lambda: LossDriven(0.1, max_learning_rate=0), r"LossDriven\.max_learning_rate must be a finite number > 0"),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()


def test_schedules_need_neither_torch_nor_lightning():
    code = (
        "import sys, lr_plugins; lr_plugins.StepDecay(0.1, every='10st')(3);"
        "print([m for m in ('torch', 'pytorch_lightning', 'lightning') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@given(permille=st.integers(1, 1000), steps=st.integers(1, 5).map(lambda thousands: 1000 * thousands))
def test_percent_of_a_run_are_exact(permille, steps):
    run, every = RunLength.of(steps=steps), f"{permille / 10}%"
    boundary = permille * steps // 1000
    schedule = PiecewiseConstant([every], [2.0, 1.0])
    assert schedule(run.position(boundary - 1)) == 2.0
    assert schedule(run.position(boundary)) == 1.0
    assert StepDecay(2.0, drop=0.5, every=every)(run.position(boundary)) == 1.0
