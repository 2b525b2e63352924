"""What a Trainer knows that schedules want to know."""

from __future__ import annotations

import math
from collections.abc import Callable

from lr_plugins._lightning import Callback, Trainer
from lr_plugins.schedules import RunLength


def run_length(trainer: Trainer) -> RunLength:
    """How long a Trainer's run will be, in optimizer steps; call it once its training data are set up.

    Unknown are the steps of an epoch under manual optimization, where the module decides when to step, and under an
    accumulation that changes on the way; a run of those has a known length only where nothing but `max_steps` ends
    it. Of several optimizers nothing is known, for `max_steps` counts them together.
    """
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None
    steps = trainer.max_steps if trainer.max_steps >= 0 else None
    if len(trainer.optimizers) > 1:
        return RunLength.of(epochs=epochs)
    if _changes_accumulation(trainer) or not trainer.lightning_module.automatic_optimization:
        return RunLength.of(epochs=epochs, steps=steps if epochs is None else None)
    batches = trainer.num_training_batches
    return RunLength.of(
        steps_per_epoch=math.ceil(batches / trainer.accumulate_grad_batches) if isinstance(batches, int) else None,
        epochs=epochs,
        steps=steps,
    )


def _changes_accumulation(trainer: Trainer) -> bool:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(is_a("GradientAccumulationScheduler", one) for one in callbacks)


def is_a(name: str, callback: object) -> bool:
    """Whether a callback is of one of Lightning's classes, in either package, or of a class derived from it."""
    return any(one.__name__ == name for one in type(callback).__mro__)


def left_out(callback: Callback, trainer: Trainer) -> Callable[[], bool]:
    """Whether a Trainer does without a callback of its run for the moment.

    Lightning's searches for a learning rate and for a batch size, which a user may start on the way, put other
    callbacks in the place of all, try some steps, and undo them.
    """
    return lambda: callback not in trainer.callbacks  # type: ignore[attr-defined]
