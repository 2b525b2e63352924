"""Floors, ceilings and factors as users write them: one meaning each, and a word where it is not the one meant."""

import re
import warnings

import pytest

from lr_plugins import (
    Annealed,
    BoldDriver,
    Chain,
    Constant,
    CosineDecay,
    FunctionSchedule,
    Greedy,
    LearningRateScheduler,
    LinearDecay,
    LossDriven,
    PiecewiseConstant,
    Product,
    ReduceLROnPlateau,
    StepDecay,
    Warmup,
    WarmupStableDecay,
    preview,
)
from lr_plugins.errors import InvalidArgumentError
from tests.schedules.listening import listen
from tests.toys import Used, fit, loader

FLAT = [1.0] * 30


def plateau(start=None, **given):
    return ReduceLROnPlateau(start, monitor="loss", factor=0.1, patience=1, **given)


# --- a floor is a learning rate, or a multiple of the initial one ----------------------------------------------


@pytest.mark.parametrize("min_learning_rate", [1e-4, "0.001x"])
def test_floor_alone_is_a_learning_rate_or_a_multiple(min_learning_rate):
    assert listen(plateau(0.1, min_learning_rate=min_learning_rate), FLAT).rates[-1] == pytest.approx(1e-4, rel=1e-12)
    assert listen(plateau(min_learning_rate=min_learning_rate), FLAT, own=0.1).rates[-1] == pytest.approx(
        1e-4, rel=1e-12
    )


def test_floor_of_a_factor_is_a_multiple():
    schedule = Constant(0.1) * plateau(min_learning_rate="0.001x")
    assert listen(schedule, FLAT).rates[-1] == pytest.approx(1e-4, rel=1e-12)


def test_floor_of_the_whole_product_is_a_learning_rate():
    schedule = (Constant(0.1) * plateau()).at_least(1e-4)
    assert listen(schedule, FLAT).rates[-1] == 1e-4


IN_FACTORS = {
    "plateau": (
        lambda: CosineDecay(0.1) * plateau(min_learning_rate=1e-4),
        "ReduceLROnPlateau.min_learning_rate",
        "0.001x",
    ),
    "keras rule": (
        lambda: CosineDecay(0.5) * plateau(min_learning_rate=0.05, rule="keras"),
        "ReduceLROnPlateau.min_learning_rate",
        "0.1x",
    ),
    "greedy floor": (lambda: CosineDecay(0.1) * Greedy(min_learning_rate=1e-3), "Greedy.min_learning_rate", "0.01x"),
    "greedy ceiling": (lambda: CosineDecay(0.1) * Greedy(max_learning_rate=1.0), "Greedy.max_learning_rate", "10x"),
    "bold driver": (
        lambda: CosineDecay(0.1) * BoldDriver(min_learning_rate=0.01),
        "BoldDriver.min_learning_rate",
        "0.1x",
    ),
    "loss-driven": (lambda: CosineDecay(0.1) * LossDriven(max_learning_rate=0.2), "LossDriven.max_learning_rate", "2x"),
    "first": (
        lambda: CosineDecay(0.1) * LossDriven(first_learning_rate=0.01),
        "LossDriven.first_learning_rate",
        "0.1x",
    ),
    "in a sequence": (
        lambda: CosineDecay(0.1) * Chain([1.0, plateau(min_learning_rate=0.01)], lengths=["5ep"]),
        "ReduceLROnPlateau.min_learning_rate",
        "0.1x",
    ),
    "in a warm-up": (
        lambda: CosineDecay(0.1) * plateau(min_learning_rate=0.01).with_warmup("5%"),
        "ReduceLROnPlateau.min_learning_rate",
        "0.1x",
    ),
    "in a product": (
        lambda: CosineDecay(0.1) * (StepDecay() * plateau(min_learning_rate=0.01)),
        "ReduceLROnPlateau.min_learning_rate",
        None,
    ),
    "the third": (
        lambda: Product([0.1, StepDecay(), plateau(min_learning_rate=0.01)]),
        "ReduceLROnPlateau.min_learning_rate",
        "0.1x",
    ),
    "after a warm-up": (
        lambda: CosineDecay(0.1).with_warmup("5%") * plateau(min_learning_rate=1e-3),
        "ReduceLROnPlateau.min_learning_rate",
        "0.01x",
    ),
    "the optimizer's own": (
        lambda: CosineDecay() * plateau(min_learning_rate=1e-4),
        "ReduceLROnPlateau.min_learning_rate",
        None,
    ),
    "a warm-up's shape": (
        lambda: Warmup(Constant(0.1), warmup_steps=5, shape=LossDriven(max_learning_rate=1.0)),
        "LossDriven.max",
        None,
    ),
    "an annealing's": (
        lambda: Annealed(Constant(0.1), shape=plateau(min_learning_rate=0.01)),
        "ReduceLROnPlateau.min_learning_rate",
        None,
    ),
}


