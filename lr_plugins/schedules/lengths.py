"""The lengths of time in a schedule, and the run that each is a length of."""

from __future__ import annotations

from collections.abc import Iterator

from lr_plugins.schedules.combinators.base import Combination
from lr_plugins.schedules.duration import Duration
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.schedule import Schedule


def counts_samples(schedule: Schedule) -> bool:
    """Whether any length in a schedule, its parts included, is in samples.

    Example:
        >>> from lr_plugins import CosineDecay
        >>> counts_samples(CosineDecay(0.1, decay_steps="50000sp").with_warmup("5%")), counts_samples(CosineDecay(0.1))
        (True, False)
    """
    parts = schedule.parts if isinstance(schedule, Combination) else ()
    return any(length.unit == "sp" for length in schedule.own_lengths()) or any(map(counts_samples, parts))


def relevant_run(schedule: Schedule, run: RunLength) -> RunLength:
    """The run without what a schedule does not depend on: the batch size, unless it counts samples."""
    return run if counts_samples(schedule) else run._replace(batch_size=None)


def lengths_in(schedule: Schedule, position: Position) -> Iterator[tuple[Duration, RunLength]]:
    """Each length in a schedule, its parts included, with the run that it is a length of.

    Raises:
        TrainingError: the length of a part is unknown in this run.
    """
    for length in schedule.own_lengths():
        yield length, position.run
    if isinstance(schedule, Combination):
        for index, part in enumerate(schedule.parts):
            yield from lengths_in(part, schedule.local_position(index, position))
