"""What a range test has measured: the loss under one learning rate after the other."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt


def rates_between(min_lr: float, max_lr: float, count: int, mode: str) -> list[float]:
    """The learning rates of a range test, from the lowest to the highest.

    Args:
        min_lr: the lowest.
        max_lr: the highest.
        count: how many.
        mode: `"exponential"` for equal ratios between them, `"linear"` for equal distances.

    Example:
        >>> rates_between(0.001, 0.1, 3, "linear")
        [0.001, 0.0505, 0.1]
        >>> [round(rate, 9) for rate in rates_between(0.001, 0.1, 3, "exponential")]
        [0.001, 0.01, 0.1]
    """
    spaced = np.linspace if mode == "linear" else np.geomspace
    found: list[float] = spaced(min_lr, max_lr, count).tolist()
    return found


@dataclass
class Curve:
    """The losses of a range test, and their mean so far, in which the latest count most.

    `mean_i = smoothing * mean_{i-1} + (1 - smoothing) * loss_i`, from 0; `smoothed_i = mean_i / (1 - smoothing ** i)`,
    counted from 1, which undoes that the mean has begun at 0.

    Args:
        smoothing: share of the mean so far that is kept, >= 0 and < 1.

    Example:
        >>> curve = Curve(smoothing=0.5)
        >>> curve.add(0.1, 2.0)
        >>> curve.add(0.2, 0.5)
        >>> curve.smoothed
        [2.0, 1.0]
    """

    smoothing: float
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    _mean: float = 0.0

    def add(self, rate: float, loss: float) -> None:
        """The loss of a step with a learning rate."""
        self._mean = self.smoothing * self._mean + (1 - self.smoothing) * loss
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(self._mean / (1 - self.smoothing ** len(self.rates)))

    def __len__(self) -> int:
        return len(self.rates)

    def has_diverged(self, threshold: float | None) -> bool:
        """Whether training has come to its end: the loss is no number, or far above the lowest.

        Args:
            threshold: how many times the lowest smoothed loss it may be; None: any number of times.
        """
        if not self.smoothed:
            return False
        if not math.isfinite(self.smoothed[-1]):
            return True
        lowest = min(self.smoothed)
        # A loss may be negative: above it by so many times its size.
        return threshold is not None and self.smoothed[-1] - lowest > (threshold - 1) * abs(lowest)

    def usable(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Learning rates and smoothed losses to judge by.

        Without the first tenth, in which the mean is of too few, and without the last one, which may have ended it.
        """
        which = slice(len(self) // 10, max(len(self) - 1, 0))
        rates, losses = np.array(self.rates[which]), np.array(self.smoothed[which])
        finite = np.isfinite(losses)
        return rates[finite], losses[finite]

    @property
    def noise(self) -> float:
        """About the standard deviation of the loss from one batch to the next."""
        steps = np.abs(np.diff(self.losses))
        finite = steps[np.isfinite(steps)]
        return float(np.median(finite)) if finite.size else 0.0

    def to_csv(self, path: str | Path) -> Path:
        """Write a table: `step`, `learning_rate`, `loss`, `smoothed_loss`."""
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "learning_rate", "loss", "smoothed_loss"])
            writer.writerows(zip(range(len(self)), self.rates, self.losses, self.smoothed, strict=True))
        return path
