"""History: Keras' record of the epochs, complete after a resume."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import pytorch_lightning as pl
import torch

from lr_plugins import History, LearningRateScheduler, ReduceLROnPlateau, StepDecay
from lr_plugins.errors import InvalidArgumentError
from tests.callbacks.keras_progress.helpers import Logs, Module, trainer


def fitted(module=None, *callbacks, style="keras2", **settings):
    history = History(style)
    trainer(history, *callbacks, **{"max_epochs": 3, **settings}).fit(module or Module())
    return history


def test_history_is_a_dictionary_of_lists_as_in_keras():
    history = fitted(Module(), LearningRateScheduler(StepDecay(0.5, every="2ep")))
    assert history.epoch == [0, 1, 2]
    assert history.history == {
        "val_acc": pytest.approx([0.25, 0.35, 0.45]),
        "val_loss": [1.25, 2.25, 3.25],
        "acc": pytest.approx([0.15, 0.25, 0.35]),
        "loss": [1.5, 2.5, 3.5],
        "lr": [0.5, 0.5, 0.25],
    }
    assert history["val_loss"] == history.history["val_loss"]
    assert list(history) == list(history.history)
    assert "lr" in history
    assert "learning_rate" not in history
    assert json.loads(json.dumps(history.history)) == history.history  # plain numbers


def test_keras3_calls_it_learning_rate():
    history = fitted(Module(), LearningRateScheduler(StepDecay(0.5, every="2ep")), style="keras3")
    assert history["learning_rate"] == [0.5, 0.5, 0.25]
    assert list(history) == ["acc", "loss", "val_acc", "val_loss", "learning_rate"]


def test_keras2_lists_validation_metrics_first():
    history = fitted(Module(), LearningRateScheduler(StepDecay(0.5, every="2ep")))
    assert list(history) == ["val_loss", "val_acc", "loss", "acc", "lr"]


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_learning_rate_is_separate_without_a_scheduler(style):
    history = fitted(style=style)
    assert {"lr", "learning_rate"}.isdisjoint(history)
    assert history.learning_rates == {0: 0.5, 1: 0.5, 2: 0.5}


def test_missing_key_lists_the_known_names():
    with pytest.raises(KeyError, match="'accuracy'; the history has: val_loss, val_acc, loss, acc"):
        fitted(max_epochs=1)["accuracy"]
    with pytest.raises(KeyError, match="the history has: nothing yet"):
        History()["loss"]
    assert (History().history, History().epoch) == ({}, [])


def test_learning_rate_is_that_of_the_last_step():
    schedule = ReduceLROnPlateau(0.5, monitor="val_loss", factor=0.5, patience=1)
    assert fitted(Module(), LearningRateScheduler(schedule))["lr"] == [0.5, 0.5, 0.25]  # as Keras' logs["lr"]
    per_step = LearningRateScheduler(StepDecay(0.5, every="5st"))
    assert fitted(Module(), per_step, max_epochs=2)["lr"] == [0.5, 0.25]
    rates = per_step.trace["lr"].values
    assert [rates[4], rates[9]] == [0.5, 0.25]


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
def test_torch_scheduler_records_the_used_rate_not_the_next(rate):
    class Decaying(Module):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=copy.deepcopy(rate))
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    assert fitted(Decaying())["lr"] == [0.5, 0.25, 0.125]


def test_history_without_an_optimizer_has_no_rate():
    class Still(Module):
        def configure_optimizers(self):
            return None

    history = fitted(Still())
    assert "lr" not in history
    assert history.epoch == [0, 1, 2]


def test_value_logged_as_lr_by_the_module_is_kept():
    assert fitted(Logs({"lr": 7.0}), max_epochs=1)["lr"] == [9.0]


# --- the picture and the frame ------------------------------------------------------------------------------


def test_picture_shows_loss_accuracy_and_rate_over_epochs(tmp_path):
    history = fitted(Module(), LearningRateScheduler(StepDecay(0.5, every="2ep")), max_epochs=4)
    figure = history.plot(tmp_path / "history.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "learning rate"]
    loss, _, rate = figure.axes
    assert {line.get_label(): list(line.get_ydata()) for line in loss.lines} == {
        "training": history["loss"],
        "validation": history["val_loss"],
    }
    assert list(rate.lines[0].get_xdata()) == [0, 1, 2, 3]
    assert list(rate.lines[0].get_ydata()) == history["lr"]
    assert figure.axes[-1].get_xlabel() == "epoch"
    assert (tmp_path / "history.png").read_bytes()[:4] == b"\x89PNG"


def test_picture_without_data_and_without_validation():
    assert len(History().plot().axes) == 1
    figure = fitted(max_epochs=5, check_val_every_n_epoch=2).plot()
    assert list(figure.axes[0].lines[1].get_xdata()) == [1, 3]
    assert figure.axes[-1].get_ylabel() == "learning rate"  # shown even without a schedule


def test_the_frame_has_a_row_per_epoch_and_keras_names():
    history = fitted(Module(), LearningRateScheduler(StepDecay(0.5)), max_epochs=5, check_val_every_n_epoch=2)
    frame = history.frame()
    assert list(frame.columns) == list(history)
    assert frame.index.tolist() == [0, 1, 2, 3, 4]
    assert frame.index.name == "epoch"
    assert frame["loss"].tolist() == history["loss"]
    assert frame["val_loss"].isna().tolist() == [True, False, True, False, True]
    assert History().frame().empty


def test_epochs_without_validation_have_no_value():
    history = fitted(max_epochs=5, check_val_every_n_epoch=2)
    assert history["val_loss"] == [2.25, 4.25]  # Keras' list is as short
    assert history.values["val_loss"] == {1: 2.25, 3: 4.25}
    assert len(history["loss"]) == len(history.learning_rates) == len(history.epoch) == 5


def test_last_validation_of_an_epoch_is_recorded():
    class Counting(Module):
        validations = 0.0

        def on_validation_epoch_end(self):
            self.validations += 1.0
            self.log("count", self.validations)

    assert fitted(Counting(), val_check_interval=0.4, num_sanity_val_steps=0)["count"] == [2.0, 4.0, 6.0]


def test_names_are_lightnings():
    history = fitted(Logs({"loss": 1.0}, on_step=True, on_epoch=True), max_epochs=1)
    assert {name: history[name] for name in history} == {
        "loss": [3.0],
        "loss_step": [5.0],
        "loss_epoch": [3.0],
    }


def test_second_fit_continues_and_a_new_trainer_starts_over():
    history, module = History(), Module()
    run = trainer(history, max_epochs=1)
    run.fit(module)
    run.fit_loop.max_epochs = 2
    run.fit(module)
    assert (history["loss"], history.epoch) == ([1.5, 2.5], [0, 1])
    trainer(history, max_epochs=1).fit(Module())
    assert (history["loss"], history.learning_rates, history.epoch) == ([1.5], {0: 0.5}, [0])


def test_history_after_an_error_has_the_complete_epochs():
    class Fail(Module):
        def on_train_batch_start(self, batch, batch_idx):
            if self.current_epoch == 2:
                raise RuntimeError("stop here")

    history = History()
    with pytest.raises(RuntimeError, match="stop here"):
        trainer(history, max_epochs=3).fit(Fail())
    assert (history["loss"], history.epoch) == ([1.5, 2.5], [0, 1])


def test_history_after_an_error_holds_no_trainer():
    class Breaks(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            raise RuntimeError("broken")

    history = History()
    with pytest.raises(RuntimeError, match="broken"):
        trainer(history, Breaks()).fit(Module())
    assert not any(isinstance(value, pl.Trainer) for value in vars(history).values())


class Saves(pl.Callback):
    """Checkpoints after every batch, validation and epoch, by the event."""

    def __init__(self, folder):
        self.folder, self.kept = folder, {}

    def save(self, trainer, what):
        if not trainer.sanity_checking:
            place = self.folder / f"{len(self.kept)}.ckpt"
            trainer.save_checkpoint(place)
            self.kept[what, trainer.global_step] = place

    def on_train_batch_end(self, trainer, *args):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, pl_module):
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, pl_module):
        self.save(trainer, "epoch")


class Position(Module):
    """Logs its position, which a resumed run repeats whichever samples Lightning's loader returns."""

    def training_step(self, batch, batch_idx):
        self.log("loss", 10.0 * self.current_epoch + batch_idx, on_step=False, on_epoch=True)
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", float(self.global_step))


