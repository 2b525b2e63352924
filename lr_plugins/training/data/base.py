"""The base of the data modules: samples in memory, batches by index.

They share one contract: `input_shape` and `num_classes` are known after construction, `num_train` and `num_val`
after `setup()`; batches are (float32 inputs, int64 targets).
"""

from __future__ import annotations

import hashlib

import pytorch_lightning as pl

from lr_plugins import validation
from lr_plugins.errors import LearningRateError
from lr_plugins.training.data.batches import Batches, Samples

EVALUATION_BATCH = 256


class InMemoryData(pl.LightningDataModule):
    """Base of the data modules; a subclass sets `input_shape` and `num_classes` and implements `_load`.

    Args:
        batch_size: training samples per batch, >= 1. Validation uses larger batches where that is faster.
        shuffle: whether the training set is reordered every epoch.
        seed: of the order and of a random split, from 0 to 2**32 - 1.
    """

    input_shape: tuple[int, ...]
    num_classes: int

    def __init__(self, batch_size: int, shuffle: bool, seed: int) -> None:
        super().__init__()
        self.batch_size = validation.integer(self._field("batch_size"), batch_size, 1)
        self.shuffle = validation.flag(self._field("shuffle"), shuffle)
        self.seed = validation.seed(self._field("seed"), seed)
        self._loaded: tuple[Samples, Samples | None] | None = None

    def _field(self, argument: str) -> str:
        return f"{type(self).__name__}.{argument}"

    def _load(self) -> tuple[Samples, Samples | None]:
        """The training set, and the validation set if there is one."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read the data into memory, once."""
        if self._loaded is None:
            self._loaded = self._load()

    def _sets(self) -> tuple[Samples, Samples | None]:
        if self._loaded is None:
            name = type(self).__name__
            raise LearningRateError(f"{name} holds no samples yet: call {name}.setup() first.")
        return self._loaded

    @property
    def digest(self) -> str:
        """A short string that identifies these samples and their split."""
        digest = hashlib.blake2b(digest_size=8)
        for samples in self._sets():
            for tensor in samples or ():
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self._sets()[0][1])

    @property
    def num_val(self) -> int:
        """Number of validation samples; 0 without a validation set."""
        validation = self._sets()[1]
        return 0 if validation is None else len(validation[1])

    def train_dataloader(self) -> Batches:
        """The training set, reshuffled every epoch unless `shuffle` is off or `overfit_batches` is set."""
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        shuffle = self.shuffle and not overfit
        x, y = self._sets()[0]
        return Batches(x, y, self.batch_size, shuffle=shuffle, seed=self.seed, process=self._process, even=True)

    def val_dataloader(self) -> Batches | list[Batches]:
        """The validation set in order; an empty list without one."""
        validation = self._sets()[1]
        return [] if validation is None else self._in_order(validation, self._process)

    def evaluation_dataloader(self) -> Batches:
        """The training set in order and in large batches, e.g. to measure the loss on all of it in each process."""
        return self._in_order(self._sets()[0])

    def _in_order(self, samples: Samples, process: tuple[int, int] = (0, 1)) -> Batches:
        return Batches(*samples, max(self.batch_size, EVALUATION_BATCH), process=process)

    @property
    def _process(self) -> tuple[int, int]:
        """The rank of this process and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
