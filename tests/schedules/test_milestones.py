"""What happens when: the moments that schedules tell of are those at which their values show it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins import schedules as s
from lr_plugins.errors import LearningRateError
from lr_plugins.schedules import RunLength
from tests.schedules.instances import INSTANCES, runs, trees

RUN = RunLength.of(steps_per_epoch=10, epochs=30)


def told(schedule, run=RUN):
    """(step, what) of each moment."""
    position = run.position(np.arange(run.steps), 0.1)
    return sorted((int(at), moment.what) for moment in schedule.milestones_in(position) for at in moment.at)


CASES = [
    (s.Constant(0.1), []),
    (s.StepDecay(0.1, drop=0.5, every="10ep"), [(100, "times 0.5"), (200, "times 0.5")]),
    (s.StepDecay(0.1, drop=0.5, every="125st"), [(125, "times 0.5"), (250, "times 0.5")]),
    (s.MultiStepDecay(0.1, milestones=["50%", "40ep"], gamma=0.1), [(150, "times 0.1")]),
    (s.PiecewiseConstant(["3ep", "55st"], [0.3, 0.2, 0.1]), [(30, "set to 0.2"), (55, "set to 0.1")]),
    (s.PiecewiseInterpolation([[0, 0.0], [30, 0.1], ["100%", 0.0]]), [(30, "point 2 reached")]),
    (
        s.ExponentialDecay(0.1, decay_steps=100, decay_rate=0.5, staircase=True),
        [(100, "times 0.5"), (200, "times 0.5")],
    ),
    (s.ExponentialDecay(0.1, decay_steps=100, decay_rate=0.5), []),
    (
        s.InverseTimeDecay(0.1, decay_steps="10ep", decay_rate=0.5, staircase=True),
        [(100, "next stair"), (200, "next stair")],
    ),
    (s.InverseSquareRoot(0.1), []),
    (s.LinearDecay(0.1), []),
    (s.LinearDecay(0.1, decay_steps="20ep"), [(200, "end value reached")]),
    (s.PolynomialDecay(0.1, decay_steps=150), [(150, "end value reached")]),
    (s.PolynomialDecay(0.1, decay_steps=100, cycle=True), [(101, "falls again"), (201, "falls again")]),
    (s.CosineDecay(0.1, decay_steps="10%"), [(30, "end value reached")]),
    (s.TanhDecay(0.1, decay_steps=30), [(30, "end value reached")]),
    (s.Cooldown(0.1, decay_steps=30), [(30, "end value reached")]),
    (s.CosineRestarts(0.1, first_decay_steps=43, t_mul=2.0), [(43, "restart"), (129, "restart")]),
    (s.CosineRestarts(0.1, first_decay_steps=100, t_mul=1.0), [(100, "restart"), (200, "restart")]),
    (s.OneCycle(0.1, pct_start=0.3), [(89, "first phase ends"), (299, "end value reached")]),
    (
        s.OneCycle(0.1, total_steps=200, pct_start=0.3, three_phase=True),
        [(59, "first phase ends"), (118, "second phase ends"), (199, "end value reached")],
    ),
    (
        s.CycleThrough(0.95, 0.85, 0.95, pct_start=0.3),
        [(89, "first phase ends"), (299, "end value reached")],
    ),
    (s.Cyclic(0.01, 0.1, up_steps=50, down_steps=100), [(50, "turns"), (150, "next cycle"), (200, "turns")]),
    (s.CosineDecay(0.1).with_warmup("5%"), [(15, "warm-up ends")]),
    (s.CosineDecay(0.1).with_warmup("5%", prefix=False), [(15, "warm-up ends")]),
    (s.CosineDecay(0.1).with_warmup(0), []),
    (s.WarmupStableDecay(0.1, warmup_steps="10%", decay_steps="20%"), [(30, "warm-up ends"), (240, "decay begins")]),
    (
        s.Annealed(s.StepDecay(0.1, drop=0.5, every="10ep"), after="50%", decay_steps=30),
        [(100, "times 0.5"), (150, "annealing begins"), (180, "end value reached")],
    ),
    (
        s.Chain([s.Constant(0.1), s.StepDecay(0.1, drop=0.5, every="10ep")], lengths=["15ep"]),
        [(150, "part 2 begins: StepDecay"), (250, "times 0.5")],
    ),
    (s.CosineDecay(0.1) * s.StepDecay(every="20ep"), [(200, "times 0.5")]),
    (s.LinearDecay(0.1).at_least(0.05), [(151, "held at min_learning_rate")]),
    (s.LinearDecay(0.0, end_learning_rate=0.1).at_most(0.05), [(151, "held at max_learning_rate")]),
    (
        s.StepDecay(0.1, drop=0.5, every="5ep").repeated("12ep"),
        [
            (50, "times 0.5"),
            (100, "times 0.5"),
            (120, "begins anew"),
            (170, "times 0.5"),
            (220, "times 0.5"),
            (240, "begins anew"),
            (290, "times 0.5"),
        ],
    ),
    (s.StepDecay(0.1, drop=0.5, every="20ep").stretched(0.5), [(100, "times 0.5"), (200, "times 0.5")]),
    (s.StepDecay(0.1, drop=0.5, every="2.5ep").smooth().stretched(4), [(100, "times 0.5"), (200, "times 0.5")]),
    (s.StepDecay(0.1, drop=0.5, every="125st").per_epoch(), [(130, "times 0.5"), (250, "times 0.5")]),
    (s.Noise(s.Constant(0.1), after="5ep", until="10ep"), [(50, "noise begins"), (100, "noise ends")]),
    (
        s.Replanned(s.StepDecay(0.1, every="10ep"), steps_per_epoch=10, epochs=30, steps=300, since=50, ratio=2.0),
        [(150, "times 0.5")],
    ),
]


@pytest.mark.parametrize(
    ("schedule", "moments"), CASES, ids=lambda one: repr(one) if isinstance(one, s.Schedule) else ""
)
def test_moments(schedule, moments):
    assert told(schedule) == moments


def test_drops_are_where_the_value_drops():
    schedule = s.StepDecay(0.1, drop=0.5, every="0.3ep")
    run = RunLength.of(steps_per_epoch=7, epochs=11)
    for smooth in (schedule, schedule.smooth()):
        values = smooth(run.position(np.arange(run.steps)))
        assert [at for at, _ in told(smooth, run)] == (np.flatnonzero(np.diff(values)) + 1).tolist()


@pytest.mark.parametrize("kind", INSTANCES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_no_schedule_fails_where_its_values_are_known(kind, data):
    schedule, run = data.draw(INSTANCES[kind]), data.draw(runs)
    position = run.position(np.arange(run.steps), 0.1)
    try:
        schedule(position, schedule.start())
    except LearningRateError:
        return  # e.g. boundaries that do not increase in this run
    for moment in schedule.milestones_in(position):
        assert ((moment.at > 0) & (moment.at < run.steps)).all()
        assert moment.what


@given(schedule=trees, run=runs)
def test_nor_does_any_combination(schedule, run):
    position = run.position(np.arange(run.steps), 0.1)
    try:
        schedule(position, schedule.start())
    except LearningRateError:
        return
    assert all(moment.at.size <= run.steps for moment in schedule.milestones_in(position))
