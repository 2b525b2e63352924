"""The reference networks: shapes, initial weights as in Keras, errors."""

import math
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import pytest
import torch
from torch import nn

from lr_plugins.errors import InvalidArgumentError, LearningRateError
from lr_plugins.training.models import CNN, MLP, TorchvisionModel

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 6, 7)]


def learned(net):
    return [layer for layer in net.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [MLP, CNN])
def test_logits_for_every_input_shape(kind, shape):
    net = kind(shape, 7)
    logits = net(torch.rand(3, *shape))
    assert logits.shape == (3, 7)
    assert not torch.allclose(logits.sum(1), torch.ones(3)), "logits, not probabilities"


def test_mlp_is_the_net_of_the_iris_script():
    assert [tuple(layer.weight.shape) for layer in learned(MLP((4,), 3))] == [(4, 4), (6, 4), (3, 6)]
    assert [tuple(layer.weight.shape) for layer in learned(MLP((1, 2, 2), 3, hidden=[5]))] == [(5, 4), (3, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_cnn_is_the_net_of_the_keras_tutorials(shape):
    channels, height, width = shape
    tutorial = keras.Sequential(
        [
            keras.Input((height, width, channels)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Dropout(0.25),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ]
    )
    assert sum(p.numel() for p in CNN(shape, 10).parameters()) == tutorial.count_params()
    assert [layer.p for layer in CNN(shape, 10).modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.5]


@pytest.mark.parametrize("net", [MLP((64,), 10, hidden=(100, 50), initializer="keras"), CNN((3, 8, 8), 10, "keras")])
def test_keras_initializer_draws_from_keras_distribution(net):
    for layer in learned(net):
        weight = layer.weight.detach()
        kernel_shape = tuple(weight.permute(2, 3, 1, 0).shape if weight.ndim == 4 else weight.T.shape)
        drawn = torch.cat(
            [keras.initializers.GlorotUniform(seed)(kernel_shape).detach().cpu().flatten() for seed in range(20)]
        )
        count = weight.numel()
        limit = math.sqrt(3) * drawn.std().item()
        assert weight.abs().max().item() <= limit * 1.02
        assert weight.abs().max().item() >= limit * (1 - 12 / count)
        assert weight.std().item() == pytest.approx(drawn.std().item(), rel=4 / math.sqrt(count))
        assert abs(weight.mean().item()) < 5 * limit / math.sqrt(3 * count)
        assert not layer.bias.any()


def test_torch_initializer_leaves_the_weights_that_torch_drew():
    torch.manual_seed(0)
    expected = [nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 3)]
    torch.manual_seed(0)
    for layer, reference in zip(learned(MLP((4,), 3)), expected, strict=True):
        assert torch.equal(layer.weight, reference.weight)
        assert torch.equal(layer.bias, reference.bias)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_torchvision_model(shape):
    net = TorchvisionModel(shape, 10)
    assert net(torch.rand(2, *shape)).shape == (2, 10)
    assert net.model.fc.out_features == 10


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_outputs_are_left_out(name):
    with torch.device("meta"):
        net = TorchvisionModel((1, 28, 28), 10, name=name, image_size=299).train()
        assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_grey_is_repeated_and_resized_bilinearly():
    net = TorchvisionModel((1, 8, 8), 10, name="squeezenet1_1", image_size=40)
    seen = []
    net.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 1, 8, 8)
    net(x)
    expected = nn.functional.interpolate(x, (40, 40), mode="bilinear", align_corners=False)
    assert torch.allclose(seen[0], expected.repeat(1, 3, 1, 1))


def test_models_with_learnt_positions_use_the_image_size():
    with torch.device("meta"):
        assert TorchvisionModel((3, 32, 32), 10, name="vit_b_16")(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("make", "field", "words"),
    [
        (lambda: MLP((), 3), "MLP.input_shape", ""),
        (lambda: MLP((4,), 0), "MLP.num_classes", ""),
        (lambda: MLP((4,), 3, hidden=(4, 0)), "MLP.hidden", ""),
        (lambda: MLP((4,), 3, initializer="glorot"), "MLP.initializer", "one of torch, keras"),
        (lambda: CNN((4,), 3), "CNN.input_shape", "MLP"),
        (lambda: CNN((1, 5, 8), 3), "CNN.input_shape", ">= 6"),
        (lambda: CNN((1, 8, 8), 3, initializer=None), "CNN.initializer", "one of torch, keras"),
        (lambda: CNN((1, 8, 8), 3, dropout=0.5), "CNN.dropout", "two numbers"),
        (lambda: CNN((1, 8, 8), 3, dropout=(0.5, 1)), "CNN.dropout", "< 1"),
        (lambda: TorchvisionModel((2, 8, 8), 3), "TorchvisionModel.input_shape", "1 or 3 channels"),
        (lambda: TorchvisionModel((1, 8, 8), 3, image_size=0), "TorchvisionModel.image_size", ""),
        (lambda: TorchvisionModel((1, 8, 8), 3, name="resnet19"), "TorchvisionModel.name", "resnet18"),
        (lambda: TorchvisionModel((1, 8, 8), 3, name="zzz"), "TorchvisionModel.name", "list_models"),
        (lambda: TorchvisionModel((1, 8, 8), 3, name="deeplabv3_resnet50"), "TorchvisionModel.name", "list_models"),
    ],
)
def test_bad_arguments(make, field, words):
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert caught.value.field == field
    assert words in str(caught.value)


def test_arguments_that_a_model_does_not_accept():
    with pytest.raises(LearningRateError, match=r"resnet18 does not accept the arguments .*'colour': 'red'.*colour"):
        TorchvisionModel((1, 8, 8), 3, colour="red")
