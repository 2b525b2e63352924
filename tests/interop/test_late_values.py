"""Only a value that an optimizer step uses may raise."""

import copy

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from lr_plugins import CosineDecay, FunctionSchedule, LearningRateScheduler, RunLength
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.interop import ScheduleLR, TorchSchedule
from tests.interop.loops import first_rates, sgd
from tests.toys import fit, loader

TABLE = [0.4, 0.3, 0.2, 0.1]


def look_up(index):
    return TABLE[index]


def until_the_end(step):
    return 0.1 / (4 - step)


def one_cycle(optimizer):
    return OneCycleLR(optimizer, 0.4, total_steps=3, cycle_momentum=False)


SCHEDULES = {
    "list": (FunctionSchedule(look_up, of="step"), IndexError, "list index out of range"),
    "division": (FunctionSchedule(until_the_end, of="step"), ZeroDivisionError, "zero"),
    "NaN": (FunctionSchedule(lambda step: TABLE[step] if step < 4 else float("nan"), of="step"), TrainingError, "nan"),
    "epochs": (FunctionSchedule(look_up), IndexError, "list index out of range"),
    "OneCycleLR": (TorchSchedule(one_cycle), ValueError, r"Tried to step 4 times"),
    "LambdaLR": (TorchSchedule(lambda optimizer: LambdaLR(optimizer, look_up)), IndexError, "out of range"),
    "product": (CosineDecay(decay_steps="9st") * FunctionSchedule(look_up, of="step"), IndexError, "out of range"),
}
RUNS = [RunLength(), RunLength.of(steps_per_epoch=1, epochs=4), RunLength.of(steps_per_epoch=1, epochs=9)]


def cases(runs):
    found = []
    for name, (schedule, kind, message) in SCHEDULES.items():
        for run in runs:
            if name != "epochs" or run.steps_per_epoch:
                found.append(pytest.param(schedule, run, kind, message, id=f"{name}, {run.steps}"))
    return found


@pytest.mark.parametrize(("schedule", "run", "kind", "message"), cases(RUNS))
def test_a_loop_with_one_step_per_value_ends_normally(schedule, run, kind, message):
    scheduler = ScheduleLR(sgd(), schedule, run_length=run)
    rates = first_rates(scheduler.optimizer, scheduler, 4)
    assert len(rates) == 4
    assert scheduler.get_last_lr() == rates[-1:] == [scheduler.optimizer.param_groups[0]["lr"]]
    assert scheduler.state_dict() == {"last_epoch": 4}


@pytest.mark.parametrize(("schedule", "run", "kind", "message"), cases(RUNS[:2]))
def test_the_step_that_needs_the_value_raises(schedule, run, kind, message):
    scheduler = ScheduleLR(sgd(), schedule, run_length=run)
    first_rates(scheduler.optimizer, scheduler, 4)
    (weight,) = scheduler.optimizer.param_groups[0]["params"]
    before = weight.clone()
    for _ in range(2):
        with pytest.raises(kind, match=message):
            scheduler.optimizer.step()
    assert torch.equal(weight, before)
    with pytest.raises(kind, match=message):
        scheduler.step()  # for an optimizer whose steps have no hooks
    other = copy.deepcopy(scheduler)
    with pytest.raises(kind, match=message):
        other.optimizer.step()


@pytest.mark.parametrize(("schedule", "run", "kind", "message"), cases(RUNS[:2]))
def test_it_can_go_back_after_the_error(schedule, run, kind, message):
    scheduler = ScheduleLR(sgd(), schedule, run_length=run)
    rates = first_rates(scheduler.optimizer, scheduler, 4)
    scheduler.load_state_dict({"last_epoch": 2})
    assert first_rates(scheduler.optimizer, scheduler, 2) == rates[2:]
    scheduler.step(0)
    assert first_rates(scheduler.optimizer, scheduler, 4) == rates


def test_the_state_of_a_finished_run_can_be_loaded():
    scheduler = ScheduleLR(sgd(), FunctionSchedule(look_up, of="step"))
    scheduler.load_state_dict({"last_epoch": 4})
    assert scheduler.last_epoch == 4


def test_the_first_value_raises_at_once():
    with pytest.raises(TrainingError, match="relative to the length of the run"):
        ScheduleLR(sgd(), CosineDecay())
    with pytest.raises(IndexError):
        ScheduleLR(sgd(), FunctionSchedule(lambda step: [][step], of="step"))


@pytest.mark.parametrize("epoch", [2.5, -1, "3", True, None.__class__])
def test_a_step_that_is_not_an_integer_is_rejected(epoch):
    scheduler = ScheduleLR(sgd(), FunctionSchedule(look_up, of="step"))
    with pytest.raises(InvalidArgumentError, match="a whole number of optimizer steps"):
        scheduler.step(epoch)
    scheduler.step(2.0)
    assert scheduler.get_last_lr() == [0.2]


def test_a_failed_torch_schedule_repeats_its_error_and_values():
    schedule = TorchSchedule(lambda optimizer: LambdaLR(optimizer, lambda step: TABLE[step] if step != 4 else TABLE[9]))
    position = RunLength().position
    for _ in range(3):
        with pytest.raises(IndexError):
            schedule(position(4, 1.0))
        with pytest.raises(IndexError):
            schedule(position(7, 1.0))
    assert [schedule(position(step, 1.0)) for step in range(4)] == TABLE


def test_a_fit_as_long_as_its_torch_schedule_ends_normally():
    schedule = TorchSchedule(lambda optimizer: LambdaLR(optimizer, look_up))
    scheduler = LearningRateScheduler(schedule)
    fit(None, scheduler, epochs=2, train=loader(8))
    assert scheduler.trace["lr"].values.tolist() == [0.1 * value for value in TABLE]
