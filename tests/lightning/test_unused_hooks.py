"""Empty per-batch hooks of callbacks are not called, and nothing else changes for them."""

import copy
import pickle
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.profilers import SimpleProfiler

from lr_plugins import (
    History,
    KerasProgress,
    LearningRateAudit,
    LearningRateScheduler,
    LearningRateTrace,
    LossDriven,
    ReduceLROnPlateau,
    StepDecay,
)
from lr_plugins._lightning.unused_hooks import PER_BATCH, skip_unused_hooks
from tests.toys import QUIET, Toy, fit, loader


def called(*callbacks):
    """The hooks that Lightning calls in a fit, by callback."""
    profiler = SimpleProfiler()
    fit(Toy(), *callbacks, epochs=1, profiler=profiler)
    names = [name.removeprefix("[Callback]") for name in profiler.recorded_durations if name.startswith("[Callback]")]
    return {tuple(name.split(".")) for name in names}


def test_callbacks_of_ours_are_called_only_where_they_do_something():
    ours = [LearningRateScheduler(StepDecay(0.1)), LearningRateTrace(), History(), KerasProgress(), LearningRateAudit()]
    hooks = called(*ours)
    assert ("LearningRateScheduler", "on_train_batch_start") in hooks
    for callback in ours:
        for hook in PER_BATCH:
            own = any(hook in vars(kind) for kind in type(callback).__mro__ if kind.__module__.startswith("lr_plugins"))
            assert ((type(callback).__name__, hook) in hooks) <= own
    assert ("LearningRateScheduler", "on_train_batch_end") not in hooks


class Counting(LearningRateScheduler):
    """Overrides a hook that its base leaves empty, and calls it."""

    backwards = 0

    def on_before_backward(self, trainer, pl_module, loss):
        super().on_before_backward(trainer, pl_module, loss)
        self.backwards += 1


def test_subclass_may_override_an_empty_hook_and_call_the_base():
    scheduler = Counting(StepDecay(0.1))
    fit(Toy(), scheduler, epochs=1)
    assert scheduler.backwards == 6


def test_hook_that_is_set_on_an_instance_is_called():
    scheduler, steps = LearningRateScheduler(StepDecay(0.1)), []
    scheduler.on_before_zero_grad = lambda *arguments: steps.append(1)
    fit(Toy(), scheduler, epochs=1)
    assert len(steps) == 6


@pytest.mark.parametrize(
    ("schedule", "is_called"),
    [(StepDecay(0.1), False), (ReduceLROnPlateau(0.1), False), (LossDriven(0.1, when="3st"), True)],
)
def test_ends_of_batches_are_for_schedules_that_observe_every_few_steps(schedule, is_called):
    scheduler = LearningRateScheduler(schedule)
    assert (("LearningRateScheduler", "on_train_batch_end") in called(scheduler)) is is_called
    assert callable(scheduler.on_train_batch_end)  # once the fit is over


def test_ends_of_batches_of_a_subclass_are_its_own():
    class Ends(LearningRateScheduler):
        ends = 0

        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            self.ends += 1

    scheduler = Ends(StepDecay(0.1))
    fit(Toy(), scheduler, epochs=1)
    assert scheduler.ends == 6


class Climbs(torch.optim.SGD):
    """Steps through a method of its own."""

    def climb_step(self):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter -= self.param_groups[0]["lr"] * parameter.grad


class Swaps(Toy):
    """Has an optimizer of another kind from the second epoch on."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            self.trainer.strategy.optimizers = [Climbs(self.parameters(), lr=0.1)]
        optimizer = self.optimizers().optimizer
        optimizer.zero_grad()
        self.manual_backward(self.compute_loss(batch))
        optimizer.climb_step() if isinstance(optimizer, Climbs) else optimizer.step()


@pytest.mark.filterwarnings("ignore:.*no call of step", "ignore:.*counted")
def test_ends_of_batches_are_called_again_once_an_optimizer_steps_unseen():
    scheduler = LearningRateScheduler(StepDecay(0.1, every="4st"))
    fit(Swaps(), scheduler, epochs=3)
    # The swap is within a batch: the first of its steps cannot be told from the batch before.
    assert len(scheduler.trace["lr"]) == 17


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
def test_copies_carry_no_marks(copied):
    scheduler = LearningRateScheduler(StepDecay(0.1))
    fit(Toy(), scheduler, epochs=1)
    assert "on_before_backward" in vars(scheduler)
    assert not vars(copied(scheduler)).keys() & set(PER_BATCH)


class Delegating(pl.Callback):
    """Passes every hook on to a callback that is not the Trainer's own."""

    def __init__(self, inner):
        self.inner = inner


for _name in (
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_end",
    "teardown",
    *PER_BATCH,
):

    def _pass_on(self, *arguments, _name=_name, **given):
        return getattr(self.inner, _name)(*arguments, **given)

    setattr(Delegating, _name, _pass_on)


@pytest.mark.parametrize("inner", [LearningRateTrace, History, LearningRateAudit])
def test_callback_within_another_keeps_its_hooks(inner):
    delegating = Delegating(inner())
    fit(Toy(), delegating, epochs=1)
    assert not vars(delegating.inner).keys() & set(PER_BATCH)


def test_empty_hooks_of_any_callback_can_be_skipped():
    callback = pl.Callback()
    trainer = pl.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    skip_unused_hooks(callback, trainer)
    assert vars(callback) == dict.fromkeys(PER_BATCH)
    assert not called(callback) & {("Callback", hook) for hook in PER_BATCH}


def saves(folder, **options):
    """The steps at which a ModelCheckpoint saves, and whether Lightning calls its hook for each batch."""
    saver = ModelCheckpoint(folder, "{step}", save_top_k=-1, **options)
    trainer = pl.Trainer(
        callbacks=[saver], max_epochs=2, default_root_dir=folder, **QUIET | {"enable_checkpointing": True}
    )
    skip_unused_hooks(saver, trainer)
    trainer.fit(Toy(), loader())
    return sorted(int(file.stem.partition("=")[2]) for file in folder.glob("*.ckpt")), callable(
        saver.on_train_batch_end
    )


def test_a_checkpoint_of_epochs_is_not_asked_at_each_batch(tmp_path):
    assert saves(tmp_path) == ([6, 12], False)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"every_n_train_steps": 4}, [4, 8, 12]), ({"train_time_interval": timedelta(0)}, [*range(1, 13)])],
)
def test_a_checkpoint_of_steps_or_times_still_is(tmp_path, options, steps):
    assert saves(tmp_path, **options) == (steps, True)
