"""Plots a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLOR, _MARK_COLOR = "C0", "C3"


def plot_range_test(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    path: str | Path,
    suggestion: float | None = None,
    method: str = "",
    linear: bool = False,
    small: bool = False,
) -> Path:
    """Plot the measured and the smoothed loss over the learning rate as a PNG, and mark the suggestion.

    Losses far above the initial ones, as in a training that diverges, are cut off.

    Args:
        rates: the learning rates.
        losses: the measured losses.
        smoothed: the smoothed losses.
        path: the file to write.
        suggestion: the learning rate to mark. Default None: no mark.
        method: the method of the suggestion, for the legend.
        linear: whether the learning-rate axis is linear instead of logarithmic. Default False.
        small: draw at a quarter of the size. Default False.
    """
    # The object-oriented interface, because pyplot selects a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size, dpi = ((5.0, 2.6), 80) if small else ((8.0, 4.5), 120)
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if not linear:
        axes.set_xscale("log")
    axes.plot(rates, losses, color=_COLOR, alpha=0.3, linewidth=1.0, label="loss of the step")
    axes.plot(rates, smoothed, color=_COLOR, linewidth=2.0, label="smoothed")
    if suggestion is not None:
        _mark(axes, rates, smoothed, suggestion, method)
    _limit(axes, losses, smoothed)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title("Learning-rate range test" + ("" if suggestion is not None else ": no suggestion"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left")
    figure.savefig(path)
    return Path(path)


def _mark(axes: Any, rates: Sequence[float], smoothed: Sequence[float], suggestion: float, method: str) -> None:
    height = float(np.interp(suggestion, rates, smoothed))
    label = f"suggestion ({method})" if method else "suggestion"
    axes.axvline(suggestion, color=_MARK_COLOR, linewidth=1.0, linestyle="--", zorder=1)
    axes.plot([suggestion], [height], "o", color=_MARK_COLOR, markersize=7, label=label, zorder=3)
    text = {"color": _MARK_COLOR, "weight": "bold", "ha": "right", "va": "top"}
    axes.annotate(f"{suggestion:.3g}", (suggestion, height), xytext=(-8, -8), textcoords="offset points", **text)


def _limit(axes: Any, losses: Sequence[float], smoothed: Sequence[float]) -> None:
    """Limit the axis, which a diverging loss would stretch."""
    mean, values = np.array(smoothed), np.array([*losses, *smoothed])
    finite = values[np.isfinite(values)]
    if not finite.size:
        return
    first = float(np.nanmax(np.where(np.isfinite(mean), mean, np.nan)[: max(len(mean) // 2, 1)]))
    lowest = float(finite.min())
    height = max(first - lowest, 1e-12)
    axes.set_ylim(lowest - 0.08 * height, min(float(finite.max()), first + 0.6 * height) + 0.08 * height)
