"""A run stopped by an error within a batch resumes with that batch, anywhere in the epoch."""

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import OnExceptionCheckpoint

from lr_plugins import BoldDriver, CosineDecay, LearningRateScheduler, RunLength, Warmup

from ..toys import QUIET, Toy, fit, loader, plan

BATCHES, EPOCHS = 6, 4
SCHEDULE = Warmup(CosineDecay(0.1), warmup_steps="1ep")
PLANNED = plan(SCHEDULE, [BATCHES] * EPOCHS, RunLength.of(steps_per_epoch=BATCHES, epochs=EPOCHS))


class Stopped(Exception):
    pass


class StoppingToy(Toy):
    """Raises once, in the batch before the optimizer step of this index."""

    def __init__(self, stop_at):
        super().__init__()
        self.stop_at = stop_at

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.stop_at:
            self.stop_at = None
            raise Stopped
        return super().training_step(batch, batch_idx)


def by_callback(module, folder):
    """The traces of the stopped fit and of the resumed one."""
    saver = OnExceptionCheckpoint(folder, filename="stopped")
    first, second = LearningRateScheduler(SCHEDULE), LearningRateScheduler(SCHEDULE)
    with pytest.raises(Stopped):
        fit(module, first, saver, epochs=EPOCHS, enable_checkpointing=True)
    fit(module, second, epochs=EPOCHS, ckpt_path=folder / "stopped.ckpt")
    return first.trace, second.trace


def by_hand(module, folder):
    """The same with a checkpoint saved after the error."""
    first, second = LearningRateScheduler(SCHEDULE), LearningRateScheduler(SCHEDULE)
    trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[first], **QUIET)
    with pytest.raises(Stopped):
        trainer.fit(module, loader())
    trainer.save_checkpoint(folder / "stopped.ckpt")
    fit(module, second, epochs=EPOCHS, ckpt_path=folder / "stopped.ckpt")
    return first.trace, second.trace


@pytest.mark.parametrize("resume", [by_callback, by_hand])
@pytest.mark.parametrize("stop_at", [1, 5, 6, 11, 14, 17, 23])
def test_interrupted_batch_is_trained_with_its_rate(stop_at, resume, tmp_path):
    first, second = resume(StoppingToy(stop_at), tmp_path)
    assert first["lr"].values.tolist() == PLANNED[:stop_at]
    assert second["lr"].values.tolist() == PLANNED[stop_at:]


@pytest.mark.parametrize("stop_at", [14, 17])
def test_another_fit_of_the_same_trainer_continues(stop_at):
    scheduler, module = LearningRateScheduler(SCHEDULE), StoppingToy(stop_at)
    trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[scheduler], **QUIET)
    with pytest.raises(Stopped):
        trainer.fit(module, loader())
    trainer.fit(module, loader())
    rates = scheduler.trace["lr"].values.tolist()
    assert rates[: len(PLANNED)] == PLANNED


class LoggingToy(StoppingToy):
    """Logs the mean of the epoch as well."""

    def training_step(self, batch, batch_idx):
        self.log("first_input", batch[0][0, 0].detach(), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def resumed_after_error(stop_at, schedule, folder):
    module, saver = LoggingToy(stop_at), OnExceptionCheckpoint(folder, filename="stopped")
    with pytest.raises(Stopped):
        fit(module, LearningRateScheduler(schedule), saver, epochs=EPOCHS, enable_checkpointing=True)
    fit(module, LearningRateScheduler(schedule), epochs=EPOCHS, ckpt_path=folder / "stopped.ckpt")


def observing(metric):
    return BoldDriver(0.1, monitor=metric, mode="min")


def test_mean_of_an_epoch_without_its_first_batches_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="'first_input' of epoch 1 is the mean of the batches after the resume only"):
        resumed_after_error(9, observing("first_input"), tmp_path)


@pytest.mark.parametrize(
    ("stop_at", "schedule"), [(6, observing("first_input")), (9, SCHEDULE)], ids=["first batch", "time-based"]
)
def test_complete_epochs_are_not_warned_of(stop_at, schedule, tmp_path, recwarn):
    resumed_after_error(stop_at, schedule, tmp_path)
    assert not [warning for warning in recwarn if "after the resume only" in str(warning.message)]
