"""Values that hardly any argument can have, and what is asked of a schedule that was built with some of them."""

from __future__ import annotations

import decimal
import fractions
import math
import os
import time
import warnings
from contextlib import contextmanager

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lr_plugins import schedules as s
from lr_plugins.errors import LearningRateError
from lr_plugins.schedules import Position, RunLength
from lr_plugins.schedules.duration import Duration

TIMES = int(os.environ.get("LR_PLUGINS_FUZZ_TIMES", "1"))
"""By how much more examples are tried, other ones each time: for a look by hand."""

ONE_CALL = 3.0  # seconds that nothing here may take


class Unprintable:
    """Its own representation fails."""

    def __repr__(self):
        raise RuntimeError("no representation")


class Text(str):
    """A text of a class of its own."""


NUMBERS = [
    math.nan, math.inf, -math.inf, -0.0, 0, 0.0, 1, -1, 0.5, 0.999999, 1.5, 2, 3, 7, 100, 1e-3, 1e-30, 1e-300, 2e-308,
    1e-320, 5e-324, 1e30, 1e200, 1e300, 1e308, -1e308, 3.5e38, 2**53, 2**63, 2**64, 10**30, 10**400, -(10**400),
    10**5000, True, False,
]  # fmt: skip
NUMPY = [
    np.float64(0.1), np.float32(0.5), np.float16(65504), np.float64("nan"), np.float64("inf"), np.int64(3), np.int8(-1),
    np.uint64(2**64 - 1), np.bool_(True), np.longdouble("1e4000"), np.complex64(1), np.str_("5ep"),
    np.datetime64("2020-01-01"),
]  # fmt: skip
TEXTS = [
    "", " ", "xx", "5ep", "10%", "3st", "64sp", "0.5ep", "1e-320ep", "1e308ep", "1e300st", "1e308%", "1e-12%", "1e-9%",
    "1e-12ep", "1e400ep", "9" * 400 + "ep", "-5ep", "nanep", "infep", "0ep", "0", "٣ep", "5ſt", "5 EP ", "10x",
    "1e308x", "1e-320x", "nanx", ".x", "1.2.3x", "-1x", "0x", "linear", "cosine", "exponential", "constant", "1-sqrt",
    "first", "keras", "torch", "abs", "rel", "min", "max", "auto", "error", "warn", "hold", "shrink", "compare", "step",
    "epoch", "validation", "fraction", "50st", "exp", "power", "normal", "uniform", "triangular", "triangular2",
    "exp_range", "loss", "lr", "(", "\ud800", "\x00", "x" * 5000, b"5ep", Text("5ep"), Text("linear"),
]  # fmt: skip
OBJECTS = [
    None, [], (), {}, set(), [1], [1, 2], [3, 1, 2], [[0, 1], [5, 0.1]], [["5ep", 0.1], ["50%", 0]], [math.nan],
    ["1ep", "5%"], ["50%", "1ep", "7st"], [None], [[]], [[1]], ["5ep"], list(range(1, 200)), {"a": 1},
    range(3), np.array([1.0]), np.array([1, 2]), np.zeros((2, 2)), np.array(["a"]), object(), object, Unprintable(),
    fractions.Fraction(1, 3), fractions.Fraction(10**400, 3), decimal.Decimal("0.1"), decimal.Decimal("NaN"), 1j, ...,
    Duration.of("3ep"), Duration.of("7st"), Duration.of("30%"), RunLength.of(3, 4), Position(3, 1), s.Constant,
]  # fmt: skip
FUNCTIONS = [
    lambda epoch: 0.1, lambda epoch, lr: lr * 1e300, lambda epoch: math.nan, lambda step: 10.0**step, lambda: 0.1,
    lambda epoch: None, lambda epoch: "0.1", lambda epoch: 1j, lambda epoch: np.array([0.1]), lambda epoch: -1,
    lambda epoch: 10**400, lambda epoch: True, lambda epoch: Unprintable(), lambda a, b, c: 0.1, math.exp,
    print,
]  # fmt: skip
SCHEDULES = [
    s.Constant(0.1), s.Constant(1e300), s.Constant(0.0), s.StepDecay(), s.StepDecay(0.1, drop=10, every="1st"),
    s.CosineDecay(0.1),
    s.CosineRestarts(0.1, first_decay_steps=1), s.LossDriven(0.1), s.ReduceLROnPlateau(), s.BoldDriver(0.1),
    s.ExponentialDecay(1, decay_steps=1, decay_rate=1e-300),
    s.Chain([s.Constant(1.0), s.LinearDecay(1.0)], lengths=["5%"]),
    s.PiecewiseConstant(["1ep", "50%"], [1, 2, 3]),
    s.Stretched(s.CosineDecay(0.1), ratio=1e-300),
    s.Noise(s.Constant(1e308)), s.FunctionSchedule(lambda step: 1e308 * step, of="step"),
]  # fmt: skip

values = st.one_of(*map(st.sampled_from, (NUMBERS, NUMPY, TEXTS, OBJECTS, FUNCTIONS, SCHEDULES)))
plain = st.one_of(st.floats(), st.integers(), st.text(max_size=6))
lists = st.lists(values | plain, max_size=4)
nasty = st.one_of(values, values, plain, lists, lists.map(tuple), st.tuples(values, values).map(list))


def fuzz(examples):
    """So many examples, the same ones each time; with `LR_PLUGINS_FUZZ_TIMES` as many times as many, others."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def quick_and_quiet(what):
    """Nothing warns (but of a factor that begins elsewhere than at 1), and nothing takes long."""
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", r"Product\.schedules.* is a factor")
        warnings.filterwarnings("ignore", "TorchSchedule")
        yield
    took = time.process_time() - begin
    assert took < ONE_CALL, f"{what} took {took:.1f} s"


def told(call, *arguments, kinds=LearningRateError, **named):
    """What a call gives; None where it raises an error of ours, of a message that can be read."""
    try:
        return call(*arguments, **named)
    except kinds as error:
        message = str(error)
    assert 10 < len(message) <= 2000, message
    assert "\n" not in message, message
    return None


RUNS = {
    "one step": RunLength.of(steps_per_epoch=1, epochs=1, batch_size=8),
    "7 steps": RunLength.of(steps_per_epoch=3, epochs=3, steps=7),
    "450 steps": RunLength.of(steps_per_epoch=45, epochs=10, batch_size=8),
    "a million steps": RunLength.of(steps_per_epoch=1000, epochs=1000, batch_size=8),
}
STEPS = {name: np.unique(np.linspace(0, run.steps - 1, 23).astype(int)) for name, run in RUNS.items()}
STEPS["450 steps"] = np.arange(0, 450, 7)


def is_value(value):
    return isinstance(value, (int, float, np.number)) and 0 <= value < math.inf


def ask(schedule):
    """Ask a schedule for its values in several runs: each is a finite number >= 0, or an error of ours."""
    for name, run in RUNS.items():
        for base in (0.1, None) if name == "7 steps" else (0.1,):
            with quick_and_quiet(f"{name}: {schedule!r}"[:2000]):
                block = told(schedule, run.position(STEPS[name], base))
                single = [told(schedule, run.position(step, base)) for step in STEPS[name].tolist()]
            for value in single:
                assert value is None or is_value(value), value
            if block is None:
                assert None in single
            else:
                assert None not in single
                assert block.tolist() == single
    with quick_and_quiet(repr(schedule)[:2000]):
        for epoch in range(5):
            value = told(schedule, Position(None, epoch, RunLength.of(epochs=5), 0.1))
            assert value is None or is_value(value)
