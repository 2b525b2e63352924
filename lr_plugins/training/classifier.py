"""The reference LightningModule: a network, a loss and an optimizer for classification."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lr_plugins._lightning.distributed import gather_objects
from lr_plugins.checkpoint_state import StateFormat, count, list_of, real, row
from lr_plugins.errors import InvalidArgumentError

Batch = tuple[Tensor, Tensor]

_BATCHES, _NUMBERS = 64, 1 << 16
"""How many batches wait at most to be counted, and numbers in their logits."""


class EpochMean:
    """Mean loss and accuracy over the samples of an epoch, accumulated without waiting for the device.

    Two calls of `LightningModule.log` per step take about 0.3 ms, half the time of a step of a tiny network; this takes
    a few additions per batch and one `log_dict` per epoch.
    """

    state_format = StateFormat("Classifier", {"sums": row(real, real), "samples": count})

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self._sums, self._samples = [0.0, 0.0], 0
        self._on_device: Tensor | None = None  # the sums, on a device whose results are not ready at once
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # batches that are not in the sums yet
        self._numbers = 0  # in their logits

    def add(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        """Add one batch: its mean `loss`, and how many of its `logits` are largest at `target`."""
        loss, logits = loss.detach(), logits.detach()
        self._samples += len(target)
        if not logits.is_cpu:
            self._on_device = self._as_tensor(loss.device)
            self._on_device[0].add_(loss, alpha=len(target))
            self._on_device[1].add_(torch.count_nonzero(logits.argmax(dim=-1) == target))
            return
        # Nothing runs beside Python here, and many small batches are counted in the time of one.
        self._waiting.append((loss, logits, target))
        self._numbers += logits.numel()
        if self._numbers >= _NUMBERS or len(self._waiting) >= _BATCHES:
            self._count_waiting()

    def _count_waiting(self) -> None:
        for loss, _, target in self._waiting:
            self._sums[0] += loss.item() * len(target)
        for _, group in itertools.groupby(self._waiting, lambda batch: batch[1].shape[1:]):
            _, logits, targets = zip(*group, strict=True)
            self._sums[1] += torch.count_nonzero(torch.cat(logits).argmax(dim=-1) == torch.cat(targets)).item()
        self._waiting, self._numbers = [], 0

    def _as_tensor(self, device: torch.device) -> Tensor:
        if self._on_device is not None:
            return self._on_device
        self._count_waiting()
        # Apple's devices have no float64.
        return torch.tensor(self._sums, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    def means(self, trainer: pl.Trainer, prefix: str = "") -> dict[str, Tensor]:
        """`{"loss": ..., "acc": ...}` over the samples of all ranks; empty when there were none."""
        sums = self._as_tensor(trainer.strategy.root_device)
        total = torch.cat([sums, sums.new_tensor([self._samples])])
        total = trainer.strategy.reduce(total, reduce_op="sum")
        if not total[2]:
            return {}
        loss, accuracy = (total[:2] / total[2]).float().unbind()
        return {f"{prefix}loss": loss, f"{prefix}acc": accuracy}

    def so_far(self) -> dict[str, float]:
        """The same over the samples of this process alone."""
        loss, accuracy = self.state_dict()["sums"]
        samples = self._samples
        return {"loss": loss / samples, "acc": accuracy / samples} if samples else {}

    def state_dict(self) -> dict[str, Any]:
        """The sums as plain numbers."""
        self._count_waiting()
        sums = list(self._sums) if self._on_device is None else self._on_device.tolist()
        return self.state_format.stamped({"sums": sums, "samples": self._samples})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums of `state_dict`."""
        checked = self.state_format.read(state)
        self.reset()
        self._sums, self._samples = list(checked["sums"]), checked["samples"]


EPOCH_MEANS = list_of(EpochMean.state_format.as_part)
"""What `Classifier` adds to a checkpoint."""


