"""A learning rate that rises while a metric improves; the original is in tests/parity."""

import math

import pytest

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules import Change, Greedy
from tests.schedules.listening import listen

FALLING, FLAT = [10.0 - index for index in range(10)], [1.0] * 12


def greedy(**arguments):
    return Greedy(**{"factor": 0.5, "patience": 1, **arguments})


def test_it_rises_while_it_improves_and_falls_while_it_does_not():
    assert listen(greedy(), FALLING[:5]).rates == [0.5, 1.0, 1.0, 2.0, 2.0]
    assert listen(greedy(), FLAT[:5]).rates == [0.5, 0.5, 0.25, 0.25, 0.125]


def test_it_rests_after_a_rise_and_after_a_fall():
    assert listen(greedy(warmup=2), FALLING[:6]).rates == [0.5, 1.0, 1.0, 1.0, 1.0, 2.0]
    assert listen(greedy(cooldown=1), FLAT[:6]).rates == [0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_defaults_lower_a_fine_tuning_rate_within_bounds():
    assert listen(Greedy(), [1.0] * 12, own=5e-5).rates[-1] == pytest.approx(0.95 * 5e-5)
    assert min(listen(Greedy(patience=0, reset_start=None), [1.0] * 200, own=5e-5).rates) == pytest.approx(5e-7)
    assert listen(Greedy(patience=0), [-float(i) for i in range(200)], own=5e-5).rates[-1] == pytest.approx(5e-4)


def test_it_begins_anew_when_it_has_been_at_the_floor_for_long():
    run = listen(greedy(patience=0, min_learning_rate="0.25x", reset_start=2), FLAT[:6])
    assert run.rates == [1.0, 0.5, 0.25, 0.125, 0.5, 1.0]  # its best is forgotten, so that it improves at once
    assert run.said[4] == [Change("Greedy", "resetting", "due to fall 2 times at min_learning_rate")]


def test_it_says_what_it_does_and_why():
    assert listen(greedy(), FALLING[:2]).said[1] == [
        Change("Greedy", "raising", "val_loss 9 has improved for 2 epochs")
    ]
    (change,) = listen(greedy(when="validation", patience=0), FLAT[:2]).said[1]
    assert change == Change("Greedy", "reducing", "val_loss 1 has not improved for 1 validation run")


def test_nan_never_improves_if_it_is_compared():
    assert listen(greedy(on_nonfinite="compare"), [1.0, math.nan, math.nan]).rates == [0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("factor", 1.0),
        ("max_learning_rate", 0),
        ("min_learning_rate", "20x"),
        ("eps", -1),
        ("reset_start", 0),
        ("warmup", -1),
        ("mode", ""),
    ],
)
def test_what_is_no_setting_is_refused(argument, value):
    with pytest.raises(InvalidArgumentError, match=r"Greedy\.\w+ must be"):
        Greedy(**{argument: value})
