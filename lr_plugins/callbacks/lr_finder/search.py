"""The search itself: some training steps, each with a higher learning rate than the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.metrics import batch_loss
from lr_plugins.callbacks.lr_finder.curve import Curve
from lr_plugins.callbacks.lr_finder.optimizer_lr import OptimizerLR
from lr_plugins.callbacks.lr_finder.sandbox import sandboxed_fit


def search(
    trainer: Trainer, pl_module: LightningModule, rates: Sequence[float], smoothing: float, threshold: float | None
) -> Curve:
    """Train one step with each learning rate, note the losses, and put everything back as it was.

    Args:
        trainer: a Trainer at the begin of its fit, when the optimizers are built.
        pl_module: its module.
        rates: the learning rates, those of the optimizer's default; param groups keep their ratio to it.
        smoothing: share of the mean loss so far that is kept at each step.
        threshold: how many times the lowest smoothed loss it may be before the search ends; None: any number.
    """
    climb = _LRSweep(OptimizerLR(trainer.optimizers[0]), rates, Curve(smoothing), threshold)
    with sandboxed_fit(trainer, pl_module, climb, epochs=len(rates)) as loop:  # an epoch has a step at least
        loop.run()
    return climb.curve


class _LRSweep(Callback):
    """Sets the learning rate of each optimizer step of a search, and takes down its loss."""

    def __init__(self, own: OptimizerLR, rates: Sequence[float], curve: Curve, threshold: float | None) -> None:
        self.curve = curve
        self._own, self._rates, self._threshold = own, rates, threshold
        self._losses: list[float] = []  # of the batches that the step under way has had

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set it."""
        self._own.try_out(self._rates[trainer.global_step])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take down the loss once the step is taken, and see whether that was enough."""
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
    """The mean over the batches of a step, those of all processes; None if none had a loss. All have to call it."""
    total, count = math.fsum(losses) if all(map(math.isfinite, losses)) else math.nan, len(losses)
    if trainer.world_size > 1:
        device = trainer.strategy.root_device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's devices have no float64
        sums = trainer.strategy.reduce(torch.tensor([total, count], dtype=dtype, device=device), reduce_op="sum")
        total, count = sums.tolist()
    return total / count if count else None
