"""Small LightningModules for tests: real trainings that take milliseconds."""

from __future__ import annotations

import functools

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import RunLength
from lr_plugins.schedules import Position

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def loader(samples: int = 24, batch_size: int = 4) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=batch_size)


class Toy(pl.LightningModule):
    """A linear layer; `make_optimizer` gets its parameters."""

    def __init__(self, make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        torch.nn.init.constant_(self.layer.weight, 0.5)  # the same in every test: a schedule may follow the loss
        torch.nn.init.zeros_(self.layer.bias)
        self.make_optimizer = make_optimizer

    def training_step(self, batch, batch_idx):
        loss = self.compute_loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.compute_loss(batch))

    def compute_loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class Spy(pl.Callback):
    """The learning rates that another callback sees, at batch starts and just before steps."""

    def __init__(self):
        self.at_batch_start: list[float] = []
        self.at_step: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.at_batch_start.append(float(trainer.optimizers[0].param_groups[0]["lr"]))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.at_step.append(float(optimizer.param_groups[0]["lr"]))


class Used(pl.Callback):
    """The learning rate of every optimizer step, as a hook of the test's own finds it; placed after the scheduler."""

    def __init__(self):
        self.by_optimizer: list[list[float]] = []
        self.handles = []

    def on_train_start(self, trainer, pl_module):
        for at, optimizer in enumerate(trainer.optimizers):
            if len(self.by_optimizer) == at:
                self.by_optimizer.append([])
            self.handles.append(optimizer.register_step_pre_hook(functools.partial(self.note, self.by_optimizer[at])))

    @staticmethod
    def note(values, optimizer, *_):
        values.append(float(optimizer.param_groups[0]["lr"]))

    def teardown(self, trainer, pl_module, stage):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    @property
    def values(self) -> list[float]:
        (values,) = self.by_optimizer
        return values


def assert_used(planned, scheduler, used):
    """Assert that every step used the planned value, by an independent record, the trace and the audit."""
    assert used.values == planned
    assert scheduler.trace["lr"].values.tolist() == planned
    assert (scheduler.audit.steps, scheduler.audit.followed) == (len(planned), len(planned))


def plan(schedule, epochs, run=None, base=0.1):
    """The values of a schedule over epochs of the given sizes."""
    run = RunLength() if run is None else run
    steps = [epoch for epoch, count in enumerate(epochs) for _ in range(count)]
    return [schedule(Position(step, epoch, run, base)) for step, epoch in enumerate(steps)]


def fit(module=None, *callbacks, epochs=3, train=None, val=None, ckpt_path=None, **options):
    """Fit and return the Trainer."""
    trainer = pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), **{**QUIET, **options})
    trainer.fit(Toy() if module is None else module, loader() if train is None else train, val, ckpt_path=ckpt_path)
    return trainer
