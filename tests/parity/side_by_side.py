"""The same fit in Keras and in Lightning: each takes a schedule and returns the output and the learning rates."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import LearningRateScheduler, Schedule
from lr_plugins.training.recipes import article_mnist as article_mnist

BASE = 0.5  # the optimizers' own lr, a number that float32 holds exactly


class Fit(NamedTuple):
    """The result of a fit."""

    text: str  # on stdout
    rates: list[float]  # lr of each epoch


class Idle(torch.optim.Optimizer):
    """Takes steps that change nothing: torch refuses to multiply float32 weights by a float64 such as 1e300."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            closure()


class Tiny(pl.LightningModule):
    """One weight; its training does not matter."""

    def __init__(self, base: float = BASE) -> None:
        super().__init__()
        self.layer, self.base = torch.nn.Linear(1, 1), base

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).mean())

    test_step = validation_step

    def predict_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return Idle(self.parameters(), self.base)


def loader(batches: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(batches, 1)))


def keras_model(learning_rate: Any = BASE) -> keras.Model:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    return model


def keras_data(batches: int) -> dict[str, Any]:
    zeros = np.zeros((batches, 1), np.float32)
    return {"x": zeros, "y": zeros, "batch_size": 1}


def trainer(*callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **{"accelerator": "cpu", **quiet, **arguments})


def keras_fit(
    function: Callable[..., Any], epochs: int, *, verbose: int = 1, initial_epoch: int = 0, base: float = BASE
) -> Fit:
    """A fit of one update per epoch under keras.callbacks.LearningRateScheduler."""
    scheduler = keras.callbacks.LearningRateScheduler(function, verbose=verbose)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        # verbose=0 switches off Keras' own lines, not those of the callback.
        history = keras_model(base).fit(
            **keras_data(1), epochs=epochs, initial_epoch=initial_epoch, verbose=0, callbacks=[scheduler]
        )
    return Fit(out.getvalue(), history.history["learning_rate"])


def our_fit(
    schedule: Schedule | Callable[..., Any],
    epochs: int,
    *,
    verbose: int = 1,
    style: str = "keras3",
    initial_epoch: int = 0,
    base: float = BASE,
) -> Fit:
    """A fit of one update per epoch under our callback."""
    scheduler = LearningRateScheduler(schedule, verbose=verbose, style=style)
    fit = trainer(scheduler, max_epochs=epochs)
    fit.fit_loop.epoch_progress.current.processed = initial_epoch  # Lightning's only way to start later
    with contextlib.redirect_stdout(io.StringIO()) as out:
        fit.fit(Tiny(base), loader(1))
    return Fit(out.getvalue(), scheduler.trace["lr"].values.tolist())


class KerasUpdates(keras.callbacks.Callback):
    """The lr of each update: Keras evaluates a schedule object when its optimizer's lr is read."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.rates.append(float(self.model.optimizer.learning_rate))


def keras_update_rates(learning_rate: Any, updates: int, epochs: int, callbacks: Sequence[Any] = ()) -> list[float]:
    """The lr of each update of a Keras fit of `updates` per epoch."""
    recorder = KerasUpdates()
    keras_model(learning_rate).fit(**keras_data(updates), epochs=epochs, verbose=0, callbacks=[*callbacks, recorder])
    return recorder.rates


def our_update_rates(schedule: Schedule | Callable[..., float], updates: int, epochs: int) -> list[float]:
    """The lr of each update of a Lightning fit of `updates` per epoch."""
    scheduler = LearningRateScheduler(schedule)
    trainer(scheduler, max_epochs=epochs).fit(Tiny(), loader(updates))
    return scheduler.trace["lr"].values.tolist()
