"""The messages of LearningRateScheduler: Keras' sentences, with the schedules' reasons for their decisions."""

from __future__ import annotations

from collections.abc import Sequence

from lr_plugins.console.keras_styles import Style
from lr_plugins.console.keras_text import format_rate
from lr_plugins.engine.driven_groups import DrivenGroups
from lr_plugins.engine.driven_optimizers import DrivenOptimizers, describe_targets
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.schedules.metric_driven.base import MetricDriven
from lr_plugins.schedules.observation import Change

# At the start of an epoch, Keras prints "Epoch 00004: LearningRateScheduler setting learning rate to 0.001." `who` and
# `verb` come from the schedule's `Change`, `what` is the hyper-parameter, `why` is the schedule's reason.
MESSAGES: dict[Style, str] = {
    "keras2": "\nEpoch {epoch:05d}: {who} {verb} {what} to {value}.{why}",
    "keras3": "\nEpoch {epoch}: {who} {verb} {what} to {value}.{why}",
}
"""The sentence of each style, identical to that of Keras."""


def announce(epoch: int, driven: DrivenOptimizers, verbose: int, style: Style) -> None:
    """Print, at the start of an epoch, the values of time-based schedules."""
    time_based = [
        driven_groups
        for _, driven_groups in driven.driven_groups()
        if not isinstance(driven_groups.schedule, MetricDriven)
    ]
    changes = [
        (driven_groups, driven_groups.schedule.announcement(driven_groups.state)) for driven_groups in time_based
    ]
    report(epoch, changes, driven, verbose, style)


@rank_zero_only
def report(
    epoch: int, changes: Sequence[tuple[DrivenGroups, Change]], driven: DrivenOptimizers, verbose: int, style: Style
) -> None:
    """Print the decisions of schedules.

    Args:
        epoch: the number to print, from 1.
        changes: the decisions, each with the param groups it changes.
        driven: the optimizers. Nothing is printed once they are no longer written to.
        verbose: 0 prints only what a schedule itself asks for, and issues warnings as warnings; 1 prints everything.
        style: the form of the message.
    """
    if not changes or not driven.active:
        return
    for _, change in changes if verbose <= 0 else ():
        if change.warning and not change.asked:
            rank_zero_warn(f"{change.who}, epoch {epoch}: {change.why}")
    printed = [(driven_groups, change) for driven_groups, change in changes if verbose > 0 or change.asked]
    if not printed:
        return
    targets = describe_targets(driven.writers)
    printed.sort(key=lambda pair: list(targets).index(pair[0]))  # one hyper-parameter after the other
    lines = [
        _sentence(epoch, driven_groups, change, targets[driven_groups], style) for driven_groups, change in printed
    ]
    for line in dict.fromkeys(lines):
        print(line, flush=True)


def _sentence(epoch: int, driven_groups: DrivenGroups, change: Change, target: str, style: Style) -> str:
    return MESSAGES[style].format(
        epoch=epoch,
        who=change.who,
        verb=change.verb,
        what=target,
        value=format_rate(driven_groups.value if change.value is None else change.value, style),
        why="".join(f" ({why})" for why in (change.why, driven_groups.value_range) if why),
    )