def positions(*callbacks, ckpt_path=None, **settings):
    history = History()
    # It follows a metric, so that the scheduler keeps the sums of an epoch under way.
    monitor = "loss" if "limit_val_batches" in settings else "val_loss"
    scheduler = LearningRateScheduler(ReduceLROnPlateau(0.1, monitor=monitor, factor=0.5, patience=1))
    run = trainer(history, scheduler, *callbacks, max_epochs=3, **settings)
    run.fit(Position(), ckpt_path=ckpt_path)
    return history


# What a checkpoint comes after, if Lightning leaves out the validation that would have followed.
WITHOUT_VALIDATION = {("batch", 15)}
TWICE = {"val_check_interval": 2}


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, WITHOUT_VALIDATION),
        (TWICE, WITHOUT_VALIDATION | {("batch", step) for step in (2, 4, 7, 9, 12, 14)}),
        ({"check_val_every_n_epoch": 2}, set()),
        ({"limit_val_batches": 0}, set()),
    ],
)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_history_of_a_resumed_run_is_complete(tmp_path, settings, left_out):
    saves = Saves(tmp_path)
    whole = positions(saves, **settings)
    assert whole["loss"] == [2.0, 12.0, 22.0]
    assert len(whole["lr"]) == 3
    assert len(saves.kept) >= 18
    for what, checkpoint in saves.kept.items():
        resumed = positions(ckpt_path=checkpoint, **settings)
        assert resumed.epoch == whole.epoch, what
        for name in ["loss"] if what in left_out else whole:
            assert resumed[name] == whole[name], (what, name)


def test_state_is_plain_numbers_and_history_can_be_copied():
    history = fitted()
    restored = History()
    restored.load_state_dict(json.loads(json.dumps(history.state_dict()), object_hook=with_epochs))
    assert (restored.history, restored.epoch) == (history.history, history.epoch)
    assert pickle.loads(pickle.dumps(history)).history == history.history


def with_epochs(found):
    """JSON's keys are texts."""
    return {int(key) if key.isdigit() else key: value for key, value in found.items()}


@pytest.mark.parametrize("style", ["keras", None, 2])
def test_an_unknown_style_is_refused(style):
    with pytest.raises(InvalidArgumentError, match=r"History\.style must be one of keras2, keras3; got"):
        History(style)
