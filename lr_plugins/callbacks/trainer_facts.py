"""What a Trainer knows that schedules want to know."""

from __future__ import annotations

import math

from lr_plugins._lightning import Trainer
from lr_plugins.schedules import RunLength


def run_length(trainer: Trainer) -> RunLength:
    """How long a Trainer's run will be, in optimizer steps; call it once its training data are set up.

    Unknown are the steps of manual optimization, where the module decides when to step; those of several
    optimizers, which `max_steps` counts together; and those under an accumulation that changes on the way.
    """
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    changing = any(type(one).__name__ == "GradientAccumulationScheduler" for one in callbacks)
    if len(trainer.optimizers) > 1 or changing or not trainer.lightning_module.automatic_optimization:
        return RunLength.of(epochs=epochs)
    batches = trainer.num_training_batches
    return RunLength.of(
        steps_per_epoch=math.ceil(batches / trainer.accumulate_grad_batches) if isinstance(batches, int) else None,
        epochs=epochs,
        steps=trainer.max_steps if trainer.max_steps >= 0 else None,
    )
