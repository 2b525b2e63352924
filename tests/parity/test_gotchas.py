"""Gotchas for Keras users: when the function is called, what a second fit does, who sees which lr."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger

from lr_plugins import InverseTimeDecay, LearningRateScheduler, LearningRateTrace

from .side_by_side import (
    Tiny,
    keras_data,
    keras_fit,
    keras_model,
    keras_update_rates,
    loader,
    our_update_rates,
    trainer,
)


class Spy:
    """A function of the epoch that records its calls."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, epoch):
        self.asked.append(epoch)
        return 0.5 / (1 + epoch)


class SpyOfTwo:
    """A function of (epoch, lr); it halves, which float32 does exactly."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    def __call__(self, epoch, lr):
        self.asked.append((epoch, lr))
        return lr / 2


# --- when the function is asked -----------------------------------------------------------------------------


@pytest.mark.parametrize("spy", [Spy, SpyOfTwo])
def test_the_function_is_called_once_per_epoch(spy, tmp_path):
    theirs, ours = spy(), spy()
    data = keras_data(5)
    keras_model().fit(
        **data,
        epochs=3,
        verbose=0,
        validation_data=(data["x"], data["y"]),
        callbacks=[keras.callbacks.LearningRateScheduler(theirs)],
    )
    callbacks = [LearningRateMonitor(), LearningRateScheduler(ours, verbose=1), LearningRateTrace(tmp_path)]
    logger = CSVLogger(tmp_path)
    fit = trainer(*callbacks, max_epochs=3, logger=logger, log_every_n_steps=1, val_check_interval=2)
    fit.fit(Tiny(), loader(5), loader(2))
    assert ours.asked == theirs.asked
    assert len(ours.asked) == 3


def test_function_is_not_called_before_training_starts():
    spy = Spy()
    keras.callbacks.LearningRateScheduler(spy)
    scheduler = LearningRateScheduler(spy)
    assert np.isnan(scheduler.learning_rate)
    repr(scheduler.assignments)
    assert not spy.asked


def test_function_is_not_called_in_evaluate_or_predict():
    theirs, ours = Spy(), Spy()
    callbacks = [keras.callbacks.LearningRateScheduler(theirs)]
    data = keras_data(2)
    model = keras_model()
    model.evaluate(**data, verbose=0, callbacks=callbacks)
    model.predict(data["x"], verbose=0, callbacks=callbacks)
    assert not theirs.asked

    scheduler = LearningRateScheduler(ours)
    fit, module = trainer(scheduler, max_epochs=2), Tiny()
    evaluations = [
        lambda: fit.validate(module, loader(2), verbose=False),
        lambda: fit.test(module, loader(2), verbose=False),
        lambda: fit.predict(module, loader(2)),
    ]
    for evaluate in evaluations:
        evaluate()
    assert not ours.asked
    fit.fit(module, loader(2))
    rates = scheduler.trace["lr"].values.tolist()
    for evaluate in evaluations:
        evaluate()
    assert ours.asked == [0, 1]
    assert scheduler.trace["lr"].values.tolist() == rates == [0.5, 0.5, 0.25, 0.25]


# --- a second fit -------------------------------------------------------------------------------------------


def test_a_second_fit_starts_at_epoch_0_again():
    theirs, ours = Spy(), Spy()
    model, callbacks = keras_model(), [keras.callbacks.LearningRateScheduler(theirs)]
    module, scheduler = Tiny(), LearningRateScheduler(ours)
    for epochs in (3, 2):
        model.fit(**keras_data(1), epochs=epochs, verbose=0, callbacks=callbacks)
        trainer(scheduler, max_epochs=epochs).fit(module, loader(1))
    assert ours.asked == theirs.asked == [0, 1, 2, 0, 1]
    assert scheduler.trace["lr"].values.tolist() == [0.5, 0.25]  # of the run it is in


def test_a_second_fit_of_a_new_trainer_has_a_new_optimizer():
    """Keras' model keeps its optimizer, and the lr that the first fit left in it; Lightning builds another one."""
    theirs, ours = SpyOfTwo(), SpyOfTwo()
    model, callbacks = keras_model(), [keras.callbacks.LearningRateScheduler(theirs)]
    module, scheduler = Tiny(), LearningRateScheduler(ours)
    for _ in range(2):
        model.fit(**keras_data(1), epochs=2, verbose=0, callbacks=callbacks)
        trainer(scheduler, max_epochs=2).fit(module, loader(1))
    assert theirs.asked == [(0, 0.5), (1, 0.25), (0, 0.125), (1, 0.0625)]
    assert ours.asked == [(0, 0.5), (1, 0.25), (0, 0.5), (1, 0.25)]


def test_a_second_fit_of_the_same_trainer_continues_its_count():
    """What Keras does with `initial_epoch`."""
    theirs, ours = SpyOfTwo(), SpyOfTwo()
    model, callbacks = keras_model(), [keras.callbacks.LearningRateScheduler(theirs)]
    model.fit(**keras_data(1), epochs=2, verbose=0, callbacks=callbacks)
    model.fit(**keras_data(1), initial_epoch=2, epochs=4, verbose=0, callbacks=callbacks)

    fit, module = trainer(LearningRateScheduler(ours), max_epochs=2), Tiny()
    fit.fit(module, loader(1))
    fit.fit_loop.max_epochs = 4
    fit.fit(module, loader(1))
    assert ours.asked == theirs.asked == [(0, 0.5), (1, 0.25), (2, 0.125), (3, 0.0625)]


