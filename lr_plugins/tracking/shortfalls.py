"""What to report when a run has ended and MLflow does not have it exactly as it was logged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lr_plugins.tracking.delivery import Delivery

_NAMED = 5  # params in a warning


def shortfalls(delivery: Delivery, complete: bool, is_default: bool) -> Iterator[str]:
    """A sentence for each way in which MLflow differs from what was logged; nothing where it has all of it.

    Args:
        delivery: that of the run.
        complete: whether everything has been sent.
        is_default: whether the spools are in the default folder, which a command need not name.
    """
    run = delivery.state.run_id
    if delivery.differing:
        yield (
            f"{delivery.differing} points of MLflow run {run} have another value now than before the run was resumed; "
            "the first value stays. A run of its own would have both (train.py: new_run=true)."
        )
    params = delivery.differing_params
    if params:
        more = f" and {len(params) - _NAMED} more" if len(params) > _NAMED else ""
        yield (
            f"Params of MLflow run {run} have another value now than it has recorded: "
            f"{', '.join(params[:_NAMED])}{more}. MLflow keeps the first value; the new ones are tags: "
            f"{delivery.state.mark_of_params}{params[0]}."
        )
    if delivery.refused:
        refusal = next(part.state.refusal for part in delivery.parts if part.state.refused)
        yield (
            f"MLflow did not take {delivery.refused} of the entries of run {run}, the last of them because: {refusal}. "
            f"They are kept in {delivery.spool.folder}."
        )
    if not complete:
        reason = delivery.trouble_in_words if delivery.trouble else "MLflow has not answered yet"
        folders = " and ".join(str(folder) for folder in delivery.waiting)
        commands = " && ".join(_commands(delivery, is_default))
        yield f"{reason}. What it does not have yet waits in {folders}; send it with: {commands}"
    if delivery.lost_entries:
        yield lost_points(delivery)


def lost_points(delivery: Delivery) -> str:
    """What to report of points that no disk had room for."""
    return (
        f"{delivery.lost} points of the run ({delivery.lost_entries} entries) are lost: no disk had room for them, "
        f"until the end of the training. {delivery.spool.folder} has what was logged before."
    )


def _commands(delivery: Delivery, is_default: bool) -> Iterator[str]:
    """The commands that send what waits, one for each folder."""
    for place in dict.fromkeys(folder.parent for folder in delivery.waiting):
        named = "" if is_default and place == delivery.parent else f" {shlex.quote(str(place))}"
        yield f"lr-plugins send{named}{' --to URI' if delivery.error else ''}"
