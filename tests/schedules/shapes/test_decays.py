"""The shapes that go from one value to another: their formulas, the laws that hold for all, and what they refuse."""

import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import schedules
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules import Schedule
from lr_plugins.schedules.metric_driven.base import MetricDriven
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.shapes.cosine import CosineDecay, CosineRestarts
from lr_plugins.schedules.shapes.inverse import InverseSquareRoot
from lr_plugins.schedules.shapes.polynomial import LinearDecay, PolynomialDecay
from lr_plugins.schedules.shapes.step import MultiStepDecay
from lr_plugins.schedules.shapes.tanh import TanhDecay

RUN = RunLength.of(steps_per_epoch=30, epochs=60)  # 1800 steps
# Of the public schedules, so that a new one is among them: those of time that need no argument, those of them with a
# length that is a share of the run by default, and those that fill the run.
WITH_DEFAULTS = [
    one
    for one in vars(schedules).values()
    if isinstance(one, type)
    and issubclass(one, Schedule)
    and not issubclass(one, MetricDriven)
    and "initial_learning_rate" in inspect.signature(one).parameters
    and all(argument.default is not argument.empty for argument in inspect.signature(one).parameters.values())
]
SHARES_OF_THE_RUN = [
    one for one in WITH_DEFAULTS if any("%" in str(argument) for argument in inspect.signature(one).parameters.values())
]
AS_LONG_AS_THE_RUN = [
    one for one in SHARES_OF_THE_RUN if "'100%'" in str(inspect.signature(one).parameters.get("decay_steps"))
]
ULP = 2.0**-52


def line(start, end, share):
    return start + (end - start) * share


def half_wave(share):
    return (1 + math.cos(math.pi * share)) / 2


def restarts(t, first, t_mul, m_mul=1.0, start=0.1, end=0.0, whole_peak=False):
    """The formula, period by period."""
    period, peak = first, start
    while t >= period:
        t, period = t - period, period * t_mul
        peak = peak * m_mul if whole_peak else end + (peak - end) * m_mul
    return line(end, peak, half_wave(t / period))


