"""Data sets that torchvision downloads and reads."""

from __future__ import annotations

import http.client
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lr_plugins import validation
from lr_plugins.errors import LearningRateError, require
from lr_plugins.training.data.base import InMemoryData
from lr_plugins.training.data.batches import Samples

DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte; torchvision sets no timeout and would wait for minutes


class TorchvisionData(InMemoryData):
    """A data set of torchvision: trains on its training split and validates on its test split.

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
        self.data_dir = validation.folder(self._field("data_dir"), data_dir)
        self.download = validation.flag(self._field("download"), download)

    @classmethod
    def _dataset_class(cls) -> Any:
        require("torchvision", "train", cls.__name__)
        from torchvision import datasets

        return getattr(datasets, cls.__name__)

    def _archives(self) -> list[tuple[Path, str]]:
        """Path and MD5 of each archive that torchvision downloads."""
        raise NotImplementedError

    def _damaged(self) -> list[Path]:
        """Truncated files that torchvision would not notice."""
        return []

    def prepare_data(self) -> None:
        """Download what is missing, unless `download` is off."""
        if not self.download:
            return
        for path in self._damaged():
            path.unlink()  # an interrupted extraction, which torchvision would take for complete
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
            raise self._unavailable(f"cannot be read: {damaged[0].name} is truncated")
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
        InvalidArgumentError: an argument is out of its range.
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
        InvalidArgumentError: an argument is out of its range.
        LearningRateError: by `prepare_data` and `setup`, when the files are not there and cannot be fetched.

    Example:
        >>> data = FashionMNIST()
        >>> data.input_shape, data.num_classes
        ((1, 28, 28), 10)
    """

    folder = "FashionMNIST/raw"


class CIFAR10(TorchvisionData):
    """CIFAR-10: photographs of ten kinds of objects, 50000 to train and 10000 to validate, 3x32x32 in [0, 1].

    Args:
        data_dir: folder for the files, which lie in `cifar-10-batches-py` below it. Default "data".
        batch_size: training samples per batch, >= 1. Default 128.
        download: whether missing files are downloaded (170 MB) by `prepare_data`. Default True.
        shuffle: whether the training set is reordered every epoch. Default True.
        seed: of the order, from 0 to 2**32 - 1. Default 0.

    Raises:
        InvalidArgumentError: an argument is out of its range.
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
    """Modification time and size of a file; None without one."""
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None


def _reason(error: BaseException) -> str:
    # torchvision lists each mirror on a line of its own; the last line is the reason.
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
