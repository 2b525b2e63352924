"""Where a learning rate departs from the rules of thumb, reported when a fit starts."""

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

_LOGGED: set[str] = set()  # in this process: a search with a hundred fits needs each line once


def log_once(line: str) -> None:
    """Write a line to Lightning's log, once; where the log is silenced, the next fit may write it."""
    if line not in _LOGGED and rank_zero.log.isEnabledFor(logging.INFO):
        _LOGGED.add(line)
        rank_zero_info(f"LearningRateScheduler: {line} (advice=False leaves this out)")


def advise(
    module: LightningModule, driven: DrivenGroups, total_steps: float | None, report: Callable[[str], object]
) -> None:
    """Report where a learning rate departs from the rules of thumb.

    Args:
        module: what is trained: a network with normalization is not a plain one, and may start higher.
        driven: the param groups and their schedule, whose first value has been written.
        total_steps: of the run; None or infinite if unknown.
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
    """Some values up to the last step; none where they cannot be computed ahead."""
    if total_steps is None or total_steps == float("inf") or not driven.schedule.is_pure or driven.schedule.monitors:
        return []
    try:
        values = [_value_at(driven, step) for step in sampled_steps(0, total_steps - 1)]
        before = _value_at(driven, max(round(total_steps) - 2, 0))
        # A fall that is complete only at the end of the run counts as complete; past the end there may be no value.
        return [*values, min(values[-1], max(2 * values[-1] - before, 0.0))]
    except LearningRateError:  # which is raised when the value is needed
        return []


def _value_at(driven: DrivenGroups, step: int) -> float:
    """The value at a step to come, in the epoch of that step."""
    position = driven.position_at(step, driven.base_value)
    if position.run.steps_per_epoch is not None:
        position = position._replace(epoch=position.run.position(step).epoch)
    return float(driven.schedule(position, driven.state))
