"""KerasSGD against the rule in float64, real Keras, torch.optim.SGD, and in the places where optimizers live."""

from __future__ import annotations

import copy
import os
import pickle
from types import ModuleType

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.optim import KerasSGD

UPDATES = 60
# One entry per update: the learning rate moves every few updates, up and down, and is 0 for a while.
MOVING = [lr for lr in (0.05, 0.2, 0.01, 0.0, 0.1, 0.05, 0.3, 0.002, 0.02, 0.15, 0.05, 0.01) for _ in range(5)]
# 60 float32 updates of weights below 3 (a rounding there is up to 1.2e-7): 1.2e-6 is the most that was measured,
# between the rule in float64, operation by operation in float32, and torch.
ROUNDING = 1.5e-6
RULES = pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.0, True), (0.9, False), (0.9, True)], ids=str
)
MOMENTUM_RULES = pytest.mark.parametrize("nesterov", [False, True], ids=["plain", "nesterov"])


def the_rule(weight, gradients, lrs, momentum, nesterov):
    """The trajectory in float64, by the formula and nothing else."""
    w, v, trajectory = np.asarray(weight, np.float64), np.zeros(np.shape(weight)), []
    for g, lr in zip(np.asarray(gradients, np.float64), lrs, strict=True):
        v = momentum * v - lr * g
        w = w + (momentum * v - lr * g if nesterov else v)
        trajectory.append(w)
    return np.array(trajectory)


def updates(optimizer, weight, gradients, lrs):
    """The trajectory of `weight` under prescribed gradients and learning rates."""
    trajectory = []
    for gradient, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.as_tensor(gradient).clone()
        optimizer.step()
        trajectory.append(weight.detach().numpy().copy())
    return np.array(trajectory)


def prescribed(size=1003, seed=0):
    """Float32 start and gradients; the size leaves a remainder in vectors of 4, 8 and 16."""
    generator = np.random.default_rng(seed)
    start = (0.3 * generator.standard_normal(size)).astype(np.float32)
    return start, (0.1 * generator.standard_normal((UPDATES, size))).astype(np.float32)


def parameter(value):
    return nn.Parameter(torch.as_tensor(value).clone())


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    os.environ["KERAS_BACKEND"] = "torch"  # read at the first import of the process; ignored after it
    import keras

    assert keras.backend.backend() == "torch"
    return keras


def keras_updates(keras, start, gradients, lrs, momentum, nesterov):
    with keras.device("cpu"):
        weight = keras.Variable(start)
        optimizer = keras.optimizers.SGD(learning_rate=0.5, momentum=momentum, nesterov=nesterov)
        optimizer.build([weight])
        trajectory = []
        for gradient, lr in zip(gradients, lrs, strict=True):
            optimizer.learning_rate = lr
            optimizer.apply([torch.as_tensor(gradient).clone()], [weight])
            trajectory.append(weight.value.detach().numpy().copy())
    return np.array(trajectory)


# The rule


@st.composite
def runs(draw):
    steps, size = draw(st.integers(1, 20)), draw(st.integers(1, 5))
    numbers = st.floats(-10, 10, allow_subnormal=False)
    vectors = st.lists(numbers, min_size=size, max_size=size)
    gradients = draw(st.lists(vectors, min_size=steps, max_size=steps))
    lrs = draw(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=steps, max_size=steps))
    return draw(vectors), gradients, lrs, draw(st.floats(0, 1, allow_subnormal=False)), draw(st.booleans())


@given(runs())
@settings(deadline=None, max_examples=200)
def test_follows_the_rule_for_any_gradients_and_learning_rates(run):
    start, gradients, lrs, momentum, nesterov = run
    weight = parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = KerasSGD([weight], lr=lrs[0], momentum=momentum, nesterov=nesterov)
    ours = updates(optimizer, weight, torch.tensor(gradients, dtype=torch.float64), lrs)
    # Every number of such a run is below 20 * 20 * 10, so 1e-11 is some ten roundings of the largest.
    np.testing.assert_allclose(ours, the_rule(start, gradients, lrs, momentum, nesterov), rtol=0, atol=1e-11)


@RULES
def test_float32_stays_with_the_rule_in_float64(momentum, nesterov):
    start, gradients = prescribed()
    weight = parameter(start)
    ours = updates(KerasSGD([weight], momentum=momentum, nesterov=nesterov), weight, gradients, MOVING)
    assert np.abs(ours - the_rule(start, gradients, MOVING, momentum, nesterov)).max() <= ROUNDING


