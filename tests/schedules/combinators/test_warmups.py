"""Warm-up, cool-down and annealing against their formulas, the laws they share, and their configuration."""

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lr_plugins.schedules
from lr_plugins import Chain, Constant, FunctionSchedule, Position, RunLength, StepDecay
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules.combinators.annealed import Annealed
from lr_plugins.schedules.combinators.cooldown import Cooldown
from lr_plugins.schedules.combinators.sequential import Sequential
from lr_plugins.schedules.combinators.warmup import Warmup
from lr_plugins.schedules.combinators.warmup_stable_decay import WarmupStableDecay
from lr_plugins.schedules.metric_driven.loss_driven import LossDriven
from lr_plugins.schedules.observation import Monitor, Observation
from lr_plugins.schedules.shapes.cosine import CosineDecay
from lr_plugins.schedules.shapes.cycle import CycleThrough, Cyclic, OneCycle
from lr_plugins.schedules.shapes.exponential import ExponentialDecay
from lr_plugins.schedules.shapes.piecewise import PiecewiseInterpolation
from lr_plugins.schedules.shapes.polynomial import PolynomialDecay
from tests.schedules.formulas import RUN, N, assert_continues_after_the_end, assert_follows, each, line, wave


def stable(t, fall, warmup=30, decay=120):
    return t / warmup if t < warmup else fall(max(0, t - (N - decay)) / decay)


