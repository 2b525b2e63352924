"""Cycles, interpolation and functions against their formulas, and the laws they share."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_plugins import Constant, FunctionSchedule, Position, RunLength
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules.observation import Observation
from lr_plugins.schedules.shapes.cycle import CycleThrough, Cyclic, OneCycle
from lr_plugins.schedules.shapes.piecewise import PiecewiseInterpolation
from tests.schedules.formulas import RUN, N, assert_continues_after_the_end, assert_follows, each, line, through, wave


def triangle(t, up, down):
    within = t % (up + down)
    return within / up if within <= up else (up + down - within) / down


TORCH_LIKE = [(0, 0.04), (0.3 * N - 1, 1.0), (N - 1, 4e-6)]
FORMULAS = [
    (OneCycle(1.0), lambda t, e: through(t, TORCH_LIKE, wave)),
    (OneCycle(1.0, anneal="linear"), lambda t, e: through(t, TORCH_LIKE, line)),
    (
        OneCycle(1.0, total_steps="400st", pct_start=0.25, div_factor=10, final_div_factor=100, three_phase=True),
        lambda t, e: through(t, [(0, 0.1), (99, 1.0), (198, 0.1), (399, 0.001)], wave),
    ),
    (
        OneCycle(1.0, pct_start=0.25, final_div_factor=4000, reach_end=False),
        lambda t, e: through(t, [(0, 0.04), (0.25 * N, 1.0), (N, 1e-5)], wave),
    ),
    (OneCycle(1.0, total_steps="20ep"), lambda t, e: through(e, [(0, 0.04), (5, 1.0), (19, 4e-6)], wave)),
    (CycleThrough(0.95, 0.85, 0.9), lambda t, e: through(t, [(0, 0.95), (0.3 * N - 1, 0.85), (N - 1, 0.9)], wave)),
    (Cyclic(0.1, 0.5, up_steps=20), lambda t, e: 0.1 + 0.4 * triangle(t, 20, 20)),
    (Cyclic(0.1, 0.5, up_steps=20, down_steps="50st"), lambda t, e: 0.1 + 0.4 * triangle(t, 20, 50)),
    (Cyclic(0.1, 0.5, up_steps="1ep", down_steps="50st"), lambda t, e: 0.1 + 0.4 * triangle(t, 30, 50)),
    (Cyclic(0.9, 0.8, up_steps="2ep", down_steps="3ep"), lambda t, e: 0.9 - 0.1 * triangle(e, 2, 3)),
    (
        Cyclic(0.1, 0.5, up_steps="5%", mode="triangular2"),
        lambda t, e: 0.1 + 0.4 * triangle(t, 30, 30) / 2 ** (t // 60),
    ),
    (
        Cyclic(0.1, 0.5, up_steps=7, down_steps=11, mode="exp_range", gamma=0.99),
        lambda t, e: 0.1 + 0.4 * triangle(t, 7, 11) * 0.99**t,
    ),
    (
        PiecewiseInterpolation([[10, 0.1], ["200st", 0.5], [400, 0.2]]),
        lambda t, e: float(np.interp(t, [10, 200, 400], [0.1, 0.5, 0.2])),
    ),
    (
        PiecewiseInterpolation([[0, 0.1], ["3ep", 0.5], ["50%", 0.2]], interpolation="cosine"),
        lambda t, e: through(t, [(0, 0.1), (90, 0.5), (300, 0.2)], wave),
    ),
    (
        PiecewiseInterpolation([[0, 0.1], ["3ep", 0.5], ["10ep", 0.2]]),
        lambda t, e: float(np.interp(e, [0, 3, 10], [0.1, 0.5, 0.2])),
    ),
    (PiecewiseInterpolation([["3ep", 0.7]]), lambda t, e: 0.7),
    (FunctionSchedule(lambda step: 1 / (1 + step), of="step"), lambda t, e: 1 / (1 + t)),
    (FunctionSchedule(lambda part: 1 - part, of="fraction"), lambda t, e: 1 - t / N),
]
EACH = each(FORMULAS)


@EACH
def test_every_step_of_a_run_follows_the_formula(schedule, formula):
    assert_follows(schedule, formula)


@EACH
def test_after_the_end_it_continues_without_a_fault(schedule, formula):
    assert_continues_after_the_end(schedule)


rates = st.floats(0, 10)
shares = st.floats(0, 1)


@given(
    length=st.integers(1, 300),
    pct_start=shares,
    anneal=st.sampled_from(["linear", "cosine"]),
    three_phase=st.booleans(),
    reach_end=st.booleans(),
    values=st.tuples(rates, rates, rates),
)
@settings(max_examples=200)
def test_a_cycle_stays_between_its_values(length, pct_start, anneal, three_phase, reach_end, values):
    cycle = CycleThrough(
        *values,
        total_steps=length,
        pct_start=pct_start,
        anneal=anneal,
        three_phase=three_phase,
        reach_end=reach_end,
    )
    curve = cycle(np.arange(length + 5))
    assert np.isfinite(curve).all()
    assert min(values) <= curve.min() <= curve.max() <= max(values)
    assert curve == pytest.approx([cycle(step) for step in range(length + 5)], rel=1e-14, abs=1e-14)
    if reach_end and not (three_phase and pct_start > 0.5) and pct_start < 1:
        assert cycle(length - 1) == values[2]
    assert cycle(-3) == cycle(0)


@given(
    base=rates,
    top=rates,
    up=st.integers(1, 50),
    down=st.none() | st.integers(1, 50),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gamma=st.floats(1e-3, 1),
    step=st.integers(0, 10**7),
)
def test_a_triangle_stays_between_its_values_and_comes_back(base, top, up, down, mode, gamma, step):
    cyclic = Cyclic(base, top, up_steps=up, down_steps=down, mode=mode, gamma=gamma)
    assert min(base, top) <= cyclic(step) <= max(base, top)
    assert cyclic(0) == cyclic((up + (down or up)) * (step % 1000)) == base
    if mode == "triangular":
        assert cyclic(up) == pytest.approx(top)
        assert cyclic(step) == cyclic(step + up + (down or up))


@given(
    points=st.lists(st.tuples(st.integers(0, 10**6), rates), min_size=1, max_size=8, unique_by=lambda point: point[0]),
    step=st.integers(-10, 10**6 + 10),
    interpolation=st.sampled_from(["linear", "cosine"]),
)
def test_interpolation_meets_its_points_and_keeps_between_them(points, step, interpolation):
    points.sort()
    schedule = PiecewiseInterpolation(points, interpolation=interpolation)
    whens, values = zip(*points, strict=True)
    assert [schedule(when) for when in whens] == list(values)
    assert schedule(np.array(whens)).tolist() == list(values)
    assert min(values) <= schedule(step) <= max(values)
    if interpolation == "linear":
        assert schedule(step) == pytest.approx(np.interp(step, whens, values), rel=1e-9, abs=1e-14)


def test_one_cycle_and_its_momentum_turn_at_the_same_steps():
    rate, momentum = OneCycle(1.0, total_steps=100), CycleThrough(0.95, 0.85, 0.95, total_steps=100)
    steps = np.arange(100)
    assert rate(steps).argmax() == momentum(steps).argmin() == 29
    assert momentum(0) == momentum(99) == 0.95


def test_fastais_one_cycle_is_an_instance():
    """Its definition: the position is the share of the run, two half waves of the cosine meet at pct_start."""

    def fit_one_cycle(position, lr_max, div=25.0, div_final=1e5, pct_start=0.25):
        ends = (lr_max / div, lr_max) if position < pct_start else (lr_max, lr_max / div_final)
        share = position / pct_start if position < pct_start else (position - pct_start) / (1 - pct_start)
        return ends[0] + (1 + math.cos(math.pi * (1 - share))) * (ends[1] - ends[0]) / 2

    for batches in (8, 10, 97):
        ours = OneCycle(3e-3, pct_start=0.25, div_factor=25.0, final_div_factor=1e5 / 25.0, reach_end=False)
        run = RunLength.of(steps=batches)
        theirs = [fit_one_cycle(step / batches, 3e-3) for step in range(batches)]
        assert [ours(run.position(step)) for step in range(batches)] == pytest.approx(theirs, rel=1e-12, abs=0)
        momentum = CycleThrough(0.95, 0.85, 0.95, pct_start=0.25, reach_end=False)
        assert momentum(run.position(batches)) == 0.95


def test_optax_piecewise_interpolation_multiplies_its_values():
    """Its values: the initial one, and at each boundary the one before times a scale."""
    boundaries, scales = [100, 300], [0.5, 0.1]
    values = np.cumprod([0.8, *scales])
    schedule = PiecewiseInterpolation(list(zip([0, *boundaries], values.tolist(), strict=True)), interpolation="cosine")
    for step in range(400):
        begin, end, start, stop = (0, 100, *values[:2]) if step < 100 else (100, 300, *values[1:])
        share = min((step - begin) / (end - begin), 1)
        assert schedule(step) == pytest.approx(stop + (start - stop) / 2 * (math.cos(math.pi * share) + 1), rel=1e-12)


def test_as_factors_the_points_multiply():
    product = Constant(0.5) * PiecewiseInterpolation([[0, 0.0], [10, 1.0]])
    assert [product(step) for step in (0, 5, 10, 20)] == [0.0, 0.25, 0.5, 0.5]


def test_points_in_mixed_units_must_increase_in_the_run():
    schedule = PiecewiseInterpolation([[0, 0.0], ["100st", 0.1], ["50%", 0.0]])
    assert schedule(RunLength.of(steps=1000).position(100)) == 0.1
    with pytest.raises(TrainingError, match="must increase, and in this run 50% is not after 100st"):
        schedule(RunLength.of(steps=200).position(0))
    with pytest.raises(TrainingError, match="cannot be compared, because the steps per epoch are unknown"):
        PiecewiseInterpolation([["1ep", 0.1], ["100st", 0.2]])(Position(3, 0))


def test_functions_of_the_step_get_an_int_others_a_float():
    asked = []
    FunctionSchedule(lambda step: asked.append(step) or 0.1, of="step")(np.arange(3))
    FunctionSchedule(lambda part: asked.append(part) or 0.1, of="fraction")(RUN.position(2 * N))
    FunctionSchedule(lambda part: asked.append(part) or 0.1, of="fraction")(RUN.position(np.array([[0], [N // 2]])))
    assert asked == [0, 1, 2, 1.0, 0.0, 0.5]
    assert [type(one) for one in asked] == [int, int, int, float, float, float]


@pytest.mark.parametrize("of", ["step", "fraction"])
def test_functions_of_the_step_remember_nothing(of):
    schedule = FunctionSchedule(lambda x, scale=1: 0.1, of=of)
    assert schedule.start() is None
    assert schedule.observe(None, RUN.position(0), Observation("begin")) is None
    with pytest.raises(TrainingError, match=r"<lambda>\(0(\.0)?\) returned -1"):
        FunctionSchedule(lambda x: -1, of=of)(RUN.position(0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OneCycle(-1), r"OneCycle\.max_learning_rate must be a finite number >= 0, or null"),
        (lambda: OneCycle(1, total_steps=0), r"OneCycle\.total_steps must be a number > 0"),
        (lambda: OneCycle(1, pct_start=1.1), r"OneCycle\.pct_start must be a number from 0 to 1; got 1\.1"),
        (lambda: OneCycle(1, anneal="cos"), r"OneCycle\.anneal must be one of linear, cosine; got 'cos'"),
        (lambda: OneCycle(1, div_factor=0), r"OneCycle\.div_factor must be a finite number > 0"),
        (lambda: OneCycle(1, final_div_factor=math.inf), r"OneCycle\.final_div_factor must be a finite number > 0"),
        (lambda: OneCycle(1, three_phase=1), r"OneCycle\.three_phase must be true or false"),
        (lambda: OneCycle(1, reach_end=None), r"OneCycle\.reach_end must be true or false"),
        (lambda: CycleThrough(-1, 0, 0), r"CycleThrough\.first must be"),
        (lambda: CycleThrough(0, "1", 0), r"CycleThrough\.peak must be"),
        (lambda: CycleThrough(0, 0, math.nan), r"CycleThrough\.last must be"),
        (lambda: CycleThrough(0, 0, 0, pct_start=-1), r"CycleThrough\.pct_start must be a number from 0 to 1"),
        (lambda: Cyclic(-1, 0), r"Cyclic\.min_learning_rate must be"),
        (lambda: Cyclic(0, None), r"Cyclic\.max_learning_rate must be"),
        (lambda: Cyclic(0, 1, up_steps=0), r"Cyclic\.up_steps must be a number > 0"),
        (lambda: Cyclic(0, 1, up_steps=1, down_steps="0ep"), r"Cyclic\.down_steps must be a number > 0"),
        (lambda: Cyclic(0, 1, mode="exp"), r"Cyclic\.mode must be one of triangular, triangular2, exp_range"),
        (lambda: Cyclic(0, 1, gamma=1.5), r"Cyclic\.gamma must be a number > 0 and <= 1; got 1\.5"),
        (lambda: PiecewiseInterpolation([]), r"PiecewiseInterpolation\.points must be a list of \[when"),
        (lambda: PiecewiseInterpolation("ab"), r"PiecewiseInterpolation\.points must be a list of"),
        (lambda: PiecewiseInterpolation([[1]]), r"points\[0\] must be a pair \[when, learning rate\]"),
        (lambda: PiecewiseInterpolation([[-1, 0]]), r"points\[0\]\[0\] must be a number >= 0"),
        (lambda: PiecewiseInterpolation([[0, -1]]), r"points\[0\]\[1\] must be a finite number >= 0"),
        (lambda: PiecewiseInterpolation([[5, 1], [5, 2]]), r"points\[1\] must be after the one before it, 5st"),
        (lambda: PiecewiseInterpolation([["5%", 1], [0, 2]]), r"points\[1\] must be after the one before it, 5%"),
        (
            lambda: PiecewiseInterpolation([[0, 1]], interpolation="cubic"),
            r"interpolation must be one of linear, cosine",
        ),
        (lambda: FunctionSchedule(abs, of="batch"), r"FunctionSchedule\.of must be one of epoch, step, fraction"),
        (lambda: FunctionSchedule(lambda a, b: 1, of="step"), r"callable as schedule\(step\)"),
        (
            lambda: FunctionSchedule(abs, initial_learning_rate=0.1, of="step"),
            r"initial_learning_rate must be null \(None\) with of='step'",
        ),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()
