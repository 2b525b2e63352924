"""The data sets bundled with scikit-learn."""

from __future__ import annotations

import functools

import torch

from lr_plugins import validation
from lr_plugins.errors import require
from lr_plugins.training.data.base import InMemoryData
from lr_plugins.training.data.batches import Samples
from lr_plugins.training.data.splits import split


class Iris(InMemoryData):
    """Iris as scikit-learn bundles it: 150 flowers, 4 lengths in cm, 3 classes; no download.

    Args:
        batch_size: training samples per batch, >= 1. Default 5.
        validation_fraction: share held out, stratified by class, >= 0 and < 1. Default 0.2 (120 train, 30
            validate); 0 trains on all 150 samples and validates on none.
        standardize: whether each feature is shifted and scaled to mean 0 and standard deviation 1 over the
            training set. Default True; False gives raw centimetres.
        shuffle: whether the training set is reordered every epoch. Default True. The samples are sorted by
            class, so training in order hardly works.
        seed: of the split and of the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgumentError: an argument is out of its range.

    Example:
        >>> data = Iris(validation_fraction=0)
        >>> data.setup()
        >>> data.input_shape, data.num_classes, data.num_train, data.num_val
        ((4,), 3, 150, 0)
    """

    input_shape = (4,)
    num_classes = 3

    def __init__(
        self,
        batch_size: int = 5,
        validation_fraction: float = 0.2,
        standardize: bool = True,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.validation_fraction = validation.fraction("Iris.validation_fraction", validation_fraction)
        self.standardize = validation.flag("Iris.standardize", standardize)

    def _load(self) -> tuple[Samples, Samples | None]:
        require("sklearn", "train", "Iris")
        from sklearn.datasets import load_iris

        features, targets = load_iris(return_X_y=True)
        x, y = torch.from_numpy(features), torch.from_numpy(targets).long()
        train, validation = split(x, y, self.validation_fraction, self.seed)
        mean, scale = torch.zeros(4), torch.ones(4)
        if self.standardize:
            mean, scale = train[0].mean(dim=0), train[0].std(dim=0, correction=0)
            scale[scale == 0] = 1  # a tiny training set can have a constant feature

        def scaled(samples: Samples) -> Samples:
            return ((samples[0] - mean) / scale).float(), samples[1]

        return scaled(train), None if validation is None else scaled(validation)


class Digits(InMemoryData):
    """Handwritten digits as scikit-learn bundles them: 1797 grey images of 8x8 in [0, 1]; no download.

    Args:
        batch_size: training samples per batch, >= 1. Default 32.
        validation_fraction: share held out, stratified by class, >= 0 and < 1. Default 0.2 (1437 train, 360
            validate); 0 holds out nothing.
        shuffle: whether the training set is reordered every epoch. Default True.
        seed: of the split and of the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgumentError: an argument is out of its range.

    Example:
        >>> data = Digits()
        >>> data.setup()
        >>> data.input_shape, data.num_classes, data.num_train, data.num_val
        ((1, 8, 8), 10, 1437, 360)
    """

    input_shape = (1, 8, 8)
    num_classes = 10

    def __init__(
        self, batch_size: int = 32, validation_fraction: float = 0.2, shuffle: bool = True, seed: int = 0
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.validation_fraction = validation.fraction("Digits.validation_fraction", validation_fraction)

    def _load(self) -> tuple[Samples, Samples | None]:
        require("sklearn", "train", "Digits")
        x, y = _digits()
        return split(x.clone(), y.clone(), self.validation_fraction, self.seed)


@functools.cache  # scikit-learn reads them from text, which the runs of a sweep need only once
def _digits() -> Samples:
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).float().div_(16).reshape(-1, 1, 8, 8), torch.from_numpy(targets).long()
