"""Metric-driven schedules in real trainings: when they observe, what they see and print, and resuming."""

import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lr_plugins import (
    Assign,
    BoldDriver,
    Constant,
    CosineDecay,
    Greedy,
    KerasProgress,
    LearningRateScheduler,
    LossDriven,
    ReduceLROnPlateau,
    RunLength,
)
from lr_plugins._lightning.metrics import MetricCollector
from lr_plugins.errors import TrainingError
from lr_plugins.schedules.observation import Monitor
from tests.toys import QUIET, Toy, fit, loader


class Told(Toy):
    """Logs given values for each epoch and each validation run."""

    def __init__(self, losses=(), validations=()):
        super().__init__()
        self.losses, self.validations, self.validated = list(losses), iter(validations), []

    def training_step(self, batch, batch_idx):
        return 0 * self.compute_loss(batch) + self.loss_of(self.trainer.global_step)

    def loss_of(self, step):
        return float(step)

    def validation_step(self, batch, batch_idx):
        pass

    def on_train_epoch_end(self):
        if self.losses:
            self.log("loss", self.losses[self.current_epoch])

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            value = next(self.validations, None)
            self.validated.append(self.trainer.global_step)
            if value is not None:
                self.log("val_loss", value)


def used(scheduler, name="lr"):
    return scheduler.trace[name].values.tolist()


def per_epoch(scheduler):
    return used(scheduler)[::6]


# --- when they observe --------------------------------------------------------------------------------------


def test_epoch_metric_acts_from_the_next_epoch():
    scheduler = LearningRateScheduler(LossDriven(0.1, max_learning_rate=None))
    fit(Told([1.0, 0.5, 0.25]), scheduler)
    assert per_epoch(scheduler) == [0.1, 0.1 * math.exp(1.0), 0.1 * math.exp(0.5)]
    assert used(scheduler)[:6] == [0.1] * 6


def test_plateau_on_validation_acts_at_once_and_counts_runs():
    plateau = ReduceLROnPlateau(0.1, factor=0.5, patience=2, when="validation")
    scheduler, module = LearningRateScheduler(plateau), Told(validations=[1.0, 1.0, 1.0, 0.5, 0.5, 0.5])
    fit(module, scheduler, val=loader(), val_check_interval=0.5)
    assert module.validated == [3, 6, 9, 12, 15, 18]
    assert used(scheduler) == [0.1] * 9 + [0.05] * 9


@pytest.mark.parametrize("when", ["epoch", "validation"])
def test_value_of_an_earlier_epoch_is_not_observed_again(when):
    scheduler = LearningRateScheduler(ReduceLROnPlateau(0.1, factor=0.5, patience=1, when=when))
    fit(Told(validations=[1.0, 1.0, 1.0]), scheduler, epochs=7, val=loader(), check_val_every_n_epoch=2)
    assert per_epoch(scheduler) == [0.1] * 4 + [0.05] * 2 + [0.025]


