"""TorchSchedule: momentum cycled by a scheduler, and positions between two steps."""

import copy
import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.optim import lr_scheduler
from transformers import get_cosine_schedule_with_warmup

from lr_plugins import Assign, LearningRateScheduler, Position, RunLength
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.interop import ScheduleLR, TorchSchedule
from tests.interop.loops import sgd, used
from tests.toys import Toy, fit

one_cycle = functools.partial(lr_scheduler.OneCycleLR, max_lr=0.4, total_steps=12)
cyclic = functools.partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.4, step_size_up=3)
CYCLED = {"OneCycleLR": one_cycle, "CyclicLR": cyclic}


def theirs(factory, steps, key="lr", **options):
    optimizer = sgd(**{"momentum": 0.9, **options})
    scheduler, values = factory(optimizer), []
    for _ in range(steps):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        scheduler.step()
    return values


@pytest.fixture
def caught():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def reports(caught):
    return [str(one.message) for one in caught if "TorchSchedule" in str(one.message)]


# --- momentum ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CYCLED)
def test_a_momentum_that_nothing_drives_is_reported(name, caught):
    schedule = TorchSchedule(CYCLED[name])
    values = schedule(RunLength().position(np.arange(10), 0.1)).tolist()
    assert values == theirs(CYCLED[name], 10)
    (report,) = reports(caught)
    assert f"{name} moves the momentum as well" in report
    assert "Add Assign(TorchSchedule(factory, of='momentum'), to='momentum')" in report


@pytest.mark.parametrize("name", CYCLED)
def test_both_are_driven_in_a_plain_loop_as_torch_does_it(name, caught):
    factory = CYCLED[name]
    optimizer = sgd(momentum=0.9)
    both = [TorchSchedule(factory), Assign(TorchSchedule(factory, of="momentum"), to="momentum")]
    scheduler, momenta, rates = ScheduleLR(optimizer, both), [], []
    for _ in range(10):
        momenta.append(optimizer.param_groups[0]["momentum"])
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == theirs(factory, 10)
    assert momenta == theirs(factory, 10, "momentum")
    assert len(set(momenta)) > 2
    assert not reports(caught)


def test_both_are_driven_in_a_fit_and_in_the_betas_of_adam(caught):
    both = [TorchSchedule(one_cycle), Assign(TorchSchedule(one_cycle, of="momentum"), to="momentum")]
    scheduler = LearningRateScheduler(both)
    fit(Toy(lambda parameters: torch.optim.AdamW(parameters, lr=0.1)), scheduler, epochs=2)
    assert scheduler.trace["lr"].values.tolist() == theirs(one_cycle, 12)
    assert scheduler.trace["momentum"].values.tolist() == theirs(one_cycle, 12, "momentum")
    assert not reports(caught)


@pytest.mark.parametrize(
    "factory",
    [
        functools.partial(lr_scheduler.StepLR, step_size=3),
        functools.partial(one_cycle, cycle_momentum=False),
        functools.partial(cyclic, cycle_momentum=False),
    ],
)
def test_a_constant_momentum_is_not_reported(factory, caught):
    schedule = TorchSchedule(factory)
    schedule(RunLength().position(np.arange(10), 0.1))
    assert not reports(caught)


def test_the_initial_value_belongs_to_the_chosen_quantity():
    factory = functools.partial(cyclic, cycle_momentum=False)
    assert TorchSchedule(factory, of="momentum")(RunLength().position(4, 0.85)) == 0.85
    assert TorchSchedule(factory, initial_learning_rate=0.8, of="momentum")(4) == 0.8
    with pytest.raises(InvalidArgumentError, match=r"TorchSchedule\.of must be one of lr, momentum, weight_decay"):
        TorchSchedule(factory, of="betas")


# --- between steps ----------------------------------------------------------------------------------------------------