FORMULAS = [
    (Cooldown(0.1, end_learning_rate=0.01, decay_steps=300), lambda t, e: line(0.1, 0.01, min(t / 300, 1))),
    (
        Cooldown(0.1, end_learning_rate=0.01, decay_steps="50%", shape="cosine"),
        lambda t, e: wave(0.1, 0.01, min(t / 300, 1)),
    ),
    (
        Cooldown(0.1, end_learning_rate=0.01, decay_steps="10ep", shape="1-sqrt"),
        lambda t, e: line(0.1, 0.01, math.sqrt(min(e / 10, 1))),
    ),
    (
        Cooldown(0.1, end_learning_rate=0.01, decay_steps=300, shape="exponential"),
        lambda t, e: 0.01 + 0.09 * (0.1 ** min(t / 300, 1) - 0.1) / 0.9,
    ),
    (Warmup(Constant(0.3), warmup_steps=50), lambda t, e: 0.3 * min(t / 50, 1)),
    (Warmup(Constant(0.3), warmup_steps=0), lambda t, e: 0.3),
    (
        Warmup(Constant(0.3), warmup_steps="3ep", start_factor=0.25, shape="cosine"),
        lambda t, e: 0.3 * wave(0.25, 1, min(t / 90, 1)),
    ),
    (
        Warmup(Constant(0.3), warmup_steps="10%", start_factor=0.01, shape="exponential"),
        lambda t, e: 0.3 * 0.01 ** max(1 - t / 60, 0),
    ),
    (
        Warmup(Constant(0.3), warmup_steps="2.5ep", start_factor=0.01, shape="exponential"),
        lambda t, e: 0.3 * 0.01 ** max(1 - t / 75, 0),
    ),
    (Warmup(Constant(0.3), warmup_steps=50, start_factor=0.5, shape="constant"), lambda t, e: 0.15 if t < 50 else 0.3),
    (
        Warmup(CosineDecay(0.3), warmup_steps="10%"),
        lambda t, e: 0.3 * t / 60 if t < 60 else wave(0.3, 0.0, (t - 60) / 540),
    ),
    (
        Warmup(StepDecay(0.3, drop=0.5, every="4ep"), warmup_steps="2ep", start_factor=0.1),
        lambda t, e: 0.3 * line(0.1, 1, t / 60) if e < 2 else 0.3 * 0.5 ** ((e - 2) // 4),
    ),
    (
        Warmup(
            OneCycle(1.0, pct_start=0.0), warmup_steps="10%"
        ),  # its first value depends on the run that is left to it
        lambda t, e: wave(1.0, 4e-6, 1 / 540) * t / 60 if t < 60 else wave(1.0, 4e-6, (t - 59) / 540),
    ),
    (
        Warmup(Constant(0.3), warmup_steps=40, shape=StepDecay(drop=0.5, every="50%")),
        lambda t, e: 0.3 * 0.5 ** (t // 20) if t < 40 else 0.3,
    ),
    (
        Warmup(CosineDecay(0.3), warmup_steps="10%", start_factor=0.1, prefix=False),
        lambda t, e: 0.3 * line(0.1, 1, t / 60) if t < 60 else wave(0.3, 0.0, t / 600),
    ),
    (
        Warmup(StepDecay(0.3, drop=0.5, every="1ep"), warmup_steps="2ep", prefix=False),
        lambda t, e: 0.3 * t / 60 if e < 2 else 0.3 * 0.5**e,
    ),
    (
        Annealed(CosineDecay(0.3), end_learning_rate=0.05, after="400st", decay_steps=100),
        lambda t, e: wave(0.3, 0.0, t / 600) if t < 400 else line(0.3 / 4, 0.05, min((t - 400) / 100, 1)),
    ),
    (
        Annealed(StepDecay(0.4, drop=0.5, every="4ep"), shape="cosine"),
        lambda t, e: 0.4 * 0.5 ** (e // 4) if t < 480 else wave(0.05 / 2, 0.0, (t - 480) / 120),
    ),
    (
        Annealed(
            StepDecay(0.4, drop=0.5, every="1ep"),
            end_learning_rate=0.01,
            after="2.5ep",
            decay_steps="2ep",
            shape="1-sqrt",
        ),
        lambda t, e: 0.4 * 0.5**e if t < 75 else line(0.1, 0.01, math.sqrt(min((t - 75) / 60, 1))),
    ),
    (
        Annealed(
            ExponentialDecay(0.4, decay_steps=100, decay_rate=0.5),
            end_learning_rate=0.01,
            after="10ep",
            decay_steps=200,
            hold=False,
        ),
        lambda t, e: (
            0.4 * 0.5 ** (t / 100)
            if t < 300
            else 0.01 + (max(0.4 * 0.5 ** (t / 100), 0.01) - 0.01) * max(1 - (t - 300) / 200, 0)
        ),
    ),
    (
        Annealed(Constant(0.4), end_learning_rate=0.1, after=0, shape=PolynomialDecay(decay_steps="50%", power=2.0)),
        lambda t, e: 0.1 + 0.3 * max(1 - t / 300, 0) ** 2,
    ),
    (WarmupStableDecay(1.0), lambda t, e: stable(t, lambda p: 1 - p)),
    (
        WarmupStableDecay(1.0, warmup_steps=30, decay_steps="4ep", decay_shape="cosine"),
        lambda t, e: stable(t, lambda p: wave(1, 0, p)),
    ),
    (
        WarmupStableDecay(1.0, warmup_steps="1ep", decay_steps=120, decay_shape="1-sqrt"),
        lambda t, e: stable(t, lambda p: 1 - math.sqrt(p)),
    ),
    (
        WarmupStableDecay(1.0, warmup_steps="1ep", decay_steps="4ep", decay_shape="exponential"),
        lambda t, e: stable(t, lambda p: (0.1**p - 0.1) / 0.9),
    ),
    (
        WarmupStableDecay(1.0, warmup_steps=0, decay_steps="20%", end_learning_rate=0.1),
        lambda t, e: stable(t, lambda p: line(1.0, 0.1, p), warmup=0),
    ),
]
EACH = each(FORMULAS)


@EACH
def test_every_step_of_a_run_follows_the_formula(schedule, formula):
    assert_follows(schedule, formula)


@EACH
def test_after_the_end_it_continues_without_a_fault(schedule, formula):
    assert_continues_after_the_end(schedule)


rates = st.floats(0, 10)
shares = st.floats(0, 1)


@given(
    base=rates,
    warmup=st.integers(0, 200),
    decay=st.integers(1, 200),
    shape=st.sampled_from(["linear", "cosine", "1-sqrt", "exponential"]),
    end=shares,
    start=shares,
    steps=st.integers(1, 300),
)
def test_warm_up_stable_decay_begins_and_ends_where_it_should(base, warmup, decay, shape, end, start, steps):
    schedule, run = (
        WarmupStableDecay(
            base,
            warmup_steps=warmup,
            decay_steps=decay,
            decay_shape=shape,
            end_learning_rate=end * base,
            start_factor=start,
        ),
        RunLength.of(steps=steps),
    )
    curve = schedule(run.position(np.arange(steps + 1)))
    assert np.isfinite(curve).all()
    assert min(end, start) * base <= curve.min() * (1 + 1e-12)
    assert curve.max() <= base
    if warmup:
        assert curve[0] == start * base
    if warmup + decay <= steps:
        assert curve[warmup] == base == curve[steps - decay]
        assert curve[steps] == end * base
    assert curve == pytest.approx([schedule(run.position(step)) for step in range(steps + 1)], rel=1e-14, abs=1e-15)


def test_warm_up_without_steps_per_epoch_rises_by_epoch():
    warm = StepDecay(0.8, drop=0.5, every="1ep").with_warmup("4ep")
    run = RunLength.of(epochs=8)
    values = [warm(Position(step=7 * epoch, epoch=epoch, run=run)) for epoch in range(7)]
    assert values == [0.0, 0.2, 0.4, pytest.approx(0.6), 0.8, 0.4, 0.2]


def test_held_within_an_epoch_if_asked():
    warm = Constant(0.8).with_warmup("4ep").per_epoch()
    assert [warm(RUN.position(step)) for step in (0, 29, 30, 59, 60, 120)] == [0, 0, 0.2, 0.2, 0.4, 0.8]


def test_a_wave_that_was_made_elsewhere_is_a_rise_too():
    rise = FunctionSchedule(lambda share: 1 - math.sqrt(1 - share), of="fraction")
    warm = Constant(0.5).with_warmup(100, shape=rise)
    assert [warm(step) for step in (0, 75, 100)] == [0.0, 0.25, 0.5]
    assert Constant(0.5).with_warmup(4, shape=lambda epoch: 0.1)(Position(0, 0)) == 0.05


def test_a_schedule_with_a_memory_observes_from_its_own_begin_on():
    warm = FunctionSchedule(lambda epoch, lr: lr / 2, initial_learning_rate=0.8).with_warmup("2ep")
    state = warm.start()
    for epoch in range(4):
        state = warm.observe(json.loads(json.dumps(state)), RUN.position(30 * epoch), Observation("begin"))
        expected = [0.0, 0.2, 0.4, 0.2][epoch]
        assert warm(RUN.position(30 * epoch), state) == pytest.approx(expected)
    assert warm.monitors == ()


def test_without_a_prefix_percent_are_of_the_whole_run():
    warm = Warmup(CosineDecay(0.3), warmup_steps="10%", prefix=False)
    assert [warm(RUN.position(step)) for step in (60, 300, N)] == [
        CosineDecay(0.3)(RUN.position(step)) for step in (60, 300, N)
    ]


def test_a_schedule_that_is_held_observes_no_more():
    held, going_on = (
        Annealed(
            LossDriven(0.1, max_learning_rate=None), end_learning_rate=0.0, after="2ep", decay_steps="2ep", hold=hold
        )
        for hold in (True, False)
    )
    states = [held.start(), going_on.start()]
    for epoch in range(4):
        position = RUN.position(30 * epoch)
        states = [
            schedule.observe(json.loads(json.dumps(state)), position, Observation("epoch", {"loss": float(epoch)}))
            for schedule, state in zip((held, going_on), states, strict=True)
        ]
        left = [1, 1, 1, 0.5][epoch]
        assert held(position, states[0]) == pytest.approx(left * 0.1 * math.exp(min(epoch, 1)))
        assert going_on(position, states[1]) == pytest.approx(left * 0.1 * math.exp(epoch))
    assert held.monitors == (Monitor("loss"),)


def test_annealing_needs_to_know_how_long_it_has():
    schedule = Annealed(Constant(0.1), after=100)
    assert schedule(99) == 0.1
    with pytest.raises(
        TrainingError, match="Annealed takes the rest of the run, whose length is unknown; give decay_steps"
    ):
        schedule(100)
    assert Annealed(Constant(0.1), after=100, decay_steps=10)(105) == 0.05
    assert Annealed(Constant(0.1), after=0, decay_steps=10)(5) == 0.05
    with pytest.raises(TrainingError, match=r"80% is relative to the length of the run"):
        Annealed(Constant(0.1))(3)


def test_annealing_by_epoch_without_steps_per_epoch():
    schedule = Annealed(StepDecay(0.4, drop=0.5, every="1ep"), end_learning_rate=0.0, after="50%")
    run = RunLength.of(epochs=8)
    values = [schedule(Position(step=7 * epoch, epoch=epoch, run=run)) for epoch in range(9)]
    assert values == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.025, 0.01875, 0.0125, 0.00625, 0.0])


def test_optimizer_rate_is_used_when_none_is_given():
    for mine, named in (
        (OneCycle(), OneCycle(0.3)),
        (WarmupStableDecay(), WarmupStableDecay(0.3)),
        (Cooldown(), Cooldown(0.3)),
        (CosineDecay().with_warmup("10%"), CosineDecay(0.3).with_warmup("10%")),
    ):
        steps = np.arange(N)
        assert np.array_equal(mine(RUN.position(steps, 0.3)), named(RUN.position(steps)))
    with pytest.raises(InvalidArgumentError, match=r"OneCycle\.max_learning_rate must be given where no optimizer"):
        OneCycle()(RUN.position(0))


def test_a_decay_at_the_end_needs_to_know_the_end():
    with pytest.raises(TrainingError, match=r"falls over the last 50st of the run, whose length is unknown.*max_steps"):
        WarmupStableDecay(0.1, warmup_steps=10, decay_steps=50)(3)
    with pytest.raises(TrainingError, match=r"5% is relative to the length of the run"):
        WarmupStableDecay(0.1)(3)


def test_in_a_run_too_short_for_both_the_warm_up_comes_first():
    schedule, run = WarmupStableDecay(1.0, warmup_steps=8, decay_steps=8), RunLength.of(steps=12)
    assert [schedule(run.position(step)) for step in (0, 4, 8, 10, 12)] == [0, 0.5, 1.0, 0.5, 0.0]
    assert WarmupStableDecay(1.0, warmup_steps=500, decay_steps=8)(RunLength.of(steps=1).position(0)) == 0


def test_a_warm_up_longer_than_the_run_is_cut_off():
    warm, run = CosineDecay(1.0).with_warmup(100), RunLength.of(steps=10)
    assert warm(run.position(np.arange(10))) == pytest.approx(np.arange(10) / 100)
    assert warm(run.position(200)) == 0.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Warmup(0.1, warmup_steps=5), r"Warmup\.schedule must be a schedule such as StepDecay"),
        (lambda: Warmup(Constant(), warmup_steps=-5), r"Warmup\.warmup_steps must be a number >= 0"),
        (
            lambda: Warmup(Constant(), warmup_steps=5, start_factor=-1),
            r"Warmup\.start_factor must be a finite number >= 0",
        ),
        (
            lambda: Warmup(Constant(), warmup_steps=5, shape="quick"),
            r"Warmup\.shape must be one of linear, cosine, exponential",
        ),
        (lambda: Warmup(Constant(), warmup_steps=5, shape=3), r"Warmup\.shape must be a schedule such as"),
        (
            lambda: Warmup(Constant(), warmup_steps=5, shape="exponential"),
            r"Warmup\.start_factor must be greater than 0 for shape",
        ),
        (
            lambda: Warmup(Constant(), warmup_steps=5, start_factor=0.1, shape=Constant(1)),
            r"Warmup\.start_factor must be 0 where shape is a schedule",
        ),
        (lambda: Cooldown(0.1, end_learning_rate=-1), r"Cooldown\.end_learning_rate must be"),
        (lambda: Cooldown(0.1, decay_steps=None), r"Cooldown\.decay_steps must be"),
        (lambda: Cooldown(0.1, shape="sqrt"), r"Cooldown\.shape must be one of linear, cosine, 1-sqrt, exponential"),
        (lambda: Warmup(Constant(), warmup_steps=5, prefix=0), r"Warmup\.prefix must be true or false; got 0"),
        (lambda: Annealed(0.1), r"schedule must be a schedule such as StepDecay"),
        (
            lambda: Annealed(Constant(), end_learning_rate=-1),
            r"Annealed\.end_learning_rate must be a finite number >= 0; got -1",
        ),
        (lambda: Annealed(Constant(), after=-1), r"Annealed\.after must be a number >= 0"),
        (lambda: Annealed(Constant(), decay_steps=0), r"Annealed\.decay_steps must be a number > 0"),
        (lambda: Annealed(Constant(), shape="power"), r"Annealed\.shape must be one of linear, cosine, 1-sqrt"),
        (lambda: Annealed(Constant(), hold=1), r"Annealed\.hold must be true or false; got 1"),
        (lambda: WarmupStableDecay(-1), r"WarmupStableDecay\.initial_learning_rate must be"),
        (lambda: WarmupStableDecay(warmup_steps="x"), r"WarmupStableDecay\.warmup_steps must be a number >= 0"),
        (lambda: WarmupStableDecay(decay_steps=0), r"WarmupStableDecay\.decay_steps must be a number > 0"),
        (
            lambda: WarmupStableDecay(warmup_steps="60%", decay_steps="50%"),
            r"decay_steps must be at most what warmup_steps \(60%\) leaves",
        ),
        (lambda: WarmupStableDecay(decay_shape=1), r"WarmupStableDecay\.decay_shape must be one of linear"),
        (lambda: WarmupStableDecay(start_factor=None), r"WarmupStableDecay\.start_factor must be a finite number"),
    ],
)
def test_bad_arguments_are_named_with_what_is_allowed(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()


CONF = Path(lr_plugins.__file__).parent / "conf/schedule"
NEW = [
    Annealed,
    OneCycle,
    CycleThrough,
    Cyclic,
    PiecewiseInterpolation,
    Warmup,
    WarmupStableDecay,
    Cooldown,
    CosineDecay,
]
FILES = {
    "one_cycle": OneCycle,
    "cycle_through": CycleThrough,
    "cyclic": Cyclic,
    "interpolation": PiecewiseInterpolation,
    "cooldown": Cooldown,
    "warmup_stable_decay": WarmupStableDecay,
    "warmup_cosine": Warmup,
    "warmup_step": Warmup,
    "annealed": Annealed,
    "chain": Chain,
    "product": lr_plugins.Product,
    "function": FunctionSchedule,
}


@pytest.mark.parametrize("name", FILES)
def test_the_configuration_builds_it_and_shows_every_knob(name, monkeypatch):
    for kind in NEW:
        monkeypatch.setattr(lr_plugins.schedules, kind.__name__, kind, raising=False)
    config = OmegaConf.load(CONF / f"{name}.yaml")
    for convert in ("none", "all"):
        schedule = instantiate(config, _convert_=convert)
        assert type(schedule) is FILES[name]
        assert 0 <= schedule(RUN.position(N // 2, 0.1)) <= 0.1
    assert set(config) - {"_target_"} == set(inspect.signature(FILES[name]).parameters)
    for key, parameter in inspect.signature(FILES[name]).parameters.items():
        if parameter.default is not parameter.empty and not name.startswith("warmup_s"):
            assert config[key] == parameter.default, key
    first, *lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert all("  # " in one or one.endswith(":") or "_target_" in one or " # " in one for one in lines)


def test_in_turn_is_a_mechanism_and_no_schedule():
    with pytest.raises(TypeError, match="abstract"):
        Sequential()