FORMULAS = [
    (MultiStepDecay(0.1), lambda t, e: 0.1 * 0.1 ** ((t >= 900) + (t >= 1350))),
    (MultiStepDecay(0.1, milestones=["30ep", "50ep"], gamma=0.5), lambda t, e: 0.1 * 0.5 ** ((e >= 30) + (e >= 50))),
    (MultiStepDecay(0.1, milestones=["700st", "10ep", "10ep"]), lambda t, e: 0.1 * 0.1 ** ((t >= 700) + 2 * (e >= 10))),
    (MultiStepDecay(0.1, milestones=[], gamma=0.5), lambda t, e: 0.1),
    (LinearDecay(0.1), lambda t, e: line(0.1, 0.0, t / 1800)),
    (LinearDecay(0.1, end_learning_rate=0.01, decay_steps=700), lambda t, e: line(0.1, 0.01, min(t / 700, 1))),
    (LinearDecay(0.0, end_learning_rate=0.1, decay_steps="20ep"), lambda t, e: line(0.0, 0.1, min(e / 20, 1))),
    (LinearDecay(0.0, end_learning_rate=0.1, decay_steps="7%"), lambda t, e: line(0.0, 0.1, min(t / 126, 1))),
    (PolynomialDecay(0.1), lambda t, e: 0.1 * (1 - t / 1800)),
    (
        PolynomialDecay(0.1, decay_steps=700, end_learning_rate=0.02, power=2.5),
        lambda t, e: line(0.02, 0.1, (1 - min(t / 700, 1)) ** 2.5),
    ),
    (
        PolynomialDecay(0.02, decay_steps="20ep", end_learning_rate=0.1, power=0.5),
        lambda t, e: line(0.1, 0.02, (1 - min(e / 20, 1)) ** 0.5),
    ),
    (
        PolynomialDecay(0.1, decay_steps=70, end_learning_rate=0.02, power=2, cycle=True),
        lambda t, e: line(0.02, 0.1, (1 - t / (70 * max(math.ceil(t / 70), 1))) ** 2),
    ),
    (CosineDecay(0.1), lambda t, e: 0.1 * half_wave(t / 1800)),
    (
        CosineDecay(0.1, decay_steps=700, end_learning_rate=0.02, power=1.5),
        lambda t, e: line(0.02, 0.1, half_wave(min(t / 700, 1)) ** 1.5),
    ),
    (
        CosineDecay(0.0, decay_steps="20ep", end_learning_rate=0.1),
        lambda t, e: line(0.1, 0.0, half_wave(min(e / 20, 1))),
    ),
    (
        PolynomialDecay(0.1, decay_steps=700, end_learning_rate=0.02, power=2.5, k_decay=2),
        lambda t, e: line(0.02, 0.1, (1 - min(t / 700, 1) ** 2) ** 2.5),
    ),
    (
        PolynomialDecay(0.1, decay_steps=70, cycle=True, k_decay=0.5),
        lambda t, e: 0.1 * (1 - (t / (70 * max(math.ceil(t / 70), 1))) ** 0.5),
    ),
    (
        CosineDecay(0.1, decay_steps=700, end_learning_rate=0.02, k_decay=1.5),
        lambda t, e: line(0.02, 0.1, half_wave(min(t / 700, 1) ** 1.5)),
    ),
    (
        CosineRestarts(0.1, first_decay_steps=7, t_mul=1.0, m_mul=0.9, k_decay=0.7),
        lambda t, e: 0.1 * 0.9 ** (t // 7) * half_wave((t % 7 / 7) ** 0.7),
    ),
    (CosineRestarts(0.1, first_decay_steps=10), lambda t, e: restarts(t, 10, 2)),
    (
        CosineRestarts(0.1, first_decay_steps=7, t_mul=1.0, m_mul=0.9, end_learning_rate=0.02),
        lambda t, e: restarts(t, 7, 1, 0.9, end=0.02),
    ),
    (
        CosineRestarts(0.1, first_decay_steps=20, t_mul=1.5, m_mul=0.9, end_learning_rate=0.02, whole_peak=True),
        lambda t, e: restarts(t, 20, 1.5, 0.9, 0.1, 0.02, True),
    ),
    (CosineRestarts(0.1, first_decay_steps="10%", t_mul=1, m_mul=1.5), lambda t, e: restarts(t, 180, 1, 1.5)),
    (CosineRestarts(0.1, t_mul=2, m_mul=0.5), lambda t, e: restarts(e, 10, 2, 0.5)),
    (InverseSquareRoot(0.1), lambda t, e: 0.1 / math.sqrt(1 + t / 10000)),
    (InverseSquareRoot(0.1, decay_steps="3ep", power=0.7), lambda t, e: 0.1 / (1 + e / 3) ** 0.7),
    (TanhDecay(0.1), lambda t, e: 0.05 * (1 - math.tanh(-7 + 10 * t / 1800)) if t < 1800 else 0),
    (
        TanhDecay(0.1, decay_steps=700, end_learning_rate=0.02, lower=-2, upper=1.5),
        lambda t, e: line(0.02, 0.1, (1 - math.tanh(-2 + 3.5 * t / 700)) / 2 if t < 700 else 0),
    ),
]
SCHEDULES = [schedule for schedule, _ in FORMULAS]
ALL = [*SCHEDULES, CosineRestarts(0.1, first_decay_steps=10, t_mul=1.1)]


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=map(repr, SCHEDULES))
def test_every_step_of_a_run_and_beyond_follows_the_formula(schedule, formula):
    for step in range(RUN.steps + 1):
        # Near 0 a difference of two rounded numbers is not exact relative to itself: hence `abs`, relative to 0.1.
        assert schedule(RUN.position(step)) == pytest.approx(formula(step, step // 30), rel=8 * ULP, abs=0.1 * 4 * ULP)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_nothing_is_computed_that_numpy_would_warn_of(schedule):
    with np.errstate(all="raise", under="ignore"):  # 0.9 ** 7142 is 0, as it should be
        curve = schedule(RUN.position(np.arange(-5000, 50000)))
    assert np.isfinite(curve).all()
    assert (curve >= 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_before_the_begin_it_is_as_at_the_begin(schedule):
    begin = schedule(RUN.position(0))
    assert {schedule(RUN.position(step)) for step in (-1, -30, -12345)} == {begin}
    if not isinstance(schedule, TanhDecay):
        assert begin == schedule.initial_learning_rate


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_past_its_end_it_stays_there(schedule):
    if isinstance(schedule, (CosineRestarts, InverseSquareRoot, MultiStepDecay)) or getattr(schedule, "cycle", False):
        return  # they do not end
    _, length = schedule.decay_steps.measure(RUN.position(0))
    in_steps = length * (30 if schedule.decay_steps.unit == "ep" else 1)
    for step in (in_steps, in_steps + 1, 10 * in_steps, 10**9):
        assert schedule(RUN.position(int(step))) == schedule.end_learning_rate
    assert schedule(RUN.position(int(in_steps) - 1)) != schedule.end_learning_rate


# --- laws ---------------------------------------------------------------------------------------------------

rates = st.floats(1e-6, 10)
lengths = st.integers(1, 10**6)
powers = st.floats(0.05, 8)


@st.composite
def falls_and_rises(draw):
    """Shapes that go from begin to end."""
    start, end, length = draw(rates), draw(st.just(0.0) | rates), draw(lengths)
    lower = draw(st.floats(-10, 9))
    return draw(
        st.sampled_from(
            [
                LinearDecay(start, end_learning_rate=end, decay_steps=length),
                PolynomialDecay(
                    start, decay_steps=length, end_learning_rate=end, power=draw(powers), cycle=draw(st.booleans())
                ),
                CosineDecay(start, decay_steps=length, end_learning_rate=end, power=draw(powers)),
                CosineRestarts(
                    start,
                    first_decay_steps=length,
                    t_mul=draw(st.floats(1, 4)),
                    m_mul=draw(st.floats(0.1, 1)),
                    end_learning_rate=end,
                ),
                TanhDecay(
                    start,
                    decay_steps=length,
                    end_learning_rate=end,
                    lower=lower,
                    upper=lower + draw(st.floats(0.01, 10)),
                ),
            ]
        )
    )


@given(schedule=falls_and_rises(), step=st.integers(-(10**3), 10**7))
def test_never_outside_begin_and_end_not_even_by_a_rounding(schedule, step):
    start, end = schedule.initial_learning_rate, schedule.end_learning_rate
    least, most = min(start, end), max(start, end)
    assert least <= schedule(step) <= most
    assert least <= schedule(np.array([step]))[0] <= most


@given(schedule=falls_and_rises(), step=st.integers(0, 10**6))
def test_it_goes_one_way(schedule, step):
    if isinstance(schedule, CosineRestarts) or getattr(schedule, "cycle", False):
        return
    now, next_ = schedule(step), schedule(step + 1)
    start, end = schedule.initial_learning_rate, schedule.end_learning_rate
    rounding = 8 * ULP * max(start, end)
    assert (next_ - now) * math.copysign(1, end - start) >= -rounding


@given(own=rates, step=st.integers(0, 2000))
def test_missing_initial_rate_is_that_of_the_optimizer(own, step):
    position = RUN.position(step, own)
    for shape in WITH_DEFAULTS:
        assert shape()(position) == shape(own)(position)


@given(step=st.integers(0, 10**6), length=lengths, start=rates, end=rates)
def test_power_one_is_a_line_and_a_fall_mirrors_a_rise(step, length, start, end):
    fall = LinearDecay(start, end_learning_rate=end, decay_steps=length)
    rounding = {"rel": 1e-14, "abs": 4 * ULP * max(start, end)}
    assert PolynomialDecay(start, decay_steps=length, end_learning_rate=end)(step) == pytest.approx(
        fall(step), **rounding
    )
    if step <= length:
        assert LinearDecay(end, end_learning_rate=start, decay_steps=length)(length - step) == pytest.approx(
            fall(step), **rounding
        )


@given(step=st.integers(0, 10**6), length=lengths, stretch=st.integers(1, 1000))
def test_shape_over_the_run_follows_the_length_of_the_run(step, length, stretch):
    for shape in AS_LONG_AS_THE_RUN:
        short = shape(0.1)(RunLength(steps=length).position(step))
        assert shape(0.1)(RunLength(steps=length * stretch).position(step * stretch)) == pytest.approx(
            short, rel=1e-12, abs=0.1 * 4 * ULP
        )


# --- restarts -----------------------------------------------------------------------------------------------

# t_mul as a fraction, so that the true begin of each period is known.
GROWTHS = [(1, 1), (11, 10), (12, 10), (13, 10), (3, 2), (17, 10), (2, 1), (3, 1), (10, 1), (10001, 10000)]


@pytest.mark.parametrize("growth", GROWTHS, ids=lambda growth: f"{growth[0]}/{growth[1]}")
def test_every_restart_that_falls_on_a_step_is_at_that_step(growth):
    seen = 0
    for first in (1, 2, 3, 7, 10, 50, 100, 1000):
        schedule = CosineRestarts(1.0, first_decay_steps=first, t_mul=growth[0] / growth[1])
        begin, period = Fraction(0), Fraction(first)
        for _ in range(60):
            begin, period = begin + period, period * Fraction(*growth)
            if begin > 10**9 or begin.denominator != 1:
                continue
            seen += 1
            at, before = int(begin), int(begin) - 1
            assert schedule(at) == schedule(np.array([at]))[0] == 1.0, (first, at)
            # One step earlier it is the last of the period before.
            last = 1 - 1 / (period / Fraction(*growth))
            if last > 0:
                assert schedule(before) == pytest.approx(half_wave(float(last)), abs=1e-15), (first, before)
    assert seen >= 8


@pytest.mark.parametrize("t_mul", [1.01, 1.1, 1.3, 2.5])
def test_periods_that_are_no_whole_numbers_keep_their_place(t_mul):
    schedule = CosineRestarts(0.1, first_decay_steps=10, t_mul=t_mul)
    begin, period = Fraction(0), Fraction(10)
    for step in range(10_000):
        if step >= begin + period - Fraction(1, 10**6):
            begin, period = begin + period, period * Fraction(t_mul)
        if step % 7 and min(step - begin, begin + period - step) > 2:
            continue  # all around a begin, and some between
        expected = 0.1 * half_wave(float(max(step - begin, 0) / period))
        # A period's begin is rounded, and many times as far from 0 as the period is long if t_mul is close to 1.
        assert schedule(step) == pytest.approx(expected, rel=0, abs=0.1 * 8 * ULP / (t_mul - 1))


def test_the_steps_at_which_keras_misses_the_restart():
    for first, t_mul, step in [(10, 1.1, 21), (10, 1.2, 22), (10, 1.3, 23), (100, 1.2, 220), (1, 2.0, 8191)]:
        assert CosineRestarts(0.1, first_decay_steps=first, t_mul=t_mul)(step) == 0.1
    assert CosineRestarts(0.1, first_decay_steps=10, t_mul=2.0)(81910) == 0.1


@given(first=lengths, t_mul=st.floats(1, 5), m_mul=st.floats(0.2, 1), step=st.integers(0, 10**9))
def test_peaks_lie_where_the_periods_begin(first, t_mul, m_mul, step):
    schedule = CosineRestarts(0.1, first_decay_steps=first, t_mul=t_mul, m_mul=m_mul)
    index, share = schedule._period(Position(step))
    assert 0 <= share < 1
    assert index == int(index) >= 0
    assert schedule(step) <= 0.1 * m_mul**index * (1 + 4 * ULP)


def test_a_restart_between_two_steps_shows_at_the_first_of_them():
    schedule = CosineRestarts(0.1, first_decay_steps=2.5, t_mul=1.0)
    assert schedule(0) == schedule(5) == 0.1
    assert schedule(2) < 0.02
    assert schedule(3) == pytest.approx(0.1 * half_wave(0.2))


def test_what_m_mul_multiplies():
    height, whole = (
        CosineRestarts(0.5, first_decay_steps=10, t_mul=1.0, m_mul=0.5, end_learning_rate=0.25, whole_peak=whole)
        for whole in (False, True)
    )
    assert [height(10), height(20)] == [0.375, 0.3125]
    assert [whole(10), whole(20)] == [0.25, 0.125]


def test_restarts_move_within_the_epoch_if_smooth():
    schedule = CosineRestarts(0.1, first_decay_steps="1ep", t_mul=1.0)
    assert {schedule(RUN.position(step)) for step in range(90)} == {0.1}
    smooth = schedule.smooth()
    assert [smooth(RUN.position(step)) for step in (0, 30, 60)] == [0.1, 0.1, 0.1]
    assert smooth(RUN.position(45)) == pytest.approx(0.05)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHARES_OF_THE_RUN)
def test_shape_over_an_unknown_length_names_max_steps(shape):
    with pytest.raises(TrainingError, match=r"% is relative to the length of the run.*set max_steps"):
        shape(0.1)(Position(3, 0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiStepDecay(-1), r"MultiStepDecay\.initial_learning_rate must be a finite number >= 0.*got -1"),
        (lambda: MultiStepDecay(0.1, milestones="30ep"), r"MultiStepDecay\.milestones must be a list; got '30ep'"),
        (lambda: MultiStepDecay(0.1, milestones=30), r"MultiStepDecay\.milestones must be a list; got 30"),
        (
            lambda: MultiStepDecay(0.1, milestones=["3ep", "x"]),
            r"MultiStepDecay\.milestones\[1\] must be a number > 0.*got 'x'",
        ),
        (
            lambda: MultiStepDecay(0.1, milestones=["3ep"], gamma=0),
            r"MultiStepDecay\.gamma must be a finite number > 0.*got 0",
        ),
        (lambda: LinearDecay(math.inf), r"LinearDecay\.initial_learning_rate must be .*got inf"),
        (
            lambda: LinearDecay(0.1, end_learning_rate=-0.1),
            r"LinearDecay\.end_learning_rate must be a finite number >= 0; got -0\.1",
        ),
        (lambda: LinearDecay(0.1, end_learning_rate=None), r"LinearDecay\.end_learning_rate must be .*got None"),
        (
            lambda: LinearDecay(0.1, end_learning_rate=0.0, decay_steps=0),
            r"LinearDecay\.decay_steps must be a number > 0.*got 0",
        ),
        (lambda: PolynomialDecay(True), r"PolynomialDecay\.initial_learning_rate must be .*got True"),
        (lambda: PolynomialDecay(0.1, decay_steps=-5), r"PolynomialDecay\.decay_steps must be a number > 0.*got -5"),
        (
            lambda: PolynomialDecay(0.1, decay_steps=5, end_learning_rate=math.nan),
            r"PolynomialDecay\.end_learning_rate must be .*got nan",
        ),
        (
            lambda: PolynomialDecay(0.1, decay_steps=5, power=0),
            r"PolynomialDecay\.power must be a finite number > 0.*got 0",
        ),
        (lambda: PolynomialDecay(0.1, decay_steps=5, cycle=1), r"PolynomialDecay\.cycle must be true or false; got 1"),
        (lambda: CosineDecay("0.1"), r"CosineDecay\.initial_learning_rate must be .*got '0\.1'"),
        (lambda: CosineDecay(0.1, decay_steps="ten"), r"CosineDecay\.decay_steps must be a number > 0.*got 'ten'"),
        (
            lambda: CosineDecay(0.1, decay_steps=5, end_learning_rate=-1),
            r"CosineDecay\.end_learning_rate must be .*got -1",
        ),
        (lambda: CosineDecay(0.1, decay_steps=5, power=-1), r"CosineDecay\.power must be a finite number > 0.*got -1"),
        (
            lambda: PolynomialDecay(0.1, decay_steps=5, k_decay=0),
            r"PolynomialDecay\.k_decay must be a finite number > 0.*got 0",
        ),
        (
            lambda: CosineDecay(0.1, decay_steps=5, k_decay=None),
            r"CosineDecay\.k_decay must be a finite number > 0.*got None",
        ),
        (
            lambda: CosineRestarts(0.1, first_decay_steps=5, k_decay=-1),
            r"CosineRestarts\.k_decay must be a finite number > 0.*got -1",
        ),
        (lambda: CosineRestarts(-0.1), r"CosineRestarts\.initial_learning_rate must be .*got -0\.1"),
        (
            lambda: CosineRestarts(0.1, first_decay_steps=0),
            r"CosineRestarts\.first_decay_steps must be a number > 0.*got 0",
        ),
        (
            lambda: CosineRestarts(0.1, first_decay_steps=5, t_mul=0.9),
            r"CosineRestarts\.t_mul must be a finite number >= 1.*got 0\.9",
        ),
        (
            lambda: CosineRestarts(0.1, first_decay_steps=5, m_mul=0),
            r"CosineRestarts\.m_mul must be a finite number > 0.*got 0",
        ),
        (
            lambda: CosineRestarts(0.1, first_decay_steps=5, end_learning_rate="0"),
            r"CosineRestarts\.end_learning_rate must be .*got '0'",
        ),
        (
            lambda: CosineRestarts(0.1, first_decay_steps=5, whole_peak=None),
            r"CosineRestarts\.whole_peak must be true or false; got None",
        ),
        (lambda: InverseSquareRoot(-1), r"InverseSquareRoot\.initial_learning_rate must be .*got -1"),
        (
            lambda: InverseSquareRoot(0.1, decay_steps=None),
            r"InverseSquareRoot\.decay_steps must be a number > 0.*got None",
        ),
        (
            lambda: InverseSquareRoot(0.1, decay_steps=5, power=0),
            r"InverseSquareRoot\.power must be a finite number > 0.*got 0",
        ),
        (lambda: TanhDecay(-1), r"TanhDecay\.initial_learning_rate must be .*got -1"),
        (lambda: TanhDecay(0.1, decay_steps=5, end_learning_rate=-1), r"TanhDecay\.end_learning_rate must be .*got -1"),
        (lambda: TanhDecay(0.1, decay_steps=5, lower=math.inf), r"TanhDecay\.lower must be a finite number; got inf"),
        (
            lambda: TanhDecay(0.1, decay_steps=5, upper=-7),
            r"TanhDecay\.upper must be a finite number greater than lower \(-7\)",
        ),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()
