"""The clock counts real optimizer steps under every Trainer option."""

import time
import warnings

import pytest
import pytorch_lightning as pl
import torch
from lightning_utilities.core import rank_zero
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    LearningRateScheduler,
    LinearDecay,
    ReduceLROnPlateau,
    RunLength,
    StepDecay,
)
from lr_plugins.errors import TrainingError
from tests.toys import QUIET, Toy, Used, assert_used, fit, loader, plan

IN_STEPS = StepDecay(0.1, every="4st")
IN_EPOCHS = StepDecay(0.1, every="1ep")
IN_PERCENT = LinearDecay(0.1, decay_steps="100%")
IN_ANY = pytest.mark.parametrize("schedule", [IN_STEPS, IN_EPOCHS, IN_PERCENT], ids=["steps", "epochs", "percent"])
IN_STEPS_AND_EPOCHS = pytest.mark.parametrize("schedule", [IN_STEPS, IN_EPOCHS], ids=["steps", "epochs"])


class Accumulation(GradientAccumulationScheduler):
    """A subclass by the user."""


class Stream(IterableDataset):
    """A given number of one-sample batches per epoch, unknown in advance."""

    def __init__(self, counts):
        self.counts = iter(counts)

    def __iter__(self):
        for _ in range(next(self.counts)):
            yield torch.ones(3), torch.ones(1)


class Reloading(Toy):
    """Returns another training set at each reload."""

    def __init__(self, batches):
        super().__init__()
        self.batches = iter(batches)

    def train_dataloader(self):
        return loader(4 * next(self.batches))


