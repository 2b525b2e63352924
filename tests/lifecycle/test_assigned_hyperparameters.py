"""Schedules for hyper-parameters other than the learning rate."""

import re

import pytest
import torch

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    CycleThrough,
    KerasSGD,
    LearningRateScheduler,
    LinearDecay,
    OneCycle,
)
from lr_plugins.errors import TrainingError
from tests.lifecycle.assigned import planned, used
from tests.toys import Toy, fit


def test_momentum_cycles_like_torch_one_cycle():
    def train(**kind):
        scheduler = LearningRateScheduler([OneCycle(0.1), Assign(CycleThrough(0.95, 0.85, 0.95), to="momentum")])
        module = Toy(lambda parameters: kind["optimizer"](parameters, lr=0.01, **kind["options"]))
        fit(module, scheduler)
        return scheduler

    for kind in (
        {"optimizer": torch.optim.SGD, "options": {"momentum": 0.9}},
        {"optimizer": torch.optim.AdamW, "options": {}},
        {"optimizer": KerasSGD, "options": {"momentum": 0.9}},
    ):
        scheduler = train(**kind)
        theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01, momentum=0.9)
        torch_scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=18)
        expected = []
        for step in range(18):
            expected.append((theirs.param_groups[0]["lr"], theirs.param_groups[0]["momentum"]))
            theirs.step()
            if step < 17:
                torch_scheduler.step()
        rates, momenta = zip(*expected, strict=True)
        assert used(scheduler, "lr") == pytest.approx(rates, rel=1e-12)
        assert used(scheduler, "momentum") == pytest.approx(momenta, rel=1e-12)


def test_the_optimizer_really_uses_the_momentum():
    seen = []

    class Watched(torch.optim.Adam):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["betas"])
            return super().step(closure)

    scheduler = LearningRateScheduler(
        [Assign(LinearDecay(0.9, end_learning_rate=0.6), to="beta1"), Assign(Constant(0.99), to="beta2")]
    )
    fit(Toy(lambda parameters: Watched(parameters, lr=0.01)), scheduler)
    assert seen == [(value, 0.99) for value in planned(LinearDecay(0.9, end_learning_rate=0.6))]
    assert used(scheduler, "lr") == [0.01] * 18
    assert used(scheduler, "beta1") == planned(LinearDecay(0.9, end_learning_rate=0.6))


def test_groups_without_weight_decay_stay_without():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.AdamW([{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}], weight_decay=0.1)

    scheduler = LearningRateScheduler([Assign(CosineDecay(), to="weight_decay")])
    fit(Toy(make), scheduler)
    assert used(scheduler, "weight_decay/0") == planned(CosineDecay(0.1))
    assert used(scheduler, "weight_decay/1") == [0.0] * 18


def test_shared_beta_tensors_are_copied_per_group():
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    module = Toy(lambda parameters: torch.optim.Adam(parameters, lr=0.1, betas=betas))
    scheduler = LearningRateScheduler([Assign(Constant(0.5), to="beta1", params="bias")])
    trainer = fit(module, scheduler, epochs=1)
    found = {group["name"]: float(group["betas"][0]) for group in trainer.optimizers[0].param_groups}
    assert found == {"others": pytest.approx(0.9), "bias": 0.5}
    assert float(betas[0]) == pytest.approx(0.9)


def test_a_momentum_of_one_is_refused_with_the_step():
    schedules = [Assign(LinearDecay(0.9, end_learning_rate=1.3), to="beta1")]
    with pytest.raises(TrainingError, match=re.escape("the beta1 must be a number >= 0 and < 1")):
        fit(Toy(lambda parameters: torch.optim.Adam(parameters)), LearningRateScheduler(schedules))