@RULES
def test_is_real_keras_bit_for_bit(keras, momentum, nesterov):
    start, gradients = prescribed()
    weight = parameter(start)
    ours = updates(KerasSGD([weight], momentum=momentum, nesterov=nesterov), weight, gradients, MOVING)
    theirs = keras_updates(keras, start, gradients, MOVING, momentum, nesterov)
    assert np.abs(ours - theirs).max() == 0.0


@RULES
def test_is_the_rule_done_operation_by_operation_in_float32_up_to_rounding(momentum, nesterov):
    start, gradients = prescribed()
    weight = parameter(start)
    ours = updates(KerasSGD([weight], momentum=momentum, nesterov=nesterov), weight, gradients, MOVING)
    w, v, stepwise = torch.as_tensor(start), torch.zeros(start.shape), []
    for gradient, lr in zip(torch.as_tensor(gradients), MOVING, strict=True):
        v = momentum * v - lr * gradient
        w = w + (momentum * v - lr * gradient if nesterov else v)
        stepwise.append(w.numpy())
    assert np.abs(ours - np.array(stepwise)).max() <= ROUNDING


def test_defaults_are_those_of_keras(keras):
    theirs, ours = keras.optimizers.SGD().get_config(), KerasSGD([parameter([1.0])]).defaults
    assert ours["lr"] == pytest.approx(theirs["learning_rate"], rel=1e-7)
    assert (ours["momentum"], ours["nesterov"]) == (theirs["momentum"], theirs["nesterov"]) == (0.0, False)


def test_layout_and_dtype_of_a_parameter_do_not_matter():
    start, gradients = prescribed(4 * 3 * 5 * 5)
    shape = (4, 3, 5, 5)
    plain, strided, double = (
        parameter(torch.as_tensor(start).reshape(shape)),
        parameter(torch.as_tensor(start).reshape(shape).to(memory_format=torch.channels_last)),
        parameter(torch.as_tensor(start).reshape(shape).double()),
    )
    optimizer = KerasSGD([plain, strided, double], lr=0.1, momentum=0.9)
    for gradient in torch.as_tensor(gradients).reshape(-1, *shape):
        plain.grad, strided.grad, double.grad = gradient.clone(), gradient.clone(), gradient.double()
        optimizer.step()
    assert optimizer.state[strided]["velocity"].is_contiguous(memory_format=torch.channels_last)
    assert (plain - strided).abs().max() <= 1e-6
    assert double.dtype == torch.float64
    assert (plain - double).abs().max() <= ROUNDING


def test_many_tensors_of_all_sizes_are_updated_as_each_one_alone():
    generator = torch.Generator().manual_seed(0)
    sizes = [70_000, 1, 3, 0, 40_000, 40_000, 200_000, 5]  # on both sides of what one batch takes, and empty
    together = [parameter(torch.randn(size, generator=generator)) for size in sizes]
    alone = [parameter(weight.detach()) for weight in together]
    optimizers = [KerasSGD(together, 0.1, 0.9)] + [KerasSGD([weight], 0.1, 0.9) for weight in alone]
    for _ in range(3):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


# Beside torch.optim.SGD


@RULES
def test_agrees_with_torch_at_a_constant_learning_rate(momentum, nesterov):
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, nesterov=nesterov and momentum > 0)
    a = updates(KerasSGD([ours], 0.1, momentum, nesterov), ours, gradients, [0.1] * UPDATES)
    b = updates(torch_optimizer, theirs, gradients, [0.1] * UPDATES)
    assert np.abs(a - b).max() <= ROUNDING


@MOMENTUM_RULES
def test_differs_from_torch_once_the_learning_rate_moves(nesterov):
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    a = updates(KerasSGD([ours], 0.1, 0.9, nesterov), ours, gradients, MOVING)
    b = updates(torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=nesterov), theirs, gradients, MOVING)
    assert np.abs(a - b)[:5].max() <= 1e-6  # until the first change
    assert np.abs(a - b).max() > 0.5


def test_at_learning_rate_zero_the_weights_coast_while_those_of_torch_stop():
    ours, theirs = parameter([1.0]), parameter([1.0])
    a = updates(KerasSGD([ours], momentum=0.5), ours, torch.ones(4, 1), [0.5, 0.0, 0.0, 0.0])
    b = updates(torch.optim.SGD([theirs], momentum=0.5), theirs, torch.ones(4, 1), [0.5, 0.0, 0.0, 0.0])
    assert a.ravel().tolist() == [0.5, 0.25, 0.125, 0.0625]
    assert b.ravel().tolist() == [0.5, 0.5, 0.5, 0.5]


