"""Random data of any shape, for experiments without a data set."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lr_plugins import validation
from lr_plugins.training.data.base import InMemoryData
from lr_plugins.training.data.batches import Samples
from lr_plugins.training.data.splits import split


class Fake(InMemoryData):
    """Random samples with something to learn: each class is a fixed random pattern, blurred by noise.

    Args:
        num_samples: samples in all, validation included, >= 1. Default 256.
        input_shape: shape of one sample. Default (1, 8, 8).
        num_classes: number of classes, >= 1; all are equally frequent. Default 10.
        batch_size: training samples per batch, >= 1. Default 32.
        validation_fraction: share held out, stratified by class, >= 0 and < 1. Default 0.2.
        noise: standard deviation of the noise, > 0, where that of the patterns is 1. Default 1.
        shuffle: whether the training set is reordered every epoch. Default True.
        seed: of the samples, the split and the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgumentError: an argument is out of its range.

    Example:
        >>> data = Fake(num_samples=10, input_shape=(4,), num_classes=2)
        >>> data.setup()
        >>> data.num_train, data.num_val
        (8, 2)
    """

    def __init__(
        self,
        num_samples: int = 256,
        input_shape: Iterable[int] = (1, 8, 8),
        num_classes: int = 10,
        batch_size: int = 32,
        validation_fraction: float = 0.2,
        noise: float = 1.0,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.num_samples = validation.integer("Fake.num_samples", num_samples, 1)
        self.input_shape = validation.integers("Fake.input_shape", input_shape)
        self.num_classes = validation.integer("Fake.num_classes", num_classes, 1)
        self.validation_fraction = validation.fraction("Fake.validation_fraction", validation_fraction)
        self.noise = validation.number("Fake.noise", noise, "a finite number > 0", above=0.0)

    def _load(self) -> tuple[Samples, Samples | None]:
        random = torch.Generator().manual_seed(self.seed)
        patterns = torch.randn(self.num_classes, *self.input_shape, generator=random)
        y = torch.arange(self.num_samples) % self.num_classes
        noise = torch.randn(self.num_samples, *self.input_shape, generator=random)
        return split(patterns[y] + self.noise * noise, y, self.validation_fraction, self.seed)
