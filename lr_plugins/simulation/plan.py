"""The plan: the learning rates that a schedule predicts for the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lr_plugins.errors import LearningRateError
from lr_plugins.schedules.milestones import END, Milestone
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.simulation.segments import Planned, Segments, Steps, Values

MOST_STEPS = 1 << 17
"""A longer run is sampled at so many steps, and at those around its milestones."""

MOST_SUMMED = 4_000_000
"""The area of a longer run is estimated from a sample; a million steps take 2 to 40 ms, or 300 ms with noise."""

_BLOCK = 1 << 16  # steps that are summed at a time
_MOST_GAPS, _FINE = 32, 4096  # gaps between samples to refine, and samples in each
_ROUNDS = 8  # each looks 4096 times as closely
_FEW_CHANGES = 12  # of a schedule without milestones: at most so many get a line each


@dataclass(frozen=True)
class Plan:
    """Learning rates (or values of another hyper-parameter) at the steps of a run.

    Args:
        steps: the optimizer steps that were looked at, shape (n,): all of them, where the run is not too long for that.
        values: what each of them will use, shape (n,).
        moments: the milestones at these steps.
        decisions: what a metric-driven schedule decides, with the step that follows the decision.
        changes: where the value changes, as indices of steps; only of a schedule that has neither moments nor
            decisions, and only if that is rare.
        end: where it leads to: the value of the last step, or, of a fall that arrives at the very end of the run, the
            value that would follow it.
        area: the sum of the values of all steps of the run.
        sampled: whether the area is that of a sample of the steps.
    """

    steps: Steps
    values: Values
    moments: tuple[Milestone, ...]
    decisions: tuple[tuple[int, str], ...]
    changes: tuple[int, ...]
    end: float
    area: float
    sampled: bool


def plan(schedule: Schedule, planned: Planned, base: float | None) -> Plan:
    """What a schedule predicts.

    Args:
        schedule: the schedule.
        planned: the run.
        base: the optimizer's own value, if known.

    Raises:
        TrainingError: a value is not a possible learning rate, or depends on something unknown.
    """
    steps = _sampled_steps(planned.steps)
    moments = _moments(schedule, planned, steps, base)
    for _ in range(_ROUNDS):
        finer = _finer(steps, moments)
        if finer.size == steps.size:
            break
        steps, moments = finer, _moments(schedule, planned, finer, base)
    segments = Segments(schedule, planned, base)
    values, decisions = segments.values(steps), segments.decisions
    changes: tuple[int, ...] = ()
    if not moments and not decisions:
        steps, values, changes = _changes(segments, steps, values)
    arrives = any(moment.kind == END and moment.share == 1 and moment.stays for moment in moments) and schedule.is_pure
    end = segments.after_the_end() if arrives else float(values[-1])
    # A function of the user's may be slow, and is not asked millions of times.
    sampled = steps.size < planned.steps and not (schedule.is_pure and planned.steps <= MOST_SUMMED)
    area = _estimated(segments, steps, planned.steps) if sampled else _summed(segments, steps, values, planned.steps)
    return Plan(steps, values, moments, decisions, changes, end, area, sampled)


def _moments(schedule: Schedule, planned: Planned, steps: Steps, base: float | None) -> tuple[Milestone, ...]:
    """The milestones at some steps; none where the schedule's numbers are too large to compute them."""
    try:
        with np.errstate(all="ignore"):
            return tuple(schedule.milestones_in(planned.run.position(steps, base)))
    except (ArithmeticError, ValueError) as error:
        if isinstance(error, LearningRateError):
            raise
        return ()  # the values raise an error that names the step


def _sampled_steps(steps: int) -> Steps:
    if steps <= MOST_STEPS:
        return np.arange(steps)
    return np.unique(np.linspace(0, steps - 1, MOST_STEPS).astype(np.int64))


def _finer(steps: Steps, moments: Iterable[Milestone]) -> Steps:
    """The steps, and more of them before each at which something happens, back to the step before it in the sample."""
    ends = np.unique(np.concatenate([moment.at[:2] for moment in moments] or [np.empty(0, np.intp)]))
    gaps = [(int(steps[at - 1]) + 1, int(steps[at])) for at in ends.tolist() if at and steps[at] - steps[at - 1] > 1]
    fine = [np.linspace(first, end - 1, min(end - first, _FINE)).astype(np.int64) for first, end in gaps[:_MOST_GAPS]]
    return np.unique(np.concatenate([steps, *fine]))


def _changes(segments: Segments, steps: Steps, values: Values) -> tuple[Steps, Values, tuple[int, ...]]:
    """Where the value changes, if that is rare, as for many functions; nothing for a curve.

    Comes with the steps and values, to which those of the changes are added.
    """
    while True:
        at = np.flatnonzero(np.diff(values)) + 1
        if at.size > _FEW_CHANGES:
            return steps, values, ()
        wide = at[steps[at] - steps[at - 1] > 1]
        if not wide.size:
            return steps, values, tuple(at.tolist())
        # Where it changes more than once between the two, the others are found in the next rounds.
        changed = [_change(segments, int(steps[index - 1]), int(steps[index])) for index in wide.tolist()]
        steps = np.unique(np.concatenate([steps, *([step - 1, step] for step in changed)]))
        values = segments.values(steps)


def _change(segments: Segments, before: int, after: int) -> int:
    """A step between two of different values whose value is not that of the step before it, by bisection."""
    value = segments.values(np.array([before]))[0]
    while after - before > 1:
        middle = (before + after) // 2
        if segments.values(np.array([middle]))[0] == value:
            before = middle
        else:
            after = middle
    return after


def _summed(segments: Segments, steps: Steps, values: Values, total: int) -> float:
    """The sum of the values of all steps."""
    if steps.size == total:
        return math.fsum(values)
    blocks = (np.arange(first, min(first + _BLOCK, total)) for first in range(0, total, _BLOCK))
    return math.fsum(float(segments.values(block, _BLOCK).sum()) for block in blocks)


def _estimated(segments: Segments, steps: Steps, total: int) -> float:
    """An estimate of the sum of the values of all steps: a random one between two of the sample stands for all.

    Steps at equal distances would meet a schedule with a period always at the same place of it.
    """
    counts = np.diff(steps, append=total)
    drawn = steps + np.random.default_rng(0).integers(counts)
    return math.fsum(segments.values(drawn, _BLOCK) * counts)