def test_velocity_is_minus_lr_times_the_buffer_of_torch():
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    optimizer, torch_optimizer = KerasSGD([ours], momentum=0.9), torch.optim.SGD([theirs], momentum=0.9)
    updates(optimizer, ours, gradients[:20], [0.1] * 20)
    updates(torch_optimizer, theirs, gradients[:20], [0.1] * 20)
    buffer = torch_optimizer.state[theirs]["momentum_buffer"]
    assert (optimizer.state[ours]["velocity"] + 0.1 * buffer).abs().max() <= 5e-7


@MOMENTUM_RULES
def test_torch_with_its_buffer_rescaled_at_each_change_is_the_same_rule(nesterov):
    start, gradients = prescribed()
    lrs = [lr or 0.07 for lr in MOVING]  # the conversion divides by the new learning rate
    ours, theirs = parameter(start), parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], lr=lrs[0], momentum=0.9, nesterov=nesterov)
    a, b = updates(KerasSGD([ours], momentum=0.9, nesterov=nesterov), ours, gradients, lrs), []
    for gradient, lr, previous in zip(gradients, lrs, [lrs[0], *lrs], strict=False):
        if lr != previous:
            torch_optimizer.state[theirs]["momentum_buffer"].mul_(previous / lr)
        b.append(updates(torch_optimizer, theirs, [gradient], [lr])[0])
    assert np.abs(a - np.array(b)).max() <= ROUNDING


@MOMENTUM_RULES
def test_torch_with_the_learning_rate_inside_the_gradient_is_the_same_rule(nesterov):
    start, gradients = prescribed()
    ours, theirs = parameter(start), parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], lr=1.0, momentum=0.9, nesterov=nesterov)
    a = updates(KerasSGD([ours], momentum=0.9, nesterov=nesterov), ours, gradients, MOVING)
    scaled = gradients * np.array(MOVING, np.float32)[:, None]
    assert np.abs(a - updates(torch_optimizer, theirs, scaled, [1.0] * UPDATES)).max() <= ROUNDING


# State


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


def test_a_state_of_torch_with_momentum_is_refused_and_its_conversion_works():
    start, gradients = prescribed()
    theirs = parameter(start)
    torch_optimizer = torch.optim.SGD([theirs], momentum=0.9)
    updates(torch_optimizer, theirs, gradients[:20], [0.1] * 20)
    ours = parameter(theirs.detach())
    optimizer = KerasSGD([ours], momentum=0.9)
    state = torch_optimizer.state_dict()
    with pytest.raises(InvalidArgument, match=r"torch\.optim\.SGD.*velocity = -lr \* momentum_buffer"):
        optimizer.load_state_dict(state)
    state["state"] = {key: {"velocity": -0.1 * entry["momentum_buffer"]} for key, entry in state["state"].items()}
    optimizer.load_state_dict(state)
    b = updates(torch_optimizer, theirs, gradients[20:], [0.1] * 40)
    assert np.abs(updates(optimizer, ours, gradients[20:], [0.1] * 40) - b).max() <= ROUNDING


# Learning rates and groups


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


# Gradients


def test_a_parameter_without_gradient_is_left_alone():
    used, unused = parameter([1.0]), parameter([2.0])
    optimizer = KerasSGD([used, unused], lr=0.5, momentum=0.5)
    used.grad = torch.ones(1)
    optimizer.step()
    assert (used.item(), unused.item()) == (0.5, 2.0)
    assert list(optimizer.state) == [used]
    optimizer.zero_grad()
    optimizer.step()  # nobody has a gradient: no coasting either
    assert (used.item(), optimizer.state[used]["velocity"].item()) == (0.5, -0.5)


def test_a_frozen_parameter_waits_and_goes_on_with_its_velocity():
    weight, other = parameter([1.0]), parameter([1.0])
    optimizer = KerasSGD([weight, other], lr=0.5, momentum=0.5)
    for trainable in (True, False, False, True):
        weight.requires_grad_(trainable)
        optimizer.zero_grad()
        (weight + other).sum().backward()
        optimizer.step()
    # -0.5, then -0.75 as if the two updates in between had not been
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


