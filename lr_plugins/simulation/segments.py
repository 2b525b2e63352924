"""The values of a schedule at any step of a run that has not begun, segment by segment: it observes in between."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import ImpossibleValueError, InvalidArgumentError, shown
from lr_plugins.schedules.numerics import EXACT_BLOCK
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.simulation.metric_courses import Course, Occasion, SimulatedMetrics, Validations, occasions
from lr_plugins.validation import ENDS, LARGEST

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

_MOST_OCCASIONS = 100_000  # at which a schedule observes, one after the other


@dataclass(frozen=True)
class Planned:
    """What is known of a run before it starts.

    Args:
        run: its length; the steps of the whole run are known.
        metrics: the course to assume for each metric that a schedule observes.
        validations: when it validates. Default None: never.
        measured: metrics that are measured at the start of each epoch.
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


class Segment(NamedTuple):
    """Steps for which a schedule's state is the same.

    Attributes:
        first: the first step.
        end: the one after the last.
        state: the schedule's state.
        decided: the decisions that led to it, with their steps.
    """

    first: int
    end: int
    state: State
    decided: list[tuple[int, str]]


class Segments:
    """The segments of a run, and the values in them.

    Args:
        schedule: the schedule.
        planned: the run.
        base: the optimizer's own value, if known.
    """

    def __init__(self, schedule: Schedule, planned: Planned, base: float | None) -> None:
        self._schedule, self._planned, self._base = schedule, planned, base
        self._all = list(self._walk())
        self._firsts = [segment.first for segment in self._all]

    @property
    def decisions(self) -> tuple[tuple[int, str], ...]:
        """What a metric-driven schedule decides, with the step that follows the decision."""
        return tuple(decision for segment in self._all for decision in segment.decided)

    def values(self, steps: Steps, block: int = EXACT_BLOCK) -> Values:
        """The values of some steps, shape (n,).

        Args:
            steps: increasing, shape (n,), n >= 1.
            block: steps at a time. Default: as many as are bit for bit what a training uses.

        Raises:
            TrainingError: a value is not a possible learning rate, or depends on something unknown.
        """
        values = np.empty(steps.shape)
        touched = slice(bisect_right(self._firsts, steps[0]) - 1, bisect_left(self._firsts, steps[-1] + 1))
        for segment in self._all[touched]:
            begin, end = np.searchsorted(steps, (segment.first, segment.end)).tolist()
            for at in range(begin, end, block):
                which = slice(at, min(at + block, end))
                values[which] = self._schedule(self._planned.run.position(steps[which], self._base), segment.state)
        _check(steps, values, self._schedule)
        return values

    def after_the_end(self) -> float:
        """The value that would follow the last step."""
        position = self._planned.run.position(self._planned.steps, self._base)
        return float(self._schedule(position, self._all[-1].state))

    def _walk(self) -> Iterator[Segment]:
        schedule, planned = self._schedule, self._planned
        state, first = schedule.start(), 0
        decided: list[tuple[int, str]] = []
        metrics = SimulatedMetrics(planned.metrics, planned.steps, planned.validations is not None, planned.measured)
        for occasion in _occasions(schedule, planned) if state is not None else ():
            position = Position(occasion.step, occasion.epoch, planned.run, self._base)
            observed = schedule.observe(state, position, metrics.observation(occasion))
            if observed == state:
                continue
            if occasion.step > first:
                yield Segment(first, occasion.step, state, decided)
                first, decided = occasion.step, []
            changes = schedule.changes(state, observed)
            decided += [(occasion.step, change.verb + (f" ({change.why})" if change.why else "")) for change in changes]
            state = observed
        yield Segment(first, planned.steps, state, decided)


def _occasions(schedule: Schedule, planned: Planned) -> Iterator[Occasion]:
    per_epoch = planned.run.steps_per_epoch
    if per_epoch is None:
        raise InvalidArgumentError("steps_per_epoch", None, "given, because this schedule depends on epochs")
    whens = {monitor.when for monitor in schedule.monitors}
    for count, occasion in enumerate(occasions(planned.steps, int(per_epoch), whens, planned.validations)):
        if count == _MOST_OCCASIONS:
            allowed = f"short enough for at most {_MOST_OCCASIONS:,} occasions, where a schedule observes"
            hint = "Look at a shorter run, or let it observe less often."
            raise InvalidArgumentError("the run", f"{planned.steps:,} steps", allowed, hint)
        if occasion.step < planned.steps:
            yield occasion


def _check(steps: Steps, values: Values, schedule: Schedule) -> None:
    """Refuse a value that is too large for single precision; the schedule itself has checked all else."""
    if values.size and values.max() > LARGEST:
        at = int(np.argmax(values > LARGEST))
        value, when = repr(float(values[at])), f"at step {steps[at]}, and {ENDS}"
        raise ImpossibleValueError("learning rate", "a finite number >= 0", value, when, shown(schedule))
