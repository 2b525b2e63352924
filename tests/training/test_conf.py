"""The configuration groups build what they name, and show every knob of it."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from lr_plugins.keras.constraints import get
from lr_plugins.training.assembly import weight_constraints

CONF = Path(__file__).parents[2] / "conf"


def load(group, name, **around):
    return OmegaConf.create({**around, group: OmegaConf.load(CONF / group / f"{name}.yaml")})[group]


NAMES = {
    "data": ["iris", "digits", "mnist", "fashion_mnist", "cifar10", "fake"],
    "model": ["mlp", "cnn", "torchvision"],
    "loss": ["cross_entropy", "keras"],
    "optimizer": ["sgd", "keras_sgd", "adam", "adamw"],
    "constraint": ["max_norm", "non_neg", "unit_norm", "min_max_norm"],
}
OF_THE_CALLBACK = {"params": None, "layout": "keras"}  # beside the arguments of a constraint


@pytest.mark.parametrize("name", NAMES["data"])
def test_data(name):
    data = instantiate(load("data", name))
    assert data.num_classes >= 3
    assert (data.seed, instantiate(load("data", name, seed=7)).seed) == (0, 7)


@pytest.mark.parametrize("name", NAMES["model"])
def test_model_and_loss(name):
    data = instantiate(load("data", "fake"))
    data.setup()
    net = instantiate(load("model", name), input_shape=data.input_shape, num_classes=data.num_classes)
    x, y = next(iter(data.train_dataloader()))
    for loss in NAMES["loss"]:
        instantiate(load("loss", loss))(net(x[:4]), y[:4]).backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(("name", "lr"), list(zip(NAMES["optimizer"], [0.01, 0.01, 0.002, 0.002], strict=True)))
def test_optimizer(name, lr):
    parameters = [torch.nn.Parameter(torch.ones(2))]
    optimizer = instantiate(load("optimizer", name))(parameters)
    assert optimizer.defaults["lr"] == lr
    assert optimizer.defaults.get("momentum", 0.9) == 0.9
    parameters[0].sum().backward()
    optimizer.step()
    assert (parameters[0] < 1).all()


@pytest.mark.parametrize("name", NAMES["constraint"])
def test_constraint(name):
    config = OmegaConf.to_container(load("constraint", name))
    assert {key: config.pop(key) for key in OF_THE_CALLBACK} == OF_THE_CALLBACK
    assert instantiate(config) == get(name)


def test_constraint_applies_to_kernels_by_default_as_in_keras():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    config = OmegaConf.create({"constraint": load("constraint", "max_norm")})
    [constraints] = weight_constraints(config, network)
    [pattern] = constraints.constraints
    names = [name for name, _ in network.named_parameters()]
    assert [name for name in names if re.search(pattern, name)] == ["0.weight", "2.weight"]


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in ("data", "model", "constraint") for n in NAMES[g]])
def test_every_argument_is_listed_with_its_default_and_a_comment(group, name):
    target = get_class(load(group, name)["_target_"])
    parameters = inspect.signature(target).parameters.values()
    knobs = {p.name: p.default for p in parameters if p.default is not p.empty and p.kind is not p.VAR_KEYWORD}
    config = OmegaConf.to_container(load(group, name), resolve=True)
    for key in ("_target_", *(OF_THE_CALLBACK if group == "constraint" else ())):
        config.pop(key)
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()} == knobs


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in NAMES for n in NAMES[g]])
def test_every_knob_has_a_comment(group, name):
    first, *lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert all("  # " in line for line in lines if not line.startswith("_target_"))
