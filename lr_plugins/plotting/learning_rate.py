"""Pictures of learning rates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import require

_MARKS = 60  # more lines than that would hide the curve,
_NAMES = 12  # and so would a longer legend


_LOSSES = ("0.45", "0.7")  # shades of grey, which no learning rate has


class Curve(Protocol):
    """Learning rates at optimizer steps."""

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The optimizer steps, shape (n,)."""

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The learning rates, shape (n,)."""


def plot_learning_rate(
    curves: Mapping[str, Curve],
    path: str | Path,
    title: str = "Learning rate used at each step",
    small: bool = False,
    metrics: Mapping[str, Curve] | None = None,
    epochs: Sequence[int] = (),
    panels: Sequence[Mapping[str, Curve]] = (),
) -> Path:
    """Draw learning rate over optimizer steps, a line per name, as a PNG; and below it, what else was scheduled.

    An axis is logarithmic where a third of the steps would otherwise lie flat at the bottom: below a 50th of the peak.

    Args:
        curves: by name, the steps and the values; what stands before the first `/` of a name is the quantity.
        path: the file to write.
        title: what stands above.
        small: a quarter of the size, for pages with many.
        metrics: losses to draw with an axis of their own, on the right; by name, the steps and the values.
        epochs: the steps at which epochs begin, to be marked; left out where there would be too many marks.
        panels: metrics to draw below all this, a panel for each mapping of names to steps and values; one without
            any point is left out.
    """
    require("matplotlib", "plot", "The picture")
    # The object-oriented interface: pyplot would pick a backend for the whole process.
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
        mine = {name: curve for name, curve in curves.items() if name.partition("/")[0] == quantity}
        _draw(axes, mine)
        axes.set_ylabel("learning rate" if quantity == "lr" else quantity.replace("_", " "))
    for axes, panel in zip(axes_of_all[len(quantities) :], drawn, strict=True):
        _draw_panel(axes, panel)
    if metrics:
        _draw_metrics(axes_of_all[0].twinx(), metrics)
    marks = sorted({*epochs}) if len(epochs) <= _MARKS else []
    for axes in axes_of_all if marks else ():
        axes.grid(visible=False, axis="x")  # the vertical lines are those of the epochs
        for step in marks:
            axes.axvline(step, color="0.8", linewidth=0.8, zorder=0)
    axes_of_all[0].set_title(title)
    axes_of_all[-1].set_xlabel("optimizer step" + (" (vertical lines: epochs)" if marks and not small else ""))
    figure.savefig(path)
    return Path(path)


def _draw(axes: Any, curves: Mapping[str, Curve]) -> None:
    for name, curve in curves.items():
        # A value holds for its whole step, hence stairs and not slopes between points.
        steps, values = np.append(curve.steps, curve.steps[-1:] + 1), np.append(curve.values, curve.values[-1:])
        axes.step(steps, values, where="post", linewidth=1.6, label=name.partition("/")[2] or name)
    if spans_decades(curves):
        axes.set_yscale("log")
    elif not any(name.startswith(("momentum", "beta")) for name in curves):  # those never come near 0
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if 1 < len(curves) <= _NAMES:
        axes.legend(loc="best")


def _draw_metrics(axes: Any, metrics: Mapping[str, Curve]) -> None:
    for index, (name, curve) in enumerate(metrics.items()):
        axes.plot(curve.steps, curve.values, ".-", color=_LOSSES[index % 2], linewidth=1.2, label=name)
    if spans_decades(metrics):
        axes.set_yscale("log")
    axes.set_ylabel("loss")
    axes.spines["top"].set_visible(False)
    axes.legend(loc="upper right")


def _draw_panel(axes: Any, metrics: Mapping[str, Curve]) -> None:
    for index, (name, curve) in enumerate(metrics.items(), start=1):  # the first color is that of the learning rate
        axes.plot(curve.steps, curve.values, ".-", color=f"C{index}", linewidth=1.2, label=name)
    if spans_decades(metrics):
        axes.set_yscale("log")
    axes.set_ylabel(shared_words(list(metrics)))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(metrics) <= _NAMES:
        axes.legend(loc="best")


def shared_words(names: Sequence[str]) -> str:
    """The words that all names end with, as the label of an axis; `metric` where there are none.

    Example:
        >>> shared_words(["training_set_loss"]), shared_words(["loss", "val_loss"]), shared_words(["acc", "loss"])
        ('training set loss', 'loss', 'metric')
    """
    words = [name.replace("/", "_").split("_") for name in names]
    backwards = zip(*(reversed(each) for each in words), strict=False)
    shared = itertools.takewhile(lambda same: len({*same}) == 1, backwards)
    return " ".join(reversed([first for first, *_ in shared])) or "metric"


def spans_decades(curves: Mapping[str, Curve]) -> bool:
    """Whether a third of the steps would lie flat at the bottom of a linear axis: below a 50th of the peak."""
    values = np.concatenate([curve.values for curve in curves.values()]) if curves else np.empty(0)
    return bool(values.size and values.min() > 0 and np.mean(values < values.max() / 50) > 1 / 3)
