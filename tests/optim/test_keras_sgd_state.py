"""KerasSGD: its state, learning rates, param groups and gradients."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.optim import KerasSGD
from tests.optim.helpers import MOVING, ROUNDING, RULES, UPDATES, parameter, prescribed, the_rule, updates


def state_after(updates_done):
    start, gradients = prescribed()
    weight = parameter(start)
    optimizer = KerasSGD([weight], momentum=0.9, nesterov=True)
    updates(optimizer, weight, gradients[:updates_done], MOVING[:updates_done])
    return weight, optimizer, gradients


@pytest.mark.parametrize(
    "travel",
    [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state)), "file"],
    ids=["deepcopy", "pickle", "file"],
)
def test_a_saved_state_continues_bit_for_bit(travel, tmp_path):
    weight, optimizer, gradients = state_after(23)
    state = optimizer.state_dict()
    if travel == "file":
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    else:
        state = travel(state)
    assert list(state["state"][0]) == ["velocity"]
    resumed = parameter(weight.detach())
    other = KerasSGD([resumed], lr=0.7)
    other.load_state_dict(state)
    assert other.param_groups[0]["momentum"] == 0.9
    assert other.param_groups[0]["nesterov"] is True
    assert torch.equal(other.state[resumed]["velocity"], optimizer.state[weight]["velocity"])
    a = updates(optimizer, weight, gradients[23:], MOVING[23:])
    assert np.array_equal(a, updates(other, resumed, gradients[23:], MOVING[23:]))


def test_a_pickled_optimizer_still_steps():
    weight, optimizer, gradients = state_after(5)
    twin = pickle.loads(pickle.dumps(optimizer))
    (twin_weight,) = twin.param_groups[0]["params"]
    a = updates(optimizer, weight, gradients[5:], MOVING[5:])
    assert np.array_equal(a, updates(twin, twin_weight, gradients[5:], MOVING[5:]))


def test_without_momentum_there_is_no_state():
    weight = parameter([1.0, 2.0])
    optimizer = KerasSGD([weight], lr=0.5, nesterov=True)
    updates(optimizer, weight, torch.ones(2, 2), [0.5, 0.25])
    assert weight.tolist() == [0.25, 1.25]
    assert optimizer.state_dict()["state"] == {}


def test_torch_momentum_state_is_refused_and_converts():
    start, gradients = prescribed()
    theirs = parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], momentum=0.9)
    updates(torch_optimizer, theirs, gradients[:20], [0.1] * 20)
    ours = parameter(theirs.detach())
    optimizer = KerasSGD([ours], momentum=0.9)
    state = torch_optimizer.state_dict()
    with pytest.raises(InvalidArgumentError, match=r"torch\.optim\.SGD.*velocity = -lr \* momentum_buffer"):
        optimizer.load_state_dict(state)
    state["state"] = {key: {"velocity": -0.1 * entry["momentum_buffer"]} for key, entry in state["state"].items()}
    optimizer.load_state_dict(state)
    b = updates(torch_optimizer, theirs, gradients[20:], [0.1] * 40)
    assert np.abs(updates(optimizer, ours, gradients[20:], [0.1] * 40) - b).max() <= ROUNDING


@RULES
def test_a_tensor_learning_rate_changed_in_place_is_seen(momentum, nesterov):
    start, gradients = prescribed()
    ours, other, lr = parameter(start), parameter(start), torch.tensor(0.0)
    optimizer = KerasSGD([ours], lr=lr, momentum=momentum, nesterov=nesterov)
    for gradient, value in zip(gradients, MOVING, strict=True):
        lr.fill_(value)
        ours.grad = torch.as_tensor(gradient)
        optimizer.step()
    by_number = updates(KerasSGD([other], 0.0, momentum, nesterov), other, gradients, MOVING)
    assert np.array_equal(ours.detach().numpy(), by_number[-1])
    assert optimizer.param_groups[0]["lr"] is lr


@RULES
def test_a_tensor_learning_rate_off_the_cpu_is_never_fetched(momentum, nesterov):
    # The meta device has no numbers: fetching one, which on an accelerator means waiting for it, is an error there.
    lr = torch.tensor(0.1, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        lr.item()
    weight = nn.Parameter(torch.zeros(4, device="meta"))
    optimizer = KerasSGD([weight], lr, momentum, nesterov)
    weight.grad = torch.zeros(4, device="meta")
    optimizer.step()
    assert len(optimizer.state) == (momentum > 0)


@RULES
def test_a_compiled_step_does_the_same_update(momentum, nesterov):
    start, gradients = prescribed(37)
    eager, compiled = parameter(start), parameter(start)
    one, other = (KerasSGD([w], torch.tensor(0.1), momentum, nesterov) for w in (eager, compiled))
    step = torch.compile(other.step, backend="eager")
    for gradient in torch.as_tensor(gradients[:3]):
        eager.grad, compiled.grad = gradient.clone(), gradient.clone()
        one.step()
        step()
    assert (eager - compiled).abs().max() <= 5e-7


def test_groups_keep_their_own_settings():
    start, gradients = prescribed(8)
    weights = [parameter(start) for _ in range(4)]
    optimizer = KerasSGD(
        [
            {"params": weights[:1]},
            {"params": weights[1:2], "lr": 0.01},
            {"params": weights[2:3], "momentum": 0.5},
        ],
        lr=0.1,
        momentum=0.9,
    )
    optimizer.add_param_group({"params": weights[3], "nesterov": True, "momentum": 0.0})
    for gradient in torch.as_tensor(gradients):
        for weight in weights:
            weight.grad = gradient.clone()
        optimizer.step()
    for weight, (lr, momentum, nesterov) in zip(
        weights, [(0.1, 0.9, False), (0.01, 0.9, False), (0.1, 0.5, False), (0.1, 0.0, True)], strict=True
    ):
        expected = the_rule(start, gradients, [lr] * UPDATES, momentum, nesterov)[-1]
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=ROUNDING)
    assert weights[3] not in optimizer.state


def test_a_parameter_without_gradient_is_left_alone():
    used, unused = parameter([1.0]), parameter([2.0])
    optimizer = KerasSGD([used, unused], lr=0.5, momentum=0.5)
    used.grad = torch.ones(1)
    optimizer.step()
    assert (used.item(), unused.item()) == (0.5, 2.0)
    assert list(optimizer.state) == [used]
    optimizer.zero_grad()
    optimizer.step()  # without any gradient nothing coasts
    assert (used.item(), optimizer.state[used]["velocity"].item()) == (0.5, -0.5)


def test_unfrozen_parameter_resumes_with_its_velocity():
    weight, other = parameter([1.0]), parameter([1.0])
    optimizer = KerasSGD([weight, other], lr=0.5, momentum=0.5)
    for trainable in (True, False, False, True):
        weight.requires_grad_(trainable)
        optimizer.zero_grad()
        (weight + other).sum().backward()
        optimizer.step()
    # -0.5, then -0.75: the two updates in between do not count
    assert weight.item() == 1.0 - 0.5 - 0.75
    assert optimizer.state[weight]["velocity"].item() == -0.75


def test_gradients_are_not_changed():
    weight, gradient = parameter([1.0, 2.0]), torch.tensor([0.5, -3.0])
    optimizer = KerasSGD([weight], lr=0.5, momentum=0.9, nesterov=True)
    weight.grad = gradient
    optimizer.step()
    optimizer.step()
    assert gradient.tolist() == [0.5, -3.0]


def test_sparse_gradients_are_refused_before_anything_changes():
    embedding, dense = nn.Embedding(4, 2, sparse=True), parameter([1.0])
    before = embedding.weight.detach().clone()
    optimizer = KerasSGD([{"params": [dense]}, {"params": embedding.parameters()}], lr=0.5, momentum=0.9)
    (embedding(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(TrainingError, match=r"sparse one for a parameter of shape \(4, 2\).*sparse=False"):
        optimizer.step()
    assert dense.item() == 1.0
    assert torch.equal(embedding.weight, before)


def test_the_closure_is_run_with_gradients_and_its_loss_returned():
    weight = parameter([3.0])
    optimizer = KerasSGD([weight], lr=0.25, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert weight.item() == 1.5
    assert optimizer.step() is None
