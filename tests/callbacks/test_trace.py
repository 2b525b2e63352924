"""LearningRateTrace: the record, its logger points, table and picture."""

import csv
import json

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from lr_plugins import InverseTimeDecay, LearningRateScheduler, LearningRateTrace, StepDecay
from lr_plugins.callbacks import Trace
from lr_plugins.errors import InvalidArgumentError
from tests.toys import Toy, fit


class Memory(pl.loggers.logger.DummyLogger):
    """A logger that keeps its points."""

    def __init__(self):
        super().__init__()
        self.points, self.artifacts = [], []

    def log_metrics(self, metrics, step=None):
        self.points += [(name, step, value) for name, value in metrics.items() if name.startswith("lr")]

    def log_artifact(self, path):
        self.artifacts.append(path.name)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("every_n_steps", [1, 4, 1000])
def test_every_step_is_logged_once_at_its_own_step(every_n_steps, order):
    scheduler, memory = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5)), Memory()
    trace = LearningRateTrace(every_n_steps=every_n_steps)
    fit(None, *[scheduler, trace][::order], logger=memory)
    assert memory.points == [("lr", step, 0.1 / (1 + 0.5 * step)) for step in range(18)]


def test_groups_are_logged_separately():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.2}], lr=0.1)

    memory = Memory()
    fit(Toy(make), LearningRateScheduler(StepDecay()), LearningRateTrace(), logger=memory, epochs=1)
    assert memory.points[0] == ("lr/0", 0, 0.1)
    assert ("lr/1", 5, 0.2) in memory.points
    assert len(memory.points) == 12


def test_without_a_scheduler_it_records_what_the_optimizer_uses():
    class WithTorchs(Toy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.8)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    trace, memory = LearningRateTrace(), Memory()
    fit(WithTorchs(), trace, logger=memory)
    assert trace.trace["lr"].values.tolist() == [0.8] * 6 + [0.4] * 6 + [0.2] * 6
    assert len(memory.points) == 18


def test_continued_trainer_logs_no_point_twice():
    memory, trace, scheduler = Memory(), LearningRateTrace(), LearningRateScheduler(StepDecay(0.1))
    module = Toy()
    trainer = fit(module, scheduler, trace, logger=memory, epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, trainer.train_dataloader)
    assert [step for _, step, _ in memory.points] == list(range(12))
    fit(module, scheduler, trace, logger=memory, epochs=1)
    assert [step for _, step, _ in memory.points[12:]] == list(range(6))


def test_trace_writes_a_table_and_a_picture(tmp_path):
    scheduler, memory = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1 / 3)), Memory()
    fit(None, scheduler, LearningRateTrace(tmp_path), logger=memory)
    table = rows(tmp_path / "lr_trace.csv")
    assert [(int(row["step"]), float(row["lr"])) for row in table] == [
        (step, 0.1 / (1 + 1 / 3 * step)) for step in range(18)
    ]
    with Image.open(tmp_path / "lr_trace.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[0] > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    assert memory.artifacts == ["lr_trace.csv", "lr_trace.png"]


def test_recorded_values_are_written_after_an_error(tmp_path):
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 8:
                raise KeyError("broken data")
            return super().training_step(batch, batch_idx)

    memory = Memory()
    with pytest.raises(KeyError, match="broken data"):
        fit(Failing(), LearningRateScheduler(StepDecay(0.1)), LearningRateTrace(tmp_path), logger=memory)
    assert [step for _, step, _ in memory.points] == list(range(8))
    assert len(rows(tmp_path / "lr_trace.csv")) == 8


def test_failing_logger_hides_neither_the_error_nor_the_table(tmp_path):
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 8:
                raise KeyError("broken data")
            return super().training_step(batch, batch_idx)

    class Away(Memory):
        def log_artifact(self, path):
            raise ConnectionError("no server")

    scheduler = LearningRateScheduler(StepDecay(0.1))
    with (
        pytest.raises(KeyError, match="broken data"),
        pytest.warns(UserWarning, match="could not save the trace"),
    ):
        fit(Failing(), scheduler, LearningRateTrace(tmp_path), logger=Away())
    assert len(rows(tmp_path / "lr_trace.csv")) == 8


def test_retried_step_counts_once():
    class Retrying(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()

            def closure():
                optimizer.zero_grad()
                self.manual_backward(self.compute_loss(batch))

            def failing():
                raise MemoryError

            if batch_idx == 2:
                with pytest.raises(MemoryError):
                    optimizer.step(failing)
            optimizer.step(closure)

    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    fit(Retrying(), scheduler, epochs=1)
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(6)])


