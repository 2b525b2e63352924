"""Keras' TerminateOnNaN: training stops when the loss is NaN or infinite."""

from __future__ import annotations

from typing import Any

import torch

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.metrics import batch_loss
from lr_plugins.console.line import write
from lr_plugins.errors import TrainingError


class TerminateOnNaN(Callback):
    """Stop training after a batch whose loss is NaN or infinite.

    Reading the loss of each batch synchronizes with the accelerator. The epoch ends after that batch, with its
    validation and its hooks, as in Keras. (A schedule that monitors the loss may raise an error first: see its
    `on_nonfinite`.)

    Args:
        raise_error: raise an error instead, so that no end-of-training hook is called. Default False.

    Raises:
        TrainingError: the loss is NaN or infinite, with `raise_error`.

    Source: keras.callbacks.TerminateOnNaN.

    Example:
        >>> trainer = Trainer(callbacks=[TerminateOnNaN()])  # doctest: +SKIP
        >>> trainer.fit(module)  # doctest: +SKIP
        Batch 7: Invalid loss, terminating training
    """

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of the batch."""
        loss = batch_loss(trainer, outputs)
        is_invalid = loss is not None and not bool(torch.isfinite(loss).all())
        if trainer.world_size > 1:  # all processes stop together; one that stopped alone would leave the others waiting
            is_invalid = trainer.strategy.reduce_boolean_decision(is_invalid, all=False)
        if not is_invalid:
            return
        if self.raise_error:
            raise TrainingError(
                f"the loss of batch {batch_idx} in epoch {trainer.current_epoch} is NaN or infinite, and "
                "TerminateOnNaN has raise_error=True; a lower learning rate may help"
            )
        if not trainer.should_stop:
            write(f"Batch {batch_idx}: Invalid loss, terminating training\n")
        trainer.should_stop = True
