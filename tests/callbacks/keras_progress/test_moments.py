"""KerasProgress: when a line is printed."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from lr_plugins.callbacks.keras_progress.callback import KerasProgress
from lr_plugins.rank_zero import rank_zero_only
from tests.callbacks.keras_progress.helpers import Fail, Logs, Module, loader, trainer


class Speaker(pl.Callback):
    """Another callback that prints, as a scheduler does."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        print(f"begin {trainer.current_epoch}")


def test_later_callback_prints_after_the_title_in_keras2(console):
    out = console(Logs({"loss": 1.0}), Speaker())
    assert out == ("Epoch 1/2\nbegin 0\n - 0s - loss: 3.0000\nEpoch 2/2\nbegin 1\n - 0s - loss: 3.0000\n")


def test_later_callback_prints_before_the_title_in_keras3(console):
    out = console(Logs({"loss": 1.0}), Speaker(), progress=KerasProgress("keras3", metrics=[]))
    line = "5/5 - 0s - 0s/step\n"
    assert out == f"begin 0\nEpoch 1/2\n{line}begin 1\nEpoch 2/2\n{line}"


def test_time_covers_training_and_validation(console, clock):
    class Slow(Module):
        def on_train_batch_end(self, *args: object) -> None:
            clock.now += 0.125

        def on_validation_epoch_end(self) -> None:
            clock.now += 1.875

        def on_train_epoch_end(self) -> None:  # after the end of the time
            clock.now += 100

    # 2.5 s, rounded to even, and the mean over 5 steps includes the validation
    assert " - 2s - loss" in console(Slow(), max_epochs=1)
    out = console(Slow(), max_epochs=1, progress=KerasProgress("keras3"), num_sanity_val_steps=0)
    assert out.startswith("5/5 - 2s - 500ms/step - ")


def test_a_run_stopped_early_prints_its_last_line(console):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = True

    out = console(None, Stop(), max_epochs=9)
    assert out.splitlines()[1:] == [
        "Epoch 1/9",
        " - 0s - loss: 1.5000 - acc: 0.1500 - val_loss: 1.2500 - val_acc: 0.2500",
    ]


def lines_until_failure(capsys: pytest.CaptureFixture[str], *callbacks: pl.Callback) -> list[str]:
    with pytest.raises(RuntimeError, match="stop here"):
        trainer(*callbacks).fit(Logs({"loss": 1.0}))
    return capsys.readouterr().out.splitlines()


def test_complete_epoch_is_printed_before_a_later_exception(capsys):
    lines = lines_until_failure(capsys, Fail("on_train_epoch_start"), KerasProgress())
    assert lines == ["Epoch 1/2", " - 0s - loss: 3.0000"]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
def test_failed_epoch_has_no_line(capsys, hook):
    lines = lines_until_failure(capsys, KerasProgress(), Fail(hook))
    assert lines == ["Epoch 1/2", " - 0s - loss: 3.0000", "Epoch 2/2"]


def test_a_fit_after_a_failed_one_starts_clean(capsys):
    progress = KerasProgress()
    lines_until_failure(capsys, progress, Fail("on_train_batch_end"))
    trainer(progress, max_epochs=1).fit(Logs({"loss": 1.0}))
    assert capsys.readouterr().out == "Epoch 1/1\n - 0s - loss: 3.0000\n"


def test_validate_test_and_predict_are_silent(capsys):
    class Full(Module):
        test_step = Module.validation_step

        def predict_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            return self.layer(batch[0])

    run, module = trainer(KerasProgress()), Full()
    run.validate(module, verbose=False)
    run.test(module, loader(8), verbose=False)
    run.predict(module, loader(8))
    assert capsys.readouterr().out == ""


def test_only_the_first_process_prints(console, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert console() == ""
