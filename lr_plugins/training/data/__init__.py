"""Data modules for classification, held in memory: one file per source.

They share one contract: `input_shape` and `num_classes` are known after construction, `num_train` and `num_val`
after `setup()`; batches are (float32 inputs, int64 targets).
"""

from lr_plugins.training.data.base import EVALUATION_BATCH, InMemoryData
from lr_plugins.training.data.batches import Batches, Samples
from lr_plugins.training.data.bundled import Digits, Iris
from lr_plugins.training.data.fake import Fake
from lr_plugins.training.data.splits import stratified_split
from lr_plugins.training.data.torchvision_data import CIFAR10, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "EVALUATION_BATCH",
    "MNIST",
    "Batches",
    "Digits",
    "Fake",
    "FashionMNIST",
    "InMemoryData",
    "Iris",
    "Samples",
    "stratified_split",
]
