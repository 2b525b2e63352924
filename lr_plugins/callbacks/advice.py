"""Reports, when a fit starts, where a learning rate departs from rules of thumb."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from lightning_utilities.core import rank_zero

from lr_plugins._lightning.compat import LightningModule
from lr_plugins.engine.driven_groups import DrivenGroups, sampled_steps
from lr_plugins.engine.hyperparameter import LEARNING_RATE
from lr_plugins.errors import LearningRateError
from lr_plugins.rank_zero import rank_zero_info
from lr_plugins.schedules.rules_of_thumb import fall_line, start_line

_LOGGED: set[str] = set()  # in this process: a sweep with a hundred fits needs each line only once


def log_once(line: str) -> None:
    """Write a line to Lightning's log, once; if the log is silenced, a later fit may write it."""
    if line not in _LOGGED and rank_zero.log.isEnabledFor(logging.INFO):
        _LOGGED.add(line)
        rank_zero_info(f"LearningRateScheduler: {line} (set advice=False to silence this)")


def advise(
    module: LightningModule, driven: DrivenGroups, total_steps: float | None, report: Callable[[str], object]
) -> None:
    """Report where a learning rate departs from the rules of thumb.

    Args:
        module: the module being trained; with normalization layers it may start higher.
        driven: the param groups and their schedule, whose first value has been written.
        total_steps: the length of the run; None or infinite if unknown.
        report: called with each line.
    """
    for line in _lines(module, driven, total_steps):
        if line:
            report(line)


def _lines(module: LightningModule, driven: DrivenGroups, total_steps: float | None) -> Iterator[str]:
    if driven.hyper != LEARNING_RATE:
        return
    values = [driven.value, *_ahead(driven, total_steps)]
    is_plain = not any("Norm" in type(layer).__name__ for layer in module.modules())
    if is_plain:
        yield start_line(values[0], max(values))
    if len(values) > 1:
        yield fall_line(max(values), values[-1])


def _ahead(driven: DrivenGroups, total_steps: float | None) -> list[float]:
    """Sampled values up to the last step; none if they cannot be computed ahead."""
    if total_steps is None or total_steps == float("inf") or not driven.schedule.is_pure or driven.schedule.monitors:
        return []
    try:
        values = [_value_at(driven, step) for step in sampled_steps(0, total_steps - 1)]
        before = _value_at(driven, max(round(total_steps) - 2, 0))
        # A decay that is complete only after the last step counts as complete; past the end there may be no value.
        return [*values, min(values[-1], max(2 * values[-1] - before, 0.0))]
    except LearningRateError:  # it is raised when the value is needed
        return []


def _value_at(driven: DrivenGroups, step: int) -> float:
    """The value at a future step, in the epoch of that step."""
    position = driven.position_at(step, driven.base_value)
    if position.run.steps_per_epoch is not None:
        position = position._replace(epoch=position.run.position(step).epoch)
    return float(driven.schedule(position, driven.state))
