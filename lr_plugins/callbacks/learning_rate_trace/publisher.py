"""Hands the points of a trace to loggers."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.monitor_names import MonitorNames, Names
from lr_plugins.engine.recorder import Recorder
from lr_plugins.engine.trace import Trace


class TracePublisher:
    """Hands each point of a trace to the loggers of a Trainer once, in batches."""

    def __init__(self) -> None:
        self._every_n_steps = 1
        self._monitor_names: MonitorNames | None = None
        self._trace: Trace | None = None  # the trace published last
        self._next_steps: dict[str, int] = {}  # by name: the first step that the loggers do not have
        self._batches_to_go = 1  # until the next check for new points

    def start(self, every_n_steps: int, names: Names) -> None:
        """Check for new points after the first batch of a fit.

        Args:
            every_n_steps: the number of new points that makes a batch due, >= 1.
            names: `"plain"` for the names of the trace, `"monitor"` for those of LearningRateMonitor.
        """
        self._every_n_steps, self._batches_to_go = every_n_steps, 1
        if (self._monitor_names is not None) != (names == "monitor"):
            self._monitor_names = MonitorNames() if names == "monitor" else None

    def is_due(self, trace: Trace) -> bool:
        """Whether there are enough new points; called after each batch."""
        self._batches_to_go -= 1
        if self._batches_to_go > 0:
            return False
        waiting, next_steps = 0, self._next_steps
        for name, series in trace.by_name.items():
            waiting = max(waiting, series.next_step - next_steps.get(name, 0))
        is_due = waiting >= self._every_n_steps
        # A batch usually takes at most one step. With manual optimization it may take several, so the next check is
        # after half the remaining batches.
        self._batches_to_go = max((self._every_n_steps - (0 if is_due else waiting)) // 2, 1)
        return is_due

    def publish(self, trainer: Trainer, trace: Trace, recorders: Sequence[Recorder]) -> None:
        """Hand the new points to each logger.

        Args:
            trainer: the Trainer of the run.
            trace: the points.
            recorders: the recorders of the Trainer's optimizers, from which the monitor's names are derived.
        """
        if self._trace is not trace:  # a new run
            self._trace, self._next_steps = trace, {}
        if self._monitor_names is not None:
            self._monitor_names.register(recorders, trainer.lr_scheduler_configs)
        for name, series in trace.by_name.items():
            first = max(self._next_steps.get(name, 0), series.first_step)
            values = series.tail(first)
            self._next_steps[name] = series.next_step
            shown = name if self._monitor_names is None else self._monitor_names.of(name)
            for logger in trainer.loggers if values else ():
                _log(logger, shown, first, values)

    def state(self, trace: Trace) -> dict[str, int]:
        """By name, the first step that the loggers do not have."""
        return dict(self._next_steps) if self._trace is trace else {}

    def load(self, trace: Trace, state: Mapping[str, int]) -> None:
        """Continue with a trace from a state."""
        self._trace, self._next_steps = trace, dict(state)


def _log(logger: Any, name: str, first_step: int, values: array[float]) -> None:
    """Log values of consecutive steps, in one call if the logger supports it."""
    takes_series = hasattr(type(logger), "log_series")  # on the type: an instance of DummyLogger has every attribute
    for first, part in _without_gaps(first_step, values):
        if takes_series:
            logger.log_series(name, first, part)
            continue
        for step, value in enumerate(part, first):
            logger.log_metrics({name: value}, step=step)


def _without_gaps(first_step: int, values: array[float]) -> Iterator[tuple[int, array[float]]]:
    """The stretches of consecutive steps that have a value, each with its first step."""
    if not any(map(math.isnan, values)):
        yield first_step, values
        return
    for is_gap, part in itertools.groupby(enumerate(values, first_step), lambda point: math.isnan(point[1])):
        points = list(part)
        if not is_gap:
            yield points[0][0], array("d", (value for _, value in points))
