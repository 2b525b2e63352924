"""What holds for every schedule, alone and combined: random instances of each kind, in random runs."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lr_plugins import keras, schedules
from lr_plugins.errors import ImpossibleValueError
from lr_plugins.schedules import Observation, Position, RunLength, Schedule
from lr_plugins.schedules import numerics as ops
from lr_plugins.schedules.keras.base import DTYPES
from lr_plugins.schedules.numerics import EXACT_BLOCK
from lr_plugins.schedules.serialization import from_config, to_config

from .instances import CONTINUOUS, INSTANCES, LEAVES, continuous, runs, trees, without_functions

OWN = 0.1  # the optimizer's own learning rate
KINDS = {
    one for name in schedules.__all__ if isinstance(one := getattr(schedules, name), type) and issubclass(one, Schedule)
} - {Schedule}
EACH_KIND = pytest.mark.parametrize("kind", INSTANCES, ids=lambda kind: kind.__name__)
ULP = 2.0**-52


def quick(examples):
    return settings(max_examples=examples, suppress_health_check=list(HealthCheck))


@st.composite
def asked(draw, of=trees, size=6):
    """(a schedule, a run, steps in it and beyond)."""
    schedule, run = draw(of), draw(runs)
    steps = draw(st.lists(st.integers(0, run.steps + 50), min_size=size, max_size=size))
    return schedule, run, steps


def bits(values):
    return np.asarray(values, dtype=np.float64).tobytes()


def one_by_one(schedule, run, steps):
    return [schedule(run.position(step, OWN)) for step in steps]


def test_every_kind_has_its_place_in_both_tables():
    assert set(INSTANCES) == set(CONTINUOUS) == KINDS


# --- what it gives ------------------------------------------------------------------------------------------


@EACH_KIND
@given(data=st.data())
@quick(25)
def test_single_steps_equal_a_block_bit_for_bit(kind, data):
    check_block(*data.draw(asked(INSTANCES[kind])))


@given(asked())
@quick(120)
def test_so_do_combinations_of_combinations(case):
    check_block(*case)


def check_block(schedule, run, steps):
    values = one_by_one(schedule, run, steps)
    assert {type(value) for value in values} <= {float, np.float64}
    assert all(math.isfinite(value) and value >= 0 for value in values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block = schedule(run.position(np.array(steps), OWN))
        square = schedule(run.position(np.array(steps).reshape(2, -1), OWN))
        none = schedule(run.position(np.array(steps[:0]), OWN))
        # Longer arrays go through other functions of the last bit; where they are subtracted it may count more.
        long = schedule(run.position(np.resize(steps, EXACT_BLOCK + 1), OWN))
    assert bits(block) == bits(values)
    assert (square.shape, none.shape, long.dtype) == ((2, len(steps) // 2), (0,), np.float64)
    assert bits(square) == bits(values)
    np.testing.assert_allclose(long, np.resize(values, EXACT_BLOCK + 1), rtol=1e-14, atol=8 * ULP)


@given(asked(), st.integers(0, 40))
@quick(120)
def test_block_of_one_epoch_or_step_is_an_array(case, epoch):
    schedule, run, offsets = case
    first = epoch * run.steps_per_epoch
    steps = [first + offset for offset in offsets]
    in_one_epoch = schedule(Position(np.array(steps), epoch, run, OWN))
    assert bits(in_one_epoch) == bits([schedule(Position(step, epoch, run, OWN)) for step in steps])
    assert in_one_epoch.shape == (len(steps),)
    epochs = [offset % (epoch + 1) for offset in offsets]
    of_one_step = schedule(Position(first, np.array(epochs), run, OWN))
    assert bits(of_one_step) == bits([schedule(Position(first, one, run, OWN)) for one in epochs])
    assert of_one_step.shape == (len(steps),)


@pytest.mark.parametrize("dtype", DTYPES)
@given(step=st.integers(0, 5000), epoch=st.integers(0, 9))
@quick(15)
def test_the_schedules_of_keras_keep_these_laws(dtype, step, epoch):
    for schedule in (
        keras.ExponentialDecay(0.1, 30, 0.9, dtype=dtype),
        keras.InverseTimeDecay(0.1, 7, 0.3, dtype=dtype),
        keras.PiecewiseConstantDecay([5, 700], [0.3, 0.2, 0.1], dtype=dtype),
        keras.PolynomialDecay(0.1, 1000, power=2.5, dtype=dtype),
        keras.PolynomialDecay(0.1, 100, power=0.5, cycle=True, dtype=dtype),
        keras.CosineDecay(0.01, 1000, 0.1, warmup_target=0.1, warmup_steps=100, dtype=dtype),
        keras.CosineDecayRestarts(0.1, 16, 1.3, 0.9, 0.1, dtype=dtype),
    ):
        steps = np.arange(step, step + 20)
        assert bits(schedule(Position(steps, epoch))) == bits([schedule(Position(int(one), epoch)) for one in steps])
        assert schedule(Position(step, np.arange(3))).tolist() == [schedule(step)] * 3
        assert from_config(json.loads(json.dumps(to_config(schedule)))) == schedule


@given(asked(), runs)
@quick(100)
def test_order_of_evaluation_makes_no_difference(case, other):
    schedule, run, steps = case
    values = one_by_one(schedule, run, steps)
    for step in reversed(steps):
        schedule(other.position(step, 2 * OWN))
        assert schedule(run.position(step, OWN)) == values[steps.index(step)]


@given(asked())
@quick(200)
def test_fixed_initial_rate_ignores_the_optimizer_rate(case):
    schedule, run, steps = case
    if not schedule.uses_optimizer_lr:
        others = [schedule(run.position(step, 3 * OWN)) for step in steps]
        assert others == one_by_one(schedule, run, steps)


@given(st.one_of(*LEAVES.values()), runs)
@quick(200)
def test_what_starts_from_it_depends_on_it(schedule, run):
    if schedule.uses_optimizer_lr:
        one, other = ([schedule(run.position(step, own)) for step in range(int(run.steps))] for own in (OWN, 3 * OWN))
        assert one != other or not any(one)  # a warm-up that is longer than the run stays at 0


@given(trees)
@quick(100)
def test_it_may_be_computed_ahead_unless_it_asks_a_function(schedule):
    assert schedule.is_pure == without_functions(schedule)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=20))
@quick(100)
def test_the_mathematics_of_numbers_and_of_arrays_is_the_same(numbers):
    start, end, share = np.array(numbers).T
    for function in (ops.cos, ops.tanh, ops.log1p, ops.sqrt, ops.floor, ops.ceil):
        assert bits(function(start)) == bits([function(one) for one in start.tolist()])
    for function in (ops.between, ops.clip):
        assert bits(function(start, end, share)) == bits([function(*one) for one in numbers])
    for base, exponent, _ in numbers:
        assert bits(ops.power(base, end)) == bits([ops.power(base, one) for one in end.tolist()])
        assert bits(ops.power(start, exponent)) == bits([ops.power(one, exponent) for one in start.tolist()])


def test_growth_without_end_is_refused_in_every_form():
    growth, steps = schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=2.0), [1000, 1050, 10**6]
    assert growth(1000) == growth(np.array([1000]))[0] == growth(np.resize([1000], 6000))[0] == 0.1 * 2.0**1000
    for asked in (1050, 10**6, np.array(steps), np.resize(steps, 6000)):
        with pytest.raises(ImpossibleValueError, match=r"the schedule gives inf at step (1050|1000000): Exp"):
            growth(asked)
    assert growth.at_most(1.0)(10**6) == 1.0  # within a schedule, infinity is a number like others
    # And of decay, down to numbers that have lost digits, and to none.
    decay, steps = schedules.ExponentialDecay(1.0, decay_steps=1, decay_rate=0.5), [1000, 1030, 1073, 1075, 10**6]
    assert decay(np.resize(steps, 6000))[:5].tolist() == [decay(step) for step in steps] == [0.5**one for one in steps]


# --- no jumps -----------------------------------------------------------------------------------------------


def largest_jump(schedule, run):
    """Where it moves most, looked at closer and closer."""
    begins, length = np.array([0.0]), run.steps * 1.2
    for pieces in (10_000, 20, 20, 20, 20, 20, 20):
        at = begins[:, None] + np.linspace(0.0, length, pieces + 1)
        moves = np.abs(np.diff(schedule(run.position(at, OWN)), axis=1)).ravel()
        begins, length = at[:, :-1].ravel()[np.argsort(moves)[-20:]], length / pieces
    return moves.max()


@EACH_KIND
@given(data=st.data())
@quick(25)
def test_no_jumps_where_none_are_promised(kind, data):
    schedule, run = data.draw(INSTANCES[kind]), data.draw(runs)
    if continuous(schedule):
        assert largest_jump(schedule.smooth(), run) < 1e-3


@given(trees, runs)
@quick(120)
def test_nor_in_combinations(schedule, run):
    assume(continuous(schedule))
    assert largest_jump(schedule.smooth(), run) < 1e-3


def test_a_jump_is_found():
    run = RunLength.of(steps_per_epoch=10, epochs=10)
    for schedule in (
        schedules.StepDecay(0.1, drop=0.9, every="3ep"),
        schedules.CosineRestarts(0.1, first_decay_steps="5ep"),
        schedules.TanhDecay(1),
    ):
        assert largest_jump(schedule.smooth(), run) > 1e-3


# --- combination --------------------------------------------------------------------------------------------


@given(trees, trees, runs, st.data())
@quick(100)
def test_parts_of_a_chain_count_in_a_run_of_their_own(first, second, run, data):
    assume(run.epochs > 1)
    split, step = data.draw(st.integers(1, run.epochs - 1)), data.draw(st.integers(0, run.steps - 1))
    begin = split * run.steps_per_epoch
    before = RunLength.of(run.steps_per_epoch, split, batch_size=64)
    after = RunLength.of(run.steps_per_epoch, run.epochs - split, batch_size=64)
    expected = first(before.position(step, OWN)) if step < begin else second(after.position(step - begin, OWN))
    for length in (f"{split}ep", begin):
        assert first.then(second, after=length)(run.position(step, OWN)) == expected


@given(asked(), trees)
@quick(100)
def test_a_product_multiplies_and_its_factors_begin_at_one(case, factor):
    schedule, run, steps = case
    for step in steps:
        expected = schedule(run.position(step, OWN)) * factor(run.position(step, 1.0))
        assert (schedule * factor)(run.position(step, OWN)) == expected


@given(asked(), st.integers(1, 300))
@quick(100)
def test_stretched_schedule_keeps_its_values_by_share_of_the_run(case, ratio):
    schedule, run, steps = case
    long = RunLength(run.steps_per_epoch, run.epochs * ratio, run.steps * ratio, run.batch_size)
    for step in steps:
        epoch = step // run.steps_per_epoch
        longer = Position(step * ratio, epoch * ratio, long, OWN)
        assert schedule.stretched(ratio)(longer) == schedule(Position(step, epoch, run, OWN))


@given(asked(), st.integers(1, 20))
@quick(100)
def test_repeated_it_begins_anew_in_a_run_of_one_repetition(case, epochs):
    schedule, run, steps = case
    every = epochs * run.steps_per_epoch
    once = RunLength.of(run.steps_per_epoch, epochs, batch_size=64)
    for step, length in itertools.product(steps, (f"{epochs}ep", every)):
        assert schedule.repeated(length)(run.position(step, OWN)) == schedule(once.position(step % every, OWN))


@given(asked(), st.floats(0, 0.5), st.floats(0, 0.5))
@quick(100)
def test_bounds_hold_and_change_nothing_within(case, floor, above):
    schedule, run, steps = case
    bounded = schedule.at_least(floor).at_most(floor + above)
    for step in steps:
        value = schedule(run.position(step, OWN))
        assert bounded(run.position(step, OWN)) == min(max(value, floor), floor + above)


@given(asked(), st.integers(1, 200), st.floats(1e-3, 1), st.sampled_from(["linear", "cosine", "exponential"]))
@quick(100)
def test_a_warm_up_rises_to_the_first_value_and_then_makes_way(case, length, factor, shape):
    schedule, run, steps = case
    assume(length < run.steps)
    warm, rest = schedule.with_warmup(length, start_factor=factor, shape=shape), run.steps - length
    inner = RunLength(run.steps_per_epoch, rest / run.steps_per_epoch, rest, run.batch_size)
    peak = schedule(inner.position(0, OWN))
    assert warm(run.position(0, OWN)) == pytest.approx(factor * peak)
    for step in steps:
        value = warm(run.position(step, OWN))
        if step < length:
            assert factor * peak * (1 - 1e-12) <= value <= peak * (1 + 1e-12)
        else:
            assert value == schedule(inner.position(step - length, OWN))


# --- what it is ---------------------------------------------------------------------------------------------


@given(asked())
@quick(100)
def test_written_as_plain_values_and_read_back_it_is_the_same(case):
    schedule, run, steps = case
    again = type(schedule)(**schedule.config())
    assert again == schedule
    assert hash(again) == hash(schedule)
    if without_functions(schedule):
        read = from_config(json.loads(json.dumps(to_config(schedule))))
        assert read == schedule
        assert one_by_one(read, run, steps) == one_by_one(schedule, run, steps)


@given(trees, runs)
@quick(100)
def test_it_remembers_plain_data_and_goes_on_from_it(schedule, run):
    state, restored = schedule.start(), schedule.start()
    for epoch in range(6):
        first = run.steps_per_epoch * epoch
        for when in ("epoch", "begin"):
            position, seen = run.position(first, OWN), Observation(when, {"loss": 2.0 - epoch % 3})
            state = schedule.observe(state, position, seen)
            restored = schedule.observe(json.loads(json.dumps(restored, allow_nan=False)), position, seen)
        assert restored == state
        block = np.arange(first, first + run.steps_per_epoch)
        values = [schedule(Position(int(step), epoch, run, OWN), state) for step in block]
        assert bits(schedule(Position(block, epoch, run, OWN), restored)) == bits(values)
