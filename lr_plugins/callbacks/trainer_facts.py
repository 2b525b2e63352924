"""What a Trainer knows that schedules want to know."""

from __future__ import annotations

import math

from lr_plugins._lightning import Trainer
from lr_plugins.schedules import RunLength


def run_length(trainer: Trainer) -> RunLength:
    """How long a Trainer's run will be, in optimizer steps; call it once its training data are set up.

    With manual optimization the module decides when to step, so steps per epoch are unknown then.
    """
    batches = trainer.num_training_batches
    automatic = trainer.lightning_module.automatic_optimization
    known = automatic and isinstance(batches, int)
    return RunLength.of(
        steps_per_epoch=math.ceil(batches / trainer.accumulate_grad_batches) if known else None,
        epochs=trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None,
        steps=trainer.max_steps if trainer.max_steps >= 0 else None,
    )
