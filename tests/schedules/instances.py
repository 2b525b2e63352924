"""Random schedules of every kind, runs to ask them in, and what each kind promises."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from lr_plugins import schedules as s
from lr_plugins.schedules import RunLength, Schedule
from lr_plugins.schedules.combinators.cooldown import FALLS
from lr_plugins.schedules.combinators.warmup import RISES

runs = st.builds(
    RunLength.of, steps_per_epoch=st.integers(1, 30), epochs=st.integers(1, 40), batch_size=st.just(64)
)  # fmt: skip
rates = st.floats(1e-3, 1)
ends = st.just(0.0) | rates
maybe = st.none() | rates  # None: the optimizer's own
factors = st.floats(0.3, 1)
powers = st.floats(0.5, 4)
shares = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.8, 1.0])
durations = st.one_of(
    st.integers(1, 500),
    st.integers(1, 25).map("{}ep".format),
    st.integers(1, 100).map("{}%".format),
    st.integers(64, 20000).map("{}sp".format),
    st.sampled_from(["0.5ep", "2.5ep", "0.1%", "12.5%", "7.25st", "1st"]),
)
falls = st.sampled_from(list(FALLS))
interpolations = st.sampled_from(["linear", "cosine"])


@st.composite
def times(draw, least=1):
    """Increasing, in one unit."""
    unit = draw(st.sampled_from(["ep", "st", "%"]))
    numbers = draw(st.lists(st.integers(least, 99), min_size=1, max_size=4, unique=True))
    return [f"{number}{unit}" for number in sorted(numbers)]


def with_values(boundaries):
    return st.builds(
        s.PiecewiseConstant,
        st.just(boundaries),
        st.lists(ends, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1),
    )


def with_points(whens):
    return st.builds(
        s.PiecewiseInterpolation,
        st.tuples(*[st.tuples(st.just(when), ends) for when in whens]),
        interpolation=interpolations,
    )


LEAVES = {
    s.Constant: st.builds(s.Constant, maybe),
    s.StepDecay: st.builds(s.StepDecay, maybe, drop=factors, every=durations),
    s.MultiStepDecay: st.builds(s.MultiStepDecay, maybe, milestones=st.lists(durations, max_size=4), gamma=factors),
    s.PiecewiseConstant: times().flatmap(with_values),
    s.PiecewiseInterpolation: times(least=0).flatmap(with_points),
    s.ExponentialDecay: st.builds(
        s.ExponentialDecay, maybe, decay_steps=durations, decay_rate=factors, staircase=st.booleans()
    ),
    s.InverseTimeDecay: st.builds(
        s.InverseTimeDecay, maybe, decay_steps=durations, decay_rate=ends, staircase=st.booleans()
    ),
    s.InverseSquareRoot: st.builds(s.InverseSquareRoot, maybe, decay_steps=durations, power=powers),
    s.LinearDecay: st.builds(s.LinearDecay, maybe, end_learning_rate=ends, decay_steps=durations),
    s.PolynomialDecay: st.builds(
        s.PolynomialDecay,
        maybe,
        decay_steps=durations,
        end_learning_rate=ends,
        power=powers,
        cycle=st.booleans(),
        k_decay=powers,
    ),
    s.CosineDecay: st.builds(
        s.CosineDecay, maybe, decay_steps=durations, end_learning_rate=ends, power=powers, k_decay=powers
    ),
    s.CosineRestarts: st.builds(
        s.CosineRestarts,
        maybe,
        first_decay_steps=durations,
        t_mul=st.sampled_from([1, 1.1, 1.5, 2]),
        m_mul=factors,
        end_learning_rate=ends,
        whole_peak=st.booleans(),
    ),
    s.TanhDecay: st.builds(
        s.TanhDecay,
        maybe,
        decay_steps=durations,
        end_learning_rate=ends,
        lower=st.floats(-8, -0.5),
        upper=st.floats(0.5, 8),
    ),
    s.OneCycle: st.builds(
        s.OneCycle,
        maybe,
        total_steps=durations,
        pct_start=shares,
        anneal=interpolations,
        div_factor=st.just(25.0),
        final_div_factor=st.just(1e4),
        three_phase=st.booleans(),
        reach_end=st.booleans(),
    ),
    s.CycleThrough: st.builds(
        s.CycleThrough,
        ends,
        ends,
        ends,
        total_steps=durations,
        pct_start=shares,
        anneal=interpolations,
        three_phase=st.booleans(),
        reach_end=st.booleans(),
    ),
    s.Cyclic: st.builds(
        s.Cyclic,
        ends,
        ends,
        up_steps=durations,
        down_steps=st.none() | durations,
        mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
        gamma=factors,
    ),
    s.Cooldown: st.builds(s.Cooldown, maybe, end_learning_rate=ends, decay_steps=durations, shape=falls),
    s.WarmupStableDecay: st.builds(
        s.WarmupStableDecay,
        maybe,
        warmup_steps=st.sampled_from([0, "5%", "3ep", 17]),
        decay_steps=st.sampled_from(["20%", "95%", "5ep", 40]),
        decay_shape=falls,
        end_learning_rate=ends,
        start_factor=shares,
    ),
    s.LossDriven: st.builds(
        s.LossDriven, maybe, monitor=st.just("loss"), max_learning_rate=st.sampled_from([None, "10x", "2x"])
    ),
    s.BoldDriver: st.builds(s.BoldDriver, maybe),
    s.Greedy: st.builds(s.Greedy, maybe, monitor=st.just("loss"), patience=st.integers(0, 2)),
    s.ReduceLROnPlateau: st.builds(
        s.ReduceLROnPlateau,
        maybe,
        monitor=st.just("loss"),
        patience=st.integers(1, 3),
        rule=st.sampled_from(["keras", "torch"]),
    ),
    s.FunctionSchedule: st.one_of(
        st.builds(lambda rate: s.FunctionSchedule(lambda epoch: rate / math.sqrt(1 + epoch)), rates),
        st.builds(lambda rate: s.FunctionSchedule(lambda epoch, lr: lr * rate), factors),
        st.builds(lambda rate: s.FunctionSchedule(lambda step: rate / (1 + step), of="step"), rates),
        st.builds(lambda rate: s.FunctionSchedule(lambda part: rate * (1 - part), of="fraction"), rates),
    ),
}


def warm_ups(part):
    lengths = st.just(0) | durations
    return st.one_of(
        st.builds(
            s.Warmup, part, warmup_steps=lengths, start_factor=st.floats(1e-3, 1), shape=st.sampled_from(list(RISES))
        ),
        st.builds(
            s.Warmup,
            part,
            warmup_steps=lengths,
            start_factor=st.just(0.0),
            shape=st.just("linear"),
            prefix=st.booleans(),
        ),
        st.builds(lambda part, length, rise: s.Warmup(part, warmup_steps=length, shape=rise), part, lengths, part),
    )


COMBINATIONS = {
    s.Chain: lambda part: st.lists(part, min_size=1, max_size=3).flatmap(
        lambda parts: st.builds(s.Chain, st.just(parts), lengths=st.tuples(*[durations] * (len(parts) - 1)))
    ),
    s.Product: lambda part: st.builds(s.Product, st.lists(part, min_size=1, max_size=3)),
    s.Bounded: lambda part: st.builds(
        s.Bounded, part, min_learning_rate=st.floats(0, 0.1), max_learning_rate=st.none() | st.floats(0.1, 1)
    ),
    s.Repeated: lambda part: st.builds(
        s.Repeated, part, every=st.sampled_from(["45st", "2ep", "1.5ep", "15%", "640sp"])
    ),
    s.Stretched: lambda part: st.builds(s.Stretched, part, ratio=st.sampled_from([0.1, 0.5, 3, 49])),
    s.Smooth: lambda part: st.builds(s.Smooth, part),
    s.PerEpoch: lambda part: st.builds(s.PerEpoch, part),
    s.Warmup: warm_ups,
    s.Replanned: lambda part: st.builds(
        s.Replanned,
        part,
        steps_per_epoch=st.just(10),
        epochs=st.just(20),
        steps=st.just(200),
        batch_size=st.just(64),
        since=st.integers(0, 250),
        ratio=st.floats(0.2, 5),
    ),
    s.Annealed: lambda part: st.builds(
        s.Annealed,
        part,
        end_learning_rate=ends,
        after=durations,
        decay_steps=st.none() | durations,
        shape=falls,
        hold=st.booleans(),
    ),
    s.Noise: lambda part: st.builds(
        s.Noise,
        part,
        every=durations,
        after=st.none() | durations,
        until=st.none() | durations,
        limit=st.floats(0.01, 1),
        std=st.floats(0.1, 2),
        distribution=st.sampled_from(["normal", "uniform"]),
        seed=st.integers(0, 2**64 - 1),
    ),
}
leaves = st.one_of(*LEAVES.values())
INSTANCES = LEAVES | {kind: build(leaves) for kind, build in COMBINATIONS.items()}
trees = st.recursive(leaves, lambda part: st.one_of(*(build(part) for build in COMBINATIONS.values())), max_leaves=5)


def _unless_staircase(schedule):
    return not schedule.staircase


def _as_its_part(schedule):
    return continuous(schedule.schedule)


# Whether a schedule promises to have no jumps, where it moves within the epoch (`smooth`).
CONTINUOUS = {
    s.Constant: True,
    s.StepDecay: False,
    s.MultiStepDecay: False,
    s.PiecewiseConstant: False,
    s.PiecewiseInterpolation: True,
    s.ExponentialDecay: _unless_staircase,
    s.InverseTimeDecay: _unless_staircase,
    s.InverseSquareRoot: True,
    s.LinearDecay: True,
    s.PolynomialDecay: lambda schedule: not schedule.cycle,
    s.CosineDecay: True,
    s.CosineRestarts: False,
    s.TanhDecay: lambda schedule: schedule.upper > 5,  # it jumps at its end by (1 - tanh(upper)) / 2 of its height
    s.OneCycle: True,
    s.CycleThrough: True,
    s.Cyclic: True,
    s.Cooldown: True,
    s.WarmupStableDecay: True,
    # As long as they observe nothing.
    s.LossDriven: True,
    s.BoldDriver: True,
    s.Greedy: True,
    s.ReduceLROnPlateau: True,
    s.FunctionSchedule: False,
    s.Chain: lambda schedule: len(schedule.parts) == 1 and continuous(schedule.parts[0]),
    s.Product: lambda schedule: all(map(continuous, schedule.parts)),
    s.Bounded: _as_its_part,
    s.Repeated: False,
    s.Stretched: _as_its_part,
    s.Smooth: _as_its_part,
    s.PerEpoch: False,
    # Without the prefix the schedule goes on behind the rise, and is met somewhere on its way.
    s.Warmup: lambda schedule: (
        schedule.prefix and schedule.shape in ("linear", "cosine", "exponential") and _as_its_part(schedule)
    ),
    s.Replanned: _as_its_part,
    # Without `hold` it jumps where the schedule is below the end value.
    s.Annealed: lambda schedule: schedule.hold and _as_its_part(schedule),
    s.Noise: False,
}


def continuous(schedule: Schedule) -> bool:
    """Whether this very schedule promises it."""
    promise = CONTINUOUS[type(schedule)]
    return promise if isinstance(promise, bool) else promise(schedule)


def without_functions(schedule: Schedule) -> bool:
    """Whether it holds no function, which has no plain form."""
    if isinstance(schedule, s.FunctionSchedule):
        return False
    return all(map(without_functions, getattr(schedule, "parts", ())))
