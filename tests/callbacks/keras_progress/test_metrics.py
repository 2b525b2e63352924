"""KerasProgress: which metrics a line shows."""

from __future__ import annotations

import re
import warnings

import pytest

from lr_plugins.callbacks.keras_progress.callback import KerasProgress
from tests.callbacks.keras_progress.helpers import Logs, Module, Scheduled, trainer


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def test_names_stay_as_logged_and_validation_comes_last(console):
    module = Logs({"f1": 1.0, "train_loss": 2.0}, {"valid/acc": 0.5, "val_loss": 0.75})
    assert (
        last_line(console(module)) == " - 0s - train_loss: 4.0000 - f1: 3.0000 - val_loss: 0.7500 - valid/acc: 0.5000"
    )


def test_val_prefix_marks_a_metric_logged_in_training(console):
    module = Logs({"val_gap": 1.0, "val_loss": 2.0, "acc": 3.0})
    assert last_line(console(module)) == " - 0s - acc: 5.0000 - val_loss: 4.0000 - val_gap: 3.0000"


def test_step_and_epoch_metric_shows_its_epoch_value(console):
    module = Logs({"loss": 1.0}, {"val_loss": 0.5}, on_step=True, on_epoch=True)
    assert last_line(console(module)) == " - 0s - loss: 3.0000 - val_loss: 0.5000"


def test_a_metric_logged_for_steps_only_shows_its_last_step(console):
    module = Logs({"loss": 1.0}, on_step=True, on_epoch=False)
    assert last_line(console(module)) == " - 0s - loss: 5.0000"


def test_names_ending_in_step_or_epoch_are_shown(console):
    module = Logs({"loss": 1.0, "loss_epoch": 2.0, "first_step": 3.0})
    assert last_line(console(module)) == " - 0s - loss: 3.0000 - loss_epoch: 4.0000 - first_step: 5.0000"


def test_metrics_select_and_order(console):
    module = Logs({"loss": 1.0, "acc": 0.0}, {"val_loss": 0.5}, on_step=True, on_epoch=True)
    progress = KerasProgress(metrics=["val_loss", "acc", "loss_step"])
    assert last_line(console(module, progress=progress)) == (
        " - 0s - val_loss: 0.5000 - acc: 2.0000 - loss_step: 5.0000"
    )


def test_selected_metrics_keep_the_learning_rate_of_keras3(console):
    progress = KerasProgress("keras3", metrics=["loss"])
    line = last_line(console(Scheduled(), progress=progress))
    assert line == "5/5 - 0s - 0s/step - loss: 2.5000 - learning_rate: 0.5000"


def test_empty_metrics_leave_only_the_time(console):
    assert last_line(console(progress=KerasProgress(metrics=[]))) == " - 0s"


def test_unlogged_name_warns_once_with_the_logged_ones(capsys):
    run = trainer(KerasProgress(metrics=["accuracy", "loss"]))
    with pytest.warns(UserWarning, match="KerasProgress") as caught:
        run.fit(Module())
    messages = [str(each.message) for each in caught if "KerasProgress" in str(each.message)]
    assert messages == [
        "KerasProgress.metrics has names that are not logged: accuracy. Logged metrics: val_acc, val_loss, acc, loss."
    ]
    assert last_line(capsys.readouterr().out) == " - 0s - loss: 2.5000"


def test_validation_metric_does_not_warn_before_validation(console):
    progress = KerasProgress(metrics=["loss", "val_loss"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="KerasProgress")
        out = console(progress=progress, check_val_every_n_epoch=2)
    assert re.findall(r" - 0s.*", out) == [" - 0s - loss: 1.5000", " - 0s - loss: 2.5000 - val_loss: 2.2500"]


def test_sanity_check_and_earlier_epochs_are_not_shown(console):
    out = console(check_val_every_n_epoch=2, num_sanity_val_steps=2, max_epochs=3)
    assert re.findall(r" - 0s.*", out) == [
        " - 0s - loss: 1.5000 - acc: 0.1500",
        " - 0s - loss: 2.5000 - acc: 0.2500 - val_loss: 2.2500 - val_acc: 0.3500",
        " - 0s - loss: 3.5000 - acc: 0.3500",
    ]


def test_last_validation_of_an_epoch_is_shown(console):
    class Counting(Module):
        validations = 0.0

        def on_validation_epoch_end(self) -> None:
            self.validations += 1.0
            self.log("val_count", self.validations)

        def validation_step(self, batch: object, batch_idx: int) -> None:
            pass

    out = console(Counting(), val_check_interval=0.4, num_sanity_val_steps=0)
    assert re.findall(r"val_count: \S+", out) == ["val_count: 2.0000", "val_count: 4.0000"]


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_values_logged_at_epoch_end_are_on_the_epoch_line(console, style):
    class Late(Module):
        def on_train_epoch_end(self) -> None:
            self.log("late", 10.0 + self.current_epoch)

    out = console(Late(), progress=KerasProgress(style))
    assert re.findall(r"late: \S+", out) == ["late: 10.0000", "late: 11.0000"]
