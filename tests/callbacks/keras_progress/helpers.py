"""Helpers for the tests of KerasProgress."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import ModuleType

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

SAMPLES, BATCH, STEPS = 20, 4, 5


class Clock:
    """A clock that moves only when told, so that printed times are known."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Module(pl.LightningModule):
    """Logs 1.5, 2.5, ... as the loss of the epochs, and a tenth of that as the accuracy."""

    def __init__(self, validates: bool = True) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.validates = validates

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.log("acc", 0.15 + 0.1 * self.current_epoch, on_step=False, on_epoch=True)
        self.log("loss", 1.5 + self.current_epoch, on_step=False, on_epoch=True)
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_acc", 0.25 + 0.1 * self.current_epoch)
        self.log("val_loss", 1.25 + self.current_epoch)

    def train_dataloader(self) -> object:
        return loader()

    def val_dataloader(self) -> object:
        return loader(8) if self.validates else []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Scheduled(Module):
    """With a scheduler, which changes nothing."""

    def configure_optimizers(self) -> object:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)]


def loader(samples: int = SAMPLES, **settings: object) -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(samples, 2)), **{"batch_size": BATCH, **settings})


def trainer(*callbacks: pl.Callback, package: ModuleType = pl, **settings: object) -> pl.Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 2,
    }
    return package.Trainer(callbacks=list(callbacks), **{**quiet, **settings})


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        return iter([(torch.zeros(2),)] * SAMPLES)


def with_loaders(train: object, validation: object) -> Module:
    module = Module()
    module.train_dataloader = lambda: train
    module.val_dataloader = lambda: validation
    return module


class Logs(Module):
    """Logs given values once per batch."""

    def __init__(self, train: Mapping[str, float], validation: Mapping[str, float] | None = None, **how: bool):
        super().__init__(validates=validation is not None)
        self.to_log, self.to_log_in_validation, self.how = train, validation or {}, how

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        for name, value in self.to_log.items():
            self.log(name, value + batch_idx, **(self.how or {"on_step": False, "on_epoch": True}))
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        for name, value in self.to_log_in_validation.items():
            self.log(name, value, **self.how)


class Fail(pl.Callback):
    """Raise in one hook of the second epoch."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def fail(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("stop here")


def learning_rates(text: str) -> list[str]:
    return re.findall(r"learning_rate: (\S+)", text)
