"""Constraints: their laws, whom they are meant for, and that each real update of any optimizer is followed by one."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import math
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from omegaconf import OmegaConf
from pytorch_lightning.cli import LightningCLI
from torch import nn

from lr_plugins import Assign, Constant, KerasSGD, LearningRateScheduler, StepDecay
from lr_plugins.engine import real_steps, step_hooks
from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.keras.constraints import (
    Constraint,
    Constraints,
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    UnitNorm,
    constrain,
    deserialize,
    get,
    serialize,
)
from tests.lifecycle.test_replaced_optimizers import Does, by_strategy
from tests.lifecycle.test_wrapping_optimizers import AUTOMATIC, Dictionary, OwnArithmetic, SlottedDuck, TwoSteps
from tests.toys import QUIET, Toy, fit, loader

EPS = 1e-7
EACH = [MaxNorm(0.5), UnitNorm(), MinMaxNorm(0.2, 0.6, 0.5), NonNeg(), NonNeg("keras2")]
FOUR = loader(16, 4)  # batches an epoch


# --- the formulas ------------------------------------------------------------------------------------------------


def norms(weight, axis=0):
    return np.sqrt(np.sum(np.square(np.asarray(weight, np.float64)), axis=axis, keepdims=True))


def numbers(least, most):
    """Those whose squares have all their digits."""
    return st.floats(least, most, allow_subnormal=False).map(lambda one: one if abs(one) > 1e-100 else 0.0)


matrices = arrays.arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=numbers(-1e6, 1e6))
bounds = numbers(0, 100)


@given(matrices, bounds, bounds, st.floats(0, 1), st.sampled_from([0, 1, -1, [0, 1]]))
@settings(deadline=None, max_examples=300)
def test_each_formula_is_the_one_of_its_docstring(weight, low, high, rate, axis):
    low, high = sorted((low, high))
    given_, n = torch.tensor(weight), norms(weight, tuple(axis) if isinstance(axis, list) else axis)
    clipped = np.clip(n, low, high)
    expected = {
        MaxNorm(high, axis): weight * (np.minimum(n, high) / (EPS + n)),
        UnitNorm(axis): weight / (EPS + n),
        MinMaxNorm(low, high, rate, axis): weight * ((rate * clipped + (1 - rate) * n) / (EPS + n)),
        NonNeg(): np.maximum(weight, 0.0),
        NonNeg("keras2"): weight * (weight >= 0),
    }
    for constraint, result in expected.items():
        np.testing.assert_allclose(constraint(given_).numpy(), result, rtol=1e-12, atol=0)


@given(matrices, bounds, bounds)
@settings(deadline=None, max_examples=300)
def test_norms_lie_within_the_bounds_and_a_second_time_changes_next_to_nothing(weight, low, high):
    low, high = sorted((low, high))
    weight = torch.tensor(weight)
    n = norms(weight)
    for constraint, least, most in (
        (MaxNorm(high), np.minimum(n, high), high),
        (UnitNorm(), np.ones_like(n), 1.0),
        (MinMaxNorm(low, high), np.clip(n, low, high), high),
    ):
        once = constraint(weight)
        found = norms(once)
        assert (found <= most * (1 + 1e-12)).all()
        # The 1e-7 in the divisor takes the share 1e-7 / (1e-7 + n) away, which is all of it where the norm is 0.
        np.testing.assert_allclose(found, least * n / (EPS + n), rtol=1e-9, atol=1e-15)
        again = norms(constraint(once))
        away = EPS / np.maximum(n, 1e-300) + EPS / (EPS + found)  # the first time, and the second
        assert (np.abs(again - found) <= (away + 1e-9) * found).all()
        assert not (constraint(once) * weight < 0).any()


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
@settings(deadline=None, max_examples=200)
def test_no_negative_number_is_left_and_the_others_are_as_they_were(weight):
    weight = torch.tensor(weight)
    for constraint in (NonNeg(), NonNeg("keras2")):
        result = constraint(weight)
        kept = weight > 0
        finite = kept & weight.isfinite()
        assert torch.equal(result[finite], weight[finite])
        assert not (result < 0).any()
        assert (result[weight.isnan()].isnan()).all()
    assert (NonNeg()(weight)[weight == -math.inf] == 0).all()
    assert NonNeg("keras2")(weight)[weight == -math.inf].isnan().all()
    assert NonNeg("keras2")(weight)[(weight < 0) & weight.isfinite()].signbit().all()
    assert not NonNeg()(weight)[weight < 0].signbit().any()


def test_a_weight_within_the_bounds_still_shrinks_by_the_epsilon():
    weight = torch.tensor([1e-6])
    for constraint in (MaxNorm(2), MinMaxNorm(0.0, 1.0)):
        assert constraint(weight).item() == pytest.approx(1e-6 / 1.1, rel=1e-6)


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_a_constraint_called_as_a_function_can_be_differentiated(constraint):
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(constraint, weight)


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_nothing_is_fetched_from_a_device(constraint):
    # The meta device has no numbers: fetching one, which on an accelerator means waiting for it, is an error there.
    weights = [torch.empty(shape, device="meta") for shape in ((4, 3), (5,), (2, 3, 4))]
    constraint.apply_(weights)
    assert [constraint(weight).shape for weight in weights] == [weight.shape for weight in weights]


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_many_weights_together_are_constrained_as_each_one_alone(constraint):
    generator = torch.Generator().manual_seed(0)
    shapes = [(300, 250), (1, 1), (0, 3), (3, 0), (200, 200), (7,), (4, 5, 6), (40, 2), ()]
    module = nn.ParameterList([torch.randn(shape, generator=generator) for shape in shapes])
    alone = [constraint(weight.detach()) for weight in module]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    constrain(optimizer, module, {r"\d": constraint})
    for weight in module:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(module, alone, strict=True))


# --- arguments, names, configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxNorm(-1), r"MaxNorm\.max_value must be a finite number >= 0; got -1\."),
        (lambda: MaxNorm("2"), r"MaxNorm\.max_value must be a finite number >= 0; got '2'\."),
        (lambda: MaxNorm(math.nan), r"MaxNorm\.max_value must be a finite number >= 0"),
        (lambda: MaxNorm(True), r"MaxNorm\.max_value must be a finite number >= 0"),
        (lambda: MaxNorm(2, axis=None), r"MaxNorm\.axis must be an integer, or a list of at least one; got None\."),
        (lambda: UnitNorm([]), r"UnitNorm\.axis must be an integer, or a list of at least one; got \[\]\."),
        (
            lambda: UnitNorm([0, 1.5]),
            r"UnitNorm\.axis must be an integer, or a list of at least one; got \[0, 1.5\]",
        ),
        (lambda: UnitNorm(True), r"UnitNorm\.axis must be an integer"),
        (lambda: UnitNorm("0"), r"UnitNorm\.axis must be an integer"),
        (lambda: MinMaxNorm(-0.1), r"MinMaxNorm\.min_value must be a finite number >= 0; got -0\.1\."),
        (lambda: MinMaxNorm(2.0, 1.0), r"MinMaxNorm\.max_value must be a number >= min_value, 2\.0; got 1\.0\."),
        (lambda: MinMaxNorm(rate=1.5), r"MinMaxNorm\.rate must be a number from 0 to 1; got 1\.5\."),
        (lambda: NonNeg("keras4"), r"NonNeg\.style must be one of keras2, keras3; got 'keras4'\."),
        (
            lambda: MaxNorm(2)(torch.tensor([1, 2])),
            "the weight must be a tensor of floating-point numbers for MaxNorm; got",
        ),
        (lambda: NonNeg()([1.0]), "the weight must be a tensor of floating-point numbers for NonNeg; got a list"),
        (
            lambda: MaxNorm(axis=2)(torch.zeros(3, 4)),
            r"MaxNorm\.axis must be different axes of the weight, whose shape \(3, 4\) has the axes -2 to 1; got 2\.",
        ),
        (lambda: UnitNorm([0, -2])(torch.zeros(3, 4)), r"UnitNorm\.axis must be different axes of .*; got \[0, -2\]\."),
        (
            lambda: get("maxi"),
            "the constraint must be a function of a tensor, None, or one of constraint, max_norm, min_",
        ),
        (lambda: get(3), "the constraint must be a function of a tensor, None, or one of .*; got 3"),
        (
            lambda: deserialize({"class_name": "Mine", "config": {}}),
            "the serialized constraint must be a dictionary with",
        ),
        (lambda: deserialize("MaxNorm"), "the serialized constraint must be a dictionary with class_name, one of"),
        (
            lambda: deserialize({"class_name": "MaxNorm", "config": {"m": 2}}),
            "the config of MaxNorm must be its arguments; got {'m': 2}.*unexpected keyword argument 'm'",
        ),
        (lambda: Constraints({}), r"Constraints\.constraints must be a dictionary from regular expressions .*; got {}"),
        (lambda: Constraints(MaxNorm()), r"Constraints\.constraints must be a dictionary from .*; got MaxNorm\("),
        (lambda: Constraints({"(": "max_norm"}), r"a key of Constraints\.constraints must be a regular expression \("),
        (
            lambda: Constraints({"": "max_norm"}),
            r"a key of Constraints\.constraints must be a regular expression for the",
        ),
        (lambda: Constraints({"w": "max"}), "the constraint must be a function of a tensor, None, or one of"),
        (lambda: Constraints({"w": NonNeg()}, "tf"), r"Constraints\.layout must be one of keras, torch; got 'tf'\."),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(make, message):
    with pytest.raises(InvalidArgument, match=message):
        make()


@pytest.mark.parametrize("constraint", [*EACH, MaxNorm(), MaxNorm(3, [0, 1]), UnitNorm((1, 2))], ids=repr)
def test_a_constraint_survives_its_configuration_a_pickle_and_a_checkpoint(constraint):
    assert deserialize(serialize(constraint)) == constraint
    assert get(serialize(constraint)) == constraint
    assert pickle.loads(pickle.dumps(constraint)) == constraint
    assert eval(repr(constraint)) == constraint
    assert hash(copy.deepcopy(constraint)) == hash(constraint)
    file = io.BytesIO()
    torch.save({"hyper_parameters": {"constraint": constraint}}, file)
    read = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert read["hyper_parameters"]["constraint"] == constraint


def test_constraints_with_other_settings_are_others():
    assert len({MaxNorm(), MaxNorm(2, 0), MaxNorm(3), MaxNorm(2, 1), UnitNorm(), NonNeg(), NonNeg("keras2")}) == 6


def test_numbers_of_numpy_become_plain_ones():
    config = MinMaxNorm(np.float32(0.5), np.int64(2), np.float64(1.0), axis=[np.int64(0)]).get_config()
    assert config == {"min_value": 0.5, "max_value": 2.0, "rate": 1.0, "axis": [0]}
    assert {type(value) for value in config.values()} == {float, list}


class Halved(Constraint):
    """One of a user's own."""

    def __call__(self, w):
        return w / 2


