"""Pictures of learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


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
) -> Path:
    """Draw learning rate over optimizer steps, a line per name, as a PNG.

    The axis is logarithmic where a third of the steps would otherwise lie flat at the bottom: below a 50th of the peak.

    Args:
        curves: by name, the steps and the learning rates.
        path: the file to write.
        title: what stands above.
        small: a quarter of the size, for pages with many.
    """
    # The object-oriented interface: pyplot would pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size, dpi = ((5.0, 2.2), 80) if small else ((8.0, 4.5), 120)
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="learning rate", title=title)
    for name, curve in curves.items():
        # A value holds for its whole step, hence stairs and not slopes between points.
        axes.step(curve.steps, curve.values, where="post", linewidth=1.6, label=name)
    if _wide(curves):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend()
    figure.savefig(path)
    return Path(path)


def _wide(curves: Mapping[str, Curve]) -> bool:
    values = np.concatenate([curve.values for curve in curves.values()])
    return bool(values.size and values.min() > 0 and np.mean(values < values.max() / 50) > 1 / 3)
