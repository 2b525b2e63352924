"""Reference networks, built from `input_shape` and `num_classes` of the data; they return logits."""

from __future__ import annotations

import difflib
import math
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from lr_plugins import validation
from lr_plugins.errors import InvalidArgumentError, LearningRateError, require, shown

Initializer = Literal["torch", "keras"]
"""Whose default initialization the weights get."""


def initialize(net: nn.Module, initializer: Initializer, field: str = "initializer") -> None:
    """Initialize the dense and convolutional layers of `net` the way a library does by default.

    Args:
        net: the network, changed in place.
        initializer: "torch" leaves the layers as torch made them; "keras" draws kernels from
            U(-limit, limit) with limit = sqrt(6 / (fan_in + fan_out)) (glorot_uniform) and zeroes the biases.
        field: the setting's name in an error message.

    Raises:
        InvalidArgumentError: `initializer` is neither.

    Example:
        >>> net = nn.Linear(4, 3)
        >>> initialize(net, "keras")
        >>> net.bias.tolist()
        [0.0, 0.0, 0.0]
    """
    if validation.choice(field, initializer, get_args(Initializer)) == "torch":
        return
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)  # torch counts the fans of a convolution as Keras does
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MLP(nn.Sequential):
    """Dense layers with ReLU between them, the input flattened.

    Args:
        input_shape: shape of one sample, e.g. `(4,)` or `(1, 28, 28)`.
        num_classes: number of logits, >= 1.
        hidden: widths of the hidden layers, each >= 1. Default (4, 6), the net of the Iris recipes.
        initializer: "torch" (default) or "keras", see `initialize`.

    Raises:
        InvalidArgumentError: an argument is out of its range.

    Example:
        >>> import torch
        >>> net = MLP((4,), 3)
        >>> net(torch.zeros(2, 4)).shape, sum(p.numel() for p in net.parameters())
        (torch.Size([2, 3]), 71)
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        hidden: tuple[int, ...] = (4, 6),
        initializer: Initializer = "torch",
    ) -> None:
        shape = validation.integers("MLP.input_shape", input_shape)
        outputs = validation.integer("MLP.num_classes", num_classes, 1)
        widths = (math.prod(shape), *validation.integers("MLP.hidden", hidden))
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, width in pairwise(widths):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(widths[-1], outputs))
        initialize(self, initializer, "MLP.initializer")


class CNN(nn.Sequential):
    """The convolutional network of the Keras MNIST tutorials.

    Conv 32 3x3 ReLU, Conv 64 3x3 ReLU, MaxPool 2, Dropout, Flatten, Dense 128 ReLU, Dropout, Dense. Both
    convolutions are unpadded.

    Args:
        input_shape: shape of one image, (channels, height, width), height and width >= 6.
        num_classes: number of logits, >= 1.
        initializer: "torch" (default) or "keras", see `initialize`.
        dropout: fraction of values zeroed during training, after the pooling and before the last layer, each >= 0
            and < 1. Default (0.25, 0.5).

    Raises:
        InvalidArgumentError: an argument is out of its range.

    Example:
        >>> import torch
        >>> CNN((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        initializer: Initializer = "torch",
        dropout: tuple[float, float] = (0.25, 0.5),
    ) -> None:
        channels, height, width = _image_shape("CNN.input_shape", input_shape, smallest=6)
        outputs = validation.integer("CNN.num_classes", num_classes, 1)
        after_pooling, before_output = _pair_of_shares("CNN.dropout", dropout)
        features = 64 * ((height - 4) // 2) * ((width - 4) // 2)
        super().__init__(
            nn.Conv2d(channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(after_pooling),
            nn.Flatten(),
            nn.Linear(features, 128),
            nn.ReLU(),
            nn.Dropout(before_output),
            nn.Linear(128, outputs),
        )
        initialize(self, initializer, "CNN.initializer")


class TorchvisionModel(nn.Module):
    """Any classification model of torchvision by name, untrained.

    Grey images are repeated to three channels. Models with auxiliary outputs (googlenet, inception_v3) give
    their main logits only.

    Args:
        input_shape: shape of one image, (1 or 3 channels, height, width).
        num_classes: number of logits, >= 1.
        name: as in `torchvision.models.list_models(module=torchvision.models)`. Default "resnet18".
        image_size: side in pixels to which images are resized bilinearly; None (default) leaves them. Most
            models were made for 224, and some refuse images much smaller.
        **kwargs: passed to the model's own constructor, e.g. `dropout=0.1`.

    Raises:
        InvalidArgumentError: an argument is out of its range, or the name is unknown.
        LearningRateError: the model does not accept `kwargs`.

    Example:
        >>> import torch
        >>> net = TorchvisionModel((1, 28, 28), 10, name="squeezenet1_1", image_size=64)
        >>> net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        name: str = "resnet18",
        image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        shape = _image_shape("TorchvisionModel.input_shape", input_shape, smallest=1)
        if shape[0] not in (1, 3):
            raise InvalidArgumentError("TorchvisionModel.input_shape", shape, "an image of 1 or 3 channels")
        outputs = validation.integer("TorchvisionModel.num_classes", num_classes, 1)
        self.image_size: int | None = None
        if image_size is not None:
            self.image_size = validation.integer("TorchvisionModel.image_size", image_size, 1)
        _check_name(name)
        self.model = _build(name, outputs, self.image_size or shape[1], kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (samples, classes) of images (samples, channels, height, width)."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.image_size is not None:
            size = (self.image_size, self.image_size)
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        output = self.model(x)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits


def _check_name(name: object) -> None:
    require("torchvision", "train", "TorchvisionModel")
    from torchvision import models

    known = models.list_models(module=models)
    if name in known:
        return
    close = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    listing = "All of them: python -c 'from torchvision import models; print(models.list_models(models))'."
    nearest = f"Did you mean {' or '.join(close)}? " if close else ""
    allowed = "the name of a torchvision classification model"
    raise InvalidArgumentError("TorchvisionModel.name", name, allowed, nearest + listing)


def _build(name: str, num_classes: int, image_size: int, kwargs: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name.startswith("vit_"):
        kwargs = {"image_size": image_size, **kwargs}  # its position embeddings depend on the size
    if name in ("googlenet", "inception_v3"):
        kwargs = {"init_weights": True, **kwargs}  # torchvision's default; it warns unless it is given
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise LearningRateError(f"{name} does not accept the arguments {shown(kwargs)}: {error}") from error
    return model


def _image_shape(field: str, value: object, smallest: int) -> tuple[int, int, int]:
    shape = validation.integers(field, value)
    if len(shape) != 3 or min(shape[1:]) < smallest:
        allowed = f"(channels, height, width) with height and width >= {smallest}"
        raise InvalidArgumentError(field, shape, allowed, "Use an MLP for other data.")
    return shape[0], shape[1], shape[2]


def _pair_of_shares(field: str, value: Any) -> tuple[float, float]:
    try:
        first, second = value
    except (TypeError, ValueError):
        raise InvalidArgumentError(field, value, "two numbers >= 0 and < 1") from None
    return validation.fraction(field, first), validation.fraction(field, second)
