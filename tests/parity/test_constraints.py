"""Keras' constraints: the formulas bit for bit, and trainings in which real Keras applies its own."""

import itertools

import keras
import numpy as np
import pytest
import torch
from torch import nn

from lr_plugins.constraints import formulas, layouts
from lr_plugins.keras import constraints
from lr_plugins.optim import KerasSGD

# Keras' name and the arguments that both get.
SETTINGS = [
    ("MaxNorm", {}),
    ("MaxNorm", {"max_value": 0.7}),
    ("MaxNorm", {"max_value": 0}),
    ("NonNeg", {}),
    ("UnitNorm", {}),
    ("MinMaxNorm", {}),
    ("MinMaxNorm", {"min_value": 0.5, "max_value": 1.3}),
    ("MinMaxNorm", {"min_value": 1.5, "max_value": 2.5, "rate": 0.3}),
    ("MinMaxNorm", {"min_value": 1, "max_value": 2, "rate": 0.0}),
]
IDS = [f"{name}-{'-'.join(map(str, arguments.values()))}" for name, arguments in SETTINGS]
SETTING = pytest.mark.parametrize(("name", "arguments"), SETTINGS, ids=IDS)
SHAPES = [(), (5,), (37,), (6, 4), (33, 17), (3, 5, 7), (3, 3, 4, 9), (2, 3, 2, 4, 3), (0, 3), (3, 0), (1, 1)]
AXES = [0, -1, 1, [0], [0, 1], (0, 1, 2), [-1, -2], [0, 1, 2, 3]]
ULPS = 5.4e-7  # the most that 20 updates of real Keras and of the formula in float64 were found to differ


def both(name, arguments, axis=None):
    arguments = arguments if axis is None or name == "NonNeg" else {**arguments, "axis": axis}
    return getattr(keras.constraints, name)(**arguments), getattr(constraints, name)(**arguments)


def bits(tensor):
    """The bits of a tensor, in which -0.0 is not 0.0, and any NaN is the same one."""
    tensor = torch.where(tensor.isnan(), torch.nan, tensor.detach())
    return tensor.reshape(-1).view(torch.uint8)


def weights(shape, dtype=torch.float32):
    """Values of each kind: ordinary, zero, tiny, huge and not finite."""
    generator = torch.Generator().manual_seed(sum(shape))
    ordinary = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    yield ordinary
    yield torch.zeros(shape, dtype=dtype)
    for scale in (1e-4, 1e-20, 1e-42, 1e4, 1e25):
        yield (ordinary.double() * scale).to(dtype)
    odd = ordinary.clone().flatten()
    for at, number in zip(range(odd.numel()), (float("nan"), float("inf"), -float("inf"), -0.0, 0.0), strict=False):
        odd[at] = number
    yield odd.reshape(shape)


def has_axes(shape, axis):
    axes = [axis] if isinstance(axis, int) else list(axis)
    rank = max(len(shape), 1)
    return all(-rank <= one < rank for one in axes) and len({one % rank for one in axes}) == len(axes)


def assert_equal_bits(name, arguments, shape, axis, dtype):
    theirs, ours = both(name, arguments, axis)
    for weight in weights(shape, dtype):
        before = weight.clone()
        with keras.device("cpu"):
            expected = theirs(weight)
        result = ours(weight)
        assert result.dtype == dtype
        if (name, dtype) == ("NonNeg", torch.float64):  # where Keras on torch returns single precision
            assert torch.equal(bits(result.float()), bits(expected))
            expected = torch.maximum(weight, torch.zeros_like(weight))
        assert expected.dtype == dtype
        assert torch.equal(bits(result), bits(expected))
        assert torch.equal(bits(weight), bits(before))  # the function leaves its argument alone
        ours.apply_([weight])
        assert torch.equal(bits(weight), bits(expected))  # and in place the result is the same


@SETTING
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_formula_is_that_of_keras_bit_for_bit(name, arguments, shape):
    axes = [axis for axis in AXES if has_axes(shape, axis)]
    assert axes
    for axis in axes:
        assert_equal_bits(name, arguments, shape, axis, torch.float32)


@SETTING
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_precisions_are_those_of_keras_bit_for_bit(name, arguments, dtype):
    # Keras rounds the bounds to its `floatx`; in a program of double precision, that is float64.
    usual = keras.config.floatx()
    keras.config.set_floatx("float64" if dtype == torch.float64 else usual)
    try:
        for shape, axis in itertools.product([(37,), (33, 17), (3, 3, 4, 9)], [0, -1, [0, 1]]):
            if has_axes(shape, axis):
                assert_equal_bits(name, arguments, shape, axis, dtype)
    finally:
        keras.config.set_floatx(usual)


