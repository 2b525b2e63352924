"""The messages of LearningRateScheduler and its calls of the function, against real Keras."""

from __future__ import annotations

import functools
import json
import operator
import re
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_plugins import LearningRateScheduler
from lr_plugins.errors import InvalidArgumentError, TrainingError

from .side_by_side import article_mnist, keras_fit, our_fit

# --- the text -----------------------------------------------------------------------------------------------


def halve_every_second(epoch, lr):
    return lr * 0.5 if epoch and epoch % 2 == 0 else lr


FUNCTIONS = {
    "0.002": lambda epoch: 0.002,
    "1e-05": lambda epoch: 1e-05,
    "a third": lambda epoch: 1 / 3,
    "zero": lambda epoch: 0.0,
    "np.float32(0.1)": lambda epoch: np.float32(0.1),
    "np.float32(1e-4)": lambda epoch: np.float32(1e-4),
    "np.float64(0.1)": lambda epoch: np.float64(0.1),
    "np.float64(1e-16)": lambda epoch: np.float64(1e-16),
    "steps": lambda epoch: 0.1 * 0.5 ** (epoch // 3),
    "the MNIST article": article_mnist,
    "the Iris article": lambda epoch: 0.01 * 0.05 ** ((1 + epoch) // 1 / 10),
    "of the lr alone": lambda epoch, lr: lr,
    "of both": halve_every_second,
    "another lr": lambda epoch, lr: 0.3 / (1 + epoch),
    "a kind of float per epoch": lambda epoch: [0.3, np.float32(0.3), np.float64(0.3)][epoch % 3],
}


def padded(text: str) -> str:
    """Keras 3's text as Keras 2.2 prints it: `Epoch %05d`."""
    return re.sub(r"Epoch (\d+)", lambda match: f"Epoch {int(match[1]):05d}", text)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_fit_prints_what_keras_prints(function):
    text = keras_fit(function, 12).text
    assert text.count("\nEpoch ") == 12  # else two empty texts would agree
    assert our_fit(function, 12).text == text
    assert our_fit(lambda *asked: float(function(*asked)), 12, style="keras2").text == padded(text)


learning_rates = st.one_of(
    # Subnormals among them; up to the largest number of single precision, where Keras stores infinity beyond it
    # and ours raises.
    st.floats(0, float(np.finfo(np.float32).max)),
    st.floats(1e-12, 10),
    st.floats(0, 2.0**100, width=32).map(np.float32),
    st.floats(0, 10).map(np.float64),
    st.sampled_from([-0.0, 1e-4, 9.9999e-5, 1e16, 123456789012345680.0, 0.1 + 0.2]),
)


@given(st.lists(learning_rates, min_size=1, max_size=30))
@settings(max_examples=25)
def test_any_learning_rates_are_printed_as_keras_prints_them(rates):
    text = keras_fit(rates.__getitem__, len(rates)).text
    assert our_fit(rates.__getitem__, len(rates)).text == text
    as_floats = [float(rate) for rate in rates]  # a number of single precision has other digits in Keras 2, see below
    assert our_fit(as_floats.__getitem__, len(rates), style="keras2").text == padded(text)


RECORDED = json.loads((Path(__file__).parent / "recordings/scheduler_keras_2_2_4.json").read_text())["data"]
KINDS = {"float": float, "np.float32": np.float32, "np.float64": np.float64}
NUMBERS = [one for one in RECORDED["message_number_format"] if 0 <= float(one["value"]) < 1e38]


@pytest.mark.parametrize("one", NUMBERS, ids=lambda one: f"{one['type']} {one['value']}")
def test_keras_2_prints_the_digits_of_the_returned_type(one):
    answer = KINDS[one["type"]](one["value"])
    assert our_fit(lambda epoch: answer, 1, style="keras2").text == one["stdout"]


def test_the_number_of_an_epoch_beyond_the_padding_is_whole():
    text = keras_fit(article_mnist, 100_001, initial_epoch=99_997).text
    assert our_fit(article_mnist, 100_001, initial_epoch=99_997).text == text
    keras2 = our_fit(article_mnist, 100_001, initial_epoch=99_997, style="keras2").text
    assert re.findall(r"Epoch (\d+)", keras2) == ["99998", "99999", "100000", "100001"]
    assert keras2 == text


@pytest.mark.parametrize("verbose", [-1, 0, 1, 2, False, True])
def test_what_verbose_means(verbose):
    assert our_fit(article_mnist, 2, verbose=verbose).text == keras_fit(article_mnist, 2, verbose=verbose).text


# --- the lr handed to a function of two ---------------------------------------------------------------------


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"learning rate to (\S+)\.\n", text)]


