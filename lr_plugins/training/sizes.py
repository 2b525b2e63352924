"""How many samples a data set has, and how many batches they make, without reading any data."""

from __future__ import annotations

import math

SAMPLES = {"Iris": 150, "Digits": 1797}
"""Samples of the bundled data sets, of which `validation_fraction` is held out."""

TRAINING_SAMPLES = {"MNIST": 60_000, "FashionMNIST": 60_000, "CIFAR10": 50_000}
"""Training samples of the data sets that come with a split of their own."""


def held_out(samples: int, fraction: float) -> int:
    """The number of validation samples: the fraction rounded up, and at most all but one.

    Example:
        >>> held_out(150, 0.2), held_out(1797, 0.2)
        (30, 360)
    """
    # Rounded first: 0.07 * 100 is 7.000000000000001, whose ceiling is 8.
    return min(math.ceil(round(fraction * samples, 9)), samples - 1)


def of_process(samples: int, rank: int, processes: int, even: bool) -> int:
    """The samples of an epoch that one of several processes gets.

    Args:
        samples: all of them.
        rank: of the process.
        processes: how many there are.
        even: whether each gets the same number, for which a few samples come twice.

    Example:
        >>> [of_process(5, rank, 2, even=False) for rank in (0, 1)], of_process(5, 1, 2, even=True)
        ([3, 2], 3)
    """
    return math.ceil((samples - (0 if even else rank)) / processes)


def batches(samples: int, batch_size: int) -> int:
    """The number of batches; the last one may be smaller.

    Example:
        >>> batches(1437, 32)
        45
    """
    return math.ceil(samples / batch_size)