def test_a_strided_tensor_is_constrained_as_keras_does_it():
    for name, arguments in SETTINGS:
        theirs, ours = both(name, arguments, axis=[0, 1, 2] if name != "NonNeg" else None)
        kernel = torch.randn(8, 4, 3, 3).permute(2, 3, 1, 0)
        assert torch.equal(bits(ours(kernel)), bits(theirs(kernel)))


# --- names and configurations ------------------------------------------------------------------------------------


@SETTING
def test_keras_and_we_read_each_others_configuration(name, arguments):
    theirs, ours = both(name, arguments, axis=[0, 1])
    assert ours.get_config() == theirs.get_config()
    assert type(ours).from_config(theirs.get_config()) == ours
    for read in (constraints.deserialize, constraints.get):
        assert read(keras.constraints.serialize(theirs)) == ours
    read_back = keras.constraints.deserialize(constraints.serialize(ours))
    assert type(read_back) is type(theirs)
    assert read_back.get_config() == theirs.get_config()


def test_defaults_and_argument_order_are_those_of_keras():
    assert vars(constraints.MaxNorm()) == vars(keras.constraints.MaxNorm())
    assert vars(constraints.UnitNorm()) == vars(keras.constraints.UnitNorm())
    assert vars(constraints.MinMaxNorm()) == vars(keras.constraints.MinMaxNorm())
    assert vars(constraints.MaxNorm(3, 1)) == vars(keras.constraints.MaxNorm(3, 1))
    arguments = 0.1, 0.2, 0.3, 1
    assert vars(constraints.MinMaxNorm(*arguments)) == vars(keras.constraints.MinMaxNorm(*arguments))
    assert keras.config.epsilon() == formulas.EPSILON


def test_the_names_are_those_of_keras():
    for name in ("max_norm", "non_neg", "unit_norm", "min_max_norm", "MaxNorm", "NonNeg", "UnitNorm", "MinMaxNorm"):
        theirs, ours = keras.constraints.get(name), constraints.get(name)
        assert type(ours).__name__ == type(theirs).__name__
        assert ours.get_config() == theirs.get_config()
        if name.islower():
            assert getattr(constraints, name).__name__ == getattr(keras.constraints, name).__name__
    public = {name for name in dir(keras.constraints) if not name.startswith("_")}
    assert public <= set(dir(constraints))


# --- trainings ---------------------------------------------------------------------------------------------------

UPDATES = 20
AXIS = pytest.mark.parametrize("axis", [0, 1, [0, 1]], ids=str)
MOMENTUM = pytest.mark.parametrize("momentum", [0.0, 0.9])


def keras_trajectory(constraint, start, gradients, momentum):
    with keras.device("cpu"):
        weight = keras.Variable(start)
        weight.constraint = constraint
        optimizer = keras.optimizers.SGD(learning_rate=0.1, momentum=momentum)
        optimizer.build([weight])
        found = []
        for gradient in gradients:
            optimizer.apply([torch.as_tensor(gradient)], [weight])
            found.append(weight.value.detach().numpy().copy())
    return np.array(found)


@MOMENTUM
@AXIS
@SETTING
def test_twenty_updates_are_those_of_real_keras(name, arguments, axis, momentum):
    generator = np.random.default_rng(3)
    start = generator.standard_normal((5, 3)).astype(np.float32)
    gradients = generator.standard_normal((UPDATES, 5, 3)).astype(np.float32)
    theirs, ours = both(name, arguments, axis)
    expected = keras_trajectory(theirs, start, gradients, momentum)

    # As a parameter of a module of one's own, whose axes are its own; and as the weight of a Linear, which has them
    # the other way round.
    own = nn.ParameterDict({"kernel": torch.from_numpy(start.copy())})
    layer = nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start.T))
    for module, weight, seen in ((own, own["kernel"], lambda w: w), (layer, layer.weight, lambda w: w.T)):
        optimizer = KerasSGD(module.parameters(), lr=0.1, momentum=momentum)
        constraints.constrain(optimizer, module, {"kernel|weight": ours})
        assert np.array_equal(seen(weight.detach()).numpy(), start)
        found = []
        for gradient in gradients:
            weight.grad = seen(torch.as_tensor(gradient)).clone()
            optimizer.step()
            found.append(seen(weight.detach()).numpy().copy())
        assert np.abs(np.array(found) - expected).max() <= ULPS
        if module is own:
            assert np.array_equal(np.array(found), expected)  # the same operations in the same order


def seen_by_keras(weight, layer):
    order = layouts.axes_in_order("keras", layer, weight)
    return weight if order is None else weight.permute(order)


