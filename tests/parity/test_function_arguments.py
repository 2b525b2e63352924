"""One argument or two: functions without a usable signature are called as Keras calls them."""

import functools
import pickle
import types

import keras
import numpy as np
import pytest

from lr_plugins import FunctionSchedule, LearningRateScheduler, Position
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules import Observation
from tests.toys import fit

TABLE = [0.4, 0.2, 0.1, 0.05, 0.025]


def of_epoch(epoch):
    return 0.4 * 0.5**epoch


def of_both(epoch, lr):
    return lr * 0.5


def with_default(epoch, drop=0.5):
    return 0.4 * drop**epoch


def passing_on(function):
    """A decorator as many write it, without functools.wraps."""

    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def wrapping(function):
    return functools.wraps(function)(passing_on(function))


def adding_the_rate(function):
    """Has the signature of the function that it decorates, and takes one argument less."""

    @functools.wraps(function)
    def wrapper(epoch):
        return function(epoch, 0.4)

    return wrapper


class Policy:
    def __call__(self, epoch):
        return of_epoch(epoch)

    def at(self, epoch):
        return of_epoch(epoch)

    @passing_on
    def decorated(self, epoch):
        return of_epoch(epoch)


def as_float(function):
    """Keras takes no arrays: float(), as its users write it around np.vectorize."""
    return lambda *args: float(function(*args))


FUNCTIONS = {
    "epoch": of_epoch,
    "epoch and lr": of_both,
    "default": with_default,
    "decorator": passing_on(of_epoch),
    "decorator, both": passing_on(of_both),
    "decorator, default": passing_on(with_default),
    "two decorators": passing_on(passing_on(of_epoch)),
    "wraps": wrapping(of_epoch),
    "wraps, both": wrapping(of_both),
    "wraps, other arguments": adding_the_rate(of_both),
    "vectorize": as_float(np.vectorize(of_epoch)),
    "frompyfunc": np.frompyfunc(of_epoch, 1, 1),
    "frompyfunc, both": np.frompyfunc(of_both, 2, 1),
    "partial": functools.partial(of_both, lr=0.4),
    "partial of a decorator": functools.partial(passing_on(of_both), lr=0.4),
    "cached": functools.lru_cache(of_epoch),
    "cached, both": functools.lru_cache(of_both),
    "object": Policy(),
    "method": Policy().at,
    "decorated method": Policy().decorated,
    "any number": lambda *given: given[-1] * 0.5 if len(given) > 1 else 1.0,
    "epoch and any number": lambda epoch, *rest: 0.4 / (1 + epoch + len(rest)),
    "look-up in a list": TABLE.__getitem__,
    "look-up in a dictionary": dict(enumerate(TABLE)).get,
}


def in_keras(function, epochs):
    callback = keras.callbacks.LearningRateScheduler(function)
    model = types.SimpleNamespace(optimizer=keras.optimizers.SGD(learning_rate=0.5))
    callback.set_model(model)
    rates = []
    for epoch in range(epochs):
        callback.on_epoch_begin(epoch)
        rates.append(float(model.optimizer.learning_rate))
    return rates


def here(schedule, epochs):
    state, rates = schedule.start(), []
    for epoch in range(epochs):
        position = Position(epoch * 10, epoch, base_learning_rate=0.5)
        state = schedule.observe(state, position, Observation("begin"))
        rates.append(schedule(position, state))
    return rates


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_each_kind_of_function_gives_the_keras_values(function):
    assert here(FunctionSchedule(function), 5) == pytest.approx(in_keras(function, 5), rel=1e-6)  # float32 there
    assert in_keras(function, 5)[0] != 0.5


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_first_requested_epoch_does_not_matter(function):
    position = Position(30, 3, base_learning_rate=0.5)
    assert FunctionSchedule(function)(position) == here(FunctionSchedule(function), 4)[-1]


def test_numpy_vectorize_result_is_a_number():
    assert here(FunctionSchedule(np.vectorize(of_epoch)), 3) == [0.4, 0.2, 0.1]
    assert np.vectorize(of_epoch)(0).shape == ()  # in Keras an error


def test_the_function_is_called_no_more_often_than_in_keras():
    calls = []

    def noted(*given):
        calls.append(given)
        return of_epoch(*given)

    here(FunctionSchedule(noted), 3)
    assert calls == [(0, 0.5), (0,), (1,), (2,)]
    calls.clear()
    in_keras(noted, 3)
    assert [len(given) for given in calls] == [2, 1, 2, 1, 2, 1]


def test_training_uses_a_decorated_function():
    scheduler = LearningRateScheduler(passing_on(of_epoch))
    fit(None, scheduler, epochs=3)
    assert scheduler.trace["lr"].values.tolist() == [0.4] * 6 + [0.2] * 6 + [0.1] * 6


def test_without_a_learning_rate_one_argument_is_tried():
    assert FunctionSchedule(passing_on(of_epoch))(Position(0, 2)) == 0.1
    with pytest.raises(
        InvalidArgumentError, match=r"initial_learning_rate must be given where no optimizer is at hand"
    ):
        FunctionSchedule(passing_on(of_both))(Position(0, 2))


@pytest.mark.parametrize("decorate", [passing_on, wrapping, np.vectorize, functools.lru_cache])
def test_an_error_inside_is_raised_unchanged(decorate):
    def one(epoch):
        return 0.1 + "0.1"

    def two(epoch, lr):
        return lr + "0.1"

    def default(epoch, lr=None):
        return 0.1 if lr is None else lr + "0.1"  # Keras would call it again without lr, silently

    for function in (one, two, default):
        with pytest.raises(TypeError, match=r"unsupported operand|did not contain a loop"):  # NumPy's own words
            here(FunctionSchedule(decorate(function)), 1)


@pytest.mark.parametrize("decorate", [passing_on, wrapping, functools.lru_cache])
def test_a_wrong_call_inside_is_raised_unchanged(decorate):
    def one(epoch):
        return of_epoch()

    def two(epoch, lr):
        return of_both(epoch)

    for function, message in ((one, "missing 1 required .* 'epoch'"), (two, "missing 1 required .* 'lr'")):
        with pytest.raises(TypeError, match=message):
            here(FunctionSchedule(decorate(function)), 1)


@pytest.mark.parametrize("function", [lambda: 0.1, lambda a, b, c: 0.1])
def test_decorated_function_of_no_or_three_arguments_is_rejected(function):
    with pytest.raises(
        InvalidArgumentError, match=r"schedule must be callable as schedule\(epoch\) or .*; got .* argument"
    ):
        here(FunctionSchedule(passing_on(function)), 1)


def test_a_schedule_that_knows_its_signature_is_pickled():
    schedule = FunctionSchedule(TABLE.__getitem__)
    here(schedule, 1)
    assert here(pickle.loads(pickle.dumps(schedule)), 3) == TABLE[:3]
