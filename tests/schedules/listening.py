"""What the tests of schedules that listen share: a run in which one metric is logged at each occasion."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from lr_plugins import Position, Schedule
from lr_plugins.schedules import Change, Observation


class Run(NamedTuple):
    """What came of a run: after each value the learning rate, and what was said."""

    rates: list[float]
    said: list[list[Change]]


def listen(schedule: Schedule, values: Iterable[Any], own: float | None = 0.5, interrupted: bool = False) -> Run:
    """Let a schedule observe these values of its metric, one each time; None for one that is not logged anew."""
    (monitor,) = schedule.monitors
    state, run = schedule.start(), Run([], [])
    for index, value in enumerate(values):
        metrics = {} if value is None else {monitor.metric: value}
        position = Position(10 * index, index, base_learning_rate=own)
        before = json.loads(json.dumps(state, allow_nan=False)) if interrupted else state
        kept = json.dumps(before)
        state = schedule.observe(before, position, Observation(monitor.when, metrics, known=[monitor.metric]))
        assert json.dumps(before) == kept, "a state was changed in place"
        run.said.append(list(schedule.changes(before, state)))
        run.rates.append(float(schedule(position, state)))
        assert math.isfinite(run.rates[-1])
    return run
