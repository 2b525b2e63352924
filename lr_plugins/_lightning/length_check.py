"""Refuse, before the first epoch, schedules whose lengths are unknown in this run."""

from __future__ import annotations

from collections.abc import Iterable

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.run_length import samples_per_step
from lr_plugins.errors import TrainingError
from lr_plugins.schedules import Position, RunLength, Schedule
from lr_plugins.schedules.lengths import counts_samples, lengths_in


def check_lengths(trainer: Trainer, run: RunLength, schedules: Iterable[Schedule]) -> None:
    """Refuse a length in percent of an endless run, and a length in samples if the batch size is unknown.

    Otherwise training would fail at the step that first needs the length, possibly after hours.

    Raises:
        TrainingError: a length is unknown; the message says which one, why, and what to do.
    """
    for schedule in schedules:
        if run.batch_size is None and counts_samples(schedule):
            _check_samples(schedule, run, trainer)
        _check(schedule, run)


def check_end(trainer: Trainer, schedules: Iterable[Schedule]) -> None:
    """Refuse a length in percent of an endless run, as soon as the Trainer exists.

    Raises:
        TrainingError: the run has no end, and a schedule depends on it.
    """
    if trainer.max_steps < 0 and (trainer.max_epochs is None or trainer.max_epochs < 0):
        for schedule in schedules:
            _check(schedule, RunLength(steps_per_epoch=1, batch_size=1))  # these become known later


def _check(schedule: Schedule, run: RunLength) -> None:
    for length, of in lengths_in(schedule, _start(run)):
        length.known(of)


def _check_samples(schedule: Schedule, run: RunLength, trainer: Trainer) -> None:
    _, why = samples_per_step(trainer)
    # With any batch size, so that the length itself is found before the start of a part needs it.
    for length, of in lengths_in(schedule, _start(run._replace(batch_size=1))):
        if length.unit == "sp" and of.batch_size == 1:
            raise TrainingError(
                f"the length {length} is in samples, and the number of samples in an optimizer step is unknown: {why}. "
                "Give the length in steps or epochs."
            )


def _start(run: RunLength) -> Position:
    return Position(0, 0, run, 1.0)
