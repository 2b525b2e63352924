"""The preview: its values, warnings and page."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from lr_plugins import (
    Assign,
    Assignments,
    BoldDriver,
    Chain,
    Constant,
    CosineDecay,
    CosineRestarts,
    CycleThrough,
    Cyclic,
    ExponentialDecay,
    LinearDecay,
    LossDriven,
    MultiStepDecay,
    OneCycle,
    PiecewiseConstant,
    PiecewiseInterpolation,
    ReduceLROnPlateau,
    RunLength,
    StepDecay,
    WarmupStableDecay,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules.shapes.function import FunctionSchedule
from lr_plugins.simulation.page import side_by_side
from lr_plugins.simulation.plan import MOST_STEPS
from lr_plugins.simulation.preview import preview
from tests.schedules.instances import trees


def warnings(schedule, **run):
    return list(preview(schedule, **{"steps_per_epoch": 10, "epochs": 10, "base_learning_rate": 0.1, **run}).warnings)


@settings(max_examples=50)
@given(schedule=trees.filter(lambda one: not one.monitors and one.start() is None))
def test_preview_values_equal_single_steps(schedule):
    run = RunLength.of(steps_per_epoch=10, epochs=20, batch_size=None)
    try:
        expected = [schedule(run.position(step, 0.1)) for step in range(200)]
    except TrainingError:
        return
    if all(math.isfinite(value) for value in expected):
        assert preview(schedule, steps_per_epoch=10, epochs=20, base_learning_rate=0.1).values.tolist() == expected


# --- warnings -----------------------------------------------------------------------------------------------

FALL = ["lr decays 4x, from 0.1 to 0.025; as a rule of thumb it should decay at least 100x over a run"]


def test_good_schedule_gives_no_warning():
    for schedule in (
        CosineDecay(0.1).with_warmup("5%"),
        LinearDecay(0.1, end_learning_rate=1e-3),
        OneCycle(0.1),
        MultiStepDecay(0.1, milestones=["3ep", "6ep"]),
        PiecewiseInterpolation([[0, 0.0], ["30%", 0.1], ["100%", 1e-5]]),
        WarmupStableDecay(0.1, warmup_steps="5%", decay_steps="40%", end_learning_rate=1e-4),
        Chain([Constant(0.1), CosineDecay(0.1)], lengths=["50%"]),
        CosineDecay(0.1) * LinearDecay(0.0, end_learning_rate=1.0, decay_steps="5%"),
        Chain([LinearDecay(0.1, end_learning_rate=0.01, decay_steps="1ep"), CosineDecay(0.01)], lengths=["5ep"]),
    ):
        assert warnings(schedule) == [], schedule


def test_a_small_fall():
    assert warnings(StepDecay(0.1, drop=0.5, every="4ep")) == FALL
    assert warnings(Constant(0.1)) == [
        "lr ends at its peak, 0.1; as a rule of thumb it should decay at least 100x over a run"
    ]
    assert warnings(LossDriven(0.1), metrics={"loss": 1.0}) == []  # the course is only assumed
    assert warnings(Assign(CycleThrough(0.9, 0.8, 0.9), to="momentum")) == []


@pytest.mark.parametrize(
    ("schedule", "warning"),
    [
        (
            CosineDecay(0.1, decay_steps="5ep"),
            "CosineDecay.decay_steps=5ep ends after 50 % of the run (10 epochs, 100 steps), and nothing changes after "
            "it; 100% lasts to the end",
        ),
        (OneCycle(0.1, total_steps=50), "OneCycle.total_steps=50st ends after 50 % of the run"),
        (
            CosineDecay(0.1, decay_steps="5ep").with_warmup("1ep"),
            "CosineDecay.decay_steps=5ep ends after 55.6 % of its part of the",
        ),
        (
            LinearDecay(0.1, end_learning_rate=0.0, decay_steps="20ep"),
            "LinearDecay.decay_steps=20ep is past the end: the run has 10 epochs, 100 steps and covers only 50 % of "
            "the curve; 100% is the whole run",
        ),
        (
            MultiStepDecay(0.1, milestones=["3ep", "6ep", "30ep"]),
            "MultiStepDecay.milestones[2]=30ep is never reached: the run has 10 epochs, 100 steps; give it in percent",
        ),
        (PiecewiseConstant(["10ep"], [0.1, 0.01]), "PiecewiseConstant.boundaries[0]=10ep is never reached"),
        (
            PiecewiseConstant(["200%"], [0.1, 0.01]),
            "PiecewiseConstant.boundaries[0]=200% is never reached: the run has 10 epochs, 100 steps; keep it below",
        ),
        (PiecewiseInterpolation([[0, 0.1], [200, 0.0]]), "PiecewiseInterpolation.points[1]=200st is past the end"),
        (Chain([Constant(0.1), CosineDecay(0.1)], lengths=["10ep"]), "Chain.lengths=[10ep] is never reached"),
        (
            CosineDecay(0.1).with_warmup("20ep"),
            "Warmup.warmup_steps=20ep is as long as the run (10 epochs, 100 steps) or longer: it never ends, and what "
            "follows never begins; 5% is usual",
        ),
        (
            WarmupStableDecay(0.1, warmup_steps="10ep", decay_steps="1ep"),
            "WarmupStableDecay.warmup_steps=10ep is as long as the run",
        ),
        (StepDecay(0.1), "StepDecay.every=10ep has not passed when the run ends (10 epochs, 100 steps)"),
        (CosineRestarts(0.1), "CosineRestarts.first_decay_steps=10ep has not passed"),
        (Cyclic(0.001, 0.1), "Cyclic.up_steps=2000st has not passed"),
        (StepDecay(0.1).repeated("20ep"), "Repeated.every=20ep has not passed"),
        (
            ExponentialDecay(0.1, decay_steps="1ep", decay_rate=0.01),
            "lr is below 1e-08 from step 40 on, for the last 60 % of the run, in which nothing is learnt; let it fall "
            "more slowly, or give it a floor (at_least)",
        ),
    ],
    ids=lambda one: repr(one) if not isinstance(one, str) else "",
)
def test_each_mistake_is_one_line(schedule, warning):
    found = [line for line in warnings(schedule) if "rule of thumb" not in line]
    assert len(found) == 1
    assert found[0].startswith(warning)
    assert "\n" not in found[0]


def test_warnings_name_the_schedule():
    found = warnings([CosineDecay(0.1), Assign(StepDecay(0.1, drop=0.5, every="4ep"), params="^head")])
    assert found == [f"lr/head: {FALL[0]}"]


# --- metrics ------------------------------------------------------------------------------------------------


def test_metric_follows_the_assumed_course():
    seen = preview(
        ReduceLROnPlateau(0.1, patience=2), steps_per_epoch=10, epochs=6, metrics={"val_loss": [1.0, 0.5, 0.5]}
    )
    # 1 -> 0.5 by the third epoch, and no better from there on: two that fail, at the begins of epochs 4 and 5.
    assert [(event.step, event.what) for event in seen.events] == [
        (0, "start; peak"),
        (50, "reducing"),
        (59, "last step"),
    ]
    assert seen.notes == (
        "assumed: val_loss goes from 1 to 0.5 to 0.5 in 2 straight lines of equal length over the run",
    )


def test_steps_are_observed_one_by_one():
    seen = preview(BoldDriver(0.1, when="4st"), steps_per_epoch=5, epochs=2, metrics={"loss": (1.0, 0.0)})
    assert [event.step for event in seen.events] == [0, 8, 9]
    assert seen.events[1].what == "raising (loss 0.2 after 0.6); peak"


def test_course_may_be_a_function_of_the_elapsed_share():
    seen = preview(
        LossDriven(1.0, max_learning_rate=None), steps_per_epoch=10, epochs=3, metrics={"loss": lambda share: share}
    )
    assert seen.values[::10].tolist() == [1.0, math.exp(1 / 3), math.exp(2 / 3)]


@pytest.mark.parametrize("course", ["low", [], [1.0, "x"], math.nan, None, True])
def test_invalid_course_is_refused(course):
    with pytest.raises(InvalidArgumentError, match="the course of loss must be a number, a list of numbers"):
        preview(LossDriven(0.1), steps_per_epoch=10, epochs=3, metrics={"loss": course})


def test_missing_arguments_are_reported():
    with pytest.raises(InvalidArgumentError, match="the course of loss must be given"):
        preview(LossDriven(0.1), steps_per_epoch=10, epochs=3)
    with pytest.raises(InvalidArgumentError, match="the length of the run must be given: steps, or epochs"):
        preview(CosineDecay(0.1), epochs=3)
    with pytest.raises(InvalidArgumentError, match="epochs must be an integer >= 1; got 0"):
        preview(CosineDecay(0.1), steps_per_epoch=10, epochs=0)
    with pytest.raises(InvalidArgumentError, match=r"CosineDecay\.initial_learning_rate must be given"):
        preview(CosineDecay(), steps_per_epoch=10, epochs=3)
    with pytest.raises(
        InvalidArgumentError, match="steps_per_epoch must be given, because this schedule depends on epochs"
    ):
        preview(FunctionSchedule(lambda epoch: 0.1), steps=10)
    with pytest.raises(TrainingError, match="a finite number >= 0; the schedule gives inf at step 2"):
        preview(StepDecay(0.1, drop=1e200, every="1st"), steps=10)
    with pytest.raises(
        InvalidArgumentError, match=r"short enough for at most 100,000 occasions.*got '1,000,000 steps'"
    ):
        preview(BoldDriver(0.1, when="step"), steps_per_epoch=10, epochs=100_000, metrics={"loss": 1.0})
    with pytest.raises(InvalidArgumentError, match="the course of loss must be a number everywhere; got 'x'"):
        preview(LossDriven(0.1), steps_per_epoch=10, epochs=3, metrics={"loss": lambda share: "x"})


# --- several ------------------------------------------------------------------------------------------------


def test_names_match_the_trace():
    seen = preview(
        Assignments(
            {
                "all": CosineDecay(0.1),
                "backbone": Assign(CosineDecay(0.01), params="^net"),
                "momentum": Assign(CycleThrough(0.95, 0.85, 0.95), to="momentum"),
                "decay": Assign(StepDecay(), to="weight_decay"),
            }
        ),
        steps_per_epoch=10,
        epochs=5,
        defaults={"weight_decay": 0.02},
    )
    assert [line.name for line in seen.lines] == ["lr/others", "lr/backbone", "momentum", "weight_decay"]
    assert seen["weight_decay"].first == 0.02
    assert seen["lr/backbone"].peak == 0.01


def test_last_schedule_for_all_groups_wins():
    seen = preview([StepDecay(0.1), Assign(Constant(1.0), params="x"), CosineDecay(0.2)], steps_per_epoch=10, epochs=5)
    assert [(line.name, line.first) for line in seen.lines] == [("lr", 0.2)]


# --- long runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_epoch", [3, 1_000_000])
def test_events_of_very_long_runs_are_exact(per_epoch):
    # 10^12 steps of 10^6 epochs, and as many epochs of three
    schedule = MultiStepDecay(0.1, milestones=["12345ep", "777777ep"])
    seen = preview(schedule, steps_per_epoch=per_epoch, epochs=1_000_000)
    assert [event.step for event in seen.events] == [0, 12345 * per_epoch, 777777 * per_epoch, per_epoch * 10**6 - 1]


def test_events_of_a_sampled_run_are_exact():
    seen = preview(CosineDecay(0.1).with_warmup(123_456_789), steps_per_epoch=10_000, epochs=100_000)
    assert seen.lines[0].steps.size <= 2 * MOST_STEPS
    assert [(event.step, event.what) for event in seen.events] == [
        (0, "start"),
        (123_456_789, "warm-up ends; peak"),
        (999_999_999, "last step"),
    ]
    # Half of the warm-up's rectangle, and half of the other.
    assert seen.lines[0].area == pytest.approx(0.05 * 1e9, rel=1e-4)
    assert " sampled" in str(seen)


def test_area_of_a_periodic_schedule_sums_all_steps():
    schedule, steps = Cyclic(0.001, 0.1, up_steps="8st"), 2_097_137
    line = preview(schedule, steps=steps).lines[0]
    period = schedule(np.arange(16))
    whole, rest = divmod(steps, 16)
    assert line.area == pytest.approx(whole * period.sum() + period[:rest].sum(), rel=1e-12)
    assert not line.sampled
    assert line.steps.size < steps


def test_area_of_a_longer_run_is_sampled():
    # With so many steps between samples, equal distances would always hit the same place in the period.
    steps = 16 * MOST_STEPS * 10
    seen = preview(Cyclic(0.001, 0.1, up_steps="8st"), steps=steps)
    assert seen.lines[0].area == pytest.approx(steps * 0.0505, rel=1e-3)
    assert seen.lines[0].area == preview(Cyclic(0.001, 0.1, up_steps="8st"), steps=steps).lines[0].area
    assert "about 1.06e+06 (the sum over all steps, from a sample; 0.0505 on average)" in seen.page(ascii=True)
    assert "about 1.06e+06" in side_by_side({"cyclic": seen}, ascii=True)


def test_function_is_sampled_in_a_long_run():
    asked = []

    def sawtooth(step):
        asked.append(step)
        return 0.1 * (step % 16)

    steps = 16 * MOST_STEPS
    line = preview(FunctionSchedule(sawtooth, of="step"), steps=steps).lines[0]
    assert line.sampled
    assert line.area == pytest.approx(steps * 0.75, rel=1e-2)
    assert len(asked) < 3 * MOST_STEPS


@pytest.mark.parametrize("per_epoch", [10_007, 1_000_003])
def test_changes_of_a_function_are_located_to_the_step(per_epoch):
    seen = preview(lambda epoch: 0.1 if epoch < 50 else 0.01, steps_per_epoch=per_epoch, epochs=100)
    assert [(event.step, event.value, event.what) for event in seen.events] == [
        (0, 0.1, "start; peak"),
        (50 * per_epoch, 0.01, "changes"),
        (100 * per_epoch - 1, 0.01, "last step"),
    ]


def test_all_changes_between_two_samples_are_found():
    steps, first = 10_000_000, 5_000_000
    schedule = FunctionSchedule(lambda step: 0.1 + 0.1 * (step > first) + 0.1 * (step > first + 3), of="step")
    seen = preview(schedule, steps=steps)
    assert [event.step for event in seen.events] == [0, first + 1, first + 4, steps - 1]


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page():
    text = preview(StepDecay(0.1, drop=0.1, every="2ep"), steps_per_epoch=10, epochs=6).page(width=50, ascii=True)
    assert text.isascii()
    assert text.splitlines()[0] == "run  6 epochs of 10 steps, 60 optimizer steps"
    assert (
        """
