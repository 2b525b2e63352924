"""KerasProgress: which lines appear, with which metrics, and when, in real Lightning fits."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType, SimpleNamespace

import lightning.pytorch as other
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lr_plugins import Constant, LearningRateScheduler
from lr_plugins.callbacks.keras_progress import progress as keras_progress
from lr_plugins.callbacks.keras_progress.callback import KerasProgress
from lr_plugins.errors import InvalidArgument
from lr_plugins.rank_zero import rank_zero_only

SAMPLES, BATCH, STEPS = 20, 4, 5


class Clock:
    """Stands still unless moved, so that times in the lines are known."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keras_progress, "perf_counter", clock)
    return clock


class Module(pl.LightningModule):
    """Logs 1.5, 2.5, ... as the loss of the epochs, and a tenth of that as the accuracy."""

    def __init__(self, validates: bool = True) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.validates = validates

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.log("acc", 0.15 + 0.1 * self.current_epoch, on_step=False, on_epoch=True)
        self.log("loss", 1.5 + self.current_epoch, on_step=False, on_epoch=True)
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_acc", 0.25 + 0.1 * self.current_epoch)
        self.log("val_loss", 1.25 + self.current_epoch)

    def train_dataloader(self) -> object:
        return loader()

    def val_dataloader(self) -> object:
        return loader(8) if self.validates else []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Scheduled(Module):
    """With a scheduler, which changes nothing."""

    def configure_optimizers(self) -> object:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)]


def loader(samples: int = SAMPLES, **settings: object) -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(samples, 2)), **{"batch_size": BATCH, **settings})


def trainer(*callbacks: pl.Callback, package: ModuleType = pl, **settings: object) -> pl.Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 2,
    }
    return package.Trainer(callbacks=list(callbacks), **{**quiet, **settings})


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> object:
    """Run a fit and return its standard output."""

    def run(module: pl.LightningModule | None = None, *callbacks: pl.Callback, **settings: object) -> str:
        progress = settings.pop("progress", None) or KerasProgress()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            trainer(progress, *callbacks, **settings).fit(module or Module())
        return capsys.readouterr().out

    return run


# --- the two styles -----------------------------------------------------------------------------------------


def test_keras2_prints_sizes_titles_and_lines(console):
    assert console() == (
        "Train on 20 samples, validate on 8 samples\n"
        "Epoch 1/2\n"
        " - 0s - loss: 1.5000 - acc: 0.1500 - val_loss: 1.2500 - val_acc: 0.2500\n"
        "Epoch 2/2\n"
        " - 0s - loss: 2.5000 - acc: 0.2500 - val_loss: 2.2500 - val_acc: 0.3500\n"
    )


def test_keras3_prints_steps_sorted_metrics_and_learning_rate(console):
    assert console(Scheduled(), progress=KerasProgress("keras3")) == (
        "Epoch 1/2\n"
        "5/5 - 0s - 0s/step - acc: 0.1500 - loss: 1.5000 - val_acc: 0.2500 - val_loss: 1.2500"
        " - learning_rate: 0.5000\n"
        "Epoch 2/2\n"
        "5/5 - 0s - 0s/step - acc: 0.2500 - loss: 2.5000 - val_acc: 0.3500 - val_loss: 2.2500"
        " - learning_rate: 0.5000\n"
    )


def test_keras3_sorts_training_and_validation_apart(console):
    module = Logs({"zeta": 1.0, "loss": 1.0, "Acc": 1.0}, {"val_loss": 0.5, "accuracy_there": 0.5})
    out = console(module, max_epochs=1, progress=KerasProgress("keras3"))
    # Keras shows the learning rate where something schedules it.
    assert re.findall(r"(\w+):", out) == ["Acc", "loss", "zeta", "accuracy_there", "val_loss"]
    scheduled = console(Module(), LearningRateScheduler(Constant(0.25)), progress=KerasProgress("keras3"))
    assert learning_rates(scheduled) == ["0.2500"] * 2


def test_one_epoch_has_a_title_in_keras2_only(console):
    assert "Epoch 1/1\n" in console(max_epochs=1)
    assert "Epoch" not in console(max_epochs=1, progress=KerasProgress("keras3"))


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_unlimited_epochs_have_a_title_without_their_number(console, style):
    out = console(max_epochs=-1, max_steps=2 * STEPS, progress=KerasProgress(style))
    assert [line for line in out.splitlines() if line.startswith("Epoch")] == ["Epoch 1", "Epoch 2"]
    assert out.count("loss: 2.5000") == 1


def test_output_has_no_control_characters_but_newlines(console):
    assert re.fullmatch(r"[ -~\n]+", console() + console(progress=KerasProgress("keras3")))


