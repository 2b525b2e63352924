"""A plausible position is restored; otherwise it is resolved, or refused with the numbers."""

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD, Adam, AdamW, lr_scheduler

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    InverseTimeDecay,
    LearningRateScheduler,
    LinearDecay,
    LossDriven,
    ReduceLROnPlateau,
    RunLength,
    StepDecay,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError
from tests.toys import Toy, fit, loader

EPOCHS = 5  # of 6 steps
RUN = RunLength.of(steps_per_epoch=6, epochs=EPOCHS)


def planned(schedule, first=0, run=RUN):
    return [schedule(run.position(step, 0.1)) for step in range(first, run.steps)]


class Scheduled(Toy):
    """Returns a torch scheduler."""

    def __init__(self, make_scheduler, interval="step", make_optimizer=lambda parameters: SGD(parameters, lr=0.1)):
        super().__init__(make_optimizer)
        self.make_scheduler, self.interval = make_scheduler, interval

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = {"scheduler": self.make_scheduler(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def resume(path, schedule, on_resume="error", module=None, **options):
    scheduler = LearningRateScheduler(schedule, on_resume=on_resume)
    fit(module, scheduler, ckpt_path=path, **{"epochs": EPOCHS, **options})
    return scheduler.trace["lr"].values.tolist()


# --- a checkpoint of another scheduler --------------------------------------------------------------------------------

TORCHS = {
    "cosine by the step": (lambda one: lr_scheduler.CosineAnnealingLR(one, 12, 1e-4), "step"),
    "exponential by the epoch": (lambda one: lr_scheduler.ExponentialLR(one, 0.1), "epoch"),
    "one cycle": (lambda one: lr_scheduler.OneCycleLR(one, 0.5, total_steps=30), "step"),
    "plain lambda": (lambda one: lr_scheduler.LambdaLR(one, lambda step: 0.001), "step"),
}


@pytest.mark.parametrize("kind", TORCHS)
def test_checkpoint_of_a_torch_scheduler_does_not_jump_silently(kind, tmp_path):
    trainer = fit(Scheduled(*TORCHS[kind]), epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    held = trainer.optimizers[0].param_groups[0]["lr"]
    now = planned(CosineDecay(0.1))[12]
    with pytest.raises(TrainingError) as error:
        resume(tmp_path / "a.ckpt", CosineDecay(0.1))
    assert "at step 12" in str(error.value)
    assert f"lr: {held:.6g} in the checkpoint, {now:.6g} by CosineDecay" in str(error.value)
    assert 'on_resume="config"' in str(error.value)
    with pytest.warns(UserWarning, match="the learning rate changes"):
        assert resume(tmp_path / "a.ckpt", CosineDecay(0.1), "config") == planned(CosineDecay(0.1), 12)
    with pytest.raises(TrainingError, match="on_resume=checkpoint cannot be applied"):
        resume(tmp_path / "a.ckpt", CosineDecay(0.1), "checkpoint")


def test_same_shape_as_torch_resumes_silently(tmp_path):
    module = Scheduled(lambda one: lr_scheduler.CosineAnnealingLR(one, 30))
    fit(module, epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    assert resume(tmp_path / "a.ckpt", CosineDecay()) == planned(CosineDecay(), 12)


def test_rate_lowered_by_the_user_is_noticed(tmp_path):
    class Lowers(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            trainer.optimizers[0].param_groups[0]["lr"] = 1e-4

    fit(None, Lowers(), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(TrainingError, match=r"lr: 0\.0001 in the checkpoint"):
        resume(tmp_path / "a.ckpt", CosineDecay(0.1))


def test_undriven_rate_in_the_checkpoint_warns(tmp_path):
    fit(None, epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"lr: 0\.1 in the checkpoint, 0\.06"):
        assert resume(tmp_path / "a.ckpt", LinearDecay()) == planned(LinearDecay(), 12)


def test_different_assignments_are_compared_by_their_rates(tmp_path):
    fit(None, LearningRateScheduler(CosineDecay(0.1)), epochs=EPOCHS).save_checkpoint(tmp_path / "end.ckpt")
    stop = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(None, LearningRateScheduler(CosineDecay(0.1)), stop, epochs=EPOCHS, enable_checkpointing=True)
    chosen = Assign(StepDecay(0.3), group=0)
    with pytest.raises(TrainingError, match=r"0\.3 by StepDecay"):
        resume(tmp_path / "epoch=1.ckpt", chosen)


# --- several optimizers -----------------------------------------------------------------------------------------------


class Gan(Toy):
    """The second optimizer steps at every third batch."""

    def __init__(self, *kinds):
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(3, 1)
        self.kinds = kinds

    def training_step(self, batch, batch_idx):
        for index, optimizer in enumerate(self.optimizers()):
            if index == 0 or batch_idx % 3 == 0:
                optimizer.zero_grad()
                self.manual_backward((self.layer(batch[0]) + self.other(batch[0])).square().mean())
                optimizer.step()

    def configure_optimizers(self):
        first, second = self.kinds
        return [first(self.layer.parameters(), lr=0.1), second(self.other.parameters(), lr=0.1)]


FALLING = InverseTimeDecay(decay_steps=1, decay_rate=0.1)


@pytest.mark.parametrize("kinds", [(Adam, Adam), (Adam, SGD), (SGD, AdamW)])
def test_each_optimizer_resumes_at_its_own_step_count(kinds, tmp_path):
    fit(Gan(*kinds), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(FALLING)
    fit(Gan(*kinds), scheduler, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    first, second = (scheduler.trace[f"lr/{kind.__name__}-{index}"] for index, kind in enumerate(kinds))
    assert (first.first_step, second.first_step) == (12, 4)
    assert first.values == pytest.approx([0.1 / (1 + 0.1 * step) for step in range(12, 18)])
    assert second.values == pytest.approx([0.1 / (1 + 0.1 * step) for step in range(4, 6)])


def test_unknown_step_counts_are_refused_with_the_numbers(tmp_path):
    fit(Gan(SGD, SGD), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(TrainingError, match="16 steps of 2 optimizers together"):
        fit(Gan(SGD, SGD), LearningRateScheduler(FALLING), epochs=3, ckpt_path=tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="Assuming 8 each"):
        fit(Gan(SGD, SGD), LearningRateScheduler(FALLING, on_resume="config"), epochs=3, ckpt_path=tmp_path / "a.ckpt")


def test_schedule_in_epochs_needs_no_step_counts(tmp_path):
    fit(Gan(SGD, SGD), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(StepDecay(every="4ep"))
    fit(Gan(SGD, SGD), scheduler, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert scheduler.trace["lr/SGD-0"].values.tolist() == [0.1] * 6


# --- counters that were changed ---------------------------------------------------------------------------------------


def changed(path, change):
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


def without_loops(checkpoint):
    checkpoint["global_step"], checkpoint["epoch"] = 0, 0
    checkpoint.pop("loops")


def reset_epochs(checkpoint):
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counts in progress.values():
        for name in counts:
            counts[name] = 0


def reset_all(checkpoint):
    checkpoint["global_step"], checkpoint["epoch"] = 0, 0

    def zero(node):
        for key, value in node.items():
            if isinstance(value, dict):
                zero(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                node[key] = 0

    zero(checkpoint["loops"]["fit_loop"])


@pytest.mark.parametrize("change", [without_loops, reset_epochs, reset_all])
@pytest.mark.parametrize("schedule", [CosineDecay(0.1), StepDecay(0.1, every="10st")], ids=repr)
def test_reset_counters_restart_the_plan(change, schedule, tmp_path):
    fit(None, LearningRateScheduler(schedule), epochs=EPOCHS).save_checkpoint(tmp_path / "a.ckpt")
    changed(tmp_path / "a.ckpt", change)
    with pytest.warns(UserWarning, match="30 optimizer steps were taken.*epoch 0.*start over"):
        assert resume(tmp_path / "a.ckpt", schedule) == planned(schedule)


def test_second_fit_with_reset_epochs_restarts_the_plan():
    scheduler, module = LearningRateScheduler(CosineDecay(0.1)), Toy()
    trainer = fit(module, scheduler, epochs=EPOCHS)
    trainer.fit_loop.epoch_progress.reset()
    with pytest.warns(UserWarning, match="counters were reset"):
        trainer.fit(module, loader())
    assert scheduler.trace["lr"].values.tolist() == planned(CosineDecay(0.1))


class ResetsOnStart(pl.Callback):
    """A user who continues with other data."""

    def on_train_start(self, trainer, module):
        trainer.fit_loop.epoch_progress.reset()


@pytest.mark.parametrize("first", [True, False])
def test_callback_that_resets_the_epochs_restarts_the_plan(first, tmp_path):
    fit(None, LearningRateScheduler(CosineDecay(0.1)), epochs=3).save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(CosineDecay(0.1))
    callbacks = [ResetsOnStart(), scheduler] if first else [scheduler, ResetsOnStart()]
    scheduler.on_resume = "error" if first else "config"  # before the reset, the longer run would jump
    with pytest.warns(UserWarning, match="18 optimizer steps were taken, in epoch 3.*reset"):
        fit(None, *callbacks, epochs=EPOCHS, ckpt_path=tmp_path / "a.ckpt")
    assert scheduler.trace["lr"].values.tolist() == planned(CosineDecay(0.1))


def test_inconsistent_counters_are_refused_with_the_numbers(tmp_path):
    def change(checkpoint):
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counts in progress.values():
            for name in counts:
                counts[name] = 1

    fit(None, LearningRateScheduler(CosineDecay(0.1)), epochs=3).save_checkpoint(tmp_path / "a.ckpt")
    changed(tmp_path / "a.ckpt", change)
    with pytest.raises(
        TrainingError, match="18 optimizer steps were taken, in epoch 3 at global_step 18, but the Trainer"
    ):
        resume(tmp_path / "a.ckpt", CosineDecay(0.1))


# --- on_resume is kept ------------------------------------------------------------------------------------------------


def interrupted(schedule, path, module=None, epochs=EPOCHS, at=2):
    """A run saved after a few epochs; return the checkpoint and the rates of the whole run."""
    saver = pl.callbacks.ModelCheckpoint(path, "{epoch}", save_top_k=-1, enable_version_counter=False)
    scheduler = LearningRateScheduler(schedule)
    fit(module, scheduler, saver, epochs=epochs, enable_checkpointing=True)
    return path / f"epoch={at - 1}.ckpt", scheduler.trace["lr"].values.tolist()


PLATEAU = ReduceLROnPlateau(0.1, monitor="loss", factor=0.5, patience=1, min_delta=100.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PLATEAU, CosineDecay(0.3)),
        (LossDriven(0.001), StepDecay(0.5)),
        (StepDecay(0.1, every="4ep"), StepDecay(0.1, every="3ep")),
        (StepDecay(0.1, every="4ep"), Constant(0.1)),
        (CosineDecay(0.1), PLATEAU),
        (CosineDecay(0.1).with_warmup("1ep") * 1.0, CosineDecay(0.1)),
    ],
    ids=repr,
)
def test_the_plan_of_the_checkpoint_is_kept_to_the_end(old, new, tmp_path):
    path, used = interrupted(old, tmp_path)
    assert resume(path, new, "checkpoint") == used[12:]


def test_changed_schedule_is_refused_with_the_plateau_value(tmp_path):
    path, used = interrupted(PLATEAU, tmp_path, at=3)
    assert used[18] == 0.025
    # The metric of the last epoch is not observed yet.
    with pytest.raises(TrainingError, match=r"checkpoint +0\.05"):
        resume(path, CosineDecay(0.3))


def test_plans_that_agree_at_the_step_are_reported(tmp_path, monkeypatch):
    path, _ = interrupted(StepDecay(0.1, every="4ep"), tmp_path)
    told = []
    monkeypatch.setattr("lr_plugins.callbacks.resume.rank_zero_info", told.append)
    assert resume(path, StepDecay(0.1, every="3ep")) == [0.1] * 6 + [0.05] * 12
    assert len(told) == 1
    assert "At step 12 the plan changes, without a jump" in told[0]


def test_rescale_is_kept_to_the_end(tmp_path):
    path, _ = interrupted(CosineDecay(0.1), tmp_path)
    used = resume(path, CosineDecay(0.3), "rescale", epochs=8)
    assert used[0] == planned(CosineDecay(0.1))[12]
    assert len(used) == 36
    assert used[-1] < used[0]


# --- assignments on an older checkpoint -------------------------------------------------------------------------------


@pytest.mark.parametrize("with_ours", [True, False])
def test_new_assignments_on_an_older_checkpoint_are_refused(with_ours, tmp_path):
    callbacks = [LearningRateScheduler(CosineDecay(0.1))] if with_ours else []
    fit(None, *callbacks, epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(
        InvalidArgumentError, match=r"param groups of SGD.*1 \(2\) parameters.*2 \(1, 1\) parameters"
    ) as error:
        resume(tmp_path / "a.ckpt", [CosineDecay(0.1), Assign(Constant(0.1), params="bias")], "config")
    assert "The params and layers of the assignments" in str(error.value)


# --- a checkpoint taken after the validation of an epoch --------------------------------------------------------------


def after_validation(schedule, path, module=None, epoch=1):
    """The checkpoint that ModelCheckpoint writes after an epoch's validation, before the next epoch."""
    saver = pl.callbacks.ModelCheckpoint(
        path, "{epoch}", monitor="val_loss", save_top_k=-1, save_on_train_epoch_end=False, enable_version_counter=False
    )
    callbacks = [LearningRateScheduler(schedule)] if schedule is not None else []
    fit(module, *callbacks, saver, epochs=EPOCHS, val=loader(8), enable_checkpointing=True)
    return path / f"epoch={epoch}.ckpt"


@pytest.mark.parametrize("on_conflict", ["ours", "theirs", "error"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_checkpoint_after_validation_resumes_without_warnings(epoch, on_conflict, tmp_path, recwarn):
    path = after_validation(StepDecay(0.1, every="1ep"), tmp_path, epoch=epoch)
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"), on_conflict=on_conflict)
    fit(None, scheduler, epochs=EPOCHS, val=loader(8), ckpt_path=path)
    first = 6 * (epoch + 1)
    assert scheduler.trace["lr"].first_step == first
    assert scheduler.trace["lr"].values.tolist() == planned(StepDecay(0.1, every="1ep"), first)
    assert [str(one.message) for one in recwarn if "LearningRateScheduler: " in str(one.message)] == []


def test_plans_are_compared_at_the_next_epoch(tmp_path):
    path = after_validation(StepDecay(0.1, every="2ep"), tmp_path)
    with pytest.raises(TrainingError, match=r"config +0\.1 [\s\S]*checkpoint +0\.05 "):
        resume(path, StepDecay(0.1, every="4ep"), val=loader(8))


def test_same_plan_as_a_torch_epoch_scheduler_resumes(tmp_path):
    module = Scheduled(lambda one: lr_scheduler.StepLR(one, 1, 0.5), "epoch")
    path = after_validation(None, tmp_path, module)
    assert resume(path, StepDecay(every="1ep"), val=loader(8)) == planned(StepDecay(every="1ep"), 12)


def test_checkpoint_without_lightning_counts_resumes(tmp_path):
    def without_counts(checkpoint):
        for name in ("counts", "begins", "series", "begun", "active"):
            checkpoint["callbacks"]["LearningRateScheduler"].pop(name)

    path = changed(after_validation(CosineDecay(0.1), tmp_path, epoch=0), without_counts)
    assert resume(path, CosineDecay(0.1), val=loader(8)) == planned(CosineDecay(0.1), 6)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_counters_reset_after_the_scheduler_restart_the_plan(epoch, tmp_path):
    class Resets(pl.Callback):
        def on_train_start(self, trainer, module):
            trainer.fit_loop.epoch_progress.reset()
            trainer.fit_loop.epoch_loop.batch_progress.reset()

    path = after_validation(CosineDecay(0.1), tmp_path, epoch=epoch)
    scheduler = LearningRateScheduler(CosineDecay(0.1))
    with pytest.warns(UserWarning, match="were reset"):
        fit(None, scheduler, Resets(), epochs=EPOCHS, val=loader(8), ckpt_path=path)
    assert scheduler.trace["lr"].values.tolist() == planned(CosineDecay(0.1))
