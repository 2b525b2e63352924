"""EarlyStopping, TerminateOnNaN and CSVLogger against the real Keras 3: the same metrics, epoch by epoch."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lr_plugins.keras as ours
from lr_plugins import History, LearningRateScheduler
from lr_plugins.errors import InvalidArgumentError, TrainingError

from .side_by_side import Tiny, keras_data, keras_model, loader, trainer

EPOCHS = 8


class Logged(keras.callbacks.Callback):
    """Puts prescribed values into Keras' logs before the later callbacks run."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        if self.values[epoch] is not None:
            logs["val_loss"] = self.values[epoch]
        self.model.set_weights([np.full(one.shape, epoch, np.float32) for one in self.model.get_weights()])


class Replay(Tiny):
    """Logs prescribed values; the weights say which epoch they are of."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        pass

    def on_train_epoch_end(self):
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(self.current_epoch)
        if self.values[self.current_epoch] is not None:
            self.log("val_loss", torch.tensor(self.values[self.current_epoch], dtype=torch.float64))


def keras_run(values, **arguments):
    """The output, the number of epochs, and the epoch of the final weights."""
    model = keras_model()
    stopping = keras.callbacks.EarlyStopping(**arguments, verbose=1)
    with contextlib.redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = model.fit(**keras_data(1), epochs=len(values), verbose=0, callbacks=[Logged(values), stopping])
    return out.getvalue(), len(history.epoch), model.get_weights()[0].flat[0]


def our_run(values, style="keras3", **arguments):
    module = Replay(values)
    stopping = ours.EarlyStopping(**arguments, verbose=1, style=style)
    run = trainer(stopping, max_epochs=len(values))
    with contextlib.redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(module, loader(1), loader(1))
    return out.getvalue(), run.current_epoch, module.layer.weight.item()


metrics = st.lists(
    st.one_of(
        st.none(), st.sampled_from([1.0, 0.9999, 0.99, 0.9, 0.5, math.nan, math.inf]), st.floats(-2, 2, width=32)
    ),
    min_size=1,
    max_size=EPOCHS,
)
arguments = st.fixed_dictionaries(
    {
        "patience": st.integers(0, 3),
        "min_delta": st.sampled_from([0.0, 0.01, 0.1, -0.1]),
        "mode": st.sampled_from(["min", "max"]),
        "baseline": st.sampled_from([None, 0.5, 0.95]),
        "restore_best_weights": st.booleans(),
        "start_from_epoch": st.sampled_from([0, 2]),
    }
)


@given(values=metrics, arguments=arguments)
@settings(max_examples=60)
def test_early_stopping_stops_prints_and_restores_as_keras(values, arguments):
    assert our_run(values, **arguments) == keras_run(values, **arguments)


def test_auto_mode_and_the_defaults():
    values = [1.0, 0.9, 0.95, 0.8]
    assert our_run(values) == keras_run(values) == ("Epoch 3: early stopping\n", 3, 2.0)


# --- Keras 2.2.4: the rule as it was read off, and its words ---------------------------------------------------


def keras2_rule(values, patience, min_delta=0.0, baseline=None):
    """(the epoch in which it stops, or None; the best one, or None)."""
    best, wait, best_epoch = math.inf if baseline is None else baseline, 0, None
    for epoch, value in enumerate(values):
        if value < best - min_delta:
            best, wait, best_epoch = value, 0, epoch
        else:
            wait += 1
            if wait >= patience:
                return epoch, best_epoch
    return None, best_epoch


@given(
    values=st.lists(st.sampled_from([1.0, 0.9, 0.5, 0.45, math.nan, math.inf]), min_size=1, max_size=EPOCHS),
    patience=st.integers(0, 3),
    min_delta=st.sampled_from([0.0, 0.1]),
    baseline=st.sampled_from([None, 0.5]),
)
@settings(max_examples=60)
def test_keras_2(values, patience, min_delta, baseline):
    stopped, best = keras2_rule(values, patience, min_delta, baseline)
    arguments = {"patience": patience, "min_delta": min_delta, "baseline": baseline, "restore_best_weights": True}
    text, epochs, weights = our_run(values, "keras2", **arguments)
    assert epochs == (len(values) if stopped is None else stopped + 1)
    restored = stopped is not None and best is not None
    lines = ["Restoring model weights from the end of the best epoch"] if restored else []
    lines += (
        [f"Epoch {stopped + 1:05d}: early stopping"] if stopped else []
    )  # of a stop in the first epoch it is silent
    assert text.splitlines() == lines
    assert weights == (best if restored else epochs - 1)


# --- TerminateOnNaN -----------------------------------------------------------------------------------------


class Breaks(Tiny):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if batch_idx == 2 else loss


def test_terminate_on_nan_does_what_keras_does(capsys):
    run = trainer(ours.TerminateOnNaN(), max_epochs=3)
    run.fit(Breaks(), loader(6))
    assert (run.global_step, run.current_epoch) == (3, 1)
    text = capsys.readouterr().out
    callback = keras.callbacks.TerminateOnNaN()
    callback.set_model(SimpleNamespace(stop_training=False))
    callback.on_batch_end(2, {"loss": math.nan})
    assert text == capsys.readouterr().out == "Batch 2: Invalid loss, terminating training\n"


def test_terminate_on_nan_can_raise():
    with pytest.raises(
        TrainingError, match="the loss of batch 2 in epoch 0 is NaN or infinite, and TerminateOnNaN has raise_error"
    ):
        trainer(ours.TerminateOnNaN(raise_error=True), max_epochs=3).fit(Breaks(), loader(6))


# --- CSVLogger ----------------------------------------------------------------------------------------------


class Several(Tiny):
    def training_step(self, batch, batch_idx):
        self.log_dict({"loss": 0.5 + self.current_epoch, "accuracy": 0.25}, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val_loss": 1.5 + self.current_epoch, "val_accuracy": 0.125})


def their_table(path, epochs, validates, scheduled, separator=",", append=False):
    """What Keras writes of the same metrics."""
    logger = keras.callbacks.CSVLogger(str(path), separator, append)
    logger.on_train_begin()
    for epoch in range(epochs):
        logs = {"accuracy": 0.25, "loss": 0.5 + epoch}
        logs |= {"val_accuracy": 0.125, "val_loss": 1.5 + epoch} if validates[epoch] else {}
        logs |= {"learning_rate": float(np.float32(0.1))} if scheduled else {}
        logger.on_epoch_end(epoch, logs)
    logger.on_train_end()
    return path.read_bytes()


def our_table(path, epochs, every, scheduled, *, style="keras3", ckpt_path=None, **options):
    scheduler = [LearningRateScheduler(lambda epoch: 0.1)] if scheduled else []
    run = trainer(
        ours.CSVLogger(path, style=style, **options), *scheduler, max_epochs=epochs, check_val_every_n_epoch=every
    )
    run.fit(Several(), loader(2), loader(1), ckpt_path=ckpt_path)
    return run, path.read_bytes()


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("every", [1, 2, 9])
def test_the_table_is_that_of_keras_byte_for_byte(tmp_path, every, scheduled):
    validates = [(epoch + 1) % every == 0 for epoch in range(4)]
    _, table = our_table(tmp_path / "ours.csv", 4, every, scheduled)
    assert table == their_table(tmp_path / "theirs.csv", 4, validates, scheduled)
    assert table.count(b"\r\n") == 5


def test_separator_and_append(tmp_path):
    for _ in range(2):
        _, table = our_table(tmp_path / "ours.csv", 2, 1, True, separator=";", append=True)
        theirs = their_table(tmp_path / "theirs.csv", 2, [True] * 2, True, ";", append=True)
    assert table == theirs
    assert table.count(b"epoch") == 1


def test_keras_2_has_the_digits_of_single_precision(tmp_path):
    _, table = our_table(tmp_path / "ours.csv", 1, 1, True, style="keras2")
    assert table.decode().splitlines() == ["epoch,accuracy,loss,lr,val_accuracy,val_loss", "0,0.25,0.5,0.1,0.125,1.5"]


def test_a_resumed_run_writes_the_whole_table(tmp_path):
    _, whole = our_table(tmp_path / "whole.csv", 4, 1, True)
    run, _ = our_table(tmp_path / "part.csv", 2, 1, True)
    run.save_checkpoint(tmp_path / "two.ckpt")
    (tmp_path / "part.csv").write_text("of a run that went on, and was killed\n")
    _, table = our_table(tmp_path / "part.csv", 4, 1, True, ckpt_path=tmp_path / "two.ckpt")
    assert table == whole


def test_an_appending_resumed_run_writes_only_new_epochs(tmp_path):
    _, whole = our_table(tmp_path / "whole.csv", 4, 1, True)
    run, _ = our_table(tmp_path / "part.csv", 2, 1, True)
    run.save_checkpoint(tmp_path / "two.ckpt")
    _, table = our_table(tmp_path / "part.csv", 4, 1, True, ckpt_path=tmp_path / "two.ckpt", append=True)
    assert table == whole


def test_two_tables_and_a_history_in_one_trainer(tmp_path):
    tables = [ours.CSVLogger(tmp_path / name) for name in ("one.csv", "two.csv")]
    trainer(History(), *tables, max_epochs=2).fit(Several(), loader(2), loader(1))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes() != b""


@pytest.mark.parametrize("filename", ["/proc/nowhere/x.csv", "."])
def test_an_unwritable_file_is_rejected_before_training(tmp_path, monkeypatch, filename):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match=r"CSVLogger\.filename must be"):
        trainer(ours.CSVLogger(filename), max_epochs=1).fit(Several(), loader(2), loader(1))
