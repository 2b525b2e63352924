"""Data modules for classification, held in memory and cut into batches by index.

All of them keep one contract: `input_shape` and `num_classes` are known right after construction, `num_train`
and `num_val` after `setup()`; batches are (float32 inputs, int64 targets).
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from lr_plugins.checkpoint_state import StateFormat, count
from lr_plugins.errors import LearningRateError, require
from lr_plugins.training import _arguments as arguments
from lr_plugins.training import sizes

Batch = tuple[Tensor, Tensor]
Samples = tuple[Tensor, Tensor]

DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte; torchvision sets none and would wait for minutes
EVALUATION_BATCH = 256


class Batches:
    """Batches cut from tensors by index, reshuffled every epoch: a data loader without per-sample work.

    The order of an epoch depends on (`seed`, epoch) and nothing else, so that a run continued from a checkpoint
    gets the batches that the interrupted one would have got, from the very batch on where it stopped. Lightning
    sets the epoch and saves the place; without Lightning each iteration is the next epoch.

    Lightning shares out only what DataLoaders load, so each of several processes takes its own part of the order here.

    Args:
        x: inputs (samples, ...), float32, or uint8 that becomes float32 in [0, 1] batch by batch.
        y: int64 targets (samples,).
        batch_size: samples per batch, >= 1; the last batch may be smaller.
        shuffle: whether to reorder. Default False.
        seed: of the order, from 0 to 2**32 - 1. Default 0.
        process: the rank of the process that this is for, and how many there are. Default (0, 1).
        even: whether all processes get the same number of samples, for which a few have to come twice in an epoch.
            Without it they differ by one at most. Default False.

    Example:
        >>> batches = Batches(torch.arange(3.0), torch.arange(3), batch_size=2)
        >>> [y.tolist() for x, y in batches]
        [[0, 1], [2]]
    """

    state_format = StateFormat("Batches", {"epoch": count, "batch": count})
    batch_sampler = None  # Lightning asks every loader that has a `sampler` for this, too

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        process: tuple[int, int] = (0, 1),
        even: bool = False,
    ) -> None:
        self.x, self.y = x, y
        self._process, self._even = process, even
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self._next = (0, 0)  # epoch and batch that the next iteration starts with
        self._reached = (0, 0)  # epoch and number of batches handed out in it

    def __len__(self) -> int:
        return sizes.batches(self.num_samples, self.batch_size)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, in this process."""
        rank, processes = self._process
        return sizes.of_process(len(self.y), rank, processes, self._even)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._next
        self._next = (epoch + 1, 0)
        pieces = torch.split(self._part(self._order(epoch)), self.batch_size)
        for index in range(first, len(pieces)):
            self._reached = (epoch, index + 1)
            x = self.x[pieces[index]]
            yield x if x.dtype != torch.uint8 else x.float().div_(255), self.y[pieces[index]]

    def _part(self, order: Tensor) -> Tensor:
        rank, processes = self._process
        if self._even:
            order = torch.cat([order, order[: -len(order) % processes]])
        return order[rank::processes]

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.y))
        # SeedSequence mixes the two numbers: seed 1 at epoch 0 has nothing in common with seed 0 at epoch 1.
        mixed = np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]
        return torch.randperm(len(self.y), generator=torch.Generator().manual_seed(int(mixed)))

    @property
    def sampler(self) -> Batches | SequentialSampler:
        """What Lightning looks at: whose `set_epoch` to call, and whether the order is the natural one."""
        return self if self.shuffle else SequentialSampler(range(len(self.y)))

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch` (an index from 0)."""
        if epoch != self._next[0]:
            self._next = (epoch, 0)

    def state_dict(self) -> dict[str, int]:
        """The place reached, as plain numbers."""
        epoch, done = self._reached
        return self.state_format.stamped({"epoch": epoch, "batch": done})

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration start at the place of `state_dict`."""
        found = self.state_format.read(state)
        self._reached = (found["epoch"], found["batch"])
        ended = found["batch"] >= len(self)
        self._next = (found["epoch"] + 1, 0) if ended else self._reached


class InMemoryData(pl.LightningDataModule):
    """What the data modules here share; a subclass sets `input_shape`, `num_classes` and writes `_load`.

    Args:
        batch_size: training samples per batch, >= 1. Validation uses larger batches where that is faster.
        shuffle: whether the training set is reordered every epoch.
        seed: of the order and of a random split, from 0 to 2**32 - 1.
    """

    input_shape: tuple[int, ...]
    num_classes: int

    def __init__(self, batch_size: int, shuffle: bool, seed: int) -> None:
        super().__init__()
        self.batch_size = arguments.integer(self._field("batch_size"), batch_size, 1)
        self.shuffle = arguments.flag(self._field("shuffle"), shuffle)
        self.seed = arguments.seed(self._field("seed"), seed)
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
        """A short text that tells these samples, and their division, apart from others."""
        found = hashlib.blake2b(digest_size=8)
        for samples in self._sets():
            for tensor in samples or ():
                found.update(tensor.numpy().tobytes())
        return found.hexdigest()

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
        """The training set, reshuffled every epoch unless `shuffle` is off or the Trainer overfits on purpose."""
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


def stratified_split(targets: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a training and a validation set that have the classes in the same proportions.

    The validation set gets ceil(fraction * samples), at most all but one; each class gives its share rounded
    down or up (the largest remainders up).

    Args:
        targets: int64 tensor (samples,) of classes.
        fraction: share for validation, >= 0 and < 1.
        seed: of the choice within each class.

    Returns:
        Two ascending index tensors, disjoint, together all samples.

    Example:
        >>> train, val = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), 0.5, seed=0)
        >>> len(train), torch.tensor([0, 0, 0, 0, 1, 1])[val].tolist()
        (3, [0, 0, 1])
    """
    labels = targets.numpy()
    wanted = sizes.held_out(len(labels), fraction)
    _, membership, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shares, remainders = np.divmod(counts * wanted, len(labels))
    by_remainder = np.argsort(-remainders, kind="stable")
    shares[by_remainder[: wanted - shares.sum()]] += 1
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(membership == label)
        chosen[random.permutation(members)[:share]] = True
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def _split(x: Tensor, y: Tensor, fraction: float, seed: int) -> tuple[Samples, Samples | None]:
    if fraction == 0:
        return (x, y), None
    train, validation = stratified_split(y, fraction, seed)
    return (x[train], y[train]), (x[validation], y[validation])


class Iris(InMemoryData):
    """Iris as scikit-learn bundles it: 150 flowers, 4 lengths in cm, 3 classes; no download.

    Args:
        batch_size: training samples per batch, >= 1. Default 5.
        validation_fraction: share held out, stratified by class, >= 0 and < 1. Default 0.2 (120 train, 30
            validate); 0 trains on all 150 samples and validates on none.
        standardize: whether each feature is shifted and scaled to mean 0 and standard deviation 1 over the
            training set. Default True; False gives raw centimetres.
        shuffle: whether the training set is reordered every epoch. Default True. The samples lie sorted by
            class, so that training in order hardly works.
        seed: of the split and of the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgument: an argument is out of its range.

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
        self.validation_fraction = arguments.fraction("Iris.validation_fraction", validation_fraction)
        self.standardize = arguments.flag("Iris.standardize", standardize)

    def _load(self) -> tuple[Samples, Samples | None]:
        require("sklearn", "train", "Iris")
        from sklearn.datasets import load_iris

        features, targets = load_iris(return_X_y=True)
        x, y = torch.from_numpy(features), torch.from_numpy(targets).long()
        train, validation = _split(x, y, self.validation_fraction, self.seed)
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
        InvalidArgument: an argument is out of its range.

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
        self.validation_fraction = arguments.fraction("Digits.validation_fraction", validation_fraction)

    def _load(self) -> tuple[Samples, Samples | None]:
        require("sklearn", "train", "Digits")
        from sklearn.datasets import load_digits

        pixels, targets = load_digits(return_X_y=True)
        x = torch.from_numpy(pixels).float().div_(16).reshape(-1, 1, 8, 8)
        return _split(x, torch.from_numpy(targets).long(), self.validation_fraction, self.seed)


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
        InvalidArgument: an argument is out of its range.

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
        self.num_samples = arguments.integer("Fake.num_samples", num_samples, 1)
        self.input_shape = arguments.integers("Fake.input_shape", input_shape)
        self.num_classes = arguments.integer("Fake.num_classes", num_classes, 1)
        self.validation_fraction = arguments.fraction("Fake.validation_fraction", validation_fraction)
        self.noise = arguments.positive("Fake.noise", noise)

    def _load(self) -> tuple[Samples, Samples | None]:
        random = torch.Generator().manual_seed(self.seed)
        patterns = torch.randn(self.num_classes, *self.input_shape, generator=random)
        y = torch.arange(self.num_samples) % self.num_classes
        noise = torch.randn(self.num_samples, *self.input_shape, generator=random)
        return _split(patterns[y] + self.noise * noise, y, self.validation_fraction, self.seed)


class TorchvisionData(InMemoryData):
    """A data set of torchvision, its training split to train and its test split to validate.

    A subclass names the files that torchvision reads (`files`, in `folder` under `data_dir`) and the archives
    it fetches them from. The pixels stay uint8 in memory and become float32 in [0, 1] batch by batch.
    """

    folder: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        data_dir: str | os.PathLike[str] = "data",
        batch_size: int = 128,
        download: bool = True,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.data_dir = arguments.folder(self._field("data_dir"), data_dir)
        self.download = arguments.flag(self._field("download"), download)

    @classmethod
    def _dataset_class(cls) -> Any:
        require("torchvision", "train", cls.__name__)
        from torchvision import datasets

        return getattr(datasets, cls.__name__)

    def _archives(self) -> list[tuple[Path, str]]:
        """Path and MD5 of each archive that torchvision downloads."""
        raise NotImplementedError

    def _damaged(self) -> list[Path]:
        """Files that are there but cut short, where torchvision itself would not notice."""
        return []

    def prepare_data(self) -> None:
        """Download what is missing, unless `download` is off."""
        if not self.download:
            return
        for path in self._damaged():
            path.unlink()  # an extraction was interrupted: torchvision would take the file for whole
        before = {path: _stamp(path) for path, _ in self._archives()}
        try:
            with _network_timeout(DOWNLOAD_TIMEOUT):
                self._dataset_class()(self.data_dir, train=False, download=True)
        except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
            raise self._unavailable(f"could not be downloaded ({_reason(error)})") from error
        finally:
            self._remove_half_downloads(before)

    def _remove_half_downloads(self, before: dict[Path, tuple[int, int] | None]) -> None:
        from torchvision.datasets.utils import check_integrity

        for path, md5 in self._archives():
            if _stamp(path) not in (before[path], None) and not check_integrity(path, md5):
                path.unlink()

    def _load(self) -> tuple[Samples, Samples | None]:
        if damaged := self._damaged():
            raise self._unavailable(f"cannot be read: {damaged[0].name} is cut short")
        try:
            return self._samples(train=True), self._samples(train=False)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise self._unavailable(f"cannot be read ({_reason(error)})") from error

    def _samples(self, train: bool) -> Samples:
        dataset = self._dataset_class()(self.data_dir, train=train, download=False)
        return self._images(dataset.data), torch.as_tensor(dataset.targets).long()

    def _images(self, pixels: Any) -> Tensor:
        """The images of a torchvision data set as uint8 (samples, channels, height, width)."""
        raise NotImplementedError

    def _unavailable(self, what: str) -> LearningRateError:
        name, folder = type(self).__name__, self.data_dir / self.folder
        network = "" if self.download else "allow the download (download=true), "
        archive = os.path.relpath(self._archives()[0][0], folder)
        return LearningRateError(
            f"{name} {what}. Looked in {folder.absolute()} for {', '.join(self.files)}. "
            f"What to do: {network}copy these files there (or, with download=true, archives "
            f"such as {archive}), or train without a download with data=digits."
        )


class MNIST(TorchvisionData):
    """MNIST: handwritten digits, 60000 to train and 10000 to validate, grey images of 28x28 in [0, 1].

    Args:
        data_dir: folder for the files, which lie in `MNIST/raw` below it. Default "data".
        batch_size: training samples per batch, >= 1. Default 128.
        download: whether missing files are downloaded (12 MB) by `prepare_data`. Default True.
        shuffle: whether the training set is reordered every epoch. Default True.
        seed: of the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgument: an argument is out of its range.
        LearningRateError: by `prepare_data` and `setup`, when the files are not there and cannot be fetched.

    Example:
        >>> data = MNIST()
        >>> data.input_shape, data.num_classes
        ((1, 28, 28), 10)
    """

    input_shape = (1, 28, 28)
    num_classes = 10
    folder = "MNIST/raw"
    files = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )

    def _archives(self) -> list[tuple[Path, str]]:
        raw = self.data_dir / self.folder
        return [(raw / name, md5) for name, md5 in self._dataset_class().resources]

    def _damaged(self) -> list[Path]:
        raw = self.data_dir / self.folder
        return [raw / name for name in self.files if (raw / name).is_file() and not _idx_is_whole(raw / name)]

    def _images(self, pixels: Any) -> Tensor:
        images: Tensor = pixels.unsqueeze(1)
        return images


class FashionMNIST(MNIST):
    """Fashion-MNIST: articles of clothing, 60000 to train and 10000 to validate, grey 28x28 in [0, 1].

    Args:
        data_dir: folder for the files, which lie in `FashionMNIST/raw` below it. Default "data".
        batch_size: training samples per batch, >= 1. Default 128.
        download: whether missing files are downloaded (31 MB) by `prepare_data`. Default True.
        shuffle: whether the training set is reordered every epoch. Default True.
        seed: of the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgument: an argument is out of its range.
        LearningRateError: by `prepare_data` and `setup`, when the files are not there and cannot be fetched.

    Example:
        >>> data = FashionMNIST()
        >>> data.input_shape, data.num_classes
        ((1, 28, 28), 10)
    """

    folder = "FashionMNIST/raw"


class CIFAR10(TorchvisionData):
    """CIFAR-10: photographs of ten things, 50000 to train and 10000 to validate, 3x32x32 in [0, 1].

    Args:
        data_dir: folder for the files, which lie in `cifar-10-batches-py` below it. Default "data".
        batch_size: training samples per batch, >= 1. Default 128.
        download: whether missing files are downloaded (170 MB) by `prepare_data`. Default True.
        shuffle: whether the training set is reordered every epoch. Default True.
        seed: of the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgument: an argument is out of its range.
        LearningRateError: by `prepare_data` and `setup`, when the files are not there and cannot be fetched.

    Example:
        >>> data = CIFAR10()
        >>> data.input_shape, data.num_classes
        ((3, 32, 32), 10)
    """

    input_shape = (3, 32, 32)
    num_classes = 10
    folder = "cifar-10-batches-py"
    files = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")

    def _archives(self) -> list[tuple[Path, str]]:
        dataset = self._dataset_class()
        return [(self.data_dir / dataset.filename, dataset.tgz_md5)]

    def _images(self, pixels: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _idx_is_whole(path: Path) -> bool:
    """Whether an idx file of bytes is as long as its header says."""
    with path.open("rb") as file:
        magic = file.read(4)
        if len(magic) < 4:
            return False
        sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        return False
    samples = math.prod(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    return path.stat().st_size >= 4 + len(sizes) + samples


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written to; None without a file."""
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None


def _reason(error: BaseException) -> str:
    # torchvision lists its mirrors on lines of their own; the last line is the reason.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