class Manual(Toy):
    """Manual optimization that steps at every batch except the second."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        if batch_idx != 1:
            self.optimizers().zero_grad()
            self.manual_backward(self.compute_loss(batch))
            self.optimizers().step()


def run(schedule, *callbacks, module=None, **options):
    scheduler, used = LearningRateScheduler(schedule), Used()
    trainer = fit(module, *callbacks, scheduler, used, **options)
    return trainer, scheduler, used


def lengths(record):
    return [str(one.message) for one in record if "lengths in percent" in str(one.message)]


# --- accumulation -----------------------------------------------------------------------------------------------


@IN_ANY
def test_indivisible_accumulation_ends_the_epoch_with_a_step(schedule):
    trainer, scheduler, used = run(schedule, accumulate_grad_batches=4)
    assert trainer.global_step == 6
    assert_used(plan(schedule, [2, 2, 2], RunLength.of(steps_per_epoch=2, epochs=3)), scheduler, used)


@pytest.mark.parametrize("kind", [GradientAccumulationScheduler, Accumulation])
@IN_ANY
def test_changing_accumulation_makes_percent_count_epochs(schedule, kind):
    _, scheduler, used = run(schedule, kind({0: 1, 1: 4}))
    assert scheduler.run_length == RunLength.of(epochs=3)
    assert_used(plan(schedule, [6, 2, 2], RunLength.of(epochs=3)), scheduler, used)


def test_changing_accumulation_keeps_percent_of_max_steps_exact():
    _, scheduler, used = run(IN_PERCENT, GradientAccumulationScheduler({0: 1, 1: 4}), epochs=-1, max_steps=9)
    assert_used(plan(IN_PERCENT, [6, 2, 1], RunLength.of(steps=9)), scheduler, used)


def test_percent_under_manual_optimization():
    _, scheduler, used = run(IN_PERCENT, module=Manual())
    assert_used(plan(IN_PERCENT, [5, 5, 5], RunLength.of(epochs=3)), scheduler, used)
    _, scheduler, used = run(IN_PERCENT, module=Manual(), epochs=-1, max_steps=8)
    assert_used(plan(IN_PERCENT, [5, 3], RunLength.of(steps=8)), scheduler, used)


# --- length of an epoch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "steps"), [(2, 2), (0.5, 3), (1.0, 6)])
@IN_ANY
def test_limited_batches(schedule, limit, steps):
    _, scheduler, used = run(schedule, limit_train_batches=limit)
    assert_used(plan(schedule, [steps] * 3, RunLength.of(steps_per_epoch=steps, epochs=3)), scheduler, used)


@IN_ANY
def test_overfit_batches(schedule):
    _, scheduler, used = run(schedule, overfit_batches=2)
    assert_used(plan(schedule, [2] * 3, RunLength.of(steps_per_epoch=2, epochs=3)), scheduler, used)


@pytest.mark.parametrize(("batches", "steps"), [(True, 1), (3, 3)])
@IN_ANY
def test_a_fast_dev_run(schedule, batches, steps):
    _, scheduler, used = run(schedule, fast_dev_run=batches)
    assert_used(plan(schedule, [steps], RunLength.of(steps=steps)), scheduler, used)


@IN_ANY
def test_stream_of_unknown_length_makes_percent_count_epochs(schedule, recwarn):
    _, scheduler, used = run(schedule, train=DataLoader(Stream([3, 5, 2])))
    assert scheduler.run_length == RunLength.of(epochs=3, batch_size=1)
    assert_used(plan(schedule, [3, 5, 2], RunLength.of(epochs=3)), scheduler, used)
    assert lengths(recwarn) == []


def test_percent_of_a_stream_counts_max_steps():
    _, scheduler, used = run(IN_PERCENT, train=DataLoader(Stream([3, 5, 2])), epochs=-1, max_steps=9)
    assert_used(plan(IN_PERCENT, [3, 5, 1], RunLength.of(steps=9)), scheduler, used)


def test_limited_stream_has_a_known_length():
    _, scheduler, used = run(IN_PERCENT, train=DataLoader(Stream([5, 5, 5])), limit_train_batches=2)
    assert_used(plan(IN_PERCENT, [2, 2, 2], RunLength.of(steps_per_epoch=2, epochs=3)), scheduler, used)


@pytest.mark.parametrize("time_limit", [None, "00:01:00:00"])
def test_percent_of_an_endless_stream_is_refused(time_limit):
    with pytest.raises(
        TrainingError, match=r"100% is relative to the length of the run, .* unknown; set max_steps on the Trainer"
    ):
        run(IN_PERCENT, train=DataLoader(Stream([3])), epochs=-1, max_time=time_limit)


def test_stream_that_ends_before_max_steps_warns():
    with pytest.warns(
        UserWarning, match="the run has ended after 8 steps; lengths in percent still refer to the 20 steps"
    ):
        _, scheduler, used = run(IN_PERCENT, train=DataLoader(Stream([3, 5])), epochs=2, max_steps=20)
    assert_used(plan(IN_PERCENT, [3, 5], RunLength.of(steps=20)), scheduler, used)


def reload(schedule, batches):
    scheduler, used = LearningRateScheduler(schedule), Used()
    options = {**QUIET, "reload_dataloaders_every_n_epochs": 1}
    pl.Trainer(max_epochs=3, callbacks=[scheduler, used], **options).fit(Reloading(batches))
    return scheduler, used


@IN_STEPS_AND_EPOCHS
def test_reloaded_sets_of_other_lengths(schedule, recwarn):
    scheduler, used = reload(schedule, [6, 3, 9])
    assert_used(plan(schedule, [6, 3, 9]), scheduler, used)
    assert lengths(recwarn) == []


def test_percent_plan_stays_and_a_changed_length_warns_once():
    with pytest.warns(UserWarning, match="epoch 1 has 3 steps, unlike the first one; lengths in percent") as record:
        scheduler, used = reload(IN_PERCENT, [6, 3, 8])
    assert len(lengths(record)) == 1
    assert_used(plan(IN_PERCENT, [6, 3, 8], RunLength.of(steps_per_epoch=6, epochs=3)), scheduler, used)


def test_percent_plan_holds_its_last_value_past_the_end():
    with pytest.warns(UserWarning, match="epoch 1 has 9 steps"):
        scheduler, used = reload(IN_PERCENT, [6, 9, 9])
    planned = plan(IN_PERCENT, [6, 9, 9], RunLength.of(steps_per_epoch=6, epochs=3))
    assert planned[18:] == [0.0] * 6
    assert_used(planned, scheduler, used)


# --- length of a run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [None, -1, 3])
@IN_ANY
def test_max_steps_end_the_run_within_an_epoch(schedule, epochs, recwarn):
    trainer, scheduler, used = run(schedule, epochs=epochs, max_steps=10)
    assert trainer.global_step == 10
    assert_used(plan(schedule, [6, 4], RunLength.of(steps_per_epoch=6, steps=10)), scheduler, used)
    assert lengths(recwarn) == []


class Slow(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 7:
            time.sleep(0.3)


@pytest.fixture
def informed(caplog):
    """A caplog for Lightning's logger, which does not propagate to the root logger."""
    caplog.set_level("INFO", logger=rank_zero.log.name)
    rank_zero.log.addHandler(caplog.handler)
    yield caplog
    rank_zero.log.removeHandler(caplog.handler)


