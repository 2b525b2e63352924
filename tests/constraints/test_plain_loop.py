"""Constraints in a training loop without Lightning: each real update is followed by one."""

from __future__ import annotations

import gc
import itertools
import pickle
import weakref

import pytest
import torch
from torch import nn

from lr_plugins import KerasSGD
from lr_plugins.engine import step_hooks
from lr_plugins.errors import TrainingError
from lr_plugins.keras.constraints import (
    NonNeg,
    UnitNorm,
    constrain,
)
from tests.constraints.helpers import parameter
from tests.lifecycle.wrapping_optimizers import AUTOMATIC, SlottedDuck


def module_of(**parameters):
    return nn.ParameterDict(parameters)


def backward(weight, gradient):
    weight.grad = torch.as_tensor(gradient, dtype=weight.dtype).clone()


def test_weights_are_constrained_and_velocity_is_not():
    weight = parameter(3.0, 4.0)
    optimizer = KerasSGD([weight], lr=0.5, momentum=0.5)
    handle = constrain(optimizer, module_of(weight=weight), {"weight": UnitNorm()})
    assert weight.tolist() == [3.0, 4.0]  # until the first update
    expected, velocity = torch.tensor([3.0, 4.0]), torch.zeros(2)
    for gradient in ([1.0, 0.0], [0.0, -1.0], [0.5, 0.5]):
        backward(weight, gradient)
        optimizer.step()
        velocity = 0.5 * velocity - 0.5 * torch.tensor(gradient)
        expected = UnitNorm()(expected + velocity)
        assert torch.allclose(weight, expected, rtol=1e-6)
        assert torch.allclose(optimizer.state[weight]["velocity"], velocity, rtol=1e-6)
    handle.remove()
    backward(weight, [2.0, 0.0])
    optimizer.step()
    assert weight.norm() > 1.5
    handle.remove()  # a second time does nothing


def test_parameters_without_an_update_are_not_constrained():
    moved, still, frozen = parameter(3.0), parameter(-3.0), parameter(-3.0)
    frozen.requires_grad_(False)
    module = module_of(moved=moved, still=still, frozen=frozen)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    constrain(optimizer, module, {".": UnitNorm()})
    backward(moved, [0.0])
    optimizer.step()
    assert (moved.item(), still.item(), frozen.item()) == (pytest.approx(1.0), -3.0, -3.0)
    frozen.requires_grad_(True)
    backward(frozen, [0.0])
    optimizer.step()
    assert frozen.item() == pytest.approx(-1.0)


def test_constraints_apply_in_the_order_they_were_added():
    weight = parameter(-3.0, 4.0)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    first = constrain(optimizer, module_of(weight=weight), {"w": NonNeg()})
    constrain(optimizer, module_of(weight=weight), {"w": UnitNorm()})
    backward(weight, [0.0, 0.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.0, 1.0])
    first.remove()
    with torch.no_grad():
        weight.copy_(torch.tensor([-3.0, 4.0]))
    optimizer.step()
    assert weight.tolist() == pytest.approx([-0.6, 0.8])


def test_parameter_is_constrained_only_by_its_own_optimizer():
    one, other = parameter(3.0), parameter(3.0)
    module = module_of(one=one, other=other)
    optimizers = [torch.optim.SGD([weight], lr=0.0) for weight in (one, other)]
    for optimizer in optimizers:
        constrain(optimizer, module, {"o": UnitNorm()})
    backward(one, [0.0])
    backward(other, [0.0])
    optimizers[0].step()
    assert (one.item(), other.item()) == (pytest.approx(1.0), 3.0)
    optimizers[1].step()
    assert other.item() == pytest.approx(1.0)


def test_parameters_added_or_replaced_later_are_constrained():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(module[0].parameters(), lr=0.0)
    constrain(optimizer, module, {r"weight$": UnitNorm()})

    def step():
        for each in module.parameters():
            backward(each, torch.zeros_like(each))
        optimizer.step()
        return [torch.allclose(layer.weight.norm(dim=1), torch.ones(2), atol=1e-5) for layer in module]

    assert step() == [True, False]
    optimizer.add_param_group({"params": module[1].parameters()})
    assert step() == [True, True]
    module[0] = nn.Linear(2, 2)
    optimizer.param_groups[0]["params"] = list(module[0].parameters())
    assert step() == [True, True]


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: KerasSGD(parameters, lr=0.25, momentum=0.5),
        lambda parameters: torch.optim.SGD(parameters, lr=0.25, fused=True),  # it skips within its kernel
    ],
    ids=["KerasSGD", "SGD, fused"],
)
def test_a_step_that_a_scaler_skips_changes_nothing(make):
    weight = parameter(3.0)
    optimizer = make([weight])
    constrain(optimizer, module_of(weight=weight), {"weight": UnitNorm()})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor, expected in ((float("inf"), 3.0), (0.0, 1.0), (float("inf"), 1.0)):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight.item() == pytest.approx(expected, rel=1e-6)


