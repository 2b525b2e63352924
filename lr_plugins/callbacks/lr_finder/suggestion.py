"""The learning rate that the loss curve of a range test suggests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lr_plugins.callbacks.lr_finder.curve import LossCurve, Mode

Array = npt.NDArray[np.float64]
Method = Literal["steepest", "valley", "minimum"]

_MIN_POINTS = 5
_PLATEAU_SHARE = 0.1  # of the fall: losses within it still belong to the plateau before the fall


@dataclass(frozen=True)
class Suggestion:
    """A suggested learning rate, or the reason why the curve suggests nothing.

    Args:
        learning_rate: the learning rate; None if the curve suggests none.
        note: a remark on the suggestion, or the reason for its absence.
    """

    learning_rate: float | None
    note: str = ""


def steepest(rates: Array, losses: Array, mode: Mode) -> float:
    """The learning rate at which the loss falls fastest, on the axis on which the learning rates are evenly spaced.

    Only the fall from the initial plateau to the lowest loss counts, because the noise of the plateau is steep as well.
    """
    axis = rates if mode == "linear" else np.log(rates)
    slopes, low = np.gradient(losses, axis), int(np.argmin(losses))
    level = float(np.median(losses[: low + 1]))
    plateau = np.flatnonzero(losses[: low + 1] >= level - _PLATEAU_SHARE * (level - losses[low]))
    start = int(plateau[-1]) if plateau.size else 0
    return float(rates[start + np.argmin(slopes[start : low + 1])])


def valley(rates: Array, losses: Array, mode: Mode) -> float:
    """Halfway down the longest fall: the longest decreasing subsequence of the losses.

    As in fastai, a fall of n points is taken to start n points before its end.
    """
    length = np.ones(len(losses), dtype=np.intp)
    for at in range(1, len(losses)):
        length[at] = 1 + length[:at][losses[:at] > losses[at]].max(initial=0)
    end = int(np.argmax(length))
    return float(rates[max(end - int(length[end]) // 2, 0)])


def minimum(rates: Array, losses: Array, mode: Mode) -> float:
    """A tenth of the learning rate at which the loss is lowest."""
    return float(rates[np.argmin(losses)]) / 10


METHODS: dict[Method, Callable[[Array, Array, Mode], float]] = {
    "steepest": steepest,
    "valley": valley,
    "minimum": minimum,
}


def suggest(curve: LossCurve, method: Method, mode: Mode) -> Suggestion:
    """The learning rate that a loss curve suggests.

    Args:
        curve: the losses of a range test.
        method: one of `METHODS`.
        mode: how the learning rates are spaced, `"exponential"` or `"linear"`.

    Example:
        >>> curve = LossCurve(smoothing=0.0)
        >>> for power in range(-8, 1):
        ...     curve.add(10.0**power, 1.0 if power < -4 else 0.1 * -power)
        >>> round(suggest(curve, "steepest", "exponential").learning_rate, 9)
        0.0001
    """
    rates, losses = curve.usable()
    if curve.losses and not math.isfinite(curve.losses[0]):
        return Suggestion(None, f"the loss is {curve.losses[0]} at the first step")
    if len(rates) < _MIN_POINTS:
        return Suggestion(None, f"the {len(rates)} usable losses of {len(curve)} steps are too few to judge by")
    falls = np.maximum.accumulate(losses) - losses
    if not falls.max() > max(_fall_by_chance(curve, len(losses)), 1e-6 * float(np.abs(losses).max())):
        return Suggestion(None, f"the loss falls by no more than its noise between {rates[0]:g} and {rates[-1]:g}")
    is_falling = np.argmin(losses) == len(losses) - 1
    note = "the loss is still falling at the highest" if is_falling else ""
    return Suggestion(METHODS[method](rates, losses, mode), note)


def _fall_by_chance(curve: LossCurve, count: int) -> float:
    """How far noise alone would fall: about the range of `count` random numbers with the variance of the mean."""
    kept = curve.smoothing ** (len(curve) - count)  # weight of the initial 0 in the first usable mean
    variance = (1 - curve.smoothing) / (1 + curve.smoothing) * (1 + kept) / (1 - kept)
    return 2 * math.sqrt(2 * math.log(count)) * math.sqrt(variance) * curve.noise
