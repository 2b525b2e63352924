"""Helpers for the tests of the range test."""

from __future__ import annotations

import functools
import random

import numpy as np
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import (
    LearningRateRangeTest,
)
from tests import toys
from tests.toys import Toy, loader

SEARCH = {"min_learning_rate": 1e-4, "max_learning_rate": 1.0, "num_training_steps": 20, "verbose": 0}
finder = functools.partial(LearningRateRangeTest, **SEARCH)


def alike():
    """Six batches an epoch, all the same: what the loss does is the learning rate's doing."""
    x, y = loader().dataset.tensors
    return DataLoader(TensorDataset(x.repeat(6, 1), y.repeat(6, 1)), batch_size=len(x))


def fit(module, *callbacks, train=None, **options):
    return toys.fit(module, *callbacks, train=alike() if train is None else train, **options)


class Everything(Toy):
    """With dropout, running means, a buffer that is not saved, a counter, a list, and draws from all random numbers."""

    def __init__(self, make_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01), schedulers=False):
        super().__init__(make_optimizer)
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3))
        self.layer = torch.nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.steps, self.history, self.average = 0, [], {"loss": torch.zeros(())}
        self.schedulers = schedulers

    def compute_loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(self.body(x)), y)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.seen += 1
        self.begun_with = getattr(self, "begun_with", self.trainer.limit_val_batches)  # differs during a search
        self.history.append(random.random() + np.random.random())  # noqa: NPY002
        loss = super().training_step(batch, batch_idx)
        self.average["loss"] += loss.detach()
        self.log("step_loss", loss, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if not self.schedulers:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


class Memory(DummyLogger):
    def __init__(self):
        super().__init__()
        self.points, self.params, self.artifacts = [], [], []

    def log_metrics(self, metrics, step=None):
        self.points.append((step, dict(metrics)))

    def log_hyperparams(self, params, *_):
        self.params.append(params)

    def log_artifact(self, path):
        self.artifacts.append(path.name)


def built_with(rate, kind=torch.optim.SGD):
    return Toy(lambda parameters: kind(parameters, lr=rate))


def weights(module):
    return {name: value.tolist() for name, value in module.state_dict().items()}