def test_captured_step_includes_its_constraints(monkeypatch):
    # A CUDA graph replays what happened while it was captured, and nothing else.
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    weight = parameter(3.0)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    constrain(optimizer, module_of(weight=weight), {"weight": UnitNorm()})
    backward(weight, [0.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1.0)


def test_repeated_closure_calls_are_one_update():
    count = itertools.count()
    weight = parameter(3.0, 4.0)
    optimizer = torch.optim.LBFGS([weight], lr=0.1, max_iter=5)
    constrain(optimizer, module_of(weight=weight), {"weight": lambda w: w + 10 * (next(count) + 1)})
    plain = parameter(3.0, 4.0)
    other = torch.optim.LBFGS([plain], lr=0.1, max_iter=5)
    for one, w in ((optimizer, weight), (other, plain)):

        def closure(one=one, w=w):
            one.zero_grad()
            loss = (w**2).sum()
            loss.backward()
            return loss

        one.step(closure)
    assert torch.allclose(weight, plain + 10)
    assert next(count) == 1


def test_an_optimizer_that_drops_its_gradients_within_the_step():
    class Dropping(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            self.zero_grad()

    weight = parameter(3.0)
    optimizer = Dropping([weight], lr=0.0)
    constrain(optimizer, module_of(weight=weight), {"weight": UnitNorm()})
    backward(weight, [0.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1.0)


def test_optimizers_that_step_within_the_backward_pass():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for each in module.parameters():
        optimizer = torch.optim.SGD([each], lr=0.1)
        constrain(optimizer, module, {r"weight$": UnitNorm()})

        def step(_, optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad()

        each.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        module(torch.ones(5, 3)).sum().backward()
        for layer in module:
            assert torch.allclose(layer.weight.norm(dim=1), torch.ones_like(layer.bias), atol=1e-5)


def test_a_compiled_step_is_followed():
    weight = parameter(3.0, 4.0)
    optimizer = KerasSGD([weight], torch.tensor(0.0), 0.9)
    constrain(optimizer, module_of(weight=weight), {"weight": UnitNorm()})
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        with torch.no_grad():
            weight.copy_(torch.tensor([3.0, 4.0]))
        backward(weight, [0.0, 0.0])
        step()
        assert weight.tolist() == pytest.approx([0.6, 0.8])


def test_step_after_a_failed_step_is_followed():
    weight = parameter(3.0)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    constrain(optimizer, module_of(weight=weight), {"weight": UnitNorm()})

    def fails():
        raise KeyError("no")

    with pytest.raises(KeyError):
        optimizer.step(fails)
    assert weight.item() == 3.0
    backward(weight, [0.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1.0)


def test_constraint_keeps_no_references():
    before = len(step_hooks._followers)
    module = nn.Linear(3, 2)
    optimizer = KerasSGD(module.parameters(), lr=0.1)
    constrain(optimizer, module, {"weight": UnitNorm()})
    gone = weakref.ref(optimizer), weakref.ref(module), weakref.ref(module.weight)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert len(step_hooks._followers) == before + 1
    del module, optimizer
    gc.collect()
    assert [one() for one in gone] == [None] * 3
    assert len(step_hooks._followers) == before


def test_non_torch_optimizer_is_released():
    module = nn.Linear(3, 2)
    optimizer = AUTOMATIC["duck"](module.parameters())
    constrain(optimizer, module, {"weight": UnitNorm()})
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.allclose(module.weight.norm(dim=1), torch.ones(2), atol=1e-5)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


def test_optimizer_with_untraceable_steps_is_refused():
    module = nn.Linear(3, 2)
    message = (
        "cannot follow the steps of SlottedDuck, which is not a torch.optim.Optimizer and does not let its method step"
    )
    with pytest.raises(TrainingError, match=message):
        constrain(SlottedDuck(module.parameters()), module, {"weight": UnitNorm()})


def test_saved_and_copied_optimizers_carry_no_constraint():
    module = nn.Linear(3, 2)
    optimizer = KerasSGD(module.parameters(), lr=0.1, momentum=0.9)
    constrain(optimizer, module, {"weight": UnitNorm()})
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    twin = pickle.loads(pickle.dumps(optimizer))
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
    with torch.no_grad():
        twin.param_groups[0]["params"][0].mul_(5)
    twin.step()  # an independent optimizer without constraints
    assert twin.param_groups[0]["params"][0].norm() > 2