@given(st.floats(0.8, 1.1), st.floats(1e-4, 1.0))
@settings(max_examples=12)
def test_a_recursion_differs_from_keras_only_by_its_float32(factor, base):
    """Keras keeps the lr in float32, ours stays float64.

    So Keras' text has the digits of a rounded number, and ours is `base * factor * factor ...`. A rounding is off by
    2**-24 at most, relatively; before the message of epoch k there were k + 1 of them (the lr of the optimizer, and
    one at the end of each epoch), and the float64 roundings are nothing beside.
    """
    theirs = keras_fit(lambda epoch, lr: lr * factor, 15, base=base)
    ours = our_fit(lambda epoch, lr: lr * factor, 15, base=base)
    for epoch, (one, other) in enumerate(zip(numbers(ours.text), numbers(theirs.text), strict=True)):
        assert one == pytest.approx(other, rel=1.001 * (epoch + 1) * 2**-24, abs=0)
    assert re.sub(r"to \S+\.\n", "", ours.text) == re.sub(r"to \S+\.\n", "", theirs.text)
    expected = base
    for rate in ours.rates:
        expected *= factor
        assert rate == expected


def test_a_recursion_prints_as_keras_if_float32_is_exact():
    theirs, ours = (fit(lambda epoch, lr: lr * 0.5, 30, base=0.75) for fit in (keras_fit, our_fit))
    assert ours.text == theirs.text
    assert ours.rates == theirs.rates


# --- one argument or two ------------------------------------------------------------------------------------


class Call:
    """Records its arguments as the plain function of a case sees them."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def note(self, *arguments: object) -> float:
        self.seen.append(arguments)
        return 0.25


def one(call):
    def schedule(epoch):
        return call.note(epoch)

    return schedule


def two(call):
    def schedule(epoch, lr):
        return call.note(epoch, lr)

    return schedule


def with_default(call):
    def schedule(epoch, alpha=0.9):
        return call.note(epoch, alpha)

    return schedule


def two_and_a_default(call):
    def schedule(epoch, lr, factor=0.5):
        return call.note(epoch, lr, factor)

    return schedule


def all_defaults(call):
    def schedule(epoch=7, alpha=0.9, beta=0.1):
        return call.note(epoch, alpha, beta)

    return schedule


def star(call):
    def schedule(*arguments):
        return call.note(*arguments)

    return schedule


def epoch_and_star(call):
    def schedule(epoch, *rest):
        return call.note(epoch, *rest)

    return schedule


def keyword_only(call):
    def schedule(epoch, *, lr=0.5):
        return call.note(epoch, lr)

    return schedule


def keywords(call):
    def schedule(epoch, **options):
        return call.note(epoch, options)

    return schedule


def positional_only(call):
    def schedule(epoch, lr=0.9, /):
        return call.note(epoch, lr)

    return schedule


class CallableOfOne:
    def __init__(self, call):
        self.call = call

    def __call__(self, epoch):
        return self.call.note(epoch)


class CallableOfTwo(CallableOfOne):
    def __call__(self, epoch, lr):
        return self.call.note(epoch, lr)

    def method(self, epoch, lr):
        return self.call.note("method", epoch, lr)

    @staticmethod
    def static(epoch):
        return 0.25 / (1 + epoch)


def wrapped(inner):
    @functools.wraps(inner)
    def schedule(*arguments):
        return inner(*arguments)

    return schedule


CALLABLES = {
    "f(epoch)": one,
    "f(epoch, lr)": two,
    "f(epoch, alpha=0.9)": with_default,
    "f(epoch, lr, factor=0.5)": two_and_a_default,
    "f(epoch=7, alpha=0.9, beta=0.1)": all_defaults,
    "f(*arguments)": star,
    "f(epoch, *rest)": epoch_and_star,
    "f(epoch, *, lr=0.5)": keyword_only,
    "f(epoch, **options)": keywords,
    "f(epoch, lr=0.9, /)": positional_only,
    "lambda epoch": lambda call: lambda epoch: call.note(epoch),
    "lambda epoch, lr": lambda call: lambda epoch, lr: call.note(epoch, lr),
    "partial of f(epoch, lr, factor)": lambda call: functools.partial(two_and_a_default(call), factor=0.1),
    "partial that sets lr": lambda call: functools.partial(two(call), lr=0.7),
    "partial that sets epoch, first": lambda call: functools.partial(two(call), 3),
    "partial of a partial": lambda call: functools.partial(functools.partial(two_and_a_default(call), factor=2.0)),
    "object of one": CallableOfOne,
    "object of two": CallableOfTwo,
    "method": lambda call: CallableOfTwo(call).method,
    "static method": lambda call: CallableOfTwo(call).static,
    "decorated f(epoch)": lambda call: wrapped(one(call)),
    "decorated f(epoch, lr)": lambda call: wrapped(two(call)),
    "list": lambda call: [0.1, 0.2, 0.3].__getitem__,  # written in C, with no signature to look at
    "dict, the lr where it has none": lambda call: {1: 0.25}.get,  # written in C, with one
    "operator.add(epoch, lr)": lambda call: operator.add,
}


@pytest.mark.parametrize("make", CALLABLES.values(), ids=CALLABLES)
def test_functions_are_called_as_keras_calls_them(make):
    calls = Call(), Call()
    # 0.25 and BASE = 0.5 are exact in float32, so that the arguments, too, can be compared exactly.
    theirs, ours = keras_fit(make(calls[0]), 3), our_fit(make(calls[1]), 3)
    assert ours.text == theirs.text
    assert calls[1].seen == calls[0].seen
    kinds = [[[type(argument) for argument in arguments] for arguments in call.seen] for call in calls]
    assert kinds[1] == kinds[0]


@given(
    st.lists(st.sampled_from(["required", "default", "keyword-only", "required keyword-only"]), max_size=4),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60)
def test_any_signature_gets_as_many_arguments_as_in_keras(kinds, star_arguments, star_options):
    order = ["required", "default", "keyword-only", "required keyword-only"]
    kinds = sorted(kinds, key=order.index)
    parts = [f"p{index}{'=0.5' if kind == 'default' else ''}" for index, kind in enumerate(kinds) if "only" not in kind]
    named = [f"p{index}{'' if 'required' in kind else '=0.5'}" for index, kind in enumerate(kinds) if "only" in kind]
    bar = ["*rest"] if star_arguments else ["*"] if named else []
    source = ", ".join([*parts, *bar, *named, *(["**options"] if star_options else [])])
    given_as = ", ".join([part.split("=")[0] for part in parts] + (["*rest"] if star_arguments else []))
    calls: list[tuple[object, ...]] = []
    function = eval(f"lambda {source}: note({given_as})", {"note": lambda *seen: calls.append(seen) or 0.5})
    try:
        keras_epoch(function)
    except TypeError:
        with pytest.raises(InvalidArgumentError, match=re.escape("callable as schedule(epoch) or schedule(epoch, lr)")):
            LearningRateScheduler(function)
        assert not calls
        return
    theirs, calls[:] = list(calls), []
    our_fit(function, 1)
    assert calls == theirs


def keras_epoch(function, epoch=0):
    """The start of one epoch in Keras' callback, without a fit."""
    scheduler = keras.callbacks.LearningRateScheduler(function)
    scheduler.set_model(SimpleNamespace(optimizer=keras.optimizers.SGD(0.5)))
    scheduler.on_epoch_begin(epoch)


