"""How many samples there are, and how many batches they make: known without reading any data."""

from __future__ import annotations

import math

SAMPLES = {"Iris": 150, "Digits": 1797}
"""Of the bundled data sets, whose `validation_fraction` is held out."""

TRAINING_SAMPLES = {"MNIST": 60_000, "FashionMNIST": 60_000, "CIFAR10": 50_000}
"""Of those that come with a split of their own."""


def held_out(samples: int, fraction: float) -> int:
    """How many of the samples validate: the fraction, rounded up, and all but one at most.

    Example:
        >>> held_out(150, 0.2), held_out(1797, 0.2)
        (30, 360)
    """
    # Rounded first: 0.07 * 100 is 7.000000000000001, whose ceiling is 8.
    return min(math.ceil(round(fraction * samples, 9)), samples - 1)


def of_process(samples: int, rank: int, processes: int, even: bool) -> int:
    """How many samples of an epoch one of several processes has; `even`: as many as the others, a few of them twice.

    Example:
        >>> [of_process(5, rank, 2, even=False) for rank in (0, 1)], of_process(5, 1, 2, even=True)
        ([3, 2], 3)
    """
    return math.ceil((samples - (0 if even else rank)) / processes)


def batches(samples: int, batch_size: int) -> int:
    """How many batches they make, the last one smaller than the others or not.

    Example:
        >>> batches(1437, 32)
        45
    """
    return math.ceil(samples / batch_size)
