"""The plan: the learning rates that a schedule predicts for the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.report.pretend import Course, Occasion, Pretended, Validations, occasions
from lr_plugins.schedules.moments import END, Moment
from lr_plugins.schedules.ops import FEW
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.schedule import Schedule, State

Steps = npt.NDArray[np.int64]

MOST_STEPS = 1 << 17
"""Of a longer run, so many steps are looked at, and those around what happens."""

_MOST_OCCASIONS = 100_000  # at which a schedule observes, one after the other
_MOST_GAPS, _FINE = 32, 4096  # between steps looked at, that are looked into; steps of each
_ROUNDS = 8  # each looks 4096 times as closely


@dataclass(frozen=True)
class Planned:
    """What is known of a run before it begins.

    Args:
        run: its length; the steps of the whole run are known.
        metrics: the course to assume for each metric that is followed.
        validations: when it validates. Default None: never.
        measured: metrics that are measured at the begin of each epoch.
    """

    run: RunLength
    metrics: Mapping[str, Course] = field(default_factory=dict)
    validations: Validations | None = None
    measured: frozenset[str] = frozenset()

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        assert self.run.steps is not None
        return int(self.run.steps)


@dataclass(frozen=True)
class Plan:
    """Learning rates (or values of another hyper-parameter) at the steps of a run.

    Args:
        steps: the optimizer steps that were looked at, shape (n,): all of them, where the run is not too long for that.
        values: what each of them will use, shape (n,).
        moments: what the schedule's arguments say of these steps.
        decisions: what a schedule that follows metrics decides, by the step that comes after.
        end: where it leads to: the value of the last step, or, of a fall that arrives at the very end of the run, the
            value that would follow it.
    """

    steps: Steps
    values: npt.NDArray[np.float64]
    moments: tuple[Moment, ...]
    decisions: tuple[tuple[int, str], ...]
    end: float


def plan(schedule: Schedule, planned: Planned, base: float | None) -> Plan:
    """What a schedule predicts.

    Args:
        schedule: the schedule.
        planned: the run.
        base: the optimizer's own value, if known.

    Raises:
        TrainingError: a value is none that a learning rate can have, or cannot be told.
    """
    steps = _looked_at(planned.steps)
    moments = tuple(schedule.moments(planned.run.position(steps, base)))
    for _ in range(_ROUNDS):
        finer = _finer(steps, moments)
        if finer.size == steps.size:
            break
        steps, moments = finer, tuple(schedule.moments(planned.run.position(finer, base)))
    values = np.empty(steps.shape)
    decisions, state = [], schedule.start()
    for first, end, state, told in _stretches(schedule, planned, base):
        decisions += told
        which = slice(*np.searchsorted(steps, (first, end)))
        values[which] = _values(schedule, planned.run, steps[which], base, state)
    _check(steps, values)
    arrives = any(one.kind == END and one.share == 1 and one.stays for one in moments) and schedule.foreseeable
    end_value = schedule(planned.run.position(planned.steps, base), state) if arrives else values[-1]
    return Plan(steps, values, moments, tuple(decisions), float(end_value))


def _looked_at(steps: int) -> Steps:
    if steps <= MOST_STEPS:
        return np.arange(steps)
    return np.unique(np.linspace(0, steps - 1, MOST_STEPS).astype(np.int64))


def _finer(steps: Steps, moments: Iterable[Moment]) -> Steps:
    """With steps between the one at which something has happened and the one looked at before it."""
    ends = np.unique(np.concatenate([moment.at[:2] for moment in moments] or [np.empty(0, np.intp)]))
    gaps = [(int(steps[at - 1]) + 1, int(steps[at])) for at in ends.tolist() if at and steps[at] - steps[at - 1] > 1]
    fine = [np.linspace(first, end - 1, min(end - first, _FINE)).astype(np.int64) for first, end in gaps[:_MOST_GAPS]]
    return np.unique(np.concatenate([steps, *fine]))


Stretch = tuple[int, int, State, list[tuple[int, str]]]


def _stretches(schedule: Schedule, planned: Planned, base: float | None) -> Iterator[Stretch]:
    """(first step, the one after the last, what is remembered, what was decided for it) of each stretch of the run."""
    state, first = schedule.start(), 0
    decided: list[tuple[int, str]] = []
    pretended = Pretended(planned.metrics, planned.steps, planned.validations is not None, planned.measured)
    for occasion in _occasions(schedule, planned) if state is not None else ():
        position = Position(occasion.step, occasion.epoch, planned.run, base)
        observed = schedule.observe(state, position, pretended.observation(occasion))
        if observed == state:
            continue
        if occasion.step > first:
            yield first, occasion.step, state, decided
            first, decided = occasion.step, []
        changes = schedule.changes(state, observed)
        decided += [(occasion.step, change.verb + (f" ({change.why})" if change.why else "")) for change in changes]
        state = observed
    yield first, planned.steps, state, decided


def _occasions(schedule: Schedule, planned: Planned) -> Iterator[Occasion]:
    per_epoch = planned.run.steps_per_epoch
    if per_epoch is None:
        raise InvalidArgument("steps_per_epoch", None, "told, because this schedule looks at epochs")
    whens = {monitor.when for monitor in schedule.monitors}
    for count, occasion in enumerate(occasions(planned.steps, int(per_epoch), whens, planned.validations)):
        if count == _MOST_OCCASIONS:
            allowed = f"short enough for at most {_MOST_OCCASIONS:,} occasions, where a schedule observes"
            hint = "Look at a shorter run, or let it observe less often."
            raise InvalidArgument("the run", f"{planned.steps:,} steps", allowed, hint)
        if occasion.step < planned.steps:
            yield occasion


def _values(
    schedule: Schedule, run: RunLength, steps: Steps, base: float | None, state: State
) -> npt.NDArray[np.float64]:
    """The values of some steps; in blocks that are bit for bit what a training uses."""
    blocks = [steps[first : first + FEW] for first in range(0, steps.size, FEW)]
    found = [np.asarray(schedule(run.position(block, base), state), np.float64) for block in blocks]
    return np.concatenate(found) if found else np.empty(0)


def _check(steps: Steps, values: npt.NDArray[np.float64]) -> None:
    wrong = np.flatnonzero(~((values >= 0) & (values < math.inf)))
    if wrong.size:
        at = wrong[0]
        given = f"the schedule gives {float(values[at])!r} at step {steps[at]}"
        raise TrainingError(f"the learning rate must be a finite number >= 0; {given}")