def test_a_function_with_a_hidden_signature_is_tried():
    assert keras_fit(max, 1).rates == our_fit(max, 1).rates == [0.5]


def test_a_type_error_inside_a_function_of_two_is_raised():
    """Keras takes it for one argument too many and calls again; ours raises after one call."""
    calls = []

    def schedule(epoch, lr):
        calls.append(epoch)
        return lr * None

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'lr'"):
        keras_fit(schedule, 1)
    with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \*: 'float' and 'NoneType'"):
        our_fit(schedule, 1)
    assert calls == [0, 0]  # once by each


def test_a_type_error_inside_a_function_with_a_default_is_raised():
    """Keras calls such a function again without the lr, and may continue with an unintended learning rate."""

    def schedule(epoch, lr=0.125):
        if lr != 0.125:
            raise TypeError("the cause")
        return lr

    assert numbers(keras_fit(schedule, 1).text) == [0.125]
    with pytest.raises(TypeError, match="the cause"):
        our_fit(schedule, 1)


@pytest.mark.parametrize("error", [KeyError("epoch 3"), ZeroDivisionError("by nothing"), RuntimeError("own words")])
def test_other_errors_of_a_function_are_raised_unchanged(error):
    def schedule(epoch, lr):
        raise error

    for fit in (keras_fit, our_fit):
        with pytest.raises(type(error)) as caught:
            fit(schedule, 1)
        assert caught.value is error


# --- what a function may return -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [None, "0.1", True, [0.1], 0.1 + 0j, np.array(0.1), np.array([0.1]), np.bool_(True), torch.tensor(0.1)],
    ids=lambda answer: f"{type(answer).__name__} {answer!r}",
)
def test_values_that_keras_rejects_are_rejected(answer):
    with pytest.raises(ValueError, match="The output of the `schedule` function should be a float"):
        keras_fit(lambda epoch: answer, 1)
    with pytest.raises(TrainingError, match="must return a finite number >= 0"):
        our_fit(lambda epoch: answer, 1)


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -0.1, np.float32("nan"), np.float64("-inf")])
def test_unusable_values_that_keras_accepts_are_rejected(answer):
    assert len(keras_fit(lambda epoch: answer, 1).rates) == 1
    with pytest.raises(TrainingError, match="must return a finite number >= 0"):
        our_fit(lambda epoch: answer, 1)


@pytest.mark.parametrize("answer", [0, 1, np.int64(2), np.float16(0.5)])
def test_integers_and_half_precision_count_as_floats(answer):
    with pytest.raises(ValueError, match="should be a float"):
        keras_fit(lambda epoch: answer, 1)
    assert our_fit(lambda epoch: answer, 1).text == keras_fit(lambda epoch: float(answer), 1).text
