"""Which learning rate the curve of a range test suggests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lr_plugins.callbacks.lr_finder.curve import Curve

Array = npt.NDArray[np.float64]
_FEWEST = 5  # points
_STILL = 0.1  # share of the fall within which the loss is still at the level of before


@dataclass(frozen=True)
class Suggestion:
    """A learning rate, or why there is none.

    Args:
        learning_rate: the learning rate; None where the curve suggests none.
        note: what is to be said of it: the reason why there is none, or a remark.
    """

    learning_rate: float | None
    note: str = ""


def steepest(rates: Array, losses: Array, mode: str) -> float:
    """The learning rate at which the loss falls fastest, along the axis on which they were spaced evenly.

    Only the fall from the level of before to the lowest loss counts: the noise of that level has steep places, too.
    """
    axis = rates if mode == "linear" else np.log(rates)
    slopes, low = np.gradient(losses, axis), int(np.argmin(losses))
    level = float(np.median(losses[: low + 1]))
    above = np.flatnonzero(losses[: low + 1] >= level - _STILL * (level - losses[low]))
    begin = int(above[-1]) if above.size else 0
    return float(rates[begin + np.argmin(slopes[begin : low + 1])])


def valley(rates: Array, losses: Array, mode: str) -> float:
    """Half way along the longest fall: the longest sequence of ever lower losses, whatever stands between them.

    As in fastai, the fall is taken to begin as many points before its end as it has.
    """
    length = np.ones(len(losses), dtype=np.intp)
    for at in range(1, len(losses)):
        length[at] = 1 + length[:at][losses[:at] > losses[at]].max(initial=0)
    end = int(np.argmax(length))
    return float(rates[max(end - int(length[end]) // 2, 0)])


def minimum(rates: Array, losses: Array, mode: str) -> float:
    """A tenth of the learning rate at which the loss is lowest."""
    return float(rates[np.argmin(losses)]) / 10


METHODS: dict[str, Callable[[Array, Array, str], float]] = {
    "steepest": steepest,
    "valley": valley,
    "minimum": minimum,
}


def suggest(curve: Curve, method: str, mode: str) -> Suggestion:
    """What a curve suggests.

    Args:
        curve: the curve.
        method: one of `METHODS`.
        mode: how its learning rates are spaced, `"exponential"` or `"linear"`.

    Example:
        >>> curve = Curve(smoothing=0.0)
        >>> for power in range(-8, 1):
        ...     curve.add(10.0**power, 1.0 if power < -4 else 0.1 * -power)
        >>> round(suggest(curve, "steepest", "exponential").learning_rate, 9)
        0.0001
    """
    rates, losses = curve.usable()
    if curve.losses and not math.isfinite(curve.losses[0]):
        return Suggestion(None, f"the loss is {curve.losses[0]} at the first step")
    if len(rates) < _FEWEST:
        return Suggestion(None, f"{len(rates)} losses are too few to judge by, of {len(curve)} steps")
    falls = np.maximum.accumulate(losses) - losses
    if not falls.max() > max(_chance(curve, len(losses)), 1e-6 * float(np.abs(losses).max())):
        return Suggestion(None, f"the loss falls by no more than its noise between {rates[0]:g} and {rates[-1]:g}")
    falls_on = np.argmin(losses) == len(losses) - 1
    return Suggestion(METHODS[method](rates, losses, mode), "the loss still falls at the highest" if falls_on else "")


def _chance(curve: Curve, count: int) -> float:
    """How far it would fall by chance: about from the highest to the lowest of so many random numbers."""
    kept = curve.smoothing ** (len(curve) - count)  # of the beginning, in the first one that is judged by
    variance = (1 - curve.smoothing) / (1 + curve.smoothing) * (1 + kept) / (1 - kept)
    return 2 * math.sqrt(2 * math.log(count)) * math.sqrt(variance) * curve.noise