@IN_ANY
def test_run_ended_by_max_time_follows_the_full_plan(schedule, informed):
    trainer, scheduler, used = run(schedule, Slow(), max_time={"seconds": 0.3})
    assert 0 < trainer.global_step <= 8
    whole = plan(schedule, [6] * 3, RunLength.of(steps_per_epoch=6, epochs=3))
    assert_used(whole[: trainer.global_step], scheduler, used)
    told = {one for one in informed.messages if "lengths in percent still refer to the 18 steps" in one}
    assert len(told) == (schedule is IN_PERCENT)


@IN_STEPS_AND_EPOCHS
def test_second_fit_continues(schedule):
    scheduler, used, module = LearningRateScheduler(schedule), Used(), Toy()
    trainer = fit(module, scheduler, used, epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, loader())
    planned = plan(schedule, [6] * 4)
    assert used.values == planned
    assert scheduler.trace["lr"].values.tolist() == planned
    assert scheduler.audit.followed == scheduler.audit.steps == 12  # in this fit


def test_longer_second_fit_in_percent_is_refused():
    scheduler, used, module = LearningRateScheduler(IN_PERCENT), Used(), Toy()
    trainer = fit(module, scheduler, used, epochs=2)
    trainer.fit_loop.max_epochs = 4
    with pytest.raises(TrainingError, match="with another plan would make the learning rate jump"):
        trainer.fit(module, loader())
    assert used.values == plan(IN_PERCENT, [6] * 2, RunLength.of(steps_per_epoch=6, epochs=2))


# --- steps without a gradient -----------------------------------------------------------------------------------


@IN_ANY
def test_batch_without_a_loss_counts_as_a_step(schedule):
    class Skips(Toy):
        def training_step(self, batch, batch_idx):
            return None if batch_idx in (0, 3) else super().training_step(batch, batch_idx)

    trainer, scheduler, used = run(schedule, module=Skips())
    assert trainer.global_step == 18
    assert_used(plan(schedule, [6] * 3, RunLength.of(steps_per_epoch=6, epochs=3)), scheduler, used)


@IN_ANY
def test_batch_skipped_by_the_module_is_not_a_step(schedule):
    class Skips(Manual):
        def training_step(self, batch, batch_idx):
            return None if batch_idx in (0, 3) else super().training_step(batch, batch_idx)

    _, scheduler, used = run(schedule, module=Skips())
    assert_used(plan(schedule, [3] * 3, RunLength.of(epochs=3)), scheduler, used)


# --- validation -------------------------------------------------------------------------------------------------