def test_a_constraint_of_ones_own_is_known_by_the_name_that_is_given():
    assert isinstance(deserialize({"class_name": "Halved", "config": {}}, {"Halved": Halved}), Halved)
    assert isinstance(get(Halved), Halved)
    assert get(torch.abs) is torch.abs


def test_schedules_of_keras_still_need_no_torch():
    code = (
        "import sys, lr_plugins.keras as k; assert 'torch' not in sys.modules; "
        "print('constraints' in dir(k), k.constraints.max_norm().max_value, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "2", "True"]


def test_a_plain_loop_does_not_import_lightning():
    program = """
import sys
import torch
from lr_plugins.keras import constraints
from lr_plugins.keras.constraints import MaxNorm, constrain

layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
handle = constrain(optimizer, layer, {"weight$": MaxNorm(0.5)})
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
assert layer.weight.norm() <= 0.5
assert not any(name.partition(".")[0] in ("lightning", "pytorch_lightning") for name in sys.modules)
constraints.Constraints({"weight$": MaxNorm(0.5)})
assert "pytorch_lightning" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# --- whom they are meant for -------------------------------------------------------------------------------------


class Net(nn.Module):
    """A layer of each kind, with weights of its own."""

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


AXES = {  # of torch, by layout, for an axis
    "conv.weight": {"keras": {0: 2, -1: 0, (0, 1, 2): (1, 2, 3)}, "torch": {0: 0, -1: 3, (0, 1, 2): (0, 1, 2)}},
    "head.weight": {"keras": {0: 1, -1: 0, (0, 1): (0, 1)}, "torch": {0: 0, -1: 1, (0, 1): (0, 1)}},
    "table.weight": {"keras": {0: 0, -1: 1}, "torch": {0: 0, -1: 1}},
    "own": {"keras": {0: 0, -1: 1}, "torch": {0: 0, -1: 1}},
    "head.bias": {"keras": {0: 0}, "torch": {0: 0}},
}


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("layout", ["keras", "torch"])
def test_axes_are_counted_as_the_layout_does(name, layout):
    for axis, axes in AXES[name][layout].items():
        before, after = constrained({f"^{name}$": UnitNorm(axis)}, layout)
        n = before[name].square().sum(axes, keepdim=True).sqrt()
        assert torch.allclose(after[name], before[name] / (EPS + n), rtol=1e-6)
        changed = {one for one in before if not torch.equal(before[one], after[one])}
        assert changed == {name}


def test_any_function_sees_the_weight_as_the_layout_has_it():
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


def test_a_class_that_changes_what_a_constraint_does_is_applied_as_it_says():
    class Positive(UnitNorm):
        def __call__(self, w):
            return super().__call__(w).abs()

    class Wider(MaxNorm):
        def __init__(self):
            super().__init__(4)

    before, after = constrained({r"^head\.weight$": Positive(), r"^own$": Wider()})
    assert torch.equal(after["head.weight"].T, UnitNorm()(before["head.weight"].T).abs())
    assert torch.equal(after["own"], MaxNorm(4)(before["own"]))


def test_the_last_expression_that_is_found_counts_and_none_is_no_constraint():
    before, after = constrained({r"weight$": "unit_norm", r"^body": None, r"0\.bias$": NonNeg, r"head": MaxNorm(0.5)})
    norm = torch.linalg.vector_norm
    assert torch.allclose(norm(after["conv.weight"], dim=2), torch.ones(3, 2, 4), rtol=1e-5)
    assert (norm(after["head.weight"], dim=1) <= 0.5).all()
    assert norm(after["head.bias"]) <= 0.5
    assert torch.equal(after["body.0.weight"], before["body.0.weight"])
    assert torch.equal(after["body.1.weight"], before["body.1.weight"])
    assert torch.equal(after["body.0.bias"], before["body.0.bias"].clamp(min=0))
    assert torch.equal(after["own"], before["own"])


def test_an_expression_that_is_found_nowhere_is_refused_with_the_names_there_are():
    some = r"\(own, conv\.weight, conv\.bias, body\.0\.weight, body\.0\.bias, .*, head\.weight \.\.\.\)"
    message = (
        rf"a key of Constraints\.constraints must be a regular expression found in the name of a parameter {some}; got"
    )
    with pytest.raises(InvalidArgument, match=message):
        constrained({r"weight$": "max_norm", r"wight$": "non_neg"})


def test_axes_that_a_parameter_does_not_have_are_refused_with_its_name():
    message = (
        r"MaxNorm\.axis must be different axes of body\.0\.weight, whose shape \(5, 4\) has the axes -2 to 1; got \["
    )
    with pytest.raises(InvalidArgument, match=message):
        constrained({r"weight$": MaxNorm(2, axis=[0, 1, 2])})
    with pytest.raises(InvalidArgument, match=r"body\.0\.weight"):
        constrained({"body.0": MaxNorm(axis=2)})


def test_weights_that_are_not_of_real_numbers_are_refused_with_their_names():
    module = nn.ParameterDict({"phase": nn.Parameter(torch.zeros(2, dtype=torch.complex64))})
    with pytest.raises(
        InvalidArgument, match=r"phase must be a tensor of floating-point numbers for UnitNorm; got .*complex64"
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


def test_a_parameter_that_is_not_built_yet_is_constrained_once_it_is():
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


# --- a loop of one's own -----------------------------------------------------------------------------------------


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def module_of(**parameters):
    return nn.ParameterDict(parameters)


def backward(weight, gradient):
    weight.grad = torch.as_tensor(gradient, dtype=weight.dtype).clone()


def test_the_weights_are_constrained_after_each_update_and_the_velocity_is_not():
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


def test_what_a_step_does_not_update_is_left_as_it_is():
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


def test_several_are_applied_in_the_order_in_which_they_came():
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


def test_a_parameter_is_constrained_after_a_step_of_its_own_optimizer_alone():
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


def test_a_parameter_that_is_added_or_exchanged_later_is_constrained_too():
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


def test_a_step_that_is_captured_takes_its_constraints_along(monkeypatch):
    # A CUDA graph replays what happened while it was captured, and nothing else.
    monkeypatch.setattr(real_steps, "_captures", lambda: True)
    weight = parameter(3.0)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    constrain(optimizer, module_of(weight=weight), {"weight": UnitNorm()})
    backward(weight, [0.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1.0)


def test_a_closure_that_is_called_many_times_is_one_update():
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


def test_after_a_step_that_an_error_has_ended_the_next_one_is_followed():
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


def test_nothing_is_kept_alive_and_nothing_is_left_behind():
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


def test_an_optimizer_of_another_kind_is_let_go_as_well():
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


def test_an_optimizer_whose_steps_nothing_announces_is_refused():
    module = nn.Linear(3, 2)
    message = (
        "cannot follow the steps of SlottedDuck, which is not a torch.optim.Optimizer and does not let its method step"
    )
    with pytest.raises(TrainingError, match=message):
        constrain(SlottedDuck(module.parameters()), module, {"weight": UnitNorm()})


def test_an_optimizer_that_is_saved_or_copied_is_as_it_would_be_without():
    module = nn.Linear(3, 2)
    optimizer = KerasSGD(module.parameters(), lr=0.1, momentum=0.9)
    constrain(optimizer, module, {"weight": UnitNorm()})
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    twin = pickle.loads(pickle.dumps(optimizer))
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
    with torch.no_grad():
        twin.param_groups[0]["params"][0].mul_(5)
    twin.step()  # an optimizer of its own, which nobody constrains
    assert twin.param_groups[0]["params"][0].norm() > 2


# --- in a Trainer ------------------------------------------------------------------------------------------------


class Noted(pl.Callback):
    """The norm of the weight as other callbacks see it."""

    def __init__(self):
        self.at_start, self.at_step, self.at_end = [], [], []

    @staticmethod
    def norm(module):
        return module.layer.weight.detach().norm().item()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.at_start.append(self.norm(pl_module))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.at_step.append(self.norm(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.at_end.append(self.norm(pl_module))


UNIT = {"layer.weight": UnitNorm()}
AT_START = 0.75**0.5  # the norm of the toy's weight


def is_one(norm):
    return norm == pytest.approx(1.0, abs=1e-5)


def test_each_batch_ends_with_the_constrained_weights():
    noted = Noted()
    fit(Toy(), noted, Constraints(UNIT), epochs=2)  # before it in the list: it happens within the step all the same
    assert noted.at_start[0] == noted.at_step[0] == pytest.approx(AT_START)
    assert all(map(is_one, noted.at_end))
    assert all(map(is_one, noted.at_start[1:]))


def test_a_lightning_fit_is_the_plain_loop_bit_for_bit():
    make = lambda parameters: KerasSGD(parameters, lr=0.1, momentum=0.9)  # noqa: E731
    meant = {"weight": MaxNorm(0.7), "bias": NonNeg()}
    module, by_hand = Toy(make), Toy(make)
    fit(module, Constraints(meant), epochs=2, train=FOUR)
    optimizer = by_hand.configure_optimizers()
    constrain(optimizer, by_hand, meant)
    for _ in range(2):
        for batch in FOUR:
            optimizer.zero_grad()
            by_hand.compute_loss(batch).backward()
            optimizer.step()
    for one, other in zip(module.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(one, other)
    assert module.layer.weight.norm() <= 0.7


def test_with_accumulation_only_real_steps_count():
    calls, noted = [], Noted()
    fit(Toy(), Constraints({"weight": lambda w: (calls.append(1), w / w.norm())[1]}), noted, accumulate_grad_batches=3)
    assert len(calls) == 3 * 2
    assert noted.at_end[:2] == pytest.approx([AT_START] * 2)
    assert all(map(is_one, noted.at_end[2:]))


class Manual(Toy):
    """Steps in every other batch, twice."""

    def __init__(self, make=lambda parameters: KerasSGD(parameters, lr=0.1)):
        super().__init__(make)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(2 * (batch_idx % 2)):
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            optimizer.step()


def counting():
    """A constraint that counts how often it is applied."""
    calls = []

    def unit(weight):
        calls.append(tuple(weight.shape))
        return weight / weight.norm()

    return calls, unit


def test_under_manual_optimization():
    (calls, unit), noted = counting(), Noted()
    fit(Manual(), Constraints({"weight": unit}), noted, epochs=1, train=FOUR)
    assert len(calls) == 4
    assert noted.at_end[0] == pytest.approx(AT_START)
    assert all(map(is_one, noted.at_end[1:]))


class Pair(Toy):
    """Two layers, each with an optimizer of its own; one is kept from Lightning."""

    def __init__(self, private):
        super().__init__()
        self.automatic_optimization = False
        self.second, self.private = nn.Linear(3, 1), private
        self.seen = []

    def configure_optimizers(self):
        first, second = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (self.layer, self.second))
        self.kept = second
        return [first] if self.private else [first, second]

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizers = self.optimizers()
        turn = [optimizers, self.kept] if self.private else optimizers
        optimizer = turn[batch_idx % 2]
        optimizer.zero_grad()
        self.manual_backward(nn.functional.mse_loss(self.layer(x) + self.second(x), y))
        before = [one.weight.detach().clone() for one in (self.layer, self.second)]
        optimizer.step()
        after = [one.weight.detach().clone() for one in (self.layer, self.second)]
        self.seen.append([not torch.equal(*each) for each in zip(before, after, strict=True)])


@pytest.mark.parametrize("private", [False, True], ids=["Lightning's", "one of the module's own"])
def test_of_several_optimizers_each_is_followed_by_the_constraint_of_its_own(private):
    calls, unit = counting()
    module = Pair(private)
    fit(module, Constraints({"weight": unit}), epochs=2, train=FOUR)
    assert len(calls) == 8
    assert module.seen == [[True, False], [False, True]] * 4
    assert is_one(module.layer.weight.norm().item())
    assert is_one(module.second.weight.norm().item())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", AUTOMATIC)
@pytest.mark.filterwarnings("ignore:.*no call of step.. was seen")
def test_each_update_of_any_optimizer_is_followed_by_one_constraint(kind, accumulate):
    (calls, unit), noted = counting(), Noted()
    fit(
        Dictionary(AUTOMATIC[kind]), noted, Constraints({"weight": unit}),
        train=FOUR, epochs=2, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    assert len(calls) == 8 // accumulate
    late = kind == "read-only duck"  # whose step is only noticed when the batch is over
    assert all(map(is_one, noted.at_start[accumulate:] if late else noted.at_end[accumulate - 1 :]))


@pytest.mark.parametrize("kind", ["SAM", "SAM, groups copied"])
def test_sam_in_two_steps(kind):
    (calls, unit), noted = counting(), Noted()
    fit(TwoSteps(AUTOMATIC[kind]), Constraints({"weight": unit}), noted, train=FOUR, epochs=2)
    assert len(calls) == 8
    assert all(map(is_one, noted.at_end))


def test_steps_that_nothing_announces_are_noticed_by_batches_and_told_of_once():
    calls, unit = counting()
    with pytest.warns(UserWarning, match="Constraints: the weights of OwnArithmetic have changed, but no call") as told:
        fit(TwoSteps(OwnArithmetic), Constraints({"weight": unit}), train=FOUR, epochs=2)
    assert len(calls) == 8
    assert sum("no call of step()" in str(one.message) for one in told) == 1


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("with_scheduler", [False, True])
def test_an_optimizer_that_is_replaced_is_followed_on(hook, with_scheduler):
    calls, unit = counting()
    act = Does(
        by_strategy(lambda parameters: torch.optim.Adam(parameters, lr=0.1)), hook, batch=1 if "batch" in hook else 0
    )
    others = [LearningRateScheduler(Constant(0.1))] if with_scheduler else []
    module = Toy()
    fit(module, Constraints({"weight": unit}), *others, act, train=FOUR)
    assert act.done
    assert len(calls) == 12
    assert is_one(module.layer.weight.norm().item())


def test_beside_a_scheduler_that_splits_the_groups():
    calls, unit = counting()
    scheduler = LearningRateScheduler([StepDecay(0.1, every="1ep"), Assign(Constant(0.01), params="bias")])
    fit(Toy(), scheduler, Constraints({"weight": unit}), train=FOUR)
    assert calls == [(3, 1)] * 12
    assert scheduler.audit.followed == scheduler.audit.steps == 12


class Frozen(Toy):
    """Its second layer is unfrozen, and added to the optimizer, in epoch 1."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(1, 1)
        nn.init.constant_(self.second.weight, 2.0)
        self.second.requires_grad_(False)

    def compute_loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.second(self.layer(x)), y)

    def configure_optimizers(self):
        return KerasSGD(self.layer.parameters(), lr=0.01)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.second.requires_grad_(True)
            self.trainer.optimizers[0].add_param_group({"params": self.second.parameters()})


