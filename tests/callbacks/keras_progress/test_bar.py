"""KerasProgress(verbose=1): the content and timing of the bar in real fits; tests/parity compares its bytes."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch.utils.data import DataLoader

from lr_plugins import KerasProgress, LearningRateScheduler, LossDriven, StepDecay
from lr_plugins.callbacks.keras_progress import progress as keras_progress
from lr_plugins.console.keras_text import Piece
from lr_plugins.console.line import ConsoleLine
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.rank_zero import rank_zero_only
from tests.callbacks.keras_progress.helpers import BATCH, Clock, Endless, Logs, Module, loader, trainer, with_loaders


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(keras_progress, "perf_counter", clock)
    return clock


class Tick(pl.Callback):
    """A batch takes a tenth of a second on the clock of the callbacks after this one."""

    def __init__(self, clock, seconds=0.1):
        self.clock, self.seconds = clock, seconds

    def on_train_batch_end(self, *args):
        self.clock.now += self.seconds


@pytest.fixture
def show(capsys, clock):
    """Run a fit with a bar, and return the lines that it leaves in a file."""

    def run(module=None, *callbacks, seconds=0.1, style="keras2", metrics=None, ckpt_path=None, **settings):
        progress = KerasProgress(style, metrics, verbose=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
            run = trainer(Tick(clock, seconds), progress, *callbacks, **{"max_epochs": 1, **settings})
            run.fit(module or Module(validates=False), ckpt_path=ckpt_path)
        return capsys.readouterr().out.splitlines()

    return run


def counts(lines):
    return [found[0] for line in lines if (found := re.match(r" *\d+/\w+", line))]


# --- counts and refresh rate --------------------------------------------------------------------------------


def test_keras2_counts_samples_and_ends_with_the_epoch(show):
    assert show() == [
        "Epoch 1/1",
        "",
        " 4/20 [=====>........................] - ETA: 0s - loss: 1.5000 - acc: 0.1500",
        " 8/20 [===========>..................] - ETA: 0s - loss: 1.5000 - acc: 0.1500",
        "12/20 [=================>............] - ETA: 0s - loss: 1.5000 - acc: 0.1500",
        "16/20 [=======================>......] - ETA: 0s - loss: 1.5000 - acc: 0.1500",
        "20/20 [==============================] - 0s 25ms/step - loss: 1.5000 - acc: 0.1500",
    ]


def test_keras3_counts_steps(show):
    assert counts(show(style="keras3")) == ["1/5", "2/5", "3/5", "4/5", "5/5", "5/5"]


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, 1), (0.01, 1), (0.03, 3), (0.0625, 5), (1.0, 5)])
def test_bar_refreshes_at_most_every_twentieth_of_a_second(show, seconds, shown):
    assert len(counts(show(style="keras3", seconds=seconds))) == shown + 1


def test_the_last_batch_may_be_smaller(show):
    assert counts(show(with_loaders(loader(18), [])))[-2:] == ["16/18", "18/18"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"limit_train_batches": 2}, ["4/8", "8/8"]),
        ({"limit_train_batches": 0.6}, [" 4/12", " 8/12", "12/12"]),
        ({"accumulate_grad_batches": 2}, [" 4/20", " 8/20", "12/20", "16/20", "20/20"]),
    ],
)
def test_limits_and_accumulation(show, settings, expected):
    assert counts(show(**settings)) == expected


def test_steps_are_counted_when_samples_are_unknown(show):
    class AnyBatch(Module):
        def training_step(self, batch, batch_idx):
            return self.layer(torch.zeros(1, 2)).mean()

    module = AnyBatch(validates=False)
    module.train_dataloader = lambda: {"a": loader(20), "b": loader(8)}
    assert counts(show(module)) == ["1/5", "2/5", "3/5", "4/5", "5/5"]


def test_stream_has_unknown_length_in_its_first_epoch(show):
    lines = show(with_loaders(DataLoader(Endless(), batch_size=BATCH), []), max_epochs=2, seconds=1.0)
    assert counts(lines) == [f"      {step}/Unknown" for step in range(1, 6)] + [
        "5/5",
        *(f"{step}/5" for step in range(1, 6)),
    ]
    assert "      2/Unknown - 2s 1s/step - loss: 1.5000 - acc: 0.1500" in lines


def test_longer_stream_has_unknown_length_again(show):
    class Growing(Endless):
        lengths = iter([2, 4])

        def __iter__(self):
            return iter([(torch.zeros(2),)] * (next(self.lengths) * BATCH))

    lines = show(with_loaders(DataLoader(Growing(), batch_size=BATCH), []), max_epochs=2)
    assert counts(lines)[2:] == ["2/2", "1/2", "      3/Unknown", "      4/Unknown", "4/4"]


def test_reloaded_loaders_may_have_another_length(show):
    module = Module(validates=False)
    module.train_dataloader = lambda: loader(8 + 4 * module.current_epoch)
    assert counts(show(module, max_epochs=2, reload_dataloaders_every_n_epochs=1)) == [
        "4/8",
        "8/8",
        " 4/12",
        " 8/12",
        "12/12",
    ]


def test_remaining_and_elapsed_time(show):
    lines = show(with_loaders(loader(4 * 100), []), seconds=50.0)
    times = [re.search(r" - (ETA: \S+|\d+s \S+)", line)[1] for line in lines if "loss" in line]
    assert times[:2] + times[97:] == ["ETA: 1:22:30", "ETA: 1:21:40", "ETA: 1:40", "ETA: 50s", "5000s 12s/step"]


def test_an_epoch_without_batches_has_no_bar(show):
    class Empty(Endless):
        def __iter__(self):
            return iter(())

    module = with_loaders(DataLoader(Empty()), [])
    assert show(module) == ["Epoch 1/1"]
    assert show(module, style="keras3", max_epochs=2) == ["Epoch 1/2", "Epoch 2/2"]


def test_epoch_cut_short_ends_at_its_last_step(show):
    lines = show(max_steps=2, max_epochs=2)
    assert lines[-1] == " 8/20 [===========>..................] - 0s 25ms/step - loss: 1.5000 - acc: 0.1500"


# --- metrics ------------------------------------------------------------------------------------------------


def shown(lines, name):
    return [float(found[1]) for line in lines if (found := re.search(rf" - {name}: (\S+)", line))]


def test_epoch_metric_is_shown_as_the_running_mean(show):
    assert shown(show(Logs({"loss": 1.0})), "loss") == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_smaller_batches_have_less_weight(show):
    module = Logs({"loss": 1.0})
    module.train_dataloader = lambda: loader(6)
    assert shown(show(module, style="keras3"), "loss") == [1.0, 1.3333, 1.3333]


@pytest.mark.parametrize(("reduce", "values"), [("max", [1, 2, 3, 4, 5]), ("min", [1] * 5), ("sum", [1, 3, 6, 10, 15])])
def test_other_reductions_are_shown_so_far(show, reduce, values):
    class Reduces(Module):
        def training_step(self, batch, batch_idx):
            self.log("x", 1.0 + batch_idx, on_step=False, on_epoch=True, reduce_fx=reduce)
            return self.layer(batch[0]).mean()

    assert shown(show(Reduces(validates=False)), "x") == values


def test_step_metric_shows_the_last_batch(show):
    module = Logs({"loss": 1.0}, on_step=True, on_epoch=False)
    assert shown(show(module), "loss") == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_step_and_epoch_metric_is_shown_once_as_the_mean(show):
    module = Logs({"loss": 1.0}, on_step=True, on_epoch=True)
    lines = show(module)
    assert shown(lines, "loss") == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert "loss_" not in "".join(lines)
    assert shown(show(module, metrics=["loss_step"]), "loss_step") == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_means_restart_in_each_epoch(show):
    assert shown(show(Logs({"loss": 1.0}), max_epochs=2), "loss") == [1.0, 1.5, 2.0, 2.5, 3.0] * 2


def test_names_keep_the_order_of_the_first_batch(show):
    class Mixed(Module):
        def training_step(self, batch, batch_idx):
            self.log("first", 1.0, on_step=False, on_epoch=True)
            self.log("second", 2.0, on_step=True, on_epoch=False)
            self.log("loss", 3.0, on_step=False, on_epoch=True)
            return self.layer(batch[0]).mean()

    lines = show(Mixed(validates=False))
    assert {tuple(re.findall(r"- (\w+): \d\.", line)) for line in lines[2:]} == {("loss", "first", "second")}


class Counts(Module):
    """Logs an object of torchmetrics; an accuracy would do as well."""

    def __init__(self, **how):
        super().__init__(validates=False)
        self.mean, self.how = torchmetrics.MeanMetric(), how

    def training_step(self, batch, batch_idx):
        self.mean(1.0 + batch_idx)
        self.log("mean", self.mean, **self.how)
        return self.layer(batch[0]).mean()


def test_torchmetrics_objects_are_computed_only_at_the_end(show):
    assert shown(show(Counts(on_step=False, on_epoch=True)), "mean") == [3.0]
    assert shown(show(Counts(on_step=True, on_epoch=True)), "mean") == [1.0, 2.0, 3.0, 4.0, 3.0]


def test_module_can_report_its_own_running_metrics(show):
    class Own(Module):
        def training_step(self, batch, batch_idx):
            self.batches = batch_idx + 1
            return self.layer(batch[0]).mean()

        def metrics_so_far(self):
            return {"batches": self.batches, "tensor": torch.tensor(0.5)}

        def on_train_epoch_end(self):
            self.log("batches", float(self.batches))
            self.log("tensor", 0.25)

    lines = show(Own(validates=False))
    assert shown(lines, "batches") == [1, 2, 3, 4, 5]
    assert shown(lines, "tensor") == [0.5] * 4 + [0.25]


def test_validation_is_shown_when_the_epoch_is_over(show):
    lines = show(Module(), val_check_interval=2, num_sanity_val_steps=2)
    assert shown(lines, "val_loss") == [1.25]
    assert lines[-1].endswith(" - loss: 1.5000 - acc: 0.1500 - val_loss: 1.2500 - val_acc: 0.2500")
    assert counts(lines) == [" 4/20", " 8/20", "12/20", "16/20", "20/20"]


def test_several_optimizers(show):
    class Two(Module):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.step()
            self.log("loss", 0.5, on_step=False, on_epoch=True)

        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=lr) for lr in (0.25, 0.125)]

    lines = show(Two(validates=False), LearningRateScheduler(lambda epoch, lr: lr), style="keras3")
    assert counts(lines) == ["1/5", "2/5", "3/5", "4/5", "5/5", "5/5"]
    assert shown(lines, "learning_rate") == [0.25]


# --- interruptions and messages -----------------------------------------------------------------------------


def test_scheduler_messages_keep_their_place(show):
    schedule = StepDecay(0.5, every="1ep")
    lines = show(None, LearningRateScheduler(schedule, verbose=1), max_epochs=2, limit_train_batches=2)
    assert [line.partition(" [")[0] for line in lines] == [
        "Epoch 1/2",
        "",
        "Epoch 00001: LearningRateScheduler setting learning rate to 0.5.",
        "",
        "4/8",
        "8/8",
        "Epoch 2/2",
        "",
        "Epoch 00002: LearningRateScheduler setting learning rate to 0.25.",
        "",
        "4/8",
        "8/8",
    ]


def test_message_within_an_epoch_gets_its_own_lines(show):
    schedule = LossDriven(0.5, monitor="loss", when="2st", k=0.0)
    lines = show(None, LearningRateScheduler(schedule, verbose=1))
    for line in lines:
        assert re.fullmatch(r"|Epoch 1/1|Epoch 00001: \w+ setting .*|[ \d]\d/20 \[[=>.]{30}\] - .*", line)


def fail_with(error, in_batch=2):
    class Fails(Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == in_batch:
                raise error
            return super().training_step(batch, batch_idx)

    return Fails(validates=False)


@pytest.mark.parametrize(("error", "raised"), [(RuntimeError("x"), RuntimeError), (KeyboardInterrupt(), SystemExit)])
def test_an_error_or_ctrl_c_ends_the_line(clock, capsys, error, raised):
    with pytest.raises(raised):
        trainer(Tick(clock), KerasProgress(verbose=1)).fit(fail_with(error))
    bar = " 8/20 [===========>..................] - ETA: 0s - loss: 1.5000 - acc: 0.1500"
    assert capsys.readouterr().out.endswith(f"\n{bar}\n")


def test_error_in_the_first_batch_leaves_no_empty_line(clock, capsys):
    with pytest.raises(RuntimeError):
        trainer(Tick(clock), KerasProgress(verbose=1)).fit(fail_with(RuntimeError("x"), in_batch=0))
    assert capsys.readouterr().out == "Epoch 1/2\n"


def test_bar_of_a_resumed_epoch_continues_where_it_was(show, tmp_path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    show(None, Save())
    lines = show(seconds=10.0, ckpt_path=tmp_path / "mid.ckpt")
    # The times cover only the resumed part: 10 s for 4 samples.
    assert [line[:60] for line in lines] == [
        "Epoch 1/1",
        "",
        "16/20 [=======================>......] - ETA: 10s - loss: 1.",
        "20/20 [==============================] - 20s 2s/step - loss:",
    ]


# --- output streams -----------------------------------------------------------------------------------------


def test_a_file_gets_no_control_characters(show):
    lines = [*show(Module(), max_epochs=2), *show(Module(), max_epochs=2, style="keras3")]
    assert re.fullmatch(r"[ -~━\n]+", "\n".join(lines))


class Notebook(io.StringIO):
    """Standard output of a Jupyter kernel, which handles carriage returns."""


Notebook.__module__ = "ipykernel.iostream"


def test_notebook_output_is_overwritten(clock):
    with contextlib.redirect_stdout(Notebook()) as out:
        trainer(Tick(clock), KerasProgress(verbose=1), max_epochs=1).fit(Module(validates=False))
    assert out.getvalue().count("\r") == 5
    assert out.getvalue().count("\n") == 2


def test_encoding_without_the_bar_character_gets_ascii():
    written = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(written, encoding="ascii")):
        ConsoleLine().show(lambda columns: [Piece("1/2 ━━ - é: 0.5")], final=True)
        sys.stdout.flush()
        assert written.getvalue() == b"\n1/2 == - : 0.5\n"


def test_a_program_without_a_console_trains(clock, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    run = trainer(Tick(clock), KerasProgress(verbose=1), max_epochs=1)
    run.fit(Module(validates=False))
    assert run.global_step == 5


def test_only_the_first_process_draws(show, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert show() == []


# --- arguments ----------------------------------------------------------------------------------------------


def test_verbose_0_prints_only_scheduler_messages(clock, capsys):
    scheduler = LearningRateScheduler(StepDecay(0.5, every="1ep"), verbose=1)
    trainer(KerasProgress(verbose=0), scheduler, max_epochs=1).fit(Module())
    assert capsys.readouterr().out == "\nEpoch 00001: LearningRateScheduler setting learning rate to 0.5.\n"


def test_second_bar_warns(clock):
    run = trainer(KerasProgress(verbose=1), max_epochs=1, enable_progress_bar=True)
    with pytest.warns(UserWarning, match=r"Set Trainer\(enable_progress_bar=False\)"):
        run.fit(Module(validates=False))


@pytest.mark.parametrize("verbose", [3, -1, "auto", "1", None, 1.0])
def test_an_unknown_verbose_is_refused(verbose):
    with pytest.raises(
        InvalidArgumentError, match=r"KerasProgress\.verbose must be 0 \(nothing\), 1 \(a progress bar\) or 2"
    ):
        KerasProgress(verbose=verbose)
