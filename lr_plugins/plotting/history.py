"""Plots metrics and the learning rate over the epochs of a training, one panel below the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lr_plugins.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATE = "learning rate"
_LABELS = {"acc": "accuracy"}
_PANEL, _WIDTH = 2.2, 7.0  # inches


def plot_history(curves: Mapping[str, Mapping[int, float]], path: str | Path | None = None) -> Figure:
    """Plot metrics over epochs; training and validation share a panel.

    Args:
        curves: the values by name and epoch; `val_loss` shares the panel of `loss`, and `"learning rate"` comes last.
        path: the PNG to write. Default None: no file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "plot", "The picture of a history")
    # The object-oriented interface, because pyplot selects a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels: dict[str, list[str]] = {}
    curves = {name: values for name, values in curves.items() if values}
    for name in sorted(curves, key=lambda name: (name == RATE, name.removeprefix("val_") != "loss")):
        panels.setdefault(name.removeprefix("val_"), []).append(name)
    count = max(len(panels), 1)
    figure = Figure(figsize=(_WIDTH, 0.8 + _PANEL * count), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, sharex=True, squeeze=False)[:, 0]
    for panel, (title, names) in zip(axes, panels.items(), strict=False):
        _draw(panel, title, {name: curves[name] for name in sorted(names, key=len)})
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if path is not None:
        figure.savefig(path)
    return figure


def _draw(axes: Axes, title: str, curves: Mapping[str, Mapping[int, float]]) -> None:
    for name, values in curves.items():
        label = "validation" if name.startswith("val_") else "training"
        style = {"drawstyle": "steps-mid"} if title == RATE else {}
        mark = "." if len(values) <= 60 else ""
        axes.plot(list(values), list(values.values()), marker=mark, linewidth=1.6, label=label, **style)  # type: ignore[arg-type]
    numbers = [value for values in curves.values() for value in values.values()]
    if title == RATE and numbers and 0 < min(numbers) < max(numbers) / 50:
        axes.set_yscale("log")
    elif title == RATE:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(_LABELS.get(title, title))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1 or next(iter(curves)).startswith("val_"):
        axes.legend(loc="best")
