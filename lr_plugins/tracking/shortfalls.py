"""What to report when a run has ended and MLflow does not have it exactly as it was logged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lr_plugins.tracking.delivery import Delivery

_NAMED = 5  # params in a warning


def shortfalls(delivery: Delivery, complete: bool, is_default: bool) -> Iterator[str]:
    """A sentence for each way in which MLflow differs from what was logged; none if it has everything.

    Args:
        delivery: that of the run.
        complete: whether everything has been sent.
        is_default: whether the spools are in the default folder, which a command need not name.
    """
    run, parts = delivery.state.run_id, delivery.parts
    if parts.differing:
        yield (
            f"{parts.differing} points of MLflow run {run} have another value now than before the run was resumed; "
            "MLflow keeps the first value. A run of its own would have both (for a training: new_run=true)."
        )
    params = parts.differing_params
    if params:
        more = f" and {len(params) - _NAMED} more" if len(params) > _NAMED else ""
        yield (
            f"Params of MLflow run {run} have another value now than it has recorded: "
            f"{', '.join(params[:_NAMED])}{more}. MLflow keeps the first value; the new ones are tags: "
            f"{delivery.state.mark_of_params}{params[0]}."
        )
    if parts.refused:
        yield (
            f"MLflow run {run} has everything except {parts.refused} entries that MLflow does not accept; the last "
            f"one: {parts.refusal}. They are kept in {delivery.spool.folder}."
        )
    if not complete:
        reason = delivery.describe_trouble() if parts.trouble else "MLflow has not answered yet"
        folders = " and ".join(str(folder) for folder in parts.waiting)
        commands = " && ".join(_commands(delivery, is_default))
        yield f"{reason}. What it does not have yet waits in {folders}; send it with: {commands}"
    if delivery.overflow.lost_entries:
        yield delivery.describe_loss()


def _commands(delivery: Delivery, is_default: bool) -> Iterator[str]:
    """The commands that send what waits, one for each folder."""
    for place in dict.fromkeys(folder.parent for folder in delivery.parts.waiting):
        named = "" if is_default and place == delivery.parent else f" {shlex.quote(str(place))}"
        yield f"lr-plugins send{named}{' --to URI' if delivery.parts.error else ''}"
