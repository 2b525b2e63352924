"""KerasProgress: the lines of the two styles, and the sizes of the data."""

from __future__ import annotations

import re

import lightning.pytorch as other
import pytest
import torch
from torch.utils.data import DataLoader

from lr_plugins import Constant, LearningRateScheduler
from lr_plugins.callbacks.keras_progress.callback import KerasProgress
from tests.callbacks.keras_progress.helpers import (
    BATCH,
    STEPS,
    Endless,
    Logs,
    Module,
    Scheduled,
    learning_rates,
    loader,
    trainer,
)


def test_keras2_prints_sizes_titles_and_lines(console):
    assert console() == (
        "Train on 20 samples, validate on 8 samples\n"
        "Epoch 1/2\n"
        " - 0s - loss: 1.5000 - acc: 0.1500 - val_loss: 1.2500 - val_acc: 0.2500\n"
        "Epoch 2/2\n"
        " - 0s - loss: 2.5000 - acc: 0.2500 - val_loss: 2.2500 - val_acc: 0.3500\n"
    )


def test_keras3_prints_steps_sorted_metrics_and_learning_rate(console):
    assert console(Scheduled(), progress=KerasProgress("keras3")) == (
        "Epoch 1/2\n"
        "5/5 - 0s - 0s/step - acc: 0.1500 - loss: 1.5000 - val_acc: 0.2500 - val_loss: 1.2500"
        " - learning_rate: 0.5000\n"
        "Epoch 2/2\n"
        "5/5 - 0s - 0s/step - acc: 0.2500 - loss: 2.5000 - val_acc: 0.3500 - val_loss: 2.2500"
        " - learning_rate: 0.5000\n"
    )


def test_keras3_sorts_training_and_validation_apart(console):
    module = Logs({"zeta": 1.0, "loss": 1.0, "Acc": 1.0}, {"val_loss": 0.5, "accuracy_there": 0.5})
    out = console(module, max_epochs=1, progress=KerasProgress("keras3"))
    # Keras shows the learning rate where something schedules it.
    assert re.findall(r"(\w+):", out) == ["Acc", "loss", "zeta", "accuracy_there", "val_loss"]
    scheduled = console(Module(), LearningRateScheduler(Constant(0.25)), progress=KerasProgress("keras3"))
    assert learning_rates(scheduled) == ["0.2500"] * 2


def test_one_epoch_has_a_title_in_keras2_only(console):
    assert "Epoch 1/1\n" in console(max_epochs=1)
    assert "Epoch" not in console(max_epochs=1, progress=KerasProgress("keras3"))


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_unlimited_epochs_have_a_title_without_their_number(console, style):
    out = console(max_epochs=-1, max_steps=2 * STEPS, progress=KerasProgress(style))
    assert [line for line in out.splitlines() if line.startswith("Epoch")] == ["Epoch 1", "Epoch 2"]
    assert out.count("loss: 2.5000") == 1


def test_output_has_no_control_characters_but_newlines(console):
    assert re.fullmatch(r"[ -~\n]+", console() + console(progress=KerasProgress("keras3")))


def test_works_in_trainers_of_the_lightning_package(capsys):
    class Net(other.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.log("loss", 1.5, on_step=True, on_epoch=True)
            return self.layer(batch[0]).mean()

        def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
            self.log("val_loss", 1.25)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    run = trainer(KerasProgress(), max_epochs=1, package=other)
    run.fit(Net(), loader(), loader(8))
    assert capsys.readouterr().out == (
        "Train on 20 samples, validate on 8 samples\nEpoch 1/1\n - 0s - loss: 1.5000 - val_loss: 1.2500\n"
    )


@pytest.mark.parametrize(
    ("train", "validation", "limits", "first_line"),
    [
        (loader(20), loader(8), {}, "Train on 20 samples, validate on 8 samples"),
        (loader(22), loader(9), {}, "Train on 22 samples, validate on 9 samples"),
        (loader(22, drop_last=True), loader(9), {}, "Train on 20 samples, validate on 9 samples"),
        (
            loader(20),
            loader(9),
            {"limit_train_batches": 2, "limit_val_batches": 1},
            "Train on 8 samples, validate on 4 samples",
        ),
        (
            loader(20, sampler=torch.utils.data.SubsetRandomSampler(range(6))),
            loader(8),
            {},
            "Train on 6 samples, validate on 8 samples",
        ),
        (DataLoader(Endless(), batch_size=BATCH), loader(8), {}, "Epoch 1/1"),
        (loader(20), DataLoader(Endless(), batch_size=BATCH), {}, "Epoch 1/1"),
        (loader(20, batch_size=None), loader(8), {}, "Epoch 1/1"),
        ({"a": loader(20), "b": loader(8)}, loader(8), {}, "Epoch 1/1"),
        (loader(20), loader(8), {"limit_val_batches": 0}, "Epoch 1/1"),
    ],
)
def test_sizes_are_printed_when_known(console, train, validation, limits, first_line):
    class AnyBatch(Module):
        def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
            return self.layer(torch.zeros(1, 2)).mean()

        def validation_step(self, batch: object, batch_idx: int) -> None:
            pass

    module = AnyBatch()
    module.train_dataloader, module.val_dataloader = (lambda: train), (lambda: validation)
    assert console(module, max_epochs=1, **limits).splitlines()[0] == first_line


def test_sizes_of_several_validation_loaders_add_up(console):
    class Two(Module):
        def validation_step(self, batch: object, batch_idx: int, dataloader_idx: int) -> None:
            self.log("val_loss", 1.25 + dataloader_idx, on_step=True, on_epoch=True)

        def val_dataloader(self) -> object:
            return [loader(8), loader(4)]

    assert console(Two(), max_epochs=1) == (
        "Train on 20 samples, validate on 12 samples\n"
        "Epoch 1/1\n"
        " - 0s - loss: 1.5000 - acc: 0.1500"
        " - val_loss/dataloader_idx_0: 1.2500 - val_loss/dataloader_idx_1: 2.2500\n"
    )


def test_without_validation_there_are_no_sizes(console):
    assert console(Module(validates=False), max_epochs=1) == ("Epoch 1/1\n - 0s - loss: 1.5000 - acc: 0.1500\n")
