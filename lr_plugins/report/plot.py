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


def plot_learning_rate(curves: Mapping[str, Curve], path: str | Path) -> Path:
    """Draw learning rate over optimizer steps, a line per name, as a PNG.

    The axis is logarithmic where the largest value is more than 50 times the smallest positive one.

    Args:
        curves: by name, the steps and the learning rates.
        path: the file to write.
    """
    # The object-oriented interface: pyplot would pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="learning rate", title="Learning rate used at each step")
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
    positive = values[values > 0]
    return bool(positive.size == values.size and positive.size and positive.max() > 50 * positive.min())
