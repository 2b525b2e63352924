"""Loops that call a schedule at one step after the other get values computed ahead: the same, to the last bit."""

import copy
import math
import pickle
import random
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_plugins import schedules as s
from lr_plugins.errors import ImpossibleValueError
from lr_plugins.schedules import Position, RunLength, Schedule, ahead
from lr_plugins.schedules.ahead import _parts_of, is_foreseeable
from tests.schedules.instances import INSTANCES, runs

RUN = RunLength.of(steps_per_epoch=7, epochs=50)


def cosine():
    return s.CosineDecay(0.1).with_warmup("10%")


def formula(schedule, position):
    return schedule.value(position, None)


def calls(monkeypatch, kind):
    """How often the formula of a class has been asked for, as a list that grows."""
    asked, value = [], kind.value
    monkeypatch.setattr(kind, "value", lambda self, *rest: (asked.append(1), value(self, *rest))[1])
    return asked


@given(st.one_of(*INSTANCES.values()), runs, st.integers(0, 50))
@settings(max_examples=200)
def test_every_value_is_that_of_the_formula(schedule, run, first):
    for step in range(first, first + 120):
        position = run.position(step, 0.1)
        try:
            value = schedule(position)
        except Exception as error:
            with pytest.raises(type(error)):
                schedule(position)
            continue
        assert (value, type(value)) == (formula(schedule, position), type(formula(schedule, position)))


def test_most_values_come_from_a_block(monkeypatch):
    asked, schedule = calls(monkeypatch, s.CosineDecay), cosine()
    values = [schedule(RUN.position(step)) for step in range(350)]
    assert len(asked) < 30
    assert values == [formula(schedule, RUN.position(step)) for step in range(350)]


def test_plain_numbers_of_steps_are_followed(monkeypatch):
    asked, schedule = calls(monkeypatch, s.CosineDecay), s.CosineDecay(0.1, decay_steps=200)
    values = [schedule(step) for step in range(300)]
    assert len(asked) < 30
    assert values == pytest.approx([0.05 * (1 + math.cos(math.pi * min(step / 200, 1))) for step in range(300)])


def test_single_steps_in_any_order_need_no_block(monkeypatch):
    schedule, blocks = cosine(), []
    monkeypatch.setattr(ahead, "_computed", lambda *_: blocks.append(1))
    steps = list(range(0, 350, 2))
    random.Random(0).shuffle(steps)
    assert [schedule(RUN.position(step)) for step in steps] == [formula(schedule, RUN.position(n)) for n in steps]
    assert blocks == []


def walk(schedule, steps=60, run=RUN, base=None):
    return [schedule(run.position(step, base)) for step in range(steps)]


def test_an_argument_that_is_set_late_counts_at_once():
    schedule = s.InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
    walk(schedule, 20)
    schedule.decay_rate = 0.5
    assert schedule(RUN.position(20)) == pytest.approx(0.1 / 11)


def test_an_argument_of_a_part_that_is_set_late_counts_at_once():
    part = s.CosineDecay(0.1, decay_steps=100)
    schedule = part.with_warmup(5)
    walk(schedule, 20)
    part.initial_learning_rate = 0.2
    assert schedule(RUN.position(20)) == 2 * s.CosineDecay(0.1, decay_steps=100).with_warmup(5)(RUN.position(20))


@pytest.mark.parametrize(
    ("schedule", "change"),
    [
        (s.PiecewiseConstant(["9ep"], [0.1, 0.2]), lambda one: one.values.__setitem__(0, 0.7)),
        (s.PiecewiseConstant(["9ep"], [0.1, 0.2]).with_warmup(3), lambda one: one.schedule.values.__setitem__(0, 0.7)),
        (s.CosineDecay(0.1, decay_steps=300), lambda one: setattr(one.decay_steps, "value", 50)),
        (
            s.CosineDecay(0.1, decay_steps=300).with_warmup(3),
            lambda one: setattr(one, "warmup_steps", s.Duration.of(99)),
        ),
        (s.CosineDecay(0.1, decay_steps=300).with_warmup(3), lambda one: setattr(one.warmup_steps, "value", 99)),
    ],
)
@pytest.mark.parametrize("steps", [1, 12, 20, 30])
def test_an_argument_that_is_changed_in_place_counts_at_once(schedule, change, steps):
    schedule = copy.deepcopy(schedule)
    walk(schedule, steps)
    before = formula(schedule, RUN.position(steps))
    change(schedule)
    assert schedule(RUN.position(steps)) == formula(schedule, RUN.position(steps)) != before