class Validated(Toy):
    """Its validation metric never improves after the sanity check."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.runs += 1
        self.log("val_loss", 0.5 if self.trainer.sanity_checking else 1.0)


def plateau(when):
    return ReduceLROnPlateau(0.1, factor=0.5, patience=1, when=when)


@pytest.mark.parametrize("when", ["epoch", "validation"])
@pytest.mark.parametrize("sanity", [0, 2, -1])
def test_sanity_check_is_not_an_observation(when, sanity):
    # The first validation run is the best so far, although the sanity check was better.
    _, scheduler, used = run(plateau(when), module=Validated(), val=loader(8), num_sanity_val_steps=sanity, epochs=4)
    assert_used([0.1] * 12 + [0.05] * 6 + [0.025] * 6, scheduler, used)


def test_validation_within_an_epoch():
    options = {"val": loader(8), "val_check_interval": 2, "epochs": 1}
    _, scheduler, used = run(plateau("validation"), module=Validated(), **options)
    assert_used([0.1] * 4 + [0.05] * 2, scheduler, used)
    _, scheduler, used = run(plateau("epoch"), module=Validated(), **{**options, "epochs": 3})
    assert_used([0.1] * 12 + [0.05] * 6, scheduler, used)


def test_validation_across_epochs():
    options = {"val": loader(8), "val_check_interval": 8, "check_val_every_n_epoch": None, "epochs": 4}
    _, scheduler, used = run(plateau("validation"), module=Validated(), **options)
    assert_used([0.1] * 16 + [0.05] * 8, scheduler, used)


@pytest.mark.parametrize("when", ["epoch", "validation"])
def test_validation_every_other_epoch(when):
    options = {"val": loader(8), "check_val_every_n_epoch": 2, "epochs": 6}
    _, scheduler, used = run(plateau(when), module=Validated(), **options)
    assert_used([0.1] * 24 + [0.05] * 12, scheduler, used)


@IN_ANY
def test_validation_does_not_advance_the_clock(schedule):
    _, scheduler, used = run(schedule, module=Validated(), val=loader(8), val_check_interval=0.5)
    assert_used(plan(schedule, [6] * 3, RunLength.of(steps_per_epoch=6, epochs=3)), scheduler, used)


# --- a generator and a discriminator ------------------------------------------------------------------------------


class Gan(pl.LightningModule):
    """A GAN whose generator steps at every second batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        of_generator, of_discriminator = self.optimizers()
        real, _ = batch
        noise = torch.arange(2.0).expand(len(real), 2)
        with of_discriminator.toggle_model():
            judged = torch.cat([self.discriminator(real), self.discriminator(self.generator(noise).detach())])
            self.take(of_discriminator, self.loss(judged, torch.tensor([1.0, 0.0]).repeat_interleave(len(real))))
        if batch_idx % 2:
            with of_generator.toggle_model():
                self.take(of_generator, self.loss(self.discriminator(self.generator(noise)), torch.ones(len(real))))

    def take(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def loss(self, judged, truth):
        return torch.nn.functional.binary_cross_entropy_with_logits(judged[:, 0], truth)

    def configure_optimizers(self):
        betas = (0.5, 0.999)
        return [
            torch.optim.Adam(self.generator.parameters(), lr=0.0001, betas=betas),
            torch.optim.Adam(self.discriminator.parameters(), lr=0.0004, betas=betas),
        ]


def train_gan(schedule, *callbacks, **options):
    pl.seed_everything(1, verbose=False)
    scheduler, used = LearningRateScheduler(schedule), Used()
    fit(Gan(), scheduler, used, *callbacks, **options)
    assert used.by_optimizer == [scheduler.trace[name].values.tolist() for name in ("lr/Adam-0", "lr/Adam-1")]
    assert scheduler.audit.followed == scheduler.audit.steps == sum(len(one) for one in scheduler.trace.values())
    return used.by_optimizer


def test_two_networks_have_separate_clocks_and_schedules():
    mine = [LinearDecay(decay_steps="9st"), StepDecay(every="6st")]
    used = train_gan([Assign(one, optimizer=at) for at, one in enumerate(mine)])
    assert used == [plan(mine[0], [3] * 3, base=0.0001), plan(mine[1], [6] * 3, base=0.0004)]


def test_shared_schedule_starts_from_the_rate_of_each_network():
    schedule = StepDecay(every="2ep")
    used = train_gan(schedule)
    assert used == [plan(schedule, [3] * 3, base=0.0001), plan(schedule, [6] * 3, base=0.0004)]


def test_two_networks_resume_within_an_epoch(tmp_path):
    schedules = [Assign(CosineDecay(decay_steps="9st"), optimizer=0), Assign(IN_STEPS, optimizer=1)]
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    used = train_gan(schedules, save, enable_checkpointing=True)
    within = tmp_path / "step=12.ckpt"  # the steps of both, at the second batch of the second epoch
    state = torch.load(within, weights_only=True)
    taken = state["callbacks"]["LearningRateScheduler"]["steps"]
    assert taken == [4, 8]
    rest = train_gan(schedules, ckpt_path=within)
    assert rest == [values[count:] for values, count in zip(used, taken, strict=True)]


# --- a checkpoint without the optimizer's state -------------------------------------------------------------------


@pytest.mark.parametrize("step", [6, 8], ids=["at the end of an epoch", "within an epoch"])
@IN_ANY
def test_plan_resumes_without_the_optimizer_state(tmp_path, schedule, step):
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    _, whole, _ = run(schedule, save, enable_checkpointing=True)
    state = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
    state |= {"optimizer_states": [], "lr_schedulers": []}  # Lightning requires the keys but accepts empty lists
    torch.save(state, tmp_path / "bare.ckpt")
    _, scheduler, used = run(schedule, ckpt_path=tmp_path / "bare.ckpt")
    assert scheduler.trace["lr"].first_step == step
    assert_used(whole.trace["lr"].values.tolist()[step:], scheduler, used)


def test_loading_only_the_weights_starts_a_new_run():
    trained, _, _ = run(IN_PERCENT)
    module = Toy()
    module.load_state_dict(trained.lightning_module.state_dict())
    _, scheduler, used = run(IN_PERCENT, module=module)
    assert_used(plan(IN_PERCENT, [6] * 3, RunLength.of(steps_per_epoch=6, epochs=3)), scheduler, used)


class Acts(pl.Callback):
    """Calls a function at the start of a batch of an epoch, or at the start of an epoch."""

    def __init__(self, acts):
        self.acts = acts  # by (epoch, batch), or by epoch

    def on_train_epoch_start(self, trainer, pl_module):
        self.acts.get(trainer.current_epoch, lambda *_: None)(trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.acts.get((trainer.current_epoch, batch_idx), lambda *_: None)(trainer, pl_module)


@pytest.mark.parametrize("when", [1, (1, 0), (1, 2)], ids=["epoch", "first batch", "third batch"])
def test_argument_set_during_a_run_applies_from_the_next_step(when):
    schedule = StepDecay(0.1, drop=0.5, every="10ep")
    acts = Acts({when: lambda *_: setattr(schedule, "initial_learning_rate", 0.01)})
    scheduler = LearningRateScheduler(schedule)
    fit(Toy(), scheduler, acts)
    at = 6 + (when[1] if isinstance(when, tuple) else 0)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * (at + 1) + [0.01] * (18 - at - 1)


def test_longer_run_warns_at_the_epoch_in_which_a_schedule_depends_on_it():
    class Headed(Toy):
        def __init__(self):
            super().__init__(lambda parameters: torch.optim.SGD([*parameters][:2], lr=0.1))
            self.head = torch.nn.Linear(1, 1)

    def longer(trainer, _):
        trainer.fit_loop.max_epochs = 6

    def unfreeze(_, module):
        module.optimizers().optimizer.add_param_group({"params": list(module.head.parameters()), "lr": 0.1})

    told = []

    class Listens(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            told.append(len([one for one in caught if "max_epochs is 6 now; it was 3" in str(one.message)]))

    scheduler = LearningRateScheduler([Constant(0.1), Assign(CosineDecay(0.1), params="head")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Headed(), scheduler, Acts({(0, 1): longer, (2, 1): unfreeze}), Listens())
    assert told == [0, 0, 0, 1, 1, 1]


def test_size_of_an_epoch_that_changes_within_it_is_noted():
    sizes = []

    class Notes(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            sizes.append(scheduler.run_length.clock)

    def shorter(trainer, _):
        trainer.fit_loop.max_batches = 4

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(), scheduler, Acts({(0, 2): shorter}), Notes(), epochs=1)
    assert [clock and clock.begins for clock in sizes] == [None, None, None, (0, 4)]
