"""A learning rate that rises a little and falls a lot."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules import BoldDriver, Change
from tests.schedules.listening import listen


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=30), up=st.floats(1, 1.5), down=st.floats(0.1, 0.99))
def test_the_rule(values, up, down):
    rates, rate = [0.5], 0.5
    for before, now in itertools.pairwise(values):
        rate *= up if now < before else down if now > before else 1.0
        rates.append(rate)
    schedule = BoldDriver(0.5, raise_factor=up, cut_factor=down, max_learning_rate=None)
    assert listen(schedule, values).rates == pytest.approx(rates)


def test_the_bounds():
    assert listen(BoldDriver(), [-float(index) for index in range(80)]).rates[-1] == 5.0
    assert listen(BoldDriver(min_learning_rate="0.1x"), range(10)).rates[-1] == 0.05
    assert listen(BoldDriver(max_learning_rate=0.51), [1.0, 0.9, 0.8]).rates == [0.5, 0.51, 0.51]


def test_a_metric_that_is_better_when_high():
    assert listen(BoldDriver(monitor="val_acc"), [0.5, 0.6, 0.4]).rates == pytest.approx([0.5, 0.525, 0.2625])


def test_it_says_what_it_does_and_why():
    said = listen(BoldDriver(), [1.0, 0.5, 0.75, 0.75]).said
    assert said == [
        [],
        [Change("BoldDriver", "raising", "loss 0.5 after 1")],
        [Change("BoldDriver", "reducing", "loss 0.75 after 0.5")],
        [],
    ]


@pytest.mark.parametrize(
    ("argument", "value"),
    [("raise_factor", 0.9), ("cut_factor", 1), ("max_learning_rate", 0), ("min_learning_rate", "11x"), ("mode", 1)],
)
def test_what_is_no_setting_is_refused(argument, value):
    with pytest.raises(InvalidArgumentError, match=r"BoldDriver\.\w+ must be"):
        BoldDriver(**{argument: value})
