"""The search: training steps with increasing learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.metrics import batch_loss
from lr_plugins.callbacks.lr_finder.curve import LossCurve
from lr_plugins.callbacks.lr_finder.optimizer_lr import OptimizerLR
from lr_plugins.callbacks.lr_finder.sandbox import sandboxed_fit


def search(
    trainer: Trainer, pl_module: LightningModule, rates: Sequence[float], smoothing: float, threshold: float | None
) -> LossCurve:
    """Train one step with each learning rate, record the losses, and restore everything.

    Args:
        trainer: a Trainer at the start of its fit, after the optimizers have been built.
        pl_module: its module.
        rates: the values of the optimizer's default learning rate; param groups keep their ratio to it.
        smoothing: share of the mean loss that is kept at each step.
        threshold: the search ends when the smoothed loss is this many times its lowest; None for no such limit.
    """
    sweep = _LRSweep(OptimizerLR(trainer.optimizers[0]), rates, LossCurve(smoothing), threshold)
    with sandboxed_fit(trainer, pl_module, sweep, epochs=len(rates)) as loop:  # an epoch has at least one step
        loop.run()
    return sweep.curve


class _LRSweep(Callback):
    """Sets the learning rate of each optimizer step, and records its loss."""

    def __init__(
        self, optimizer_lr: OptimizerLR, rates: Sequence[float], curve: LossCurve, threshold: float | None
    ) -> None:
        self.curve = curve
        self._optimizer_lr, self._rates, self._threshold = optimizer_lr, rates, threshold
        self._losses: list[float] = []  # of the batches accumulated in the current step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of the step."""
        self._optimizer_lr.try_out(self._rates[trainer.global_step])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss once the step is taken; stop after the last one, or when the loss diverges."""
        loss = batch_loss(trainer, outputs)
        if loss is not None:
            self._losses.append(float(loss))
        if trainer.fit_loop._should_accumulate():
            return
        mean, self._losses = _mean(trainer, self._losses), []
        if mean is not None:
            self.curve.add(self._rates[trainer.global_step - 1], mean)
        if trainer.global_step == len(self._rates) or self.curve.has_diverged(self._threshold):
            trainer.should_stop = True


def _mean(trainer: Trainer, losses: Sequence[float]) -> float | None:
    """The mean over the batches of a step in all processes; None if no batch had a loss. A collective call."""
    total, count = math.fsum(losses) if all(map(math.isfinite, losses)) else math.nan, len(losses)
    if trainer.world_size > 1:
        device = trainer.strategy.root_device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's devices have no float64
        sums = trainer.strategy.reduce(torch.tensor([total, count], dtype=dtype, device=device), reduce_op="sum")
        total, count = sums.tolist()
    return total / count if count else None