# --- resuming -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spy", [Spy, SpyOfTwo])
def test_a_resumed_run_asks_for_the_epochs_that_are_left(spy, tmp_path):
    first, theirs, ours = spy(), spy(), spy()
    model = keras_model()
    for function, begin, end in ((first, 0, 2), (theirs, 2, 5)):
        callbacks = [keras.callbacks.LearningRateScheduler(function)]
        model.fit(**keras_data(3), initial_epoch=begin, epochs=end, verbose=0, callbacks=callbacks)

    interrupted = trainer(LearningRateScheduler(spy()), max_epochs=2)
    interrupted.fit(Tiny(), loader(3))
    interrupted.save_checkpoint(tmp_path / "after_two.ckpt")
    resumed = LearningRateScheduler(ours)
    trainer(resumed, max_epochs=5).fit(Tiny(), loader(3), ckpt_path=tmp_path / "after_two.ckpt")
    assert ours.asked == theirs.asked
    assert [call if spy is Spy else call[0] for call in ours.asked] == [2, 3, 4]

    whole = our_update_rates(spy(), updates=3, epochs=5)
    assert resumed.trace["lr"].steps.tolist() == list(range(6, 15))
    assert resumed.trace["lr"].values.tolist() == whole[6:]


def test_a_resumed_run_prints_the_numbers_of_its_epochs(tmp_path, capsys):
    interrupted = trainer(LearningRateScheduler(Spy()), max_epochs=2)
    interrupted.fit(Tiny(), loader(1))
    interrupted.save_checkpoint(tmp_path / "after_two.ckpt")
    capsys.readouterr()
    scheduler = LearningRateScheduler(Spy(), verbose=1, style="keras3")
    trainer(scheduler, max_epochs=4).fit(Tiny(), loader(1), ckpt_path=tmp_path / "after_two.ckpt")
    text = capsys.readouterr().out
    assert text == keras_fit(Spy(), 4, initial_epoch=2).text
    assert text.startswith("\nEpoch 3: ")


# --- who sees which lr --------------------------------------------------------------------------------------


class Reader(pl.Callback):
    """Records the optimizer's lr at the start of each epoch and batch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.batches: list[float] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(trainer.optimizers[0].param_groups[0]["lr"])


class KerasReader(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []
        self.batches: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(float(self.model.optimizer.learning_rate))

    def on_train_batch_begin(self, batch, logs=None):
        self.batches.append(float(self.model.optimizer.learning_rate))


def test_callbacks_see_the_lr_that_they_see_in_keras():
    """At the start of an epoch, callbacks before the scheduler see the old lr, later ones the new; batches the new."""
    readers, keras_readers = (Reader(), Reader()), (KerasReader(), KerasReader())
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.25 / 2**epoch)
    keras_model().fit(**keras_data(2), epochs=3, verbose=0, callbacks=[keras_readers[0], scheduler, keras_readers[1]])
    scheduler = LearningRateScheduler(lambda epoch: 0.25 / 2**epoch)
    trainer(readers[0], scheduler, readers[1], max_epochs=3).fit(Tiny(), loader(2))
    for ours, theirs in zip(readers, keras_readers, strict=True):
        assert ours.epochs == theirs.epochs
        assert ours.batches == theirs.batches
    assert readers[0].epochs == [0.5, 0.25, 0.125]
    assert readers[1].epochs == [0.25, 0.125, 0.0625]
    assert readers[0].batches == [0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]


def test_the_lr_of_an_update_is_set_when_its_batch_starts():
    before, after, scheduler = (
        Reader(),
        Reader(),
        LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.05)),
    )
    trainer(before, scheduler, after, max_epochs=2).fit(Tiny(), loader(4))
    used = scheduler.trace["lr"].values.tolist()
    assert before.batches == after.batches == used
    keras_rates = keras_update_rates(keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.05), 4, 2)
    assert used == pytest.approx(keras_rates, rel=1e-6)
    assert len(set(used)) == 8


class Meddler(pl.Callback):
    """Writes its own lr at the start of a batch, and records the previous one."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        group = trainer.optimizers[0].param_groups[0]
        self.found.append(group["lr"])
        group["lr"] = 64.0


class KerasMeddler(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = 64.0


def test_lr_written_by_other_callbacks_is_overridden():
    """In Keras the last writer before an update decides; here the schedule always does."""
    model, data = keras_model(), keras_data(1)
    data["x"] = data["x"] + 1
    kernel = float(model.layers[0].get_weights()[0][0, 0])
    scheduler = keras.callbacks.LearningRateScheduler(Spy())
    model.fit(**data, epochs=1, verbose=0, callbacks=[scheduler, KerasMeddler()])
    bias = float(model.layers[0].get_weights()[1][0])
    assert bias == pytest.approx(-64 * 2 * kernel, rel=1e-6)  # of (kernel + bias)**2, by the bias

    class Descent(Tiny):
        def training_step(self, batch, batch_idx):
            return self.layer.bias.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.base)

    module, meddler, scheduler = Descent(), Meddler(), LearningRateScheduler(Spy())
    start = module.layer.bias.item()
    trainer(meddler, scheduler, max_epochs=2).fit(module, loader(2))
    assert meddler.found == scheduler.trace["lr"].values.tolist() == [0.5, 0.5, 0.25, 0.25]
    assert module.layer.bias.item() == pytest.approx(start - 1.5, rel=0, abs=1e-6)