class Classifier(pl.LightningModule):
    """Trains `net` as a classifier; logs `loss`, `acc`, `val_loss` and `val_acc` once per epoch.

    The metrics are means over the samples of the epoch (a smaller last batch weighs less). They are logged at
    the end of the epoch and not per step; callbacks that monitor a metric see them. An epoch continued from a
    checkpoint includes the batches before the interruption.

    Args:
        net: maps a float tensor (samples, ...) to logits (samples, classes).
        loss: maps (logits, int64 targets) to the mean loss of the batch, e.g. `nn.CrossEntropyLoss()`.
        optimizer: makes the optimizer from the parameters, e.g. `functools.partial(torch.optim.SGD, lr=0.01)`.

    Raises:
        InvalidArgumentError: an argument is of the wrong kind.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> net = torch.nn.Linear(4, 3)
        >>> module = Classifier(net, torch.nn.CrossEntropyLoss(), partial(torch.optim.SGD, lr=0.01))
        >>> module.configure_optimizers().defaults["lr"]
        0.01
        >>> module.predict_step(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise InvalidArgumentError("Classifier.net", net, "a torch.nn.Module")
        if not isinstance(loss, nn.Module):
            raise InvalidArgumentError("Classifier.loss", loss, "a torch.nn.Module", "e.g. nn.CrossEntropyLoss().")
        if not callable(optimizer):
            hint = "functools.partial(torch.optim.SGD, lr=0.01), or `_partial_: true` in a Hydra config."
            raise InvalidArgumentError("Classifier.optimizer", optimizer, "a function of the parameters", hint)
        self.net, self.loss, self._make_optimizer = net, loss, optimizer
        self._train_mean, self._val_mean = EpochMean(), EpochMean()
        self._restored_means: list[dict[str, Any]] = []  # of a checkpoint, by rank

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch of inputs."""
        logits: Tensor = self.net(x)
        return logits

    def compute_loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch in the module's current mode (`train` or `eval`); logs nothing.

        Args:
            batch: inputs and int64 targets, on the device of the module.
        """
        x, y = batch
        loss: Tensor = self.loss(self(x), y)
        return loss

    def _step(self, batch: Batch, mean: EpochMean) -> Tensor:
        x, y = batch
        logits = self(x)
        loss: Tensor = self.loss(logits, y)
        mean.add(loss, logits, y)
        return loss

    def _log_means(self, mean: EpochMean, prefix: str = "") -> None:
        if means := mean.means(self.trainer, prefix):
            # The means are already the same on every rank; the flag only keeps Lightning from warning.
            self.log_dict(means, prog_bar=True, sync_dist=self.trainer.world_size > 1)

    def on_train_start(self) -> None:
        """Restore the sums of the running epoch, each process its own."""
        by_rank, self._restored_means = self._restored_means, []
        if len(by_rank) == self.trainer.world_size:
            self._train_mean.load_state_dict(by_rank[self.trainer.global_rank])

    def on_train_epoch_start(self) -> None:
        """Start the means of the epoch. Lightning does not call this when it continues within an epoch."""
        self._train_mean.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the batch, for the optimizer."""
        return self._step(batch, self._train_mean)

    def metrics_so_far(self) -> dict[str, float]:
        """`loss` and `acc` of the epoch under way, for a progress bar to show."""
        return self._train_mean.so_far()

    def on_train_epoch_end(self) -> None:
        """Log `loss` and `acc` of the epoch."""
        self._log_means(self._train_mean)

    def on_validation_epoch_start(self) -> None:
        """Start the means of the validation."""
        self._val_mean.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the batch."""
        self._step(batch, self._val_mean)

    def on_validation_epoch_end(self) -> None:
        """Log `val_loss` and `val_acc`."""
        self._log_means(self._val_mean, "val_")

    def predict_step(self, batch: Batch | Tensor, batch_idx: int = 0) -> Tensor:
        """Class probabilities (samples, classes) of a batch, given with or without its targets."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        logits: Tensor = self(x)
        return logits.softmax(dim=-1)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer alone: its learning rate is the business of a callback."""
        return self._make_optimizer(self.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the sums of the running epoch of each process, so that its means survive an interruption."""
        checkpoint["epoch_means"] = gather_objects(self.trainer, self._train_mean.state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of the running epoch until training starts: a module can also be loaded without a Trainer."""
        self._restored_means = []
        if self._trainer is not None:  # not needed to predict, or to train anew
            means = checkpoint.get("epoch_means", [])
            EPOCH_MEANS(means, "epoch_means")
            self._restored_means = means