def test_equal_values_are_separate_observations():
    scheduler = LearningRateScheduler(ReduceLROnPlateau(0.1, monitor="loss", factor=0.5, patience=2))
    fit(Told([1.0] * 6), scheduler, epochs=6)
    assert per_epoch(scheduler) == [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_mean_loss_over_several_steps_is_observed(accumulate):
    class Losses(Told):
        def loss_of(self, step):
            return 0.1 * (step + 1)

    rule = LossDriven(0.1, when="2st", max_learning_rate=None)
    scheduler = LearningRateScheduler(rule)
    fit(Losses(), scheduler, accumulate_grad_batches=accumulate)
    means = [0.1 * (2 * index + 1.5) for index in range(9 // accumulate)]
    expected = [0.1, 0.1] + [0.1 * math.exp(mean) for mean in means for _ in range(2)]
    assert used(scheduler) == pytest.approx(expected[: 18 // accumulate])


def test_at_every_step():
    scheduler = LearningRateScheduler(LossDriven(0.1, when="step", k=-0.1))
    fit(Told(), scheduler)
    assert used(scheduler) == pytest.approx([0.1] + [0.1 * math.exp(-0.1 * step) for step in range(17)])


def test_step_metric_is_read_at_its_latest_value():
    class Logs(Told):
        def training_step(self, batch, batch_idx):
            self.log("now", float(self.trainer.global_step))
            return super().training_step(batch, batch_idx)

    scheduler = LearningRateScheduler(LossDriven(0.1, monitor="now", when="3st", k=0.1, max_learning_rate=None))
    fit(Logs(), scheduler, epochs=2)
    observed = [None, 2.0, 5.0, 8.0]
    expected = [0.1 if one is None else 0.1 * math.exp(0.1 * one) for one in observed for _ in range(3)]
    assert used(scheduler) == pytest.approx(expected)


def test_losses_are_not_read_before_a_decision_is_due():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    collector = MetricCollector(trainer, {"3st": ["loss"]})
    for step in (1, 2):
        collector.add_loss({"loss": torch.ones((), device="meta")})  # reading its value raises
        assert collector.due(step) == []
    assert collector.due(3) == ["3st"]
    with pytest.raises(RuntimeError, match="meta"):
        collector.observation("3st", {})


def test_each_optimizer_has_its_clock():
    class Two(Told):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.second = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            for index, optimizer in enumerate(self.optimizers()):
                if index == 0 or batch_idx % 3 == 0:
                    optimizer.step()
            return {"loss": torch.tensor(1.0)}

        def configure_optimizers(self):
            return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.layer, self.second)]

    scheduler = LearningRateScheduler(LossDriven(0.1, when="2st", k=-1.0))
    fit(Two(), scheduler)
    low = 0.1 * math.exp(-1.0)
    assert used(scheduler, "lr/SGD-0") == [0.1] * 2 + [low] * 16
    assert used(scheduler, "lr/SGD-1") == [0.1] * 2 + [low] * 4


# --- in combinations ----------------------------------------------------------------------------------------


def test_warm_up_then_cosine_times_plateau():
    cosine = CosineDecay(0.1).with_warmup("1ep")
    scheduler = LearningRateScheduler(cosine * ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1))
    fit(Told([1.0, 0.5, 0.5, 0.25, 0.25]), scheduler, epochs=5)
    run = RunLength.of(steps_per_epoch=6, epochs=5)
    factors = [1.0, 1.0, 1.0, 0.5, 0.5]
    expected = [cosine(run.position(step)) * factors[step // 6] for step in range(30)]
    assert used(scheduler) == pytest.approx(expected, rel=1e-15)


def test_param_groups_observe_separately():
    follows = Assign(BoldDriver(0.2, raise_factor=1.5), params="bias$")
    scheduler = LearningRateScheduler([ReduceLROnPlateau(0.1, monitor="loss", factor=0.1, patience=1), follows])
    fit(Told([1.0, 0.5, 0.75, 0.5]), scheduler, epochs=4)
    assert scheduler.trace["lr/bias"].values[::6] == pytest.approx([0.2, 0.2, 0.3, 0.15])
    assert scheduler.trace["lr/others"].values[::6] == pytest.approx([0.1, 0.1, 0.1, 0.01])


# --- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "number"), [("keras2", "00003"), ("keras3", "3")])
def test_plateau_prints_only_the_keras_line(style, number, capsys):
    scheduler = LearningRateScheduler(
        ReduceLROnPlateau(0.5, monitor="loss", factor=0.5, patience=2), verbose=1, style=style
    )
    fit(Told([1.0, 1.0, 1.0, 0.5]), scheduler, epochs=4)
    line = f"\nEpoch {number}: ReduceLROnPlateau reducing learning rate to 0.25.\n"
    assert capsys.readouterr().out == line


def test_decision_of_the_last_epoch_is_printed(capsys):
    scheduler = LearningRateScheduler(ReduceLROnPlateau(0.5, monitor="loss", factor=0.5, patience=2), verbose=1)
    fit(Told([1.0, 1.0, 1.0]), scheduler, epochs=3)
    assert capsys.readouterr().out == "\nEpoch 00003: ReduceLROnPlateau reducing learning rate to 0.25.\n"


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_plateau_line_is_printed_where_keras_prints_it(style, capsys):
    rule = ReduceLROnPlateau(0.5, monitor="loss", factor=0.5, patience=1)
    callbacks = [KerasProgress(style=style), LearningRateScheduler(rule, verbose=1, style=style)]
    fit(Told([1.0, 1.0, 0.5]), *callbacks, epochs=3)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    said = next(index for index, line in enumerate(lines) if "ReduceLROnPlateau" in line)
    second = [index for index, line in enumerate(lines) if "loss: 1.0000" in line][1]
    # Keras 2 prints it after the line of the epoch, Keras 3 before it.
    assert said - second == (1 if style == "keras2" else -1)


def test_loss_driven_prints_the_reason(capsys):
    scheduler = LearningRateScheduler(LossDriven(0.1), verbose=1)
    fit(Told([1.0, 3.0, 4.0, 0.5, 0.5]), scheduler, epochs=5)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 4
    assert lines[0] == "Epoch 00001: LossDriven setting learning rate to 0.27182818284590454. (loss 1)"
    assert lines[1].startswith("Epoch 00002: LossDriven setting learning rate to 1.0. (loss 3; max_learning_rate")
    assert [line.rpartition(" (")[2] for line in lines[2:]] == ["loss 4)", "loss 0.5)"]


def test_product_prints_both_messages(capsys):
    product = Constant(0.5) * ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1)
    fit(Told([1.0, 1.0]), LearningRateScheduler(product, verbose=1), epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "Epoch 00001: LearningRateScheduler setting learning rate to 0.5.",
        "Epoch 00002: LearningRateScheduler setting learning rate to 0.5.",
        "Epoch 00002: ReduceLROnPlateau reducing learning rate to 0.25.",
    ]


# --- errors -------------------------------------------------------------------------------------------------


def test_unknown_metric_is_reported_with_the_logged_ones():
    with pytest.raises(TrainingError, match=r"monitor is 'val_los'.*logged metrics: loss"):
        fit(None, LearningRateScheduler(ReduceLROnPlateau(0.1, monitor="val_los", mode="min")))
    with pytest.warns(UserWarning, match="val_los"):
        fit(None, LearningRateScheduler(ReduceLROnPlateau(0.1, monitor="val_los", mode="min", on_missing="warn")))


def test_a_loss_that_is_nan():
    with pytest.raises(TrainingError, match="needs a finite 'loss'; it is nan"):
        fit(Told([1.0, math.nan, 1.0]), LearningRateScheduler(LossDriven(0.1)))
    scheduler = LearningRateScheduler(LossDriven(0.1, on_nonfinite="hold"))
    fit(Told([1.0, math.nan, 1.0]), scheduler)
    assert per_epoch(scheduler) == [0.1, 0.1 * math.exp(1.0), 0.1 * math.exp(1.0)]


# --- resuming -----------------------------------------------------------------------------------------------

LOSSES = [1.0, 1.0, 0.9, 0.9, 0.9, 0.5, 0.6, 0.6]
LISTENERS = {
    "plateau": ReduceLROnPlateau(0.1, monitor="loss", factor=0.5, patience=2),
    "loss driven": LossDriven(0.1, smoothing=0.5),
    "greedy": Greedy(0.1, monitor="loss", factor=0.5, patience=1),
    "bold driver": BoldDriver(0.1),
    "validation runs": ReduceLROnPlateau(0.1, factor=0.5, patience=2, when="validation"),
    "steps": LossDriven(0.1, when="4st", k=-0.1),
    "product": CosineDecay(0.1) * ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1) * BoldDriver(),
}


class Validates(Told):
    """Logs the same losses in a resumed and in an uninterrupted run."""

    def __init__(self):
        super().__init__(LOSSES)

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.log("val_loss", LOSSES[self.trainer.global_step // 9 % len(LOSSES)])


# When Lightning resumes from a checkpoint after the last batch of an epoch, it neither validates nor ends that
# epoch, so the metrics of its end are never logged.
@pytest.mark.parametrize("resumed_at", [1, 7, 22, 37, "end of epoch"])
@pytest.mark.parametrize("schedule", LISTENERS.values(), ids=LISTENERS)
def test_resumed_run_decides_like_an_uninterrupted_one(schedule, resumed_at, tmp_path):
    def train(scheduler, *more, **options):
        # LOSSES are logged at each epoch's end, independent of Lightning's own means.
        fit(Validates(), scheduler, *more, epochs=8, val=loader(), val_check_interval=3, **options)

    whole, cut, rest = (LearningRateScheduler(schedule) for _ in range(3))
    train(whole)
    steps = {"every_n_train_steps": resumed_at} if isinstance(resumed_at, int) else {"save_on_train_epoch_end": True}
    saver = ModelCheckpoint(tmp_path, **steps, save_top_k=-1, filename="{step}")
    train(cut, saver, enable_checkpointing=True)
    assert used(cut) == used(whole)
    step = resumed_at if isinstance(resumed_at, int) else 18
    train(rest, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert used(rest) == used(whole)[step:]
    assert len(set(used(whole))) > 1


class GoesOn(DataLoader):
    """A loader that Lightning can resume within an epoch."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.first = self.done = 0

    def __iter__(self):
        first, self.first, self.done = self.first, 0, 0
        for index, batch in enumerate(super().__iter__()):
            self.done = index + 1
            if index >= first:
                yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.first = state["done"] % len(self)


@pytest.mark.parametrize("resumed_at", [1, 4, 6, 8, 12, 15])
def test_epoch_mean_of_lightning_resumes_within_an_epoch(resumed_at, tmp_path):
    def train(scheduler, *more, **options):
        data = GoesOn(loader().dataset, batch_size=4)
        trainer = pl.Trainer(
            **{**QUIET, "enable_checkpointing": bool(more)}, max_epochs=3, callbacks=[scheduler, *more]
        )
        trainer.fit(Toy(), data, **options)

    whole, cut, rest = (LearningRateScheduler(LossDriven(0.01)) for _ in range(3))
    train(whole)
    train(cut, ModelCheckpoint(tmp_path, every_n_train_steps=resumed_at, save_top_k=-1, filename="{step}"))
    train(rest, ckpt_path=tmp_path / f"step={resumed_at}.ckpt")
    assert used(rest) == used(whole)[resumed_at:]
    assert len(set(used(whole))) == 3


@pytest.mark.parametrize("when", ["epoch", "validation"])
def test_validation_skipped_on_resume_is_still_observed(when, tmp_path):
    def train(scheduler, *more, **options):
        fit(Toy(), scheduler, *more, epochs=4, val=loader(), enable_checkpointing=bool(more), **options)

    plateau = ReduceLROnPlateau(0.1, monitor="val_loss", factor=0.5, patience=0, min_delta=0.5, when=when)
    whole, cut, rest = (LearningRateScheduler(plateau) for _ in range(3))
    train(whole)
    train(cut, ModelCheckpoint(tmp_path, every_n_train_steps=12, save_top_k=-1, filename="{step}"))
    train(rest, ckpt_path=tmp_path / "step=12.ckpt")
    assert used(rest) == used(whole)[12:]
    assert len(set(used(whole))) > 2


def test_continued_fit_observes_nothing_twice():
    module = Told([1.0, 1.0, 1.0, 1.0])
    scheduler = LearningRateScheduler(ReduceLROnPlateau(0.1, monitor="loss", factor=0.5, patience=2))
    trainer = fit(module, scheduler, epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, loader())
    assert per_epoch(scheduler) == [0.1, 0.1, 0.1, 0.05]


# --- regressions ------------------------------------------------------------------------------------------------


def test_metric_logged_at_some_steps_counts_only_there():
    class Logs(Told):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step % 5 == 0:
                self.log("now", 1.0)
            return super().training_step(batch, batch_idx)

    rule = ReduceLROnPlateau(0.1, monitor="now", mode="max", factor=0.5, patience=2, when="step")
    scheduler = LearningRateScheduler(rule)
    fit(Logs(), scheduler, train=loader(80), epochs=1)
    assert used(scheduler) == [0.1] * 11 + [0.05] * 9


def test_observing_validation_without_validation_is_an_error():
    with pytest.raises(TrainingError, match="observes 'val_loss' after each validation run, and this fit has none"):
        fit(Told(), LearningRateScheduler(ReduceLROnPlateau(0.1, when="validation")))


def test_unlogged_metric_never_due_warns_at_the_end():
    with pytest.warns(UserWarning, match="a schedule observes 'los', which was never logged"):
        fit(None, LearningRateScheduler(LossDriven(0.1, monitor="los", when="500st")))


def test_missing_metric_warns_once(recwarn):
    fit(None, LearningRateScheduler(LossDriven(0.1, monitor="los", on_missing="warn")), epochs=5)
    told = [str(one.message) for one in recwarn if "no metric of that name" in str(one.message)]
    assert len(set(told)) == 1


def test_ceiling_is_reported_by_default(recwarn):
    fit(Told([5.0, 5.0, 5.0]), LearningRateScheduler(LossDriven(0.1)))
    told = [str(one.message) for one in recwarn if "holds it down" in str(one.message)]
    assert len(told) == 1


def test_nan_in_the_last_epoch_only_warns():
    with pytest.warns(UserWarning, match="needs a finite 'loss'; it is nan"):
        fit(Told([1.0, math.nan]), LearningRateScheduler(LossDriven(0.1)), epochs=2)


def test_memory_of_another_metric_is_discarded(tmp_path):
    class Both(Told):
        def on_train_epoch_end(self):
            self.log("loss", 1.0)
            self.log("acc", 0.1 * (1 + self.current_epoch))

    saver = ModelCheckpoint(tmp_path, filename="end")
    first = ReduceLROnPlateau(0.1, monitor="loss", factor=0.5, patience=2)
    fit(Both(), LearningRateScheduler(first), saver, epochs=2, enable_checkpointing=True)
    second = LearningRateScheduler(ReduceLROnPlateau(0.1, monitor="acc", factor=0.5, patience=1), on_resume="config")
    fit(Both(), second, epochs=5, ckpt_path=tmp_path / "end.ckpt")
    assert used(second) == [0.1] * 18  # it improves in every epoch


def test_plateau_message_names_the_epoch_of_a_logged_metric(capsys):
    follows = Assign(LossDriven(0.1, monitor="measured", k=-1), params="bias$")
    schedules = [ReduceLROnPlateau(0.5, monitor="loss", factor=0.5, patience=1), follows]
    scheduler = LearningRateScheduler(schedules, verbose=1, measure={"measured": lambda trainer, module: 1.0})
    fit(Told([1.0, 1.0]), scheduler, epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ReduceLROnPlateau" in line]
    assert [line.split(":")[0] for line in lines] == ["Epoch 00002"]


@pytest.mark.parametrize("progress", [[], [KerasProgress()]], ids=["alone", "with KerasProgress"])
def test_metric_that_is_not_finite_in_the_last_epoch_ends_no_fit(progress):
    class Diverging(Toy):
        def on_train_epoch_end(self):
            self.log("score", math.nan if self.trainer.current_epoch == 1 else 1.0)

    scheduler = LearningRateScheduler(BoldDriver(0.1, monitor="score", mode="min"))
    with pytest.warns(UserWarning, match="BoldDriver needs a finite 'score'"):
        fit(Diverging(), scheduler, *progress, epochs=2)


class Growing(Toy):
    """A net whose first layer joins the optimizer later."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(3, 3)

    def compute_loss(self, batch):
        return torch.nn.functional.mse_loss(self.layer(self.body(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.tensor(1.0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), lr=0.1)

    def on_train_epoch_start(self):
        if self.current_epoch == 4:
            self.optimizers().optimizer.add_param_group({"params": list(self.body.parameters()), "lr": 0.1})


def test_schedule_of_a_group_added_later_observes_nothing_that_was_logged_before():
    plateau = ReduceLROnPlateau(0.1, factor=0.5, patience=1, monitor="val_loss", on_missing="warn")
    scheduler = LearningRateScheduler([Constant(0.1), Assign(plateau, params="body")])
    options = {"check_val_every_n_epoch": 3, "num_sanity_val_steps": 0}
    fit(Growing(), scheduler, epochs=12, val=loader(), **options)
    _, name = scheduler.trace
    # Validated after the epochs 5, 8 and 11: the first value is the best, the second is not better.
    assert used(scheduler, name)[::6] == [0.1] * 5 + [0.05] * 3


def test_a_metric_is_known_to_a_schedule_that_keeps_nothing(recwarn):
    class Names(Constant):
        @property
        def monitors(self):
            return [Monitor("loss")]

    fit(Toy(), LearningRateScheduler(Names(0.1)))
    assert not [str(one.message) for one in recwarn if "never logged" in str(one.message)]
