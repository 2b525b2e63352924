"""Schedules made of schedules: the laws of sequence, product, stretch, repetition, and whose turn it is to observe."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import (
    Bounded,
    Chain,
    Constant,
    ExponentialDecay,
    FunctionSchedule,
    InverseTimeDecay,
    LossDriven,
    PerEpoch,
    PiecewiseConstant,
    Position,
    Product,
    RunLength,
    Schedule,
    Smooth,
    StepDecay,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules import Monitor, Observation, ReduceLROnPlateau

RUN = RunLength.of(steps_per_epoch=30, epochs=20, batch_size=64)
N = RUN.steps
STEPS = np.arange(N)


class Spy(Schedule):
    """Shows the positions it is asked at, and remembers those it observes at."""

    def __init__(self):
        self.asked = []

    def value(self, position, state):
        self.asked.append(position)
        return position.broadcast(0.5)

    def start(self):
        return {"seen": []}

    def observe(self, state, position, observation):
        return {"seen": [*state["seen"], [position.step, position.epoch]]}


def curve(schedule, run=RUN, steps=None, own=1.0):
    """Every step of a run on its own; the same as an array, without a warning, is a law for all."""
    steps = range(run.steps) if steps is None else steps
    values = [schedule(run.position(step, own)) for step in steps]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = schedule(run.position(np.array(list(steps)), own))
    assert whole == pytest.approx(values, rel=1e-14, abs=0)
    return values


# --- sequence -----------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    rates=st.lists(st.floats(0.5, 0.99), min_size=5, max_size=5),
)
def test_each_part_counts_from_its_own_begin(lengths, rates):
    parts = [ExponentialDecay(1.0, decay_steps=10, decay_rate=rate) for rate in rates[: len(lengths) + 1]]
    starts = [0, *itertools.accumulate(lengths)]
    expected = []
    for step in range(N):
        index = sum(step >= start for start in starts) - 1
        expected.append(parts[index](step - starts[index]))
    assert curve(Chain(parts, lengths=lengths)) == expected


def test_a_chain_of_chains_is_a_chain():
    a, b, c = (ExponentialDecay(1.0, decay_steps=10, decay_rate=rate) for rate in (0.5, 0.9, 0.7))
    flat = Chain([a, b, c], lengths=[100, 200])
    assert (
        curve(flat)
        == curve(Chain([Chain([a, b], lengths=[100]), c], lengths=[300]))
        == curve(Chain([a, Chain([b, c], lengths=[200])], lengths=[100]))
    )
    assert curve(flat) == curve(a.then(b.then(c, after=200), after=100))


def test_percent_in_a_part_are_of_the_part():
    chain = Chain(
        [1.0, StepDecay(1.0, drop=0.5, every="50%"), StepDecay(1.0, drop=0.5, every="50%")], lengths=["10%", "200st"]
    )
    values = curve(chain)
    assert [values[step] for step in (59, 60, 159, 160, 259, 260, 429, 430, 599)] == [1, 1, 1, 0.5, 0.5, 1, 1, 0.5, 0.5]


def test_a_part_sees_a_run_of_its_own():
    spies = [Spy() for _ in range(3)]
    curve(Chain(spies, lengths=["2ep", "10%"]))
    firsts = [spy.asked[0] for spy in spies]
    assert [first.run.steps for first in firsts] == [60, 60, 480]
    assert [first.run.epochs for first in firsts] == [2, 2, 16]
    assert [(first.step, first.epoch) for first in firsts] == [(0, 0)] * 3
    assert {first.run.batch_size for first in firsts} == {64}


def test_a_part_is_asked_in_its_turn_only():
    spies = [Spy() for _ in range(3)]
    Chain(spies, lengths=[100, 200])(RUN.position(STEPS))
    for spy, length in zip(spies, (100, 200, 300), strict=True):
        (asked,) = spy.asked
        assert asked.step.tolist() == list(range(length))


def test_a_function_is_never_asked_for_a_time_before_its_begin():
    asked = []
    chain = Constant(0.1).then(lambda epoch: asked.append(epoch) or 0.2, after="5ep")
    assert curve(chain)[149:151] == [0.1, 0.2]
    assert min(asked) == 0


def test_steps_epochs_percent_and_samples_in_one_chain():
    chain = Chain([0.1, 0.2, 0.3, 0.4, 0.5], lengths=["2ep", "45st", "10%", "1920sp"])
    values = curve(chain)
    begins = [0] + [step for step in range(1, N) if values[step] != values[step - 1]]
    assert begins == [0, 60, 105, 165, 195]
    assert [values[step] for step in begins] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_epochs_of_a_part_that_begins_within_one_are_its_own():
    chain = Chain([1.0, StepDecay(1.0, drop=0.5, every="1ep"), 0.3], lengths=["45st", "2ep"])
    values = curve(chain)
    assert [values[step] for step in (44, 45, 74, 75, 104, 105)] == [1, 1, 1, 0.5, 0.5, 0.3]


def test_a_length_of_epochs_and_a_half_ends_within_an_epoch():
    chain = Chain([ExponentialDecay(1.0, decay_steps="100%", decay_rate=0.1), 0.7], lengths=["2.5ep"])
    values = curve(chain)
    assert values[74] > 0.1
    assert values[75] == 0.7
    assert [Chain([0.1, 0.7], lengths=["2.5ep"])(Position(0, epoch)) for epoch in (2, 3)] == [0.1, 0.7]


def test_begins_in_epochs_need_no_steps_per_epoch():
    chain = Chain(
        [0.1, StepDecay(1.0, drop=0.5, every="2ep"), StepDecay(1.0, drop=0.5, every="50%")], lengths=["3ep", "4ep"]
    )
    run = RunLength.of(epochs=11)
    epochs = np.arange(11)
    expected = [0.1] * 3 + [1, 1, 0.5, 0.5] + [1, 1, 0.5, 0.5]
    assert [chain(Position(None, epoch, run)) for epoch in range(11)] == expected
    assert chain(Position(None, epochs, run)).tolist() == expected
    assert chain(Position(epochs * 7, epochs, run)).tolist() == expected


def test_clocks_that_cannot_be_compared_are_refused():
    run = RunLength.of(epochs=11)
    for chain in (Chain([1.0, 2.0, 3.0], lengths=["3ep", 10]), Chain([1.0, 2.0, 3.0], lengths=[10, "3ep"])):
        with pytest.raises(TrainingError, match="steps per epoch are unknown; count them in the same unit"):
            chain(Position(50, 5, run))
    with pytest.raises(TrainingError, match="counts optimizer steps from an epoch on"):
        Chain([1.0, InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5)], lengths=["3ep"])(Position(50, 5, run))


@pytest.mark.parametrize("kind", [lambda chain: chain, Smooth, PerEpoch, lambda chain: chain * 2.0])
def test_percent_of_an_unknown_length_is_refused(kind):
    with pytest.raises(TrainingError, match=r"5% is relative to the length of the run.*set max_steps"):
        kind(Chain([1.0, 2.0], lengths=["5%"]))(RunLength(steps_per_epoch=10).position(10**6))
    with pytest.raises(TrainingError, match=r"500sp is in samples"):
        Chain([1.0, 2.0], lengths=["500sp"])(RunLength.of(steps=10).position(10**6))


def test_past_the_end_of_a_run_that_the_parts_before_fill():
    chain = Chain([1.0, StepDecay(1.0, drop=0.5, every="50%")], lengths=["100%"])
    assert chain(RUN.position(N - 1)) == 1.0
    assert chain(RUN.position(N)) == 1.0
    assert chain(RUN.position(np.array([N - 1, N, N + 1]))).tolist() == [1.0, 1.0, 0.25]
    assert curve(Chain([1.0, StepDecay(1.0, drop=0.5, every="50%")], lengths=[10 * N]))[-1] == 1.0


def test_part_starts_only_after_the_previous_one_ended():
    chain = Chain([0.1, 0.2, 0.3], lengths=["2.5ep", "10st"])
    values = curve(chain, steps=range(120))
    assert values == sorted(values)


# --- product, bounds ----------------------------------------------------------------------------------------


def test_the_optimizers_own_learning_rate_counts_once():
    assert (StepDecay(drop=0.5, every="1ep") * StepDecay(drop=0.1, every="2ep"))(
        RUN.position(75, 0.8)
    ) == 0.8 * 0.25 * 0.1
    chain = Constant().then(StepDecay(every="1ep"), after=5) * Constant().then(ExponentialDecay(), after=5)
    assert chain(RUN.position(5, 0.8)) == 0.8


def test_numbers_multiply_from_both_sides():
    halved = 0.5 * StepDecay(0.4)
    assert halved == StepDecay(0.4) * 0.5
    assert halved(RUN.position(0)) == 0.2


# --- stretch, repetition ------------------------------------------------------------------------------------


def test_a_boundary_is_met_whatever_the_ratio():
    for ratio in range(1, 400):
        assert [StepDecay(1.0, drop=0.5, every="1st").stretched(ratio)(ratio * step) for step in (1, 2)] == [
            0.5,
            0.25,
        ], ratio


def test_a_tenth_of_the_run():
    schedule = Chain([Constant(1.0), StepDecay(0.5, drop=0.5, every="50%")], lengths=["100st"]).stretched(0.1)
    short = RunLength.of(steps_per_epoch=6, epochs=10)
    assert curve(schedule, short) == [1.0] * 10 + [0.5] * 25 + [0.25] * 25


def test_repetitions_in_each_unit():
    halves = StepDecay(1.0, drop=0.5, every="50%")
    for every in ("60st", "2ep", "10%", "3840sp"):
        assert curve(halves.repeated(every)) == ([1.0] * 30 + [0.5] * 30) * 10, every
    assert curve(halves.repeated("1.5ep"))[:90] == ([1.0] * 23 + [0.5] * 22) * 2
    assert curve(StepDecay(1.0, drop=0.5, every="1ep").repeated("45st"))[:90] == ([1.0] * 30 + [0.5] * 15) * 2
    by_epoch = [halves.repeated("4ep")(Position(None, epoch)) for epoch in range(8)]
    assert by_epoch == [1.0, 1.0, 0.5, 0.5] * 2


# --- smooth, per epoch --------------------------------------------------------------------------------------


def test_smooth_equals_the_held_schedule_at_epoch_starts():
    held = ExponentialDecay(1.0, decay_steps="10ep", decay_rate=0.5)
    smooth = curve(held.smooth())
    assert smooth[::30] == curve(held)[::30]
    assert smooth == pytest.approx([0.5 ** (step / 300) for step in range(N)])
    assert curve(held.smooth().per_epoch()) == curve(held)
    assert curve(held.per_epoch()) == curve(held)


def test_smooth_reaches_into_parts_and_their_own_epochs():
    chain = Constant(1.0).then(ExponentialDecay(1.0, decay_steps="1ep", decay_rate=0.5), after="45st")
    assert curve(chain)[45:106:30] == [1.0, 0.5, 0.25]
    smooth = [1.0] * 45 + [0.5 ** (step / 30) for step in range(N - 45)]
    assert curve(chain.smooth()) == pytest.approx(smooth, rel=1e-14)
    assert curve(
        Constant(1.0).then(ExponentialDecay(1.0, decay_steps="1ep", decay_rate=0.5).smooth(), after="45st")
    ) == curve(chain.smooth())


def test_both_need_the_steps_per_epoch():
    for schedule in (Constant(1.0).smooth(), Constant(1.0).per_epoch()):
        with pytest.raises(TrainingError, match="has to know the steps per epoch"):
            schedule(Position(3, 0))


# --- what parts remember ------------------------------------------------------------------------------------


def observed(schedule, epochs=20, run=RUN, metrics=None):
    state = schedule.start()
    for epoch in range(epochs):
        position = run.position(run.steps_per_epoch * epoch, 0.5)
        state = schedule.observe(json.loads(json.dumps(state)), position, Observation("begin", metrics or {}))
    return state


def test_a_part_observes_in_its_turn_at_its_own_times():
    schedule = Chain([Spy(), 0.1, Product([0.2, Chain([Spy(), Spy()], lengths=["25%"])])], lengths=["2ep", "4ep"])
    assert observed(schedule, 12) == {
        "0": {"seen": [[0, 0], [30, 1]]},
        "2": {"1": {"0": {"seen": [[0, 0], [30, 1], [60, 2], [90, 3]]}, "1": {"seen": [[15, 0], [45, 1]]}}},
    }


def test_nothing_to_remember_is_none():
    assert (Constant(0.1).then(StepDecay(0.1), after=5) * 0.5).start() is None
    assert observed(Constant(0.1).at_least(0.2)) is None


def test_a_function_of_epoch_and_lr_begins_anew_in_its_part():
    chain = Constant(0.1).then(FunctionSchedule(lambda epoch, lr: lr / 2, initial_learning_rate=0.8), after="5ep")
    state = observed(chain, 8)
    assert state == {"1": {"epoch": 2, "learning_rate": 0.1}}
    assert chain(RUN.position(7 * 30 + 5), state) == chain(RUN.position(7 * 30 + 5)) == 0.1
    assert curve(chain)[150:240:30] == [0.4, 0.2, 0.1]


def test_a_function_repeated_begins_anew_each_time():
    schedule = FunctionSchedule(lambda epoch, lr: lr / 2, initial_learning_rate=0.8).repeated("3ep")
    state = schedule.start()
    for epoch in range(8):
        state = schedule.observe(state, RUN.position(30 * epoch), Observation("begin"))
        assert schedule(RUN.position(30 * epoch), state) == 0.8 / 2 ** (1 + epoch % 3)


def watching(schedule, losses, name="loss", state=None):
    """The state and the learning rate of each epoch in a run whose epochs end with these losses."""
    state = schedule.start() if state is None else state
    for epoch, loss in enumerate(losses):
        position = RUN.position(30 * epoch, 0.5)
        logged = {} if loss is None else {name: loss}
        state = schedule.observe(state, position, Observation("epoch", logged, complete=bool(logged)))
        yield state, schedule(position, state)


def test_a_part_that_follows_the_loss_does_so_all_the_time():
    chain = Chain([Constant(0.1), LossDriven(0.2), LossDriven(0.3, monitor="val_loss")], lengths=["2ep", "2ep"])
    assert chain.monitors == (Monitor("loss"), Monitor("val_loss"))
    state = chain.start()
    for epoch in range(6):
        metrics = {"loss": 1 / (1 + epoch)} if epoch < 3 else {"val_loss": -epoch, "loss": 0.0}
        state = chain.observe(state, RUN.position(30 * epoch), Observation("epoch", metrics, known=["val_loss"]))
        expected = [0.1, 0.1, 0.2 * math.exp(1 / 3), 0.2, 0.3 * math.exp(-4), 0.3 * math.exp(-5)][epoch]
        assert chain(RUN.position(30 * epoch), state) == pytest.approx(expected)


def test_a_warm_up_leads_to_where_the_loss_has_led():
    schedule = LossDriven(0.1, max_learning_rate=None).with_warmup("4ep")
    rates = [rate for _, rate in watching(schedule, [None, 4.0, 2.0, 1.0, 0.5, 0.0])]
    expected = [0.0, 0.25 * math.exp(4), 0.5 * math.exp(2), 0.75 * math.exp(1), math.exp(0.5), 1.0]
    assert rates == pytest.approx([0.1 * one for one in expected])


def test_what_counts_does_so_in_its_turn_only():
    plateau = ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2)
    after = (Constant(0.1) * plateau).with_warmup("4ep")
    assert [rate for _, rate in watching(after, [1.0] * 8)][4:] == [0.1, 0.1, 0.05, 0.05]
    beside = Constant(0.1).with_warmup("4ep") * plateau
    assert [rate for _, rate in watching(beside, [1.0] * 8)][4:] == [0.025, 0.025, 0.0125, 0.0125]


def test_a_part_within_a_part_knows_that_it_is_not_its_turn():
    inner = Product([LossDriven(0.2), ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1)])
    *_, (state, _) = watching(Constant(0.1).then(inner, after="5ep"), [1.0] * 5)
    assert state["1"].keys() == {"0", "1"}
    assert state["1"]["0"]["observed"] == 1.0
    assert state["1"]["1"] == {}


def test_changes_of_a_combination_are_those_of_active_parts():
    chain = Constant(0.1).then(LossDriven(0.2) * ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1), after="2ep")
    before, said = chain.start(), []
    for state, _ in watching(chain, [1.0, 1.25, 1.5, 2.0]):
        said.append([(change.who, change.verb) for change in chain.changes(before, state)])
        before = state
    assert said == [[], [], [("LossDriven", "setting")], [("LossDriven", "setting"), ("ReduceLROnPlateau", "reducing")]]
    assert list(chain.changes(before, before)) == list(chain.changes(None, None)) == []


def test_the_loss_as_a_factor():
    product = ExponentialDecay(0.1, decay_steps=100, decay_rate=0.5) * LossDriven()
    ((state, _),) = watching(product, [2.0])
    assert product(RUN.position(50, 9.0), state) == pytest.approx(0.1 * 0.5**0.5 * math.exp(2))


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Chain([], lengths=[]), r"Chain\.schedules must be a list of at least one schedule"),
        (lambda: Chain(Constant(1), lengths=[]), r"Chain\.schedules must be a list"),
        (
            lambda: Chain([1.0, 2.0], lengths=[]),
            r"Chain\.lengths must be a list of 1: one for each schedule but the last",
        ),
        (lambda: Chain([1.0, 2.0], lengths="5"), r"Chain\.lengths must be a list of 1"),
        (lambda: Chain([1.0, 2.0], lengths=[0]), r"Chain\.lengths\[0\] must be a number > 0"),
        (lambda: Chain([1.0, "2"], lengths=[1]), r"Chain\.schedules\[1\] must be a schedule such as"),
        (lambda: Chain([1.0, True], lengths=[1]), r"Chain\.schedules\[1\] must be a schedule such as"),
        (lambda: Product("ab"), r"Product\.schedules must be a list"),
        (lambda: Constant(1) * None, r"Product\.schedules\[1\] must be a schedule such as"),
        (lambda: Constant(1) * -1.0, r"Constant\.initial_learning_rate must be a finite number >= 0"),
        (lambda: Constant(1).at_least(-1), r"Bounded\.min_learning_rate must be a finite number >= 0"),
        (
            lambda: Bounded(Constant(1), min_learning_rate=0.5, max_learning_rate=0.1),
            r"Bounded\.max_learning_rate must be .* >= min_learning_rate",
        ),
        (lambda: Constant(1).repeated(0), r"Repeated\.every must be a number > 0"),
        (lambda: Constant(1).stretched(0), r"Stretched\.ratio must be a finite number > 0"),
        (lambda: Smooth(0.1), r"Smooth\.schedule must be a schedule such as"),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()


def test_piecewise_factor_over_a_cycle_of_chains():
    schedule = (
        Constant(1.0).then(StepDecay(0.5, drop=0.5, every="1ep"), after="2ep").repeated("5ep")
        * PiecewiseConstant(["10ep"], [1.0, 0.1])
    ).at_least(0.02)
    values = curve(schedule)[::30]
    once = [1.0, 1.0, 0.5, 0.25, 0.125]
    assert values == pytest.approx([*once, *once, *[max(0.1 * one, 0.02) for one in once * 2]])
