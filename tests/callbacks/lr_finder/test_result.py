"""How the suggestion is applied and reported."""

from __future__ import annotations

import csv

import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    LearningRateAudit,
    LearningRateScheduleMixin,
    LearningRateScheduler,
    LearningRateTrace,
    StepDecay,
)
from lr_plugins.callbacks.lr_finder.optimizer_lr import OptimizerLR
from lr_plugins.errors import TrainingError, UnsupportedError
from tests.callbacks.lr_finder.helpers import Everything, Memory, built_with, finder, fit, weights
from tests.toys import Toy, Used


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("schedule", [CosineDecay(), StepDecay(every="1ep").with_warmup(4), lambda epoch, lr: lr * 0.5])
def test_run_equals_one_built_with_the_found_rate(schedule, order):
    search, scheduler, used = finder(), LearningRateScheduler(schedule), Used()
    module, audit = built_with(0.1), LearningRateAudit()
    fit(module, *[search, scheduler][::order], used, audit)
    found = search.found.learning_rate
    assert found not in (None, 0.1)
    other, again = LearningRateScheduler(schedule), built_with(found)
    fit(again, other)
    assert used.values == scheduler.trace["lr"].values.tolist() == other.trace["lr"].values.tolist()
    assert (scheduler.audit.steps, scheduler.audit.followed) == (18, 18)
    assert weights(module) == weights(again)


def test_found_rate_is_used_throughout_without_a_scheduler():
    search, trace = finder(), LearningRateTrace()
    fit(built_with(0.1), search, trace)
    assert trace.trace["lr"].values.tolist() == [search.found.learning_rate] * 18


@pytest.mark.parametrize("lr", [0.0, 0.1, torch.tensor(0.1)])
def test_found_rate_replaces_any_initial_rate(lr):
    search, scheduler = finder(), LearningRateScheduler(Constant())
    trainer = fit(built_with(lr), search, scheduler)
    assert scheduler.trace["lr"].values == pytest.approx([search.found.learning_rate] * 18)
    assert float(trainer.optimizers[0].defaults["lr"]) == pytest.approx(search.found.learning_rate)


def test_module_and_group_schedules_start_from_the_found_rate():
    class Net(LearningRateScheduleMixin, Toy):
        def configure_learning_rate_schedule(self):
            return [CosineDecay(), Assign(Constant(), params="bias")]

    search, used = finder(), Used()
    trainer = fit(Net(), search, used)
    found = search.found.learning_rate
    rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert used.values[0] == rates["bias"] == found


def test_scheduler_returned_by_the_module_is_still_overridden():
    class Net(Toy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    search, scheduler = finder(), LearningRateScheduler(StepDecay(every="1ep"))
    with pytest.warns(UserWarning, match="overrides it"):
        fit(Net(), search, scheduler)
    found = search.found.learning_rate
    assert scheduler.trace["lr"].values.tolist() == [found * factor for factor in (1, 0.5, 0.25) for _ in range(6)]


@pytest.mark.parametrize(
    "schedule",
    [CosineDecay(0.1), Constant(0.1) * StepDecay(), lambda epoch: 0.1, [Assign(Constant(0.1), params="bias")]],
)
def test_schedule_with_its_own_initial_rate_is_refused(schedule):
    with pytest.raises(UnsupportedError, match="cannot apply its suggestion, because the schedule has"):
        fit(None, finder(), LearningRateScheduler(schedule))
    search = finder(apply=False)
    fit(None, search, LearningRateScheduler(schedule))
    assert search.found.learning_rate


@pytest.mark.parametrize("callbacks", [[], [LearningRateScheduler(CosineDecay(), on_conflict="theirs")]])
def test_driving_schedulers_of_the_module_are_refused(callbacks):
    with pytest.raises(UnsupportedError, match=r"cannot apply its suggestion to the module's LR schedulers \(StepLR\)"):
        fit(Everything(schedulers=True), finder(), *callbacks)


class Diverges(Toy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * float("nan")


class Flat(Toy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0 + 1


@pytest.mark.parametrize(("kind", "why"), [(Diverges, "is nan at the first step"), (Flat, "by no more than its noise")])
def test_run_without_a_suggestion_continues_or_stops(kind, why, capsys):
    search, scheduler = finder(verbose=1), LearningRateScheduler(Constant())
    fit(kind(), search, scheduler)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 18
    assert search.found.learning_rate is None
    first, line = capsys.readouterr().out.splitlines()
    assert first == "Learning-rate range test: 20 steps with learning rates from 0.0001 to 1"
    assert line.startswith("Learning-rate range test: no suggestion: ")
    assert why in line
    assert line.endswith("; SGD.lr stays 0.1")
    with pytest.warns(UserWarning, match="range test: no suggestion"):
        fit(kind(), finder())
    with pytest.raises(TrainingError, match="no suggestion"):
        fit(kind(), finder(on_failure="error"))


def test_result_is_printed(capsys):
    search = finder(verbose=1)
    fit(built_with(0.1), search)
    *_, line = capsys.readouterr().out.splitlines()
    found = search.found
    assert line == f"Learning-rate range test: {found}; SGD.lr is {found.learning_rate:.6g} instead of 0.1"
    fit(built_with(0.1), finder(apply=False, verbose=1))
    *_, line = capsys.readouterr().out.splitlines()
    assert line == f"Learning-rate range test: {found}; not applied, SGD.lr stays 0.1"


def test_the_table_the_picture_and_the_loggers(tmp_path):
    memory, search = Memory(), finder(dirpath=tmp_path / "new")
    fit(None, search, logger=memory)
    with (tmp_path / "new/lr_finder.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == search.curve.rates
    assert [float(row["loss"]) for row in rows] == search.curve.losses
    with Image.open(tmp_path / "new/lr_finder.png") as picture:
        assert picture.size == (960, 540)
    assert memory.artifacts == ["lr_finder.csv", "lr_finder.png"]
    assert {"lr_finder": {"suggestion": search.found.learning_rate, "applied_to": "SGD.lr"}} in memory.params


@pytest.mark.parametrize("kind", [Diverges, Flat])
def test_picture_is_drawn_without_a_suggestion(kind, tmp_path):
    fit(kind(), finder(dirpath=tmp_path), logger=CSVLogger(tmp_path))
    with Image.open(tmp_path / "lr_finder.png") as picture:
        assert picture.size == (960, 540)


def test_optimizer_under_one_cycle_has_its_default_rate():
    """OneCycleLR keeps a fraction of its own peak as `initial_lr`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5.0, total_steps=10)
    assert OptimizerLR(optimizer).value == 0.1
