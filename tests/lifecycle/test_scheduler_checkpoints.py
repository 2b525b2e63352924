"""A run resumed from a checkpoint uses the values of an uninterrupted one."""

import json

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lr_plugins import (
    InverseTimeDecay,
    LearningRateScheduler,
    LossDriven,
    StepDecay,
)
from tests.toys import Toy, fit, loader


@pytest.mark.parametrize(
    "make_schedule",
    [
        lambda: InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5),
        lambda: lambda epoch, lr: lr * 0.5,
        lambda: LossDriven(0.1, monitor="loss"),
        lambda: LossDriven(0.1, monitor="val_loss"),
    ],
    ids=["time", "function", "loss", "val_loss"],
)
def test_resumed_trace_equals_an_uninterrupted_run(tmp_path, make_schedule):
    def run(epochs, ckpt_path=None):
        pl.seed_everything(1, verbose=False)
        scheduler = LearningRateScheduler(make_schedule())
        trainer = fit(Toy(), scheduler, epochs=epochs, val=loader(8), ckpt_path=ckpt_path, num_sanity_val_steps=0)
        return trainer, scheduler.trace["lr"]

    _, whole = run(4)
    trainer, first = run(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, rest = run(4, tmp_path / "half.ckpt")
    assert rest.first_step == len(first) == 12
    assert [*first.values, *rest.values] == whole.values.tolist()


def test_resuming_within_an_epoch(tmp_path):
    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    whole = LearningRateScheduler(lambda epoch, lr: lr * 0.5)
    fit(Toy(), whole, save, epochs=3, enable_checkpointing=True)
    asked = []

    def schedule(epoch, lr):
        asked.append(epoch)
        return lr * 0.5

    resumed = LearningRateScheduler(schedule)
    fit(Toy(), resumed, epochs=3, ckpt_path=tmp_path / "step=8.ckpt")
    assert resumed.trace["lr"].first_step == 8
    assert resumed.trace["lr"].values.tolist() == whole.trace["lr"].values.tolist()[8:]
    assert asked == [2]  # epoch 1 started before the interruption


def test_state_is_plain_data_and_loads_weights_only(tmp_path):
    scheduler, saver = LearningRateScheduler(LossDriven(0.1)), ModelCheckpoint(tmp_path, filename="end")
    trainer = fit(None, scheduler, saver, epochs=2, enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    loss = pytest.approx(trainer.callback_metrics["loss"].item())
    states = [
        torch.load(tmp_path / name, weights_only=True)["callbacks"]["LearningRateScheduler"]
        for name in ("end.ckpt", "after.ckpt")
    ]
    assert [state["steps"] for state in states] == [[12], [12]]
    assert states[0]["waiting"][0]["waiting"]["epoch"]["loss"] == loss
    assert states[1]["waiting"][0]["waiting"] == {}
    assert states[1]["schedules"]["0/lr/0"]["state"]["observed"] == loss
    assert json.loads(json.dumps(states, allow_nan=False)) == states


def test_checkpoint_of_another_schedule_keeps_the_position(tmp_path):
    trainer = fit(None, LearningRateScheduler(LossDriven(0.1)), epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(lambda epoch, lr: lr * 0.5, on_resume="config")
    fit(None, scheduler, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert scheduler.trace["lr"].values.tolist() == [0.1 * 0.5**3] * 6


def test_checkpoint_without_a_scheduler_keeps_the_position(tmp_path):
    trainer = fit(None, epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    fit(None, scheduler, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + t) for t in range(12, 18)])


def test_loss_driven_schedule_continues_a_run_of_another(tmp_path):
    fit(None, LearningRateScheduler(StepDecay(0.1)), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(LossDriven(0.001), on_resume="config")
    trainer = fit(None, scheduler, epochs=4, ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step == 24
    assert scheduler.trace["lr"].values[0] == 0.001
    assert scheduler.trace["lr"].values[-1] > 0.001
