"""The measurements of a range test: the loss at increasing learning rates."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Mode = Literal["exponential", "linear"]
"""How the learning rates of a range test are spaced: with equal ratios, or with equal distances."""


def rates_between(lowest: float, highest: float, count: int, mode: Mode) -> list[float]:
    """The learning rates of a range test, in ascending order.

    Args:
        lowest: the first learning rate.
        highest: the last learning rate.
        count: the number of learning rates.
        mode: `"exponential"` for equal ratios between them, `"linear"` for equal distances.

    Example:
        >>> rates_between(0.001, 0.1, 3, "linear")
        [0.001, 0.0505, 0.1]
        >>> [round(rate, 9) for rate in rates_between(0.001, 0.1, 3, "exponential")]
        [0.001, 0.01, 0.1]
    """
    spaced = np.linspace if mode == "linear" else np.geomspace
    rates: list[float] = spaced(lowest, highest, count).tolist()
    return rates


@dataclass
class LossCurve:
    """The losses of a range test and their exponential moving average.

    `mean_i = smoothing * mean_{i-1} + (1 - smoothing) * loss_i` with `mean_0 = 0`, and
    `smoothed_i = mean_i / (1 - smoothing ** i)`, which corrects the bias towards 0.

    Args:
        smoothing: share of the previous mean that is kept, >= 0 and < 1.

    Example:
        >>> curve = LossCurve(smoothing=0.5)
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
        """Add the loss of a step with a learning rate."""
        self._mean = self.smoothing * self._mean + (1 - self.smoothing) * loss
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(self._mean / (1 - self.smoothing ** len(self.rates)))

    def __len__(self) -> int:
        return len(self.rates)

    def has_diverged(self, threshold: float | None) -> bool:
        """Whether the loss is NaN, infinite, or far above the lowest.

        Args:
            threshold: how many times the lowest smoothed loss is allowed; None for any finite loss.
        """
        if not self.smoothed:
            return False
        if not math.isfinite(self.smoothed[-1]):
            return True
        lowest = min(self.smoothed)
        # The lowest loss may be negative: the distance to it is compared with its magnitude.
        return threshold is not None and self.smoothed[-1] - lowest > (threshold - 1) * abs(lowest)

    def usable(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The learning rates and smoothed losses that a suggestion is based on.

        Excluded are the first tenth, where the mean is of too few losses, and the last point, which may have diverged.
        """
        which = slice(len(self) // 10, max(len(self) - 1, 0))
        rates, losses = np.array(self.rates[which]), np.array(self.smoothed[which])
        finite = np.isfinite(losses)
        return rates[finite], losses[finite]

    @property
    def noise(self) -> float:
        """An estimate of the standard deviation of the loss from batch to batch."""
        steps = np.abs(np.diff(self.losses))
        finite = steps[np.isfinite(steps)]
        return float(np.median(finite)) if finite.size else 0.0

    def to_csv(self, path: str | Path) -> Path:
        """Write a table with the columns `step`, `learning_rate`, `loss` and `smoothed_loss`."""
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "learning_rate", "loss", "smoothed_loss"])
            writer.writerows(zip(range(len(self)), self.rates, self.losses, self.smoothed, strict=True))
        return path