# Errors


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("lr", -0.1, "a finite number >= 0"),
        ("lr", float("nan"), "a finite number >= 0"),
        ("lr", float("inf"), "a finite number >= 0"),
        ("lr", "0.1", "a finite number >= 0"),
        ("lr", None, "a finite number >= 0"),
        ("lr", True, "a finite number >= 0"),
        ("lr", torch.tensor([0.1]), "a 0-d tensor"),
        ("lr", torch.tensor(-0.1), "a 0-d tensor"),
        ("momentum", -0.1, r"a number in \[0, 1\]"),
        ("momentum", 1.1, r"a number in \[0, 1\]"),
        ("momentum", float("nan"), r"a number in \[0, 1\]"),
        ("momentum", "0.9", r"a number in \[0, 1\]"),
        ("momentum", False, r"a number in \[0, 1\]"),
        ("nesterov", 0.9, "True or False"),
        ("nesterov", None, "True or False"),
    ],
)
def test_bad_settings_are_refused_everywhere(setting, value, allowed):
    message = rf"^KerasSGD\.{setting} must be .*{allowed}.*; got"
    with pytest.raises(InvalidArgument, match=message):
        KerasSGD([parameter([1.0])], **{setting: value})
    with pytest.raises(InvalidArgument, match=message):
        KerasSGD([{"params": [parameter([1.0])], setting: value}])
    optimizer = KerasSGD([parameter([1.0])])
    with pytest.raises(InvalidArgument, match=message):
        optimizer.add_param_group({"params": [parameter([1.0])], setting: value})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    "accepted",
    [
        {"momentum": 0},
        {"momentum": 1},
        {"momentum": np.float32(0.5)},
        {"lr": 0},
        {"lr": np.float32(0.1)},
        {"lr": torch.tensor(0.1)},
    ],
    ids=str,
)
def test_settings_at_the_edge_are_accepted(accepted):
    weight = parameter([1.0])
    optimizer = KerasSGD([weight], **accepted)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(1.0 - float(accepted.get("lr", 0.01)))


def test_errors_of_torch_about_parameters_stay_as_they_are():
    with pytest.raises(ValueError, match="empty parameter list"):
        KerasSGD([])
    with pytest.raises(TypeError, match="must be a dict"):
        KerasSGD([parameter([1.0])]).add_param_group([parameter([1.0])])


# Where optimizers live


def test_under_a_grad_scaler():
    plain, scaled = parameter([1.0]), parameter([1.0])
    one, other = (KerasSGD([w], lr=0.25, momentum=0.5) for w in (plain, scaled))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for factor in (1.0, 3.0, float("inf"), 2.0):
        if factor < float("inf"):
            one.zero_grad()
            (plain * factor).sum().backward()
            one.step()
        other.zero_grad()
        scaler.scale((scaled * factor).sum()).backward()
        scaler.step(other)  # the infinite gradient: no update, and no coasting
        scaler.update()
    assert scaler.get_scale() == 512.0
    assert torch.equal(plain, scaled)
    assert torch.equal(one.state[plain]["velocity"], other.state[scaled]["velocity"])


def test_with_a_compiled_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    twin = copy.deepcopy(model)
    inputs, compiled = torch.randn(8, 4), torch.compile(twin, backend="eager")
    one, other = KerasSGD(model.parameters(), 0.1, 0.9), KerasSGD(compiled.parameters(), 0.1, 0.9)
    for _ in range(5):
        for forward, optimizer in ((model, one), (compiled, other)):
            optimizer.zero_grad()
            forward(inputs).square().mean().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert (a - b).abs().max() <= 1e-6


class Regression(pl.LightningModule):
    """A linear model whose learning rate moves at every update."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def configure_optimizers(self):
        return KerasSGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    def on_train_batch_start(self, batch, batch_idx):
        self.optimizers().param_groups[0]["lr"] = MOVING[5 * self.global_step]

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return nn.functional.mse_loss(self.layer(inputs), targets)


def regression_data():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(4)]


def fit(model, max_epochs, folder, resume=None):
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model, torch.utils.data.DataLoader(regression_data(), batch_size=None), ckpt_path=resume)
    return trainer


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_lightning_fit_is_the_plain_loop_and_resumes_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    model = Regression()
    by_hand, first, second = copy.deepcopy(model), copy.deepcopy(model), Regression()

    trainer = fit(model, 3, tmp_path)
    assert trainer.global_step == 12

    optimizer = KerasSGD(by_hand.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step, (inputs, targets) in enumerate(regression_data() * 3):
        optimizer.param_groups[0]["lr"] = MOVING[5 * step]
        optimizer.zero_grad()
        nn.functional.mse_loss(by_hand.layer(inputs), targets).backward()
        optimizer.step()

    fit(first, 1, tmp_path).save_checkpoint(tmp_path / "one.ckpt")
    fit(second, 3, tmp_path, resume=tmp_path / "one.ckpt")
    for a, b, c in zip(model.parameters(), by_hand.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
