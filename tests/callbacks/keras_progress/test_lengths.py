"""KerasProgress: epochs and runs of any length, and bad arguments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from lr_plugins.callbacks.keras_progress.callback import KerasProgress
from lr_plugins.errors import InvalidArgumentError
from tests.callbacks.keras_progress.helpers import BATCH, Endless, Fail, Module, loader, trainer, with_loaders


def test_steps_count_batches_under_accumulation_and_limits(console):
    out = console(accumulate_grad_batches=2, limit_train_batches=3, progress=KerasProgress("keras3"))
    assert re.findall(r"^\S+(?= - 0s)", out, re.M) == ["3/3", "3/3"]


def test_steps_of_an_unknown_length_are_counted(console):
    module = with_loaders(DataLoader(Endless(), batch_size=BATCH), [])
    out = console(module, progress=KerasProgress("keras3"))
    assert re.findall(r"^\S+(?= - 0s)", out, re.M) == ["5/5", "5/5"]


def test_an_epoch_cut_short_shows_the_steps_made(console, clock):
    class Slow(Module):
        def on_train_batch_end(self, *args: object) -> None:
            clock.now += 1.0

        def train_dataloader(self) -> object:
            return loader(48)

    out = console(Slow(validates=False), max_epochs=2, max_steps=3, progress=KerasProgress("keras3"))
    assert out.splitlines()[1].startswith(" 3/12 - 3s - 1s/step - ")


def test_an_epoch_without_steps_has_no_line_in_keras3(console):
    class Empty(IterableDataset):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(())

    module = with_loaders(DataLoader(Empty()), [])
    assert console(module, progress=KerasProgress("keras3")) == "Epoch 1/2\nEpoch 2/2\n"


def test_a_second_fit_continues_the_count(capsys):
    run, module = trainer(KerasProgress(), max_epochs=1), Module(validates=False)
    run.fit(module)
    run.fit_loop.max_epochs = 2
    run.fit(module)
    assert capsys.readouterr().out == (
        "Epoch 1/1\n - 0s - loss: 1.5000 - acc: 0.1500\nEpoch 2/2\n - 0s - loss: 2.5000 - acc: 0.2500\n"
    )


def test_a_resumed_run_continues_the_count(capsys, tmp_path):
    run = trainer(KerasProgress(), max_epochs=3)
    run.fit(Module())
    run.save_checkpoint(tmp_path / "three.ckpt")
    capsys.readouterr()
    trainer(KerasProgress(), max_epochs=4).fit(Module(), ckpt_path=tmp_path / "three.ckpt")
    assert capsys.readouterr().out == (
        "Train on 20 samples, validate on 8 samples\n"
        "Epoch 4/4\n"
        " - 0s - loss: 4.5000 - acc: 0.4500 - val_loss: 4.2500 - val_acc: 0.5500\n"
    )


def test_a_run_resumed_within_an_epoch_reports_that_epoch(capsys, tmp_path, clock):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: object, out: object, batch: object, i: int):
            if trainer.current_epoch == 1 and i == 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    class Slow(Module):
        def on_train_batch_end(self, *args: object) -> None:
            clock.now += 1.0

    progress = KerasProgress("keras3", metrics=["loss"])
    with pytest.raises(RuntimeError, match="stop here"):
        trainer(progress, Save(), Fail("on_validation_end")).fit(Slow())
    assert capsys.readouterr().out.count("Epoch 2/2\n") == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
        trainer(progress).fit(Slow(), ckpt_path=tmp_path / "mid.ckpt")
    # The count is the epoch's, the mean time that of the two steps made here.
    assert capsys.readouterr().out == ("Epoch 2/2\n5/5 - 2s - 1s/step - loss: 2.5000\n")


@pytest.mark.parametrize("style", ["keras", "", None, 2])
def test_an_unknown_style_is_refused(style):
    with pytest.raises(InvalidArgumentError, match=r"KerasProgress\.style must be one of keras2, keras3; got"):
        KerasProgress(style)


@pytest.mark.parametrize("metrics", ["loss", 3, [1], ["loss", "loss"], [None]])
def test_unusable_metrics_are_refused(metrics):
    with pytest.raises(InvalidArgumentError, match=r"KerasProgress\.metrics must be None or a sequence of different"):
        KerasProgress(metrics=metrics)
