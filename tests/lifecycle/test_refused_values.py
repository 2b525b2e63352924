"""A value that a param group cannot hold is refused before it is written, whatever its source."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lr_plugins import (
    Assign,
    BoldDriver,
    Constant,
    CosineDecay,
    CycleThrough,
    ExponentialDecay,
    Greedy,
    LearningRateScheduleMixin,
    LearningRateScheduler,
    LossDriven,
    PiecewiseConstant,
    RunLength,
    StepDecay,
)
from lr_plugins.engine.trace import Trace
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.interop import ScheduleLR, TorchSchedule
from lr_plugins.schedules import Schedule
from tests.toys import QUIET, Toy, loader

RUN = RunLength.of(steps_per_epoch=1000, epochs=1)
GROWING = StepDecay(0.1, drop=10, every="1st")
LAST, FIRST_WRONG = 39, 40  # the last step whose value single precision holds, and the next


def weights(count=1):
    return [torch.nn.Parameter(torch.zeros(2)) for _ in range(count)]


def values_of(optimizer):
    for group in optimizer.param_groups:
        for key in ("lr", "momentum", "weight_decay"):
            yield float(group.get(key, 0.0))
        yield from map(float, group.get("betas", ()))


def run(optimizer, assignments, steps=60, run_length=RUN):
    """Drive an optimizer as in a training; return the step of the error, and the error."""
    trace = Trace()
    writer = Writer(optimizer, dict(enumerate(assignments)), run_length.position)
    writer.attach(trace)
    for step in range(steps):
        try:
            writer.refresh() if not step else None
            optimizer.step()
        except TrainingError as error:
            assert all(math.isfinite(value) for series in trace.values() for value in series.values)
            assert all(map(math.isfinite, values_of(optimizer)))
            writer.detach()
            return step, error
        assert all(map(math.isfinite, values_of(optimizer)))
    return None, None


def sgd(**options):
    return torch.optim.SGD(weights(), **{"lr": 0.1, "momentum": 0.9, **options})


@pytest.mark.parametrize("after", [0, 1, 5, 20, 100, 5000], ids="first wrong at {}".format)
def test_too_large_value_is_refused_alone_and_in_a_block(after):
    run_length = RunLength.of(steps_per_epoch=10_000, epochs=1)
    for value in (1e39, 1e300):
        jumps = PiecewiseConstant([f"{after}st"], [0.1, value]) if after else Constant(value)
        step, error = run(sgd(), [Assign(jumps)], 6000, run_length)
        assert step in (after, after - 1)  # raised after the previous step, or by that step
        told = f"gives {value!r} at step {after}, and single precision ends at 3.40282e+38: "
        assert f"the learning rate must be a finite number >= 0; the schedule {told}" in str(error)


KINDS = {
    "inf": (Constant(1e300) * Constant(1e300), "inf"),
    "nan": ((Constant(1e300) * Constant(1e300)) * Constant(0.0), "nan"),
    "torch schedule": (
        TorchSchedule(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: math.inf)), "inf",
    ),
    "torch schedule, negative": (
        TorchSchedule(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: -1.0)), "-0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_nan_and_negative_values_are_refused(name):
    schedule, value = KINDS[name]
    step, error = run(sgd(), [Assign(schedule)])
    assert step == 0
    assert f"the learning rate must be a finite number >= 0; the schedule gives {value} at step 0: " in str(error)
    step, error = run(sgd(), [Assign(schedule, to="momentum")])
    assert step == 0
    assert "the momentum must be" in str(error)


ANSWERS = [math.nan, math.inf, -1.0, 1j, "0.1", None, True, [0.1], np.array([0.1, 0.2]), 10**400, torch.tensor(0.1)]


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_invalid_return_value_of_a_function_is_refused(answer):
    step, error = run(sgd(), [Assign(lambda epoch: answer)])
    assert step == 0
    assert "must return a finite number >= 0; <lambda>(0) returned" in str(error)


class Gives(Schedule):
    def __init__(self, what):
        self.what = what

    def value(self, position, state):
        return self.what


@pytest.mark.parametrize("answer", [*ANSWERS[:-2], torch.tensor(math.nan)], ids=repr)
def test_invalid_value_of_a_user_schedule_is_refused(answer):
    step, error = run(sgd(), [Assign(Gives(answer))])
    assert step == 0
    assert "the learning rate must be a finite number >= 0; the schedule gives" in str(error)


def test_value_scaled_by_a_group_ratio_is_refused():
    own = [{"params": weights(), "lr": rate} for rate in (0.1, 0.2, 1e20)]
    step, error = run(torch.optim.SGD(own, lr=0.1), [Assign(GROWING)])
    assert step in (18, 19)
    assert "times 1e+21, a param group's share of it, at step 19" in str(error)
    assert "must be at most 3.40282357e+38, the largest that a param group can hold" in str(error)


def test_beta_scaled_by_a_group_ratio_is_refused():
    own = [{"params": weights(), "betas": betas} for betas in ((0.9, 0.999), (0.95, 0.999))]
    rising = Assign(CycleThrough(0.5, 0.99, 0.5, total_steps=100, anneal="linear"), to="momentum")
    step, error = run(torch.optim.Adam(own, lr=0.1), [rising])
    assert 0 < step < 40
    assert "the momentum must be at most 1, the largest" in str(error)
    step, error = run(torch.optim.Adam(weights(), lr=0.1), [Assign(Constant(1.0), to="beta2")])
    assert step == 0
    assert "the beta2 must be a number >= 0 and < 1; the schedule gives 1.0 at step 0" in str(error)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float64, 39), (torch.float32, 39), (torch.bfloat16, 39), (torch.float16, 5)], ids=str
)
def test_narrow_tensor_types_hold_smaller_values(dtype, most):
    optimizer = torch.optim.Adam(weights(), lr=torch.tensor(0.1, dtype=dtype), capturable=False, foreach=False)
    tensor = optimizer.param_groups[0]["lr"]
    step, error = run(optimizer, [Assign(GROWING)])
    assert step in (most, most + 1)
    assert f"at step {most + 1}" in str(error)
    assert torch.isfinite(tensor)


def test_beta_in_a_tensor_stays_below_1():
    betas = torch.tensor(0.9), torch.tensor(0.999)
    optimizer = torch.optim.Adam(weights(), lr=torch.tensor(0.1), betas=betas, foreach=False)
    almost = math.nextafter(1.0, 0.0)  # rounds to 1 in single precision
    step, error = run(optimizer, [Assign(Constant(almost), to="beta1")])
    assert step == 0
    assert "the beta1 must be at most 0.99999994" in str(error)
    assert run(optimizer, [Assign(Constant(0.9999999), to="beta1")]) == (None, None)


def test_layer_decay_that_overflows_is_refused():
    net = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(6)))
    with pytest.raises(
        InvalidArgumentError, match=r"Assign\.layer_decay must be smaller; got 1e\+100\. The lowest of 6"
    ):
        ScheduleLR(torch.optim.SGD(net.parameters(), lr=0.1), Assign(GROWING, layer_decay=1e100), module=net)


def test_schedule_lr_keeps_the_last_value_and_raises_at_the_step():
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, GROWING, run_length=RUN)
    for _ in range(FIRST_WRONG):
        optimizer.step()
        scheduler.step()
    for needs_the_value in (optimizer.step, scheduler.step):
        with pytest.raises(TrainingError, match=f"at step {FIRST_WRONG}"):
            needs_the_value()
    assert optimizer.param_groups[0]["lr"] == GROWING(LAST)
    with pytest.raises(TrainingError, match="at step 0"):
        ScheduleLR(sgd(), Constant(1e300), run_length=RUN)


class Mixed(LearningRateScheduleMixin, Toy):
    """A module by the user."""


@pytest.mark.parametrize("module", [Toy, Mixed], ids=lambda kind: kind.__name__)
def test_training_stops_before_the_value_is_written(module):
    model = module()
    if module is Mixed:
        model.learning_rate_schedule = GROWING
        callbacks = []
    else:
        callbacks = [LearningRateScheduler(GROWING)]
    trainer = pl.Trainer(max_epochs=20, callbacks=callbacks, **QUIET)
    with pytest.raises(TrainingError, match=f"the learning rate must be .* at step {FIRST_WRONG}, and .*: StepDecay"):
        trainer.fit(model, loader())
    (group,) = trainer.optimizers[0].param_groups
    assert group["lr"] == GROWING(LAST)


LISTENING = {
    "loss driven": LossDriven(0.1, monitor="loss", max_learning_rate=None),
    "loss driven, power": LossDriven(0.1, monitor="loss", max_learning_rate=None, rule="power", k=1e3),
    "bold driver": BoldDriver(0.1, monitor="loss", raise_factor=1e300, cut_factor=0.999, max_learning_rate=None),
    "greedy": Greedy(0.1, monitor="loss", factor=1e-300, patience=0, max_learning_rate=None),
}


@pytest.mark.parametrize("name", LISTENING)
def test_metric_that_overflows_the_rate_stops_training(name):
    class Diverging(Toy):
        def training_step(self, batch, batch_idx):
            losses = [1e6, 1e5, 1e4, 1e3, 1e2, 1e1]
            self.log("loss", losses[self.current_epoch], on_step=False, on_epoch=True)
            return self.compute_loss(batch) * 0.0

    trainer = pl.Trainer(max_epochs=6, callbacks=[LearningRateScheduler(LISTENING[name])], **QUIET)
    with pytest.raises(TrainingError, match=f"{type(LISTENING[name]).__name__}|the learning rate must be"):
        trainer.fit(Diverging(), loader())
    assert 0 <= trainer.optimizers[0].param_groups[0]["lr"] < 3.5e38


def test_zero_and_tiny_values_are_written():
    optimizer = sgd()
    assert run(
        optimizer,
        [Assign(ExponentialDecay(1e-300, decay_steps=1, decay_rate=0.1)), Assign(CosineDecay(0.0), to="momentum")],
    ) == (
        None,
        None,
    )
    assert optimizer.param_groups[0]["lr"] == 0.0