def test_works_in_trainers_of_the_lightning_package(capsys):
    class Net(other.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.log("loss", 1.5, on_step=True, on_epoch=True)
            return self.layer(batch[0]).mean()

        def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
            self.log("val_loss", 1.25)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    run = trainer(KerasProgress(), max_epochs=1, package=other)
    run.fit(Net(), loader(), loader(8))
    assert capsys.readouterr().out == (
        "Train on 20 samples, validate on 8 samples\nEpoch 1/1\n - 0s - loss: 1.5000 - val_loss: 1.2500\n"
    )


# --- sizes of the data --------------------------------------------------------------------------------------


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        return iter([(torch.zeros(2),)] * SAMPLES)


def with_loaders(train: object, validation: object) -> Module:
    module = Module()
    module.train_dataloader = lambda: train
    module.val_dataloader = lambda: validation
    return module


@pytest.mark.parametrize(
    ("train", "validation", "limits", "first_line"),
    [
        (loader(20), loader(8), {}, "Train on 20 samples, validate on 8 samples"),
        (loader(22), loader(9), {}, "Train on 22 samples, validate on 9 samples"),
        (loader(22, drop_last=True), loader(9), {}, "Train on 20 samples, validate on 9 samples"),
        (
            loader(20),
            loader(9),
            {"limit_train_batches": 2, "limit_val_batches": 1},
            "Train on 8 samples, validate on 4 samples",
        ),
        (
            loader(20, sampler=torch.utils.data.SubsetRandomSampler(range(6))),
            loader(8),
            {},
            "Train on 6 samples, validate on 8 samples",
        ),
        (DataLoader(Endless(), batch_size=BATCH), loader(8), {}, "Epoch 1/1"),
        (loader(20), DataLoader(Endless(), batch_size=BATCH), {}, "Epoch 1/1"),
        (loader(20, batch_size=None), loader(8), {}, "Epoch 1/1"),
        ({"a": loader(20), "b": loader(8)}, loader(8), {}, "Epoch 1/1"),
        (loader(20), loader(8), {"limit_val_batches": 0}, "Epoch 1/1"),
    ],
)
def test_sizes_are_printed_when_known(console, train, validation, limits, first_line):
    class AnyBatch(Module):
        def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
            return self.layer(torch.zeros(1, 2)).mean()

        def validation_step(self, batch: object, batch_idx: int) -> None:
            pass

    module = AnyBatch()
    module.train_dataloader, module.val_dataloader = (lambda: train), (lambda: validation)
    assert console(module, max_epochs=1, **limits).splitlines()[0] == first_line


def test_sizes_of_several_validation_loaders_add_up(console):
    class Two(Module):
        def validation_step(self, batch: object, batch_idx: int, dataloader_idx: int) -> None:
            self.log("val_loss", 1.25 + dataloader_idx, on_step=True, on_epoch=True)

        def val_dataloader(self) -> object:
            return [loader(8), loader(4)]

    assert console(Two(), max_epochs=1) == (
        "Train on 20 samples, validate on 12 samples\n"
        "Epoch 1/1\n"
        " - 0s - loss: 1.5000 - acc: 0.1500"
        " - val_loss/dataloader_idx_0: 1.2500 - val_loss/dataloader_idx_1: 2.2500\n"
    )


def test_without_validation_there_are_no_sizes(console):
    assert console(Module(validates=False), max_epochs=1) == ("Epoch 1/1\n - 0s - loss: 1.5000 - acc: 0.1500\n")


# --- which metrics ------------------------------------------------------------------------------------------


class Logs(Module):
    """Logs what it is told, once per batch."""

    def __init__(self, train: Mapping[str, float], validation: Mapping[str, float] | None = None, **how: bool):
        super().__init__(validates=validation is not None)
        self.to_log, self.to_log_in_validation, self.how = train, validation or {}, how

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        for name, value in self.to_log.items():
            self.log(name, value + batch_idx, **(self.how or {"on_step": False, "on_epoch": True}))
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        for name, value in self.to_log_in_validation.items():
            self.log(name, value, **self.how)


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def test_names_stay_as_logged_and_validation_is_told_by_where_it_logged(console):
    module = Logs({"f1": 1.0, "train_loss": 2.0}, {"valid/acc": 0.5, "val_loss": 0.75})
    assert (
        last_line(console(module)) == " - 0s - train_loss: 4.0000 - f1: 3.0000 - val_loss: 0.7500 - valid/acc: 0.5000"
    )


def test_a_validation_metric_that_training_logs_is_told_by_its_name(console):
    module = Logs({"val_gap": 1.0, "val_loss": 2.0, "acc": 3.0})
    assert last_line(console(module)) == " - 0s - acc: 5.0000 - val_loss: 4.0000 - val_gap: 3.0000"


def test_a_metric_logged_for_steps_and_epochs_is_shown_once_with_the_value_of_the_epoch(console):
    module = Logs({"loss": 1.0}, {"val_loss": 0.5}, on_step=True, on_epoch=True)
    assert last_line(console(module)) == " - 0s - loss: 3.0000 - val_loss: 0.5000"


def test_a_metric_logged_for_steps_only_shows_its_last_step(console):
    module = Logs({"loss": 1.0}, on_step=True, on_epoch=False)
    assert last_line(console(module)) == " - 0s - loss: 5.0000"


def test_names_that_only_look_forked_are_shown(console):
    module = Logs({"loss": 1.0, "loss_epoch": 2.0, "first_step": 3.0})
    assert last_line(console(module)) == " - 0s - loss: 3.0000 - loss_epoch: 4.0000 - first_step: 5.0000"


def test_metrics_select_and_order(console):
    module = Logs({"loss": 1.0, "acc": 0.0}, {"val_loss": 0.5}, on_step=True, on_epoch=True)
    progress = KerasProgress(metrics=["val_loss", "acc", "loss_step"])
    assert last_line(console(module, progress=progress)) == (
        " - 0s - val_loss: 0.5000 - acc: 2.0000 - loss_step: 5.0000"
    )


def test_selected_metrics_keep_the_learning_rate_of_keras3(console):
    progress = KerasProgress("keras3", metrics=["loss"])
    line = last_line(console(Scheduled(), progress=progress))
    assert line == "5/5 - 0s - 0s/step - loss: 2.5000 - learning_rate: 0.5000"


def test_no_metrics_at_all_leave_the_time(console):
    assert last_line(console(progress=KerasProgress(metrics=[]))) == " - 0s"


def test_a_name_that_is_not_logged_warns_once_with_the_names_that_are(capsys):
    run = trainer(KerasProgress(metrics=["accuracy", "loss"]))
    with pytest.warns(UserWarning, match="KerasProgress") as caught:
        run.fit(Module())
    messages = [str(each.message) for each in caught if "KerasProgress" in str(each.message)]
    assert messages == [
        "KerasProgress.metrics has names that are not logged: accuracy. Logged metrics: val_acc, val_loss, acc, loss."
    ]
    assert last_line(capsys.readouterr().out) == " - 0s - loss: 2.5000"


def test_a_validation_metric_is_not_missed_before_the_first_validation(console):
    progress = KerasProgress(metrics=["loss", "val_loss"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="KerasProgress")
        out = console(progress=progress, check_val_every_n_epoch=2)
    assert re.findall(r" - 0s.*", out) == [" - 0s - loss: 1.5000", " - 0s - loss: 2.5000 - val_loss: 2.2500"]


def test_metrics_of_the_sanity_validation_and_of_earlier_epochs_are_not_shown(console):
    out = console(check_val_every_n_epoch=2, num_sanity_val_steps=2, max_epochs=3)
    assert re.findall(r" - 0s.*", out) == [
        " - 0s - loss: 1.5000 - acc: 0.1500",
        " - 0s - loss: 2.5000 - acc: 0.2500 - val_loss: 2.2500 - val_acc: 0.3500",
        " - 0s - loss: 3.5000 - acc: 0.3500",
    ]


def test_of_several_validations_in_an_epoch_the_last_counts(console):
    class Counting(Module):
        validations = 0.0

        def on_validation_epoch_end(self) -> None:
            self.validations += 1.0
            self.log("val_count", self.validations)

        def validation_step(self, batch: object, batch_idx: int) -> None:
            pass

    out = console(Counting(), val_check_interval=0.4, num_sanity_val_steps=0)
    assert re.findall(r"val_count: \S+", out) == ["val_count: 2.0000", "val_count: 4.0000"]


@pytest.mark.parametrize("style", ["keras2", "keras3"])
def test_values_logged_in_the_modules_own_epoch_end_are_on_the_line_of_their_epoch(console, style):
    class Late(Module):
        def on_train_epoch_end(self) -> None:
            self.log("late", 10.0 + self.current_epoch)

    out = console(Late(), progress=KerasProgress(style))
    assert re.findall(r"late: \S+", out) == ["late: 10.0000", "late: 11.0000"]


# --- moments ------------------------------------------------------------------------------------------------


class Speaker(pl.Callback):
    """Another callback that prints, as a scheduler does."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        print(f"begin {trainer.current_epoch}")


def test_in_keras2_a_later_callback_speaks_after_the_title(console):
    out = console(Logs({"loss": 1.0}), Speaker())
    assert out == ("Epoch 1/2\nbegin 0\n - 0s - loss: 3.0000\nEpoch 2/2\nbegin 1\n - 0s - loss: 3.0000\n")


def test_in_keras3_a_later_callback_speaks_before_the_title(console):
    out = console(Logs({"loss": 1.0}), Speaker(), progress=KerasProgress("keras3", metrics=[]))
    line = "5/5 - 0s - 0s/step\n"
    assert out == f"begin 0\nEpoch 1/2\n{line}begin 1\nEpoch 2/2\n{line}"


def test_the_time_is_that_of_training_and_validation(console, clock):
    class Slow(Module):
        def on_train_batch_end(self, *args: object) -> None:
            clock.now += 0.125

        def on_validation_epoch_end(self) -> None:
            clock.now += 1.875

        def on_train_epoch_end(self) -> None:  # after the end of the time
            clock.now += 100

    # 2.5 s, rounded to even, and the mean over 5 steps includes the validation
    assert " - 2s - loss" in console(Slow(), max_epochs=1)
    out = console(Slow(), max_epochs=1, progress=KerasProgress("keras3"), num_sanity_val_steps=0)
    assert out.startswith("5/5 - 2s - 500ms/step - ")


def test_a_run_stopped_early_prints_its_last_line(console):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = True

    out = console(None, Stop(), max_epochs=9)
    assert out.splitlines()[1:] == [
        "Epoch 1/9",
        " - 0s - loss: 1.5000 - acc: 0.1500 - val_loss: 1.2500 - val_acc: 0.2500",
    ]


class Fail(pl.Callback):
    """Raise in one hook of the second epoch."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def fail(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("stop here")


def lines_until_failure(capsys: pytest.CaptureFixture[str], *callbacks: pl.Callback) -> list[str]:
    with pytest.raises(RuntimeError, match="stop here"):
        trainer(*callbacks).fit(Logs({"loss": 1.0}))
    return capsys.readouterr().out.splitlines()


def test_a_complete_epoch_is_printed_when_an_exception_comes_before_the_next(capsys):
    lines = lines_until_failure(capsys, Fail("on_train_epoch_start"), KerasProgress())
    assert lines == ["Epoch 1/2", " - 0s - loss: 3.0000"]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
def test_an_epoch_that_fails_has_no_line(capsys, hook):
    lines = lines_until_failure(capsys, KerasProgress(), Fail(hook))
    assert lines == ["Epoch 1/2", " - 0s - loss: 3.0000", "Epoch 2/2"]


def test_a_fit_after_a_failed_one_starts_clean(capsys):
    progress = KerasProgress()
    lines_until_failure(capsys, progress, Fail("on_train_batch_end"))
    trainer(progress, max_epochs=1).fit(Logs({"loss": 1.0}))
    assert capsys.readouterr().out == "Epoch 1/1\n - 0s - loss: 3.0000\n"


def test_validate_test_and_predict_are_silent(capsys):
    class Full(Module):
        test_step = Module.validation_step

        def predict_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            return self.layer(batch[0])

    run, module = trainer(KerasProgress()), Full()
    run.validate(module, verbose=False)
    run.test(module, loader(8), verbose=False)
    run.predict(module, loader(8))
    assert capsys.readouterr().out == ""


def test_only_the_first_process_prints(console, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert console() == ""


# --- lengths ------------------------------------------------------------------------------------------------


def test_steps_are_batches_under_gradient_accumulation_and_limits(console):
    out = console(accumulate_grad_batches=2, limit_train_batches=3, progress=KerasProgress("keras3"))
    assert re.findall(r"^\S+(?= - 0s)", out, re.M) == ["3/3", "3/3"]


def test_steps_of_a_dataset_of_unknown_length_are_those_seen(console):
    module = with_loaders(DataLoader(Endless(), batch_size=BATCH), [])
    out = console(module, progress=KerasProgress("keras3"))
    assert re.findall(r"^\S+(?= - 0s)", out, re.M) == ["5/5", "5/5"]


def test_an_epoch_cut_short_shows_the_steps_made(console, clock):
    class Slow(Module):
        def on_train_batch_end(self, *args: object) -> None:
            clock.now += 1.0

        def train_dataloader(self) -> object:
            return loader(48)

    out = console(Slow(validates=False), max_epochs=2, max_steps=3, progress=KerasProgress("keras3"))
    assert out.splitlines()[1].startswith(" 3/12 - 3s - 1s/step - ")


def test_an_epoch_without_steps_has_no_line_in_keras3(console):
    class Empty(IterableDataset):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(())

    module = with_loaders(DataLoader(Empty()), [])
    assert console(module, progress=KerasProgress("keras3")) == "Epoch 1/2\nEpoch 2/2\n"


def test_a_second_fit_continues_the_count(capsys):
    run, module = trainer(KerasProgress(), max_epochs=1), Module(validates=False)
    run.fit(module)
    run.fit_loop.max_epochs = 2
    run.fit(module)
    assert capsys.readouterr().out == (
        "Epoch 1/1\n - 0s - loss: 1.5000 - acc: 0.1500\nEpoch 2/2\n - 0s - loss: 2.5000 - acc: 0.2500\n"
    )


def test_a_resumed_run_continues_the_count(capsys, tmp_path):
    run = trainer(KerasProgress(), max_epochs=3)
    run.fit(Module())
    run.save_checkpoint(tmp_path / "three.ckpt")
    capsys.readouterr()
    trainer(KerasProgress(), max_epochs=4).fit(Module(), ckpt_path=tmp_path / "three.ckpt")
    assert capsys.readouterr().out == (
        "Train on 20 samples, validate on 8 samples\n"
        "Epoch 4/4\n"
        " - 0s - loss: 4.5000 - acc: 0.4500 - val_loss: 4.2500 - val_acc: 0.5500\n"
    )


def test_a_run_resumed_within_an_epoch_reports_that_epoch(capsys, tmp_path, clock):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: object, out: object, batch: object, i: int):
            if trainer.current_epoch == 1 and i == 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    class Slow(Module):
        def on_train_batch_end(self, *args: object) -> None:
            clock.now += 1.0

    progress = KerasProgress("keras3", metrics=["loss"])
    with pytest.raises(RuntimeError, match="stop here"):
        trainer(progress, Save(), Fail("on_validation_end")).fit(Slow())
    assert capsys.readouterr().out.count("Epoch 2/2\n") == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
        trainer(progress).fit(Slow(), ckpt_path=tmp_path / "mid.ckpt")
    # The count is the epoch's, the mean time that of the two steps made here.
    assert capsys.readouterr().out == ("Epoch 2/2\n5/5 - 2s - 1s/step - loss: 2.5000\n")


# --- the learning rate of keras3 ----------------------------------------------------------------------------


class Tracing(pl.Callback):
    """The part of a scheduler that the line relies on."""

    def __init__(self, *values: float | None) -> None:
        remaining = list(values)
        self.trace = SimpleNamespace(last=lambda: remaining.pop(0))


def learning_rates(text: str) -> list[str]:
    return re.findall(r"learning_rate: (\S+)", text)


def test_the_learning_rate_is_that_of_the_trace(console):
    out = console(Scheduled(), Tracing(0.25, 0.001), progress=KerasProgress("keras3"))
    # In float32, where Keras keeps it, 0.001 is above 1e-3 and so not in exponent form.
    assert learning_rates(out) == ["0.2500", "0.0010"]


def test_an_empty_trace_leaves_it_to_the_optimizer(console):
    other = pl.Callback()
    other.trace = "something else"
    out = console(Scheduled(), other, Tracing(None, None), progress=KerasProgress("keras3"))
    assert learning_rates(out) == ["0.5000", "0.5000"]


def test_the_learning_rate_is_the_one_used_not_the_next(console):
    class Decaying(Module):
        def configure_optimizers(self) -> object:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    out = console(Decaying(), progress=KerasProgress("keras3"))
    assert learning_rates(out) == ["0.5000", "0.2500"]


def test_without_an_optimizer_there_is_no_learning_rate(console):
    class Still(Module):
        def configure_optimizers(self) -> None:
            return None

    out = console(Still(), progress=KerasProgress("keras3"))
    assert "learning_rate" not in out
    assert out.count("5/5") == 2


def test_a_learning_rate_the_module_logs_is_not_shown_twice(console):
    out = console(Logs({"learning_rate": 0.0}), progress=KerasProgress("keras3"))
    assert learning_rates(out) == ["2.0000", "2.0000"]


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["keras", "", None, 2])
def test_an_unknown_style_is_refused(style):
    with pytest.raises(InvalidArgument, match=r"KerasProgress\.style must be one of keras2, keras3; got"):
        KerasProgress(style)


@pytest.mark.parametrize("metrics", ["loss", 3, [1], ["loss", "loss"], [None]])
def test_unusable_metrics_are_refused(metrics):
    with pytest.raises(InvalidArgument, match=r"KerasProgress\.metrics must be None or a sequence of different"):
        KerasProgress(metrics=metrics)