@pytest.mark.parametrize(("make", "field", "meant"), IN_FACTORS.values(), ids=IN_FACTORS)
def test_learning_rate_as_the_bound_of_a_factor_is_refused(make, field, meant):
    with pytest.raises(InvalidArgumentError) as refused:
        make()
    told = str(refused.value)
    assert told.startswith(field)
    assert 'must be a multiple of where it begins, such as "0.01x", for a schedule that is a factor; got ' in told
    assert re.findall(r'Did you mean "(.*)"\?', told) == ([] if meant is None else [meant])
    assert "(a * b).at_least(" in told


@pytest.mark.parametrize("none", [0, 0.0, "0x", "0.5x"])
def test_no_floor_and_a_multiple_are_bounds_of_factors(none):
    CosineDecay(0.1) * plateau(min_learning_rate=none)
    CosineDecay(0.1) * Greedy(min_learning_rate=none, max_learning_rate=None)
    CosineDecay(0.1) * LossDriven(min_learning_rate=none, max_learning_rate=None)


def test_first_factor_gives_the_learning_rate_and_its_floor():
    assert listen(plateau(0.1, min_learning_rate=1e-3) * Constant(0.5), FLAT).rates[-1] == pytest.approx(5e-4)
    assert listen(0.5 * plateau(0.1, min_learning_rate=1e-3), FLAT).rates[-1] == pytest.approx(5e-4)


# --- a schedule starts within its bounds ------------------------------------------------------------------------

OUTSIDE = {
    "plateau": (
        lambda start: plateau(start, min_learning_rate=0.2),
        r"ReduceLROnPlateau\.min_learning_rate must be at most .*; got 0\.2",
    ),
    "torch rule": (
        lambda start: plateau(start, min_learning_rate=0.2, rule="torch"),
        r"min_learning_rate must be at most .*; got 0\.2",
    ),
    "greedy": (
        lambda start: Greedy(start, min_learning_rate=0.2),
        r"Greedy\.min_learning_rate must be at most .*; got 0\.2",
    ),
    "ceiling": (
        lambda start: Greedy(start, max_learning_rate=0.05),
        r"Greedy\.max_learning_rate must be at least .*; got 0\.05",
    ),
    "bold": (lambda start: BoldDriver(start, min_learning_rate=0.2), r"min_learning_rate must be at most .*; got 0\.2"),
    "bold ceiling": (
        lambda start: BoldDriver(start, max_learning_rate=0.05),
        r"max_learning_rate must be at least .*; got 0\.05",
    ),
}


@pytest.mark.parametrize(("make", "told"), OUTSIDE.values(), ids=OUTSIDE)
def test_start_outside_its_bounds_is_refused(make, told):
    with pytest.raises(InvalidArgumentError, match=told) as refused:
        make(0.1)
    assert "the learning rate that it starts from (0.1)" in str(refused.value)
    # The optimizer's own is known when the first value is asked for: before the first step, in a training.
    schedule, used = make(None), Used()
    with pytest.raises(InvalidArgumentError, match=told) as refused:
        fit(None, LearningRateScheduler(schedule), used, train=loader(), val=loader())
    assert "the learning rate that it starts from (the optimizer's own, 0.1)" in str(refused.value)
    assert used.by_optimizer in ([], [[]])
    with pytest.raises(InvalidArgumentError, match=told):
        preview(schedule, steps_per_epoch=10, epochs=2, base_learning_rate=0.1, metrics={"loss": 1.0, "val_loss": 1.0})


@pytest.mark.parametrize(
    "make", [lambda low: plateau(min_learning_rate=low), lambda low: Greedy(min_learning_rate=low)]
)
def test_multiple_above_one_is_no_floor(make):
    with pytest.raises(
        InvalidArgumentError, match=r"min_learning_rate must be at most the learning rate that it starts from; got '2x'"
    ):
        make("2x")


def test_start_at_the_bound_is_within():
    assert listen(plateau(0.1, min_learning_rate=0.1), FLAT).rates == [0.1] * 30
    assert listen(plateau(min_learning_rate="1x"), FLAT, own=0.1).rates == [0.1] * 30
    Greedy(0.1, max_learning_rate=0.1)
    BoldDriver(0.1, min_learning_rate=0.1)


