"""The loss over a whole data set, measured just before a schedule observes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins.errors import InvalidArgumentError


class FullPass:
    """The mean loss of the current model over all batches of a loader, in eval mode and without gradients.

    `loss = sum(loss of batch * size of batch) / sum(size of batch)`

    Args:
        loader: yields the batches, in any order. Default None: the Trainer's training set, in order.
        loss: (module, batch) -> the mean loss of the batch, a scalar tensor. Default None: the module's own
            method `compute_loss(batch)`.

    Raises:
        InvalidArgumentError: at the first call, if no `loss` is given and the module has no `compute_loss`, or if no
            `loader` is given and the Trainer's training set cannot be read in order.

    Example:
        >>> from lr_plugins import LearningRateScheduler, LossDriven
        >>> schedule = LossDriven(0.01, monitor="training_set_loss")
        >>> callback = LearningRateScheduler(schedule, measure={"training_set_loss": FullPass()})
    """

    def __init__(
        self,
        loader: Iterable[Any] | None = None,
        loss: Callable[[LightningModule, Any], Tensor] | None = None,
    ) -> None:
        self.loader = loader
        self.loss = loss

    def __call__(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """Measure the loss."""
        loss = self.loss or _own_loss(pl_module)
        loader = self.loader if self.loader is not None else _training_set(trainer)
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        try:
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                return _mean(trainer, loader, lambda batch: loss(pl_module, batch))
        finally:
            for module, training in modes.items():  # individually: some may be frozen in eval mode
                module.training = training


def _mean(trainer: Trainer, loader: Iterable[Any], loss: Callable[[Any], Tensor]) -> float:
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in loader:
        size = _size(batch)
        moved = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        total += loss(moved).double().cpu() * size
        count += size
    return float(total / count)


def _own_loss(pl_module: LightningModule) -> Callable[[LightningModule, Any], Tensor]:
    own = getattr(pl_module, "compute_loss", None)
    if own is None:
        raise InvalidArgumentError(
            "FullPass.loss",
            None,
            "a function of (module, batch)",
            f"{type(pl_module).__name__} has no method compute_loss(batch) to use instead.",
        )
    return lambda _, batch: own(batch)


def _training_set(trainer: Trainer) -> Iterable[Any]:
    """The training set in order: reading the Trainer's own loader would advance its shuffling."""
    offered = getattr(getattr(trainer, "datamodule", None), "evaluation_dataloader", None)
    if offered is not None:
        in_order: Iterable[Any] = offered()
        return in_order
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        raise InvalidArgumentError(
            "FullPass.loader",
            None,
            "given for this training set",
            "Only a DataLoader with a batch_size can be read in order without disturbing its shuffling.",
        )
    # A generator of its own: a DataLoader draws a seed for its workers, by default from the global one.
    return DataLoader(
        loader.dataset, loader.batch_size, collate_fn=loader.collate_fn, generator=torch.Generator().manual_seed(0)
    )


def _size(batch: Any) -> int:
    while isinstance(batch, (tuple, list, dict)):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return len(batch)