def test_threads_share_a_schedule():
    schedule, wrong = cosine(), []
    expected = [formula(schedule, RUN.position(step)) for step in range(350)]

    def run():
        for _ in range(20):
            wrong.extend(step for step in range(350) if schedule(RUN.position(step)) != expected[step])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_another_run_and_another_base_have_their_own_values():
    schedule = s.CosineDecay()
    longer = RunLength.of(steps_per_epoch=7, epochs=100)
    for step in range(100):
        for run, base in ((RUN, 0.1), (longer, 0.1), (RUN, 0.3)):
            assert schedule(run.position(step, base)) == formula(schedule, run.position(step, base))


def test_epochs_that_the_run_does_not_imply_are_believed():
    schedule = s.StepDecay(1.0, drop=0.5, every="1ep")
    walk(schedule, 30)
    assert schedule(Position(30, 1, RUN)) == 0.5
    assert schedule(Position(30, 9, RUN)) == 0.5**9
    assert [schedule(Position(step, step // 3)) for step in range(30)] == [0.5 ** (step // 3) for step in range(30)]


def test_an_array_is_answered_with_an_array():
    schedule = cosine()
    walk(schedule)
    epochs = np.array([8, 9])
    assert schedule(Position(60, epochs, RUN)).shape == (2,)


def test_an_impossible_value_is_reported_at_its_own_step():
    schedule = s.ExponentialDecay(1e300, decay_steps=1, decay_rate=1.5)
    last = int(math.log(1.7976e308 / 1e300) / math.log(1.5))
    for step in range(last):
        assert schedule(step) == 1e300 * 1.5**step
    with pytest.raises(ImpossibleValueError, match=f"at step {last + 2}"):
        schedule(last + 2)


def test_a_schedule_of_the_users_is_called_for_every_step():
    class Counting(Schedule):
        def __init__(self):
            self.asked = 0

        def value(self, position, state):
            self.asked += 1
            return 0.1

    alone, part = Counting(), Counting()
    walk(alone)
    walk(part.with_warmup(3))
    assert alone.asked == 60
    assert part.asked >= 60
    assert not is_foreseeable(alone)
    assert not is_foreseeable(part.with_warmup(3))


def test_what_a_function_returns_is_asked_for_at_every_step():
    asked = []
    schedule = s.FunctionSchedule(lambda epoch: asked.append(epoch) or 0.1)
    walk(schedule)
    assert len(asked) == 60


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda schedule: pickle.loads(pickle.dumps(schedule))])
def test_a_copy_has_its_own_values(how):
    schedule = cosine()
    walk(schedule)
    other = how(schedule)
    assert other == schedule
    other.prefix = False
    for step in range(60, 100):
        position = RUN.position(step)
        assert schedule(position) == formula(schedule, position) != other(position) == formula(other, position)
    assert len(pickle.dumps(schedule)) < 2000


@given(st.one_of(*INSTANCES.values()))
@settings(max_examples=200)
def test_all_schedules_within_a_schedule_are_its_parts(schedule):
    """Otherwise one of the user's could be overlooked."""

    def held(value):
        if isinstance(value, Schedule):
            return {id(value)}.union(*(held(inner) for inner in vars(value).values()))
        if isinstance(value, (list, tuple)):
            return set().union(*map(held, value))
        return set()

    assert held(schedule) == {id(schedule), *map(id, _parts_of(schedule))}
