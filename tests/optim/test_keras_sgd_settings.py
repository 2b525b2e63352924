"""KerasSGD: bad settings, and the places where optimizers are used."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.optim import KerasSGD
from tests.optim.helpers import MOVING, parameter


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
    with pytest.raises(InvalidArgumentError, match=message):
        KerasSGD([parameter([1.0])], **{setting: value})
    with pytest.raises(InvalidArgumentError, match=message):
        KerasSGD([{"params": [parameter([1.0])], setting: value}])
    optimizer = KerasSGD([parameter([1.0])])
    with pytest.raises(InvalidArgumentError, match=message):
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


def test_torch_errors_about_parameters_are_unchanged():
    with pytest.raises(ValueError, match="empty parameter list"):
        KerasSGD([])
    with pytest.raises(TypeError, match="must be a dict"):
        KerasSGD([parameter([1.0])]).add_param_group([parameter([1.0])])


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
def test_lightning_fit_equals_a_plain_loop_and_resumes_exactly(tmp_path):
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