def test_step_calling_its_parent_counts_once():
    class Parent(torch.optim.SGD):
        pass

    class Child(Parent):
        def step(self, closure=None):
            return super().step(closure)

    Parent([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # torch puts its hooks into a class when one is made
    module = Toy(lambda parameters: Child(parameters, lr=0.1))
    scheduler, trace = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1)), LearningRateTrace()
    fit(module, scheduler, epochs=1)
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(6)])
    fit(module, trace, epochs=1)
    assert len(trace.trace["lr"]) == 6


def test_table_is_written_without_matplotlib(tmp_path, monkeypatch):
    import lr_plugins._lightning.artifacts as home

    monkeypatch.setattr(home, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="matplotlib is not installed"):
        fit(None, LearningRateTrace(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["lr_trace.csv"]


def test_every_lightning_logger_accepts_the_points(tmp_path):
    fit(None, LearningRateScheduler(StepDecay(0.1)), LearningRateTrace(), logger=CSVLogger(tmp_path))
    table = rows(tmp_path / "lightning_logs/version_0/metrics.csv")
    assert [int(row["step"]) for row in table if row["lr"]] == list(range(18))


def test_a_frame_has_a_row_per_step():
    trace = Trace()
    for value in (0.1, 0.2):
        trace.series("lr/a").append(value)
    trace.series("lr/b", 1).append(0.5)
    trace.series("lr/c")
    frame = trace.frame()
    assert frame.index.tolist() == [0, 1]
    assert frame["lr/a"].tolist() == [0.1, 0.2]
    assert frame.isna().to_numpy().tolist() == [[False, True, True], [False, False, True]]


def test_table_is_empty_before_a_group_is_added(tmp_path):
    trace = Trace()
    for value in (0.1, 0.2, 0.3):
        trace.series("lr/a").append(value)
    trace.series("lr/b", first_step=2).append(0.5)
    assert rows(trace.to_csv(tmp_path / "t.csv"))[1:] == [
        {"step": "1", "lr/a": "0.2", "lr/b": ""},
        {"step": "2", "lr/a": "0.3", "lr/b": "0.5"},
    ]
    assert (trace.first(), trace.last()) == (0.1, 0.3)
    assert json.dumps(list(trace["lr/b"].since(0))) == "[[2, 0.5]]"


@pytest.mark.parametrize("value", [0, 1.5, True, "10"])
def test_bad_arguments(value):
    with pytest.raises(InvalidArgumentError, match="every_n_steps must be an integer >= 1"):
        LearningRateTrace(every_n_steps=value)


def test_attributes_that_are_set_before_the_fit_count():
    logger, trace = Memory(), LearningRateTrace()
    trace.every_n_steps, trace.names = 1, "monitor"
    fit(Toy(), LearningRateScheduler(StepDecay(0.1)), trace, logger=logger)
    assert {name for name, _, _ in logger.points} == {"lr-SGD"}


class Measures(pl.Callback):
    """Records the number 2 at every step."""

    name = "two"

    def __call__(self, optimizer):
        return 2.0

    def on_train_start(self, trainer, pl_module):
        (scheduler,) = [callback for callback in trainer.callbacks if isinstance(callback, LearningRateScheduler)]
        for recorder in scheduler.recorders:
            recorder.measure(self)


def test_measured_quantity_of_a_checkpoint_stays_one_without_measuring_again(tmp_path):
    first, second = LearningRateTrace(), LearningRateTrace()
    scheduled = [LearningRateScheduler(StepDecay(0.1)) for _ in range(2)]
    trainer = fit(Toy(), scheduled[0], Measures(), first, epochs=1, enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "epoch.ckpt")
    fit(Toy(), scheduled[1], second, epochs=2, ckpt_path=tmp_path / "epoch.ckpt")
    assert [name for name, series in second.trace.items() if series.is_measured] == ["two"]
    assert second.trace.first() == 0.1