LAYERS = {
    "Dense": (keras.layers.Dense(7), nn.Linear(5, 7), (None, 5)),
    "Conv1D": (keras.layers.Conv1D(7, 2), nn.Conv1d(5, 7, 2), (None, 9, 5)),
    "Conv2D": (keras.layers.Conv2D(7, (2, 3)), nn.Conv2d(5, 7, (2, 3)), (None, 9, 9, 5)),
    "Conv2D grouped": (keras.layers.Conv2D(8, (2, 3), groups=2), nn.Conv2d(4, 8, (2, 3), groups=2), (None, 9, 9, 4)),
    "Conv3D": (keras.layers.Conv3D(7, (2, 3, 4)), nn.Conv3d(5, 7, (2, 3, 4)), (None, 9, 9, 9, 5)),
    "Conv2DTranspose": (keras.layers.Conv2DTranspose(7, (2, 3)), nn.ConvTranspose2d(5, 7, (2, 3)), (None, 9, 9, 5)),
    "Embedding": (keras.layers.Embedding(11, 7), nn.Embedding(11, 7), (None, 4)),
    "LSTM": (keras.layers.LSTM(7), nn.LSTM(5, 7), (None, 4, 5)),
    "GRU": (keras.layers.GRU(7), nn.GRU(5, 7), (None, 4, 5)),
    "LSTMCell": (keras.layers.LSTM(7), nn.LSTMCell(5, 7), (None, 4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_torch_layer_is_constrained_in_the_keras_shape(name):
    theirs, ours, inputs = LAYERS[name]
    if not theirs.built:
        theirs.build(inputs)
    kernels = [one for one in theirs.trainable_variables if len(one.shape) > 1][:2]
    weights_of_torch = [one for one in ours.parameters() if one.dim() > 1]
    for kernel, weight in zip(kernels, weights_of_torch, strict=False):
        assert tuple(seen_by_keras(weight, ours).shape) == tuple(kernel.shape)


@MOMENTUM
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MaxNorm", {"max_value": 0.5}),
        ("UnitNorm", {}),
        ("NonNeg", {}),
        ("MinMaxNorm", {"min_value": 0.8, "rate": 0.5}),
    ],
)
def test_a_fit_of_dense_and_convolution_layers_is_that_of_keras(name, arguments, momentum):
    """A Keras script with kernel_constraint in both layers, at their usual axes, beside its port."""
    keras.utils.set_random_seed(1)
    spread, dense = both(name, arguments, axis=[0, 1, 2]), both(name, arguments)
    with keras.device("cpu"):
        script = keras.Sequential(
            [
                keras.layers.Input((6, 6, 2)),
                keras.layers.Conv2D(3, 3, activation="tanh", kernel_constraint=spread[0]),
                keras.layers.Flatten(),
                keras.layers.Dense(4, kernel_constraint=dense[0], bias_constraint=keras.constraints.NonNeg()),
            ]
        )
        script.compile(keras.optimizers.SGD(0.1, momentum=momentum), "mse")
        images = np.random.default_rng(0).standard_normal((40, 6, 6, 2)).astype(np.float32)
        targets = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)
        port = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
        kernels = [weight.value.detach() for weight in script.trainable_variables]
        with torch.no_grad():
            port[0].weight.copy_(kernels[0].permute(3, 2, 0, 1))
            port[0].bias.copy_(kernels[1])
            # Keras flattens (height, width, channels), torch (channels, height, width).
            port[3].weight.copy_(kernels[2].reshape(4, 4, 3, 4).permute(3, 2, 0, 1).reshape(4, 48))
            port[3].bias.copy_(kernels[3])
        script.fit(images, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)

    optimizer = KerasSGD(port.parameters(), lr=0.1, momentum=momentum)
    meant = {r"^0\.weight": spread[1], r"^3\.weight": dense[1], r"^3\.bias": "non_neg"}
    constraints.constrain(optimizer, port, meant)
    for _ in range(2):
        for at in range(0, 40, 4):
            batch = torch.from_numpy(images[at : at + 4]).permute(0, 3, 1, 2)
            optimizer.zero_grad()
            nn.functional.mse_loss(port(batch), torch.from_numpy(targets[at : at + 4])).backward()
            optimizer.step()
    theirs = [weight.value.detach() for weight in script.trainable_variables]
    assert torch.allclose(port[0].weight.permute(2, 3, 1, 0), theirs[0], rtol=0, atol=2e-6)
    assert torch.allclose(port[3].bias, theirs[3], rtol=0, atol=2e-6)
    restored = port[3].weight.reshape(4, 3, 4, 4).permute(2, 3, 1, 0).reshape(48, 4)
    assert torch.allclose(restored, theirs[2], rtol=0, atol=2e-6)