step  epoch     lr  what happens
   0      0    0.1  start; peak
  20      2   0.01  times 0.1
  40      4  0.001  times 0.1
  59    5.9  0.001  last step

peak          0.1 at step 0
last          0.001
first / last  100
area          2.22 (the sum over all steps; 0.037 on average)"""
        in text
    )
    assert max(map(len, text.splitlines())) <= 72  # no warning, which would be longer


def test_repeated_events_are_abbreviated():
    lines = preview(StepDecay(0.1, drop=0.9, every="1ep"), steps_per_epoch=10, epochs=50).page(width=60).splitlines()
    told = [line.split("  ")[-1] for line in lines if "times" in line or "..." in line]
    assert told == ["times 0.9"] * 3 + ["... and 45 more of these"] + ["times 0.9"]


def test_page_of_a_run_without_epochs_omits_them():
    text = preview(LinearDecay(0.1), steps=100).page(width=60, ascii=True)
    assert "epoch" not in text


def test_side_by_side():
    both = {
        "cosine": preview(CosineDecay(0.1), steps_per_epoch=10, epochs=10),
        "step": preview(StepDecay(0.1, drop=0.5, every="4ep"), steps_per_epoch=10, epochs=10),
    }
    text = side_by_side(both, width=60, ascii=True)
    assert "A  cosine" in text
    assert "B  step" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["step", "100", "0.1", "0.1", "0.025", "4", "6.5"] in rows
    assert ["cosine", "100", "0.1", "0.1", "2.467e-05", "4053", "5.05"] in rows
    assert text.endswith(f"warning  step: {FALL[0]}")


def test_the_picture(tmp_path):
    path = preview(CosineDecay(0.1).with_warmup("10%"), steps_per_epoch=10, epochs=10).plot(tmp_path / "lr.png")
    with Image.open(path) as picture:
        assert picture.size == (960, 540)
        assert np.asarray(picture.convert("L")).std() > 10  # something is drawn
