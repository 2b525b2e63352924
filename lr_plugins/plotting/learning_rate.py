"""Plots learning rates over optimizer steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import require

_MAX_EPOCH_LINES = 60  # more would hide the curve
_MAX_LEGEND = 12  # names
_LOSS_COLORS = ("0.45", "0.7")  # shades of gray, which no learning rate has


class Curve(Protocol):
    """Values at optimizer steps."""

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The optimizer steps, shape (n,)."""

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The values, shape (n,)."""


def plot_learning_rate(
    curves: Mapping[str, Curve],
    path: str | Path,
    title: str = "Learning rate used at each step",
    small: bool = False,
    metrics: Mapping[str, Curve] | None = None,
    epochs: Sequence[int] = (),
    panels: Sequence[Mapping[str, Curve]] = (),
) -> Path:
    """Plot learning rates over optimizer steps as a PNG; other scheduled quantities get panels of their own.

    An axis is logarithmic if otherwise a third of the steps would lie flat at the bottom, below a 50th of the peak.

    Args:
        curves: the curves by name; the part of a name before the first `/` is the quantity.
        path: the file to write.
        title: the title of the figure.
        small: draw at a quarter of the size, for pages with many plots. Default False.
        metrics: losses to draw beside the learning rate, on an axis of their own. Default None: no losses.
        epochs: the steps at which epochs start, to be marked unless there are too many.
        panels: metrics to draw below the learning rate, one panel per mapping; panels without points are left out.
    """
    require("matplotlib", "plot", "The picture")
    # The object-oriented interface, because pyplot selects a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    quantities = list(dict.fromkeys(name.partition("/")[0] for name in curves)) or ["lr"]
    drawn = [panel for panel in panels if any(len(curve.steps) for curve in panel.values())]
    count = len(quantities) + len(drawn)
    (width, height), dpi = ((5.0, 2.2), 80) if small else ((8.0, 4.5), 120)
    figure = Figure(figsize=(width, height * (1 + 0.6 * (count - 1))), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes_of_all = figure.subplots(count, sharex=True, squeeze=False)[:, 0]
    for axes, quantity in zip(axes_of_all, quantities, strict=False):
        _draw(axes, {name: curve for name, curve in curves.items() if name.partition("/")[0] == quantity})
        axes.set_ylabel("learning rate" if quantity == "lr" else quantity.replace("_", " "))
    for axes, panel in zip(axes_of_all[len(quantities) :], drawn, strict=True):
        _draw_panel(axes, panel)
    if metrics:
        _draw_metrics(axes_of_all[0].twinx(), metrics)
    marks = sorted({*epochs}) if len(epochs) <= _MAX_EPOCH_LINES else []
    for axes in axes_of_all if marks else ():
        axes.grid(visible=False, axis="x")  # the only vertical lines are the epochs
        for step in marks:
            axes.axvline(step, color="0.8", linewidth=0.8, zorder=0)
    axes_of_all[0].set_title(title)
    axes_of_all[-1].set_xlabel("optimizer step" + (" (vertical lines: epochs)" if marks and not small else ""))
    figure.savefig(path)
    return Path(path)


def _draw(axes: Any, curves: Mapping[str, Curve]) -> None:
    for name, curve in curves.items():
        # A value holds for a whole step, so the curve is a staircase.
        steps, values = np.append(curve.steps, curve.steps[-1:] + 1), np.append(curve.values, curve.values[-1:])
        axes.step(steps, values, where="post", linewidth=1.6, label=name.partition("/")[2] or name)
    if spans_decades(curves):
        axes.set_yscale("log")
    elif not any(name.startswith(("momentum", "beta")) for name in curves):  # these stay far from 0
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if 1 < len(curves) <= _MAX_LEGEND:
        axes.legend(loc="best")


def _draw_metrics(axes: Any, metrics: Mapping[str, Curve]) -> None:
    for index, (name, curve) in enumerate(metrics.items()):
        axes.plot(curve.steps, curve.values, ".-", color=_LOSS_COLORS[index % 2], linewidth=1.2, label=name)
    if spans_decades(metrics):
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    axes.spines["top"].set_visible(False)
    axes.legend(loc="upper right")


def _draw_panel(axes: Any, metrics: Mapping[str, Curve]) -> None:
    for index, (name, curve) in enumerate(metrics.items(), start=1):  # C0 is the learning rate
        axes.plot(curve.steps, curve.values, ".-", color=f"C{index}", linewidth=1.2, label=name)
    if spans_decades(metrics):
        axes.set_yscale("log")
    axes.set_ylabel(shared_words(list(metrics)))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(metrics) <= _MAX_LEGEND:
        axes.legend(loc="best")


def shared_words(names: Sequence[str]) -> str:
    """The words that all names end with, as an axis label; `metric` if there are none.

    Example:
        >>> shared_words(["training_set_loss"]), shared_words(["loss", "val_loss"]), shared_words(["acc", "loss"])
        ('training set loss', 'loss', 'metric')
    """
    words = [name.replace("/", "_").split("_") for name in names]
    backwards = zip(*(reversed(each) for each in words), strict=False)
    shared = itertools.takewhile(lambda same: len({*same}) == 1, backwards)
    return " ".join(reversed([first for first, *_ in shared])) or "metric"


def spans_decades(curves: Mapping[str, Curve]) -> bool:
    """Whether a third of the steps would lie flat at the bottom of a linear axis, below a 50th of the peak."""
    values = np.concatenate([curve.values for curve in curves.values()]) if curves else np.empty(0)
    return bool(values.size and values.min() > 0 and np.mean(values < values.max() / 50) > 1 / 3)