def test_a_frozen_parameter_is_constrained_once_it_is_trained():
    module, norms_at_end = Frozen(), []

    class End(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            norms_at_end.append(pl_module.second.weight.abs().item())

    fit(module, Constraints({r"second\.weight": UnitNorm()}), End(), epochs=2)
    assert norms_at_end == [2.0, pytest.approx(1.0, abs=1e-5)]


def test_checkpoints_have_the_constrained_weights_and_no_state_of_it(tmp_path):
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(Toy(), Constraints(UNIT), checkpoint, epochs=1, enable_checkpointing=True)
    saved = [torch.load(path, weights_only=True) for path in tmp_path.glob("*.ckpt")]
    assert len(saved) == 6
    for one in saved:
        assert is_one(one["state_dict"]["layer.weight"].norm().item())
        assert "Constraints" not in str(one["callbacks"].keys())


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    make = lambda parameters: KerasSGD(parameters, lr=0.1, momentum=0.9)  # noqa: E731
    meant = {"weight": MinMaxNorm(0.5, 0.7, 0.3)}
    whole, first, second = Toy(make), Toy(make), Toy(make)
    fit(whole, Constraints(meant), epochs=3)
    fit(first, Constraints(meant), epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    fit(second, Constraints(meant), epochs=3, ckpt_path=tmp_path / "one.ckpt")
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_fit_starts_with_an_error_where_the_module_does_not_fit():
    with pytest.raises(
        InvalidArgument, match=r"a regular expression found in the name of a parameter \(layer\.weight, layer\.bias\)"
    ):
        fit(Toy(), Constraints({"kernel": MaxNorm()}))
    with pytest.raises(
        InvalidArgument, match=r"MaxNorm\.axis must be different axes of layer\.weight, whose shape \(1, 3\)"
    ):
        fit(Toy(), Constraints({"weight": MaxNorm(axis=[0, 1, 2])}))


def test_hydra_builds_the_callback_from_plain_values():
    constraints = {
        r"layer\.weight$": {"_target_": "lr_plugins.keras.constraints.MaxNorm", "max_value": 3, "axis": [0, 1]},
        "bias": "non_neg",
        "head": None,
    }
    node = {"_target_": "lr_plugins.keras.constraints.Constraints", "constraints": constraints}
    callback = instantiate(OmegaConf.create(node))
    assert callback.constraints == {r"layer\.weight$": MaxNorm(3, [0, 1]), "bias": NonNeg(), "head": None}


class NoArguments(Toy):
    def __init__(self):
        super().__init__()


def test_lightning_cli_builds_the_callback_from_plain_values():
    unit = {"class_path": "lr_plugins.keras.constraints.MaxNorm", "init_args": {"max_value": 0.3}}
    callback = {
        "class_path": "lr_plugins.keras.constraints.Constraints",
        "init_args": {"constraints": {r"weight$": unit, r"bias$": "non_neg"}},
    }
    config = {"trainer": {**QUIET, "max_epochs": 1, "callbacks": [callback]}}
    cli = LightningCLI(NoArguments, args=config, run=False, save_config_callback=None)
    cli.trainer.fit(cli.model, FOUR)
    assert cli.model.layer.weight.norm().item() == pytest.approx(0.3, rel=1e-5)
    assert cli.model.layer.bias.item() >= 0


def test_after_a_fit_and_after_an_error_nothing_is_followed_any_more():
    module, callback = Toy(), Constraints(UNIT)
    trainer = fit(module, callback, epochs=1)

    def is_free():
        with torch.no_grad():
            module.layer.weight.fill_(5.0)
        module.compute_loss(next(iter(FOUR))).backward()
        trainer.optimizers[0].step()
        return module.layer.weight.norm().item() > 2

    assert is_free()

    class Fails(pl.Callback):
        def on_train_batch_end(self, *_):
            raise KeyError("no")

    with pytest.raises(KeyError):
        trainer = fit(module, callback, Fails(), epochs=1)
    assert is_free()
    assert callback._followed == callback._foreign == callback._unseen == []
    fit(module, callback, epochs=1)  # and it can be used again
    assert is_one(module.layer.weight.norm().item())


def test_steps_of_a_search_that_leaves_the_callback_out_are_not_its_business():
    calls, unit = counting()
    callback = Constraints({"weight": unit})

    class Search(pl.Callback):
        """Takes a step while other callbacks have the Trainer, as Lightning's searches do."""

        def on_train_start(self, trainer, pl_module):
            callbacks, trainer.callbacks = trainer.callbacks, []
            pl_module.compute_loss(next(iter(FOUR))).backward()
            trainer.optimizers[0].step()
            trainer.callbacks = callbacks

    fit(Toy(), callback, Search(), epochs=1, train=FOUR)
    assert len(calls) == 4


def test_the_callback_can_be_copied_and_pickled_before_and_while_it_runs():
    copies = []

    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            copies.append(pickle.loads(pickle.dumps(callback)))
            copies.append(copy.deepcopy(callback))

    callback = Constraints({r"weight$": UnitNorm(), "bias": "non_neg"}, layout="torch")
    fit(Toy(), callback, Copies(), epochs=1, train=FOUR)
    assert len(copies) == 8
    for one in copies:
        assert (one.constraints, one.layout) == ({r"weight$": UnitNorm(), "bias": NonNeg()}, "torch")
    module = Toy()
    fit(module, copies[0], epochs=1)
    assert is_one(module.layer.weight.norm(dim=0).max().item())


@pytest.mark.parametrize(
    ("function", "returned"),
    [(lambda w: w.sum(), r"\(\)"), (lambda w: None, "NoneType"), (lambda w: w.numpy(), "ndarray")],
)
def test_a_function_that_returns_no_weight_is_named(function, returned):
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    constrain(optimizer, layer, {r"weight$": function})
    layer(torch.ones(1, 3)).sum().backward()
    with pytest.raises(
        TrainingError, match=rf"<lambda> must return a tensor of the weight's shape, .*; it returned {returned}"
    ):
        optimizer.step()
