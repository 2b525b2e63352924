"""Which constraint applies to which parameters, and to which of their axes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.keras.constraints import (
    MaxNorm,
    NonNeg,
    UnitNorm,
    constrain,
)
from tests.constraints.helpers import EPS, Halved


class Net(nn.Module):
    """A layer of each kind, and a parameter of the module itself."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (2, 4))
        self.body = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))
        self.head = nn.Linear(5, 2)
        self.table = nn.Embedding(6, 4)
        self.own = nn.Parameter(torch.randn(4, 5))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))


def constrained(constraints, layout="keras", module=None, optimizer=None):
    """The parameters of a net before and after a step that moves nothing, by name."""
    module = Net() if module is None else module
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0) if optimizer is None else optimizer
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    handle = constrain(optimizer, module, constraints, layout)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    handle.remove()
    return before, {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


AXES = {  # the torch axes, by layout and given axis
    "conv.weight": {"keras": {0: 2, -1: 0, (0, 1, 2): (1, 2, 3)}, "torch": {0: 0, -1: 3, (0, 1, 2): (0, 1, 2)}},
    "head.weight": {"keras": {0: 1, -1: 0, (0, 1): (0, 1)}, "torch": {0: 0, -1: 1, (0, 1): (0, 1)}},
    "table.weight": {"keras": {0: 0, -1: 1}, "torch": {0: 0, -1: 1}},
    "own": {"keras": {0: 0, -1: 1}, "torch": {0: 0, -1: 1}},
    "head.bias": {"keras": {0: 0}, "torch": {0: 0}},
}


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("layout", ["keras", "torch"])
def test_axes_follow_the_layout(name, layout):
    for axis, axes in AXES[name][layout].items():
        before, after = constrained({f"^{name}$": UnitNorm(axis)}, layout)
        n = before[name].square().sum(axes, keepdim=True).sqrt()
        assert torch.allclose(after[name], before[name] / (EPS + n), rtol=1e-6)
        changed = {one for one in before if not torch.equal(before[one], after[one])}
        assert changed == {name}


def test_function_sees_the_weight_in_the_layout():
    seen = []

    def note(weight):
        seen.append(tuple(weight.shape))
        return weight * torch.arange(weight.shape[0]).reshape(-1, *[1] * (weight.dim() - 1))

    before, after = constrained({r"^(conv|head)\.weight$": note})
    assert seen == [(2, 4, 2, 3), (5, 2)]
    assert torch.equal(after["head.weight"], before["head.weight"] * torch.arange(5))
    assert torch.equal(after["conv.weight"], before["conv.weight"] * torch.arange(2).reshape(2, 1))
    _, halved = constrained({"head": Halved()}, "torch")
    assert torch.equal(halved["head.weight"], before["head.weight"] / 2)


def test_subclass_with_a_changed_rule_is_applied():
    class Positive(UnitNorm):
        def __call__(self, w):
            return super().__call__(w).abs()

    class Wider(MaxNorm):
        def __init__(self):
            super().__init__(4)

    before, after = constrained({r"^head\.weight$": Positive(), r"^own$": Wider()})
    assert torch.equal(after["head.weight"].T, UnitNorm()(before["head.weight"].T).abs())
    assert torch.equal(after["own"], MaxNorm(4)(before["own"]))


def test_last_matching_expression_wins_and_none_disables():
    before, after = constrained({r"weight$": "unit_norm", r"^body": None, r"0\.bias$": NonNeg, r"head": MaxNorm(0.5)})
    norm = torch.linalg.vector_norm
    assert torch.allclose(norm(after["conv.weight"], dim=2), torch.ones(3, 2, 4), rtol=1e-5)
    assert (norm(after["head.weight"], dim=1) <= 0.5).all()
    assert norm(after["head.bias"]) <= 0.5
    assert torch.equal(after["body.0.weight"], before["body.0.weight"])
    assert torch.equal(after["body.1.weight"], before["body.1.weight"])
    assert torch.equal(after["body.0.bias"], before["body.0.bias"].clamp(min=0))
    assert torch.equal(after["own"], before["own"])


def test_unmatched_expression_is_refused_with_the_known_names():
    some = r"\(own, conv\.weight, conv\.bias, body\.0\.weight, body\.0\.bias, .*, head\.weight \.\.\.\)"
    message = (
        rf"a key of Constraints\.constraints must be a regular expression found in the name of a parameter {some}; got"
    )
    with pytest.raises(InvalidArgumentError, match=message):
        constrained({r"weight$": "max_norm", r"wight$": "non_neg"})


def test_invalid_axes_are_refused_with_the_parameter_name():
    message = (
        r"MaxNorm\.axis must be different axes of body\.0\.weight, whose shape \(5, 4\) has the axes -2 to 1; got \["
    )
    with pytest.raises(InvalidArgumentError, match=message):
        constrained({r"weight$": MaxNorm(2, axis=[0, 1, 2])})
    with pytest.raises(InvalidArgumentError, match=r"body\.0\.weight"):
        constrained({"body.0": MaxNorm(axis=2)})


def test_complex_weights_are_refused_by_name():
    module = nn.ParameterDict({"phase": nn.Parameter(torch.zeros(2, dtype=torch.complex64))})
    with pytest.raises(
        InvalidArgumentError, match=r"phase must be a tensor of floating-point numbers for UnitNorm; got .*complex64"
    ):
        constrain(torch.optim.SGD(module.parameters(), lr=0.1), module, {"phase": "unit_norm"})


def test_sharded_parameters_are_refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        fully_shard(module[1], mesh=init_device_mesh("cpu", (1,)))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        with pytest.raises(TrainingError, match=r"does not support sharded parameters such as 1\.weight, because"):
            constrain(optimizer, module, {r"weight$": "max_norm"})
        constrain(optimizer, module, {r"0.weight$": "max_norm"}).remove()  # that one is whole
    finally:
        dist.destroy_process_group()


def test_flat_parameters_of_fsdp_are_refused():
    from torch.distributed.fsdp._common_utils import _set_fsdp_flattened

    module = nn.ParameterDict({"_flat_param": nn.Parameter(torch.zeros(12))})
    _set_fsdp_flattened(module["_flat_param"])  # as torch marks them; to build a real one takes an accelerator
    with pytest.raises(TrainingError, match=r"does not support sharded parameters such as _flat_param,"):
        constrain(torch.optim.SGD(module.parameters(), lr=0.1), module, {r"weight$": "max_norm"})


def test_lazy_parameter_is_constrained_once_built():
    module = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    constrain(optimizer, module, {r"0\.weight$": UnitNorm()})
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert torch.allclose(module[0].weight.norm(dim=1), torch.ones(3), atol=1e-5)


def test_a_module_in_compiled_form_has_the_same_layers():
    module = nn.Sequential(nn.Linear(3, 2))
    compiled = torch.compile(module, backend="eager")
    _, after = constrained({r"0\.weight$": UnitNorm()}, module=compiled)
    assert torch.allclose(after["_orig_mod.0.weight"].norm(dim=1), torch.ones(2), atol=1e-5)
