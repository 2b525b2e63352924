"""Plain functions as schedules."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import FunctionSchedule, Position, RunLength, StepDecay
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules import Observation, as_schedule


def at(schedule, epoch, state=None, own=1.0):
    return schedule(Position(step=epoch * 10, epoch=epoch, base_learning_rate=own), state)


def test_a_function_of_the_epoch():
    assert [at(FunctionSchedule(lambda epoch: 1 / (epoch + 1)), epoch) for epoch in range(3)] == [1, 1 / 2, 1 / 3]


@given(epochs=st.integers(0, 50), factor=st.floats(0.5, 1.0), own=st.floats(1e-3, 1))
def test_recursive_function_gives_the_same_at_once_and_stepwise(epochs, factor, own):
    schedule = FunctionSchedule(lambda epoch, lr: lr * factor)
    state = schedule.start()
    for epoch in range(epochs + 1):
        state = schedule.observe(state, Position(0, epoch, base_learning_rate=own), Observation("begin"))
    assert at(schedule, epochs, state, own) == at(schedule, epochs, None, own)


def test_initial_rate_replaces_that_of_the_optimizer():
    assert at(FunctionSchedule(lambda epoch, lr: lr, initial_learning_rate=0.3), 5, own=0.9) == 0.3


def test_a_whole_run_at_once_asks_each_epoch_once():
    asked = []
    schedule = FunctionSchedule(lambda epoch: asked.append(epoch) or epoch + 1.0)
    curve = schedule(RunLength.of(steps_per_epoch=3, epochs=2).position(np.arange(6)))
    assert curve.tolist() == [1, 1, 1, 2, 2, 2]
    assert asked == [0, 1]


@pytest.mark.parametrize("value", [None, "0.1", 1j, True, np.bool_(True), [0.1], float("nan"), float("inf"), -0.1])
def test_invalid_learning_rate_is_refused_with_its_call(value):
    def schedule(epoch):
        return value

    with pytest.raises(TrainingError, match=r"finite number >= 0; schedule\(4\) returned"):
        at(FunctionSchedule(schedule), 4)


@pytest.mark.parametrize("value", [0.5, 1, 0, np.float32(0.5), np.float64(0.5), np.int64(1)])
def test_numbers_of_every_kind_are_learning_rates(value):
    answer = at(FunctionSchedule(lambda epoch: value), 0)
    assert answer == value
    assert type(answer) is float


def test_an_error_inside_the_function_is_not_hidden():
    def schedule(epoch, lr):
        return lr + "0.1"

    with pytest.raises(TypeError, match="unsupported operand"):
        at(FunctionSchedule(schedule), 0)


def test_extra_parameters_do_not_pass_for_the_learning_rate():
    def decay(epoch, *, rate=0.5):
        return rate**epoch

    assert at(FunctionSchedule(functools.partial(decay, rate=0.1)), 2) == pytest.approx(0.01)


@pytest.mark.parametrize("function", [lambda: 0.1, lambda a, b, c: 0.1])
def test_functions_of_no_or_too_many_arguments_are_refused(function):
    with pytest.raises(InvalidArgumentError, match=r"callable as schedule\(epoch\) or schedule\(epoch, lr\)"):
        FunctionSchedule(function)


@pytest.mark.parametrize("thing", [0.1, None, "step", StepDecay])
def test_what_is_no_schedule_is_refused(thing):
    with pytest.raises(InvalidArgumentError, match="schedule must be a schedule such as StepDecay"):
        as_schedule(thing)
