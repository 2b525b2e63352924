"""Going on from every checkpoint that a run writes: each comes to what the run came to."""

import random
import shutil
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from lr_plugins import Constant, CosineDecay, LearningRateScheduler, LearningRateTrace, LossDriven, ReduceLROnPlateau
from lr_plugins._lightning import artifacts
from lr_plugins._lightning.atomic_checkpoints import AtomicFiles
from lr_plugins.callbacks import FullPass, History
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.training.checkpoints import read_checkpoint
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.data import Fake
from tests.toys import QUIET

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*dirpath has changed", "ignore:.*writes only the table", "ignore:.*not empty"
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(artifacts, "find_spec", lambda name: None)


class Memory(pl.loggers.logger.DummyLogger):
    """A logger that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.points = {}

    def log_metrics(self, metrics, step=None):
        self.points |= {(name, step): value for name, value in metrics.items()}


class Copies(pl.Callback):
    """Keeps each checkpoint that last.ckpt has ever been, and what the logger had by then."""

    def __init__(self, last, folder):
        self.last, self.folder, self.kept, self._stamp = last, folder, [], None

    def _look(self, trainer, *_):
        if self.last.path.is_file() and self.last.path.stat().st_mtime_ns != self._stamp:
            self._stamp = self.last.path.stat().st_mtime_ns
            copy = self.folder / f"{len(self.kept)}.ckpt"
            shutil.copyfile(self.last.path, copy)
            self.kept.append((copy, dict(trainer.logger.points)))

    on_train_epoch_start = on_train_batch_start = on_train_end = on_exception = _look


class Logs(pl.Callback):
    """Logs means, a maximum and a value of the epoch's begin by Lightning's own means."""

    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.log("begin", torch.rand(()), on_step=False, on_epoch=True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("mean", outputs["loss"], on_step=False, on_epoch=True, batch_size=batch_idx + 1)
        pl_module.log("both", outputs["loss"] / 2, on_step=True, on_epoch=True, prog_bar=True)
        pl_module.log("max", outputs["loss"], on_step=False, on_epoch=True, reduce_fx="max")


DRAWN = [["loss", "val_loss", "whole"], "val_acc", ["begin", "mean", "both_epoch", "max"]]  # in the picture


class Training:
    """A training of some epochs of four batches, with all that takes part in resuming."""

    def __init__(self, folder, schedule, ckpt_path=None, points=None, extra=(), epochs=2, measure=None, **options):
        pl.seed_everything(3, verbose=False)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.3), nn.Linear(12, 10))
        self.module = Classifier(net, nn.CrossEntropyLoss(), partial(torch.optim.Adam, lr=0.01))
        folder.mkdir(exist_ok=True)
        self.last = LastCheckpoint(folder / "checkpoints", every_n_steps=1, min_seconds=0.0)
        self.copies = Copies(self.last, folder)
        self.history, self.trace, self.logger = History(), LearningRateTrace(folder, metrics=DRAWN), Memory()
        self.logger.points |= points or {}
        scheduler = LearningRateScheduler(schedule() if callable(schedule) else schedule, measure=measure)
        callbacks = [
            self.history,
            self.last,
            scheduler,
            self.trace,
            *[one() for one in extra],
            RandomStates(),
            self.copies,
        ]
        settings = {**QUIET, "enable_checkpointing": True, "num_sanity_val_steps": 0, **options}
        callbacks.append(ModelCheckpoint(folder / "checkpoints", "best", enable_version_counter=False))
        plugins = [AtomicFiles()]
        settings |= {"logger": self.logger, "plugins": plugins, "log_every_n_steps": 1}
        self.trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, **settings)
        self.data = Fake(num_samples=50, batch_size=10, validation_fraction=0.2, seed=3)
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=ckpt_path)

    def outcome(self):
        return {
            "weights": {name: value.tolist() for name, value in self.module.state_dict().items()},
            "trace": (self.last.path.parent.parent / "lr_trace.csv").read_text(),
            "history": (self.history.history, self.history.values, self.history.epoch),
            "points": self.logger.points,
            "drawn": self.trace._epoch_metrics.state({}),
            "steps": self.trainer.global_step,
        }


DECIDED = partial(ReduceLROnPlateau, 0.01, patience=1, min_delta=0.5, factor=0.7)
WAYS = {
    "a function of (epoch, lr)": (lambda: lambda epoch, lr: lr * 0.9, {}),
    "plateau": (DECIDED, {}),
    "loss-driven within epochs": (partial(LossDriven, 0.01, when="2st", k=0.3), {}),
    "loss-driven by a measured loss": (
        partial(LossDriven, 0.001, monitor="whole"),
        {"measure": {"whole": FullPass()}, "check_val_every_n_epoch": 2},
    ),
    "two batches a step": (CosineDecay, {"accumulate_grad_batches": 2}),
    "metrics of Lightning's own": (DECIDED, {"extra": [Logs]}),
    "validated twice an epoch": (
        partial(ReduceLROnPlateau, 0.01, when="validation", patience=1),
        {"val_check_interval": 2},
    ),
    "validated every other epoch": (DECIDED, {"check_val_every_n_epoch": 2}),
    "without validation": (CosineDecay, {"limit_val_batches": 0}),
    "a limit of steps": (CosineDecay, {"max_steps": 8}),
    "a limit of steps within an epoch": (CosineDecay, {"max_steps": 6}),
    "epochs of one batch": (DECIDED, {"limit_train_batches": 1}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_checkpoint_resumes_to_the_same_result(way, tmp_path):
    schedule, options = WAYS[way]
    whole = Training(tmp_path / "whole", schedule, **options)
    assert len(whole.copies.kept) >= 3
    for index, (checkpoint, points) in enumerate(whole.copies.kept):
        # In the same folder as the run that was killed: best.ckpt is remembered with its path.
        resumed = Training(tmp_path / f"{index}", schedule, checkpoint, points, **options)
        assert resumed.outcome() == whole.outcome(), checkpoint


@pytest.mark.parametrize("options", [{"val_check_interval": 2}, {"accumulate_grad_batches": 3}], ids=str)
def test_signal_between_batches_saves_a_resumable_state(options, tmp_path):
    whole = Training(tmp_path / "whole", DECIDED, **options)
    for batch in range(8):
        folder, seen = tmp_path / f"{batch}", []

        class Interrupt(pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, data, batch_idx, batch=batch, seen=seen):
                seen.append(batch_idx)
                if len(seen) == batch + 1:
                    trainer._signal_connector.received_sigterm = True

        run = Training.__new__(Training)
        with pytest.raises(SIGTERMException):
            run.__init__(folder, DECIDED, extra=[Interrupt], **options)
        checkpoint = run.last.path
        assert torch.load(checkpoint, weights_only=True)["global_step"] >= (batch + 1) // 3
        resumed = Training(tmp_path / f"{batch} resumed", DECIDED, checkpoint, run.logger.points, **options)
        assert resumed.outcome() == whole.outcome(), batch


def test_a_run_that_was_stopped_early_stays_stopped(tmp_path):
    stop = partial(EarlyStopping, "val_loss", patience=1, min_delta=10.0)
    whole = Training(tmp_path / "whole", Constant, extra=[stop], epochs=9)
    assert whole.trainer.current_epoch == 2
    resumed = Training(tmp_path / "more", Constant, whole.last.path, whole.logger.points, [stop], epochs=9)
    assert resumed.outcome() == whole.outcome()


def test_added_epochs_equal_a_run_planned_that_long(tmp_path):
    whole = Training(tmp_path / "whole", DECIDED, epochs=4)
    part = Training(tmp_path / "part", DECIDED, epochs=2)
    more = Training(tmp_path / "more", DECIDED, part.last.path, part.logger.points, epochs=4)
    expected, found = whole.outcome(), more.outcome()
    for outcome in (expected, found):
        outcome["drawn"]["epochs"] = sorted(set(outcome["drawn"]["epochs"]))
    assert found == expected


def test_the_checkpoint_before_serves_where_the_last_is_broken(tmp_path, capsys):
    run = Training(tmp_path, Constant)
    run.last.path.write_bytes(run.last.path.read_bytes()[:1000])
    path, checkpoint = read_checkpoint(str(run.last.path))
    assert path.endswith("previous.ckpt")
    assert checkpoint["global_step"] == 7
    assert "last.ckpt cannot be read" in capsys.readouterr().out
    (tmp_path / "checkpoints/previous.ckpt").unlink()
    with pytest.raises(InvalidArgumentError, match="a checkpoint of a Lightning run"):
        read_checkpoint(str(run.last.path))


def test_nothing_but_whole_files_is_left(tmp_path):
    run = Training(tmp_path, Constant)
    names = sorted(path.name for path in run.last.path.parent.iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    target = tmp_path / "last.ckpt"
    AtomicFiles().save_checkpoint({"value": 1}, target)
    with pytest.raises(AttributeError):
        AtomicFiles().save_checkpoint({"value": lambda: None}, target)
    assert torch.load(target) == {"value": 1}


@pytest.mark.parametrize("argument", [{"every_seconds": 0}, {"every_n_steps": 0}, {"dirpath": ""}, {"min_seconds": -1}])
def test_arguments_are_checked(argument):
    with pytest.raises(InvalidArgumentError, match=rf"LastCheckpoint\.{next(iter(argument))}"):
        LastCheckpoint(**{"dirpath": "here", **argument})


@pytest.mark.parametrize(("min_seconds", "saves"), [(0.0, 4), (1e6, 2)])
def test_short_epochs_are_not_each_saved(min_seconds, saves, tmp_path):
    last = LastCheckpoint(tmp_path, every_seconds=None, min_seconds=min_seconds)
    copies = Copies(last, tmp_path)
    module = Classifier(nn.Linear(64, 10), nn.CrossEntropyLoss(), partial(torch.optim.SGD, lr=0.1))
    module.net = nn.Sequential(nn.Flatten(), module.net)
    trainer = pl.Trainer(max_epochs=3, callbacks=[last, copies], **{**QUIET, "logger": Memory()})
    trainer.fit(module, datamodule=Fake(num_samples=20, batch_size=10))
    assert len(copies.kept) == saves  # the first and the last, at least
    assert torch.load(last.path, weights_only=True)["global_step"] == trainer.global_step


def test_states_of_random_numbers_as_lists_are_restored():
    states = RandomStates()
    state = states.state_dict()
    drawn = random.random(), np.random.random()  # noqa: NPY002
    version, numbers, gauss = state["python"]
    name, key, *rest = state["numpy"]
    earlier = {**state, "python": [version, numbers.tolist(), gauss], "numpy": [name, key.tolist(), *rest]}
    for saved in (earlier, state):
        states.load_state_dict(saved)
        states.on_train_start(None, None)
        assert (random.random(), np.random.random()) == drawn  # noqa: NPY002