def test_loss_driven_starts_anywhere():
    # Its initial learning rate is that of a loss of 0, not of the first step.
    assert listen(LossDriven(0.01, min_learning_rate=0.02), [0.0, 0.1]).rates == [0.02, 0.02]


def test_preview_warns_about_a_floor_above_the_whole_schedule():
    told = (
        "Bounded.min_learning_rate=0.001 is higher than every value of the schedule in the run (10 epochs, 100 steps)"
    )
    assert preview(CosineDecay(1e-4).at_least(1e-3), steps_per_epoch=10, epochs=10).warnings[0].startswith(told)
    assert (
        preview(CosineDecay(1e-4).with_warmup("5%").at_least(1e-3), steps_per_epoch=10, epochs=10)
        .warnings[0]
        .startswith(told)
    )
    for schedule in (CosineDecay(0.1).at_least(1e-3), CosineDecay(0.1).with_warmup("5%").at_least(1e-3)):
        assert preview(schedule, steps_per_epoch=10, epochs=10).warnings == ()


# --- a factor begins at 1 -----------------------------------------------------------------------------------------

ODD = {
    "twice a cosine": (lambda: CosineDecay(0.1) * CosineDecay(0.1), "CosineDecay", ": 0.1 * 0.1 = 0.01."),
    "a plateau": (lambda: CosineDecay(0.1) * plateau(0.1), "ReduceLROnPlateau", ": 0.1 * 0.1 = 0.01."),
    "a drop": (lambda: CosineDecay(0.1) * StepDecay(0.5, every="1ep"), "StepDecay", ": 0.1 * 0.5 = 0.05."),
    "Product": (lambda: Product([CosineDecay(0.1), StepDecay(2.0)]), "StepDecay", ": 0.1 * 2 = 0.2."),
    "own": (lambda: CosineDecay() * CosineDecay(0.1), "CosineDecay", "its first schedule. Leave"),
    "warm-up": (lambda: CosineDecay(0.1) * CosineDecay(0.1).with_warmup(5), "CosineDecay", ": 0.1 * 0.1 = 0.01."),
    "sequence": (lambda: CosineDecay(0.1) * CosineDecay(0.1).then(1.0, after=5), "CosineDecay", ": 0.1 * 0.1 = 0.01."),
    "bounded": (lambda: CosineDecay(0.1) * CosineDecay(0.1).at_least(0.01), "CosineDecay", ": 0.1 * 0.1 = 0.01."),
    "stable": (lambda: CosineDecay(0.1) * WarmupStableDecay(0.1), "WarmupStableDecay", ": 0.1 * 0.1 = 0.01."),
}


@pytest.mark.parametrize(("make", "who", "end"), ODD.values(), ids=ODD)
def test_factor_that_begins_elsewhere_is_warned_of(make, who, end):
    with pytest.warns(UserWarning, match=rf"Product\.schedules\[1\] \({who}\) is a factor, and begins at ") as told:
        make()
    (one,) = told
    assert end in str(one.message)
    assert one.filename == __file__  # the line that is to be changed


FINE = {
    "begins at 1": lambda: CosineDecay(0.1) * StepDecay(drop=0.5, every="1ep"),
    "says so": lambda: CosineDecay(0.1) * StepDecay(1.0, drop=0.5, every="1ep"),
    "number": lambda: CosineDecay(0.1) * 0.5,
    "number first": lambda: 0.5 * CosineDecay(0.1),
    "constant": lambda: CosineDecay(0.1) * Constant(0.5),
    "function": lambda: CosineDecay(0.1) * FunctionSchedule(lambda epoch, lr: lr * 0.9, initial_learning_rate=0.5),
    "values": lambda: CosineDecay(0.1) * PiecewiseConstant(["1ep"], [0.5, 0.1]),
    "rise from 0": lambda: CosineDecay(0.1) * LinearDecay(0.0, end_learning_rate=1.0, decay_steps="5%"),
    "rise from a tenth": lambda: CosineDecay(0.1) * LinearDecay(0.1, end_learning_rate=1.0, decay_steps="5%"),
    "sequence of factors": lambda: CosineDecay(0.1) * Chain([1.0, CosineDecay(0.5)], lengths=["1ep"]),
    "plateau": lambda: CosineDecay(0.1) * plateau(),
    "stable": lambda: WarmupStableDecay(0.1),
}


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_factor_starting_at_one_or_marked_gives_no_warning(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()
