"""Epochs of unequal size: a schedule in epochs follows the actual epochs."""

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import (
    Chain,
    Constant,
    CosineDecay,
    ExponentialDecay,
    LearningRateScheduler,
    LinearDecay,
    RunLength,
    StepDecay,
)
from lr_plugins.errors import TrainingError
from lr_plugins.schedules import Position
from lr_plugins.schedules.position import EpochClock, Length
from tests.toys import Toy, fit, loader

SIZES = [4, 8, 8, 8]
SMOOTH = ExponentialDecay(0.1, decay_steps="1ep", decay_rate=0.5).smooth()


class Growing(pl.LightningDataModule):
    """A loader rebuilt for each epoch, with that epoch's number of batches."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def train_dataloader(self):
        size = self.sizes[min(self.trainer.current_epoch, len(self.sizes) - 1)]
        x = torch.randn(4 * size, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


class CutShort(Toy):
    """Ends epochs early through Lightning's stop signal."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx >= self.sizes[self.current_epoch] else None


def by_loader(scheduler, sizes, *callbacks, ckpt_path=None, epochs=None):
    trainer = pl.Trainer(
        max_epochs=epochs or len(sizes),
        callbacks=[scheduler, *callbacks],
        reload_dataloaders_every_n_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=any(isinstance(one, pl.callbacks.ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Toy(), Growing(sizes), ckpt_path=ckpt_path)
    return trainer


def by_cutting(scheduler, sizes, *callbacks, ckpt_path=None, epochs=None):
    return fit(
        CutShort(sizes),
        scheduler,
        *callbacks,
        epochs=epochs or len(sizes),
        train=loader(4 * max(sizes), 4),
        ckpt_path=ckpt_path,
        enable_checkpointing=any(isinstance(one, pl.callbacks.ModelCheckpoint) for one in callbacks),
    )


def expected(schedule, sizes, planned):
    """The rate of every step, from a function of epoch, batch and epoch size."""
    values, begins = [], [0]
    for size in sizes:
        begins.append(begins[-1] + size)
    for epoch, size in enumerate(sizes):
        values += [schedule(epoch, at, size) for at in range(size)]
    return values


def halved_smoothly(epoch, at, size):
    return 0.1 * 0.5 ** (epoch + at / size)


@pytest.mark.parametrize("way", [by_loader, by_cutting])
@pytest.mark.parametrize("sizes", [SIZES, [8, 4, 8, 2], [3, 5, 7]])
def test_smooth_schedule_is_exact_at_epoch_starts(way, sizes):
    scheduler = LearningRateScheduler(SMOOTH)
    way(scheduler, sizes)
    used, at = scheduler.trace["lr"].values.tolist(), 0
    for epoch, size in enumerate(sizes):
        assert used[at] == pytest.approx(0.1 * 0.5**epoch, rel=1e-12)
        at += size
    if way is by_loader:  # an epoch cut short is not known in advance
        assert used == pytest.approx(expected(halved_smoothly, sizes, sizes[0]), rel=1e-12)


def test_value_within_an_uneven_epoch():
    scheduler = LearningRateScheduler(SMOOTH)
    by_loader(scheduler, SIZES)
    assert scheduler.trace["lr"].values[12] == 0.025


def test_part_starting_within_an_epoch_counts_its_own_epochs():
    # The second part starts in the middle of epoch 2 and drops after one epoch of its own.
    schedule = Chain([Constant(0.1), StepDecay(0.1, every="1ep")], lengths=["2.5ep"])
    scheduler = LearningRateScheduler(schedule)
    by_loader(scheduler, [4, 8, 8, 8, 8])
    begin, second = 4 + 8 + 4, 4 + 8 + 8 + 4
    assert scheduler.trace["lr"].values.tolist() == [0.1] * second + [0.05] * 8 + [0.025] * 4
    assert begin == 16


def test_part_starting_at_a_step_counts_its_own_epochs():
    schedule = Constant(0.1).then(StepDecay(0.1, every="1ep"), after="6st")  # a quarter of epoch 1 is over
    scheduler = LearningRateScheduler(schedule)
    by_loader(scheduler, SIZES)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 14 + [0.05] * 8 + [0.025] * 6


def test_warmup_hold_and_repetition_in_epochs():
    def used(schedule):
        scheduler = LearningRateScheduler(schedule)
        by_loader(scheduler, SIZES)
        return scheduler.trace["lr"].values.tolist()

    warm = used(Constant(0.1).with_warmup("1.5ep"))
    # In epoch 0 all epochs are assumed to be as long as that one; from epoch 1 the lengths are known.
    assert warm[:4] == pytest.approx([0.1 * step / 6 for step in range(4)])
    assert warm[4:8] == pytest.approx([0.1 * step / 8 for step in range(4, 8)])
    assert warm[8:] == [0.1] * 20
    held = used(LinearDecay(0.1, decay_steps="28st").per_epoch())
    assert held == pytest.approx([0.1] * 4 + [0.1 * (1 - 4 / 28)] * 8 + [0.1 * (1 - 12 / 28)] * 8 + [0.1 * 8 / 28] * 8)
    again = used(StepDecay(0.1, every="1ep").repeated("2ep"))
    assert again == [0.1] * 4 + [0.05] * 8 + [0.1] * 8 + [0.05] * 8
    stretched = used(StepDecay(0.1, every="1ep").stretched(2))
    assert stretched == [0.1] * 12 + [0.05] * 16


@pytest.mark.parametrize(
    "schedule", [StepDecay(0.1, every="1ep"), SMOOTH, CosineDecay(0.1, decay_steps="4ep").smooth()], ids=repr
)
@pytest.mark.parametrize("way", [by_loader, by_cutting])
def test_unchanged_run_resumes(way, schedule, tmp_path):
    saver = pl.callbacks.ModelCheckpoint(
        tmp_path, "{epoch}-{step}", save_top_k=-1, every_n_train_steps=3, enable_version_counter=False
    )
    ends = pl.callbacks.ModelCheckpoint(tmp_path / "ends", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = LearningRateScheduler(schedule)
    way(whole, SIZES, saver, ends)
    used = whole.trace["lr"].values.tolist()
    paths = sorted((tmp_path / "ends").glob("*.ckpt"))
    assert len(paths) == 4
    for path in paths[:3]:
        resumed = LearningRateScheduler(schedule)
        way(resumed, SIZES, ckpt_path=path)
        series = resumed.trace["lr"]
        assert series.values.tolist() == used[series.first_step :], path


def test_more_epochs_do_not_change_a_plan_in_epochs(tmp_path):
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    by_loader(scheduler, SIZES).save_checkpoint(tmp_path / "a.ckpt")
    resumed = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    by_loader(resumed, [*SIZES, 8, 8], ckpt_path=tmp_path / "a.ckpt")
    assert resumed.trace["lr"].values.tolist() == [0.1 / 16] * 8 + [0.1 / 32] * 8


def test_only_percent_plans_warn_about_changed_epochs():
    for schedule, is_told in ((CosineDecay(0.1), True), (SMOOTH, False), (StepDecay(0.1, every="5st"), False)):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            by_loader(LearningRateScheduler(schedule), SIZES)
        told = [str(one.message) for one in found if "lengths in percent" in str(one.message)]
        assert len(told) == is_told, schedule
        assert all("epoch 1 has 8 steps, unlike the first one" in one for one in told)


def test_raised_max_epochs_are_named_as_the_cause():
    class Raises(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.fit_loop.max_epochs = 6

    with pytest.warns(UserWarning, match="max_epochs is 6 now; it was 4 when the run began"):
        fit(None, LearningRateScheduler(CosineDecay(0.1)), Raises(), epochs=4)


def test_steps_skipped_by_a_scaler_shorten_epochs():
    class Breaks(Toy):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * math.inf if batch_idx in (1, 2) else loss

    scheduler = LearningRateScheduler(SMOOTH)
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
    with pytest.warns(UserWarning, match="counted 12 optimizer steps in this fit, Lightning counted 18"):
        fit(Breaks(), scheduler, plugins=[precision])
    used = scheduler.trace["lr"].values.tolist()
    assert len(used) == 12
    assert [used[0], used[4], used[8]] == pytest.approx([0.1, 0.05, 0.025])


# --- the clock --------------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(sizes, st.integers(0, 7), st.floats(0, 1, exclude_max=True))
def test_clock_converts_steps_and_epochs_both_ways(sizes, epoch, share):
    begins = [0]
    for size in sizes:
        begins.append(begins[-1] + size)
    clock, epoch = EpochClock(tuple(begins)), min(epoch, len(sizes) - 1)
    assert clock.epoch_at(begins[epoch]) == epoch
    assert clock.step_at(epoch) == begins[epoch]
    assert clock.step_at(epoch + share) == pytest.approx(begins[epoch] + share * sizes[epoch])
    assert clock.epoch_at(clock.step_at(epoch + share)) == pytest.approx(epoch + share)
    part = clock.since(begins[epoch])
    assert part.epoch_at(0) == part.step_at(0) == 0
    assert part.epoch_at(3) == pytest.approx(clock.epoch_at(begins[epoch] + 3) - epoch)
    assert clock.rescaled(2).epoch_at(2) == pytest.approx(clock.epoch_at(4) / 2)


@given(st.integers(1, 20), st.integers(0, 200))
def test_clock_of_equal_epochs_changes_nothing(size, step):
    even = RunLength.of(steps_per_epoch=size, epochs=10)
    clocked = even._replace(clock=EpochClock(tuple(size * epoch for epoch in range(4))))
    for schedule in (SMOOTH, StepDecay(0.1, every="2ep"), CosineDecay(0.1).with_warmup("1.5ep").repeated("3ep")):
        assert schedule(clocked.position(step)) == pytest.approx(schedule(even.position(step)), rel=1e-9)


def test_array_of_steps_gives_the_value_of_each():
    import numpy as np

    run = RunLength.of(4, 4)._replace(clock=EpochClock((0, 4, 12, 20)))
    steps = np.arange(28)
    for schedule in (SMOOTH, Chain([Constant(0.1), StepDecay(0.1, every="1ep")], lengths=["2.5ep"])):
        assert schedule(run.position(steps)).tolist() == [schedule(run.position(step)) for step in steps.tolist()]
    assert Position(12, 2, run).slice(Length(4, 1, "ep"), run.slice(Length(24, 3), Length(4, 1, "ep"))).epoch == 1


def test_jump_is_still_refused(tmp_path):
    by_loader(LearningRateScheduler(SMOOTH), SIZES[:3]).save_checkpoint(tmp_path / "a.ckpt")
    other = ExponentialDecay(0.1, decay_steps="2ep", decay_rate=0.5).smooth()
    with pytest.raises(TrainingError, match="make the learning rate jump"):
        by_loader(LearningRateScheduler(other), SIZES, ckpt_path=tmp_path / "a.ckpt")
