"""Empty per-batch hooks of callbacks are not called, and nothing else changes for them."""

import copy
import pickle
from datetime import timedelta

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.profilers import SimpleProfiler

from lr_plugins import History, KerasProgress, LearningRateAudit, LearningRateScheduler, LearningRateTrace, StepDecay
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