CLOSED = {
    "StepLR": functools.partial(lr_scheduler.StepLR, step_size=3),
    "MultiStepLR": functools.partial(lr_scheduler.MultiStepLR, milestones=[2, 5]),
    "ConstantLR": functools.partial(lr_scheduler.ConstantLR, total_iters=4),
    "LinearLR": functools.partial(lr_scheduler.LinearLR, total_iters=6),
    "ExponentialLR": functools.partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "PolynomialLR": functools.partial(lr_scheduler.PolynomialLR, total_iters=8, power=2.0),
    "CosineAnnealingLR": functools.partial(lr_scheduler.CosineAnnealingLR, T_max=10),
    "CosineAnnealingWarmRestarts": functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4, T_mult=2),
    "LambdaLR": functools.partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "OneCycleLR": functools.partial(one_cycle, cycle_momentum=False),
    "CyclicLR": functools.partial(cyclic, cycle_momentum=False),
    "transformers": lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 3, 10),
}
TIMES = [0.5, 2.5, 7.25, 3.0, 1.75, 2.0]


def at_times(factory, key="lr"):
    """What torch's own step(time) gives."""
    values = []
    for time in TIMES:
        optimizer = sgd(momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            factory(optimizer).step(time)
        values.append(optimizer.param_groups[0][key])
    return values


@pytest.mark.parametrize("factory", CLOSED.values(), ids=CLOSED)
def test_a_time_between_two_steps_is_not_rounded(factory, caught):
    schedule, expected = TorchSchedule(factory), at_times(factory)
    assert [schedule(Position(time, base_learning_rate=0.1)) for time in TIMES] == pytest.approx(expected, rel=1e-12)
    whole = schedule(Position(np.array([TIMES, TIMES]), base_learning_rate=0.1))
    assert whole == pytest.approx(np.array([expected, expected]), rel=1e-12)
    assert not caught


def test_the_momentum_between_two_steps():
    assert [
        TorchSchedule(one_cycle, of="momentum")(Position(time, base_learning_rate=0.9)) for time in TIMES
    ] == pytest.approx(at_times(one_cycle, "momentum"), rel=1e-12)


def test_timms_between_two_steps():
    def factory(optimizer):
        return CosineLRScheduler(optimizer, t_initial=20, lr_min=1e-3, warmup_t=5, warmup_lr_init=1e-4)

    expected = [factory(sgd())._get_lr(time)[0] for time in TIMES]
    assert [TorchSchedule(factory, initial_learning_rate=0.1)(Position(time)) for time in TIMES] == pytest.approx(
        expected, rel=1e-12
    )


CHAINED = {
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [5],
    ),
    "ChainedScheduler": lambda optimizer: lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(optimizer, 0.9)]),
}


@pytest.mark.parametrize("name", CHAINED)
def test_without_a_closed_form_only_whole_steps_have_values(name):
    schedule = TorchSchedule(CHAINED[name])
    for position in (Position(2.5, base_learning_rate=0.1), Position(np.array([1.0, 2.5]), base_learning_rate=0.1)):
        with pytest.raises(TrainingError, match=rf"{name} has no value at its step 2\.5, between two steps"):
            schedule(position)
    near = np.nextafter(3.0, 0.0)
    values = theirs(CHAINED[name], 5)
    assert [schedule(Position(time, base_learning_rate=0.1)) for time in (3, 3.0, near, 4)] == [
        *[values[3]] * 3,
        values[4],
    ]


def test_smooth_epochs_and_stretched_runs_move_within_a_step():
    factory = CLOSED["LinearLR"]
    run = RunLength.of(steps_per_epoch=4, epochs=6)
    smooth = TorchSchedule(factory, per="epoch").smooth()
    assert smooth(run.position(6, 0.1)) == pytest.approx(at_times_of(factory, 1.5))
    stretched = TorchSchedule(factory).stretched(2.0)
    assert stretched(run.position(5, 0.1)) == pytest.approx(at_times_of(factory, 2.5))


def at_times_of(factory, time):
    optimizer = sgd()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        factory(optimizer).step(time)
    return optimizer.param_groups[0]["lr"]


# --- copies -----------------------------------------------------------------------------------------------------------


def test_it_is_copied_and_pickled_without_its_replays():
    schedule = TorchSchedule(one_cycle, of="momentum")
    before = schedule(RunLength().position(5, 0.9))
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert other(RunLength().position(5, 0.9)) == before


def test_the_factory_is_called_once_for_one_initial_value():
    calls = []

    def factory(optimizer):
        calls.append(optimizer)
        return lr_scheduler.StepLR(optimizer, 2)

    schedule = TorchSchedule(factory)
    optimizer = sgd()
    used(optimizer, ScheduleLR(optimizer, schedule), 20)
    assert len(calls) == 1
