"""The metrics of each epoch, at the optimizer step at which they were complete."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.metrics import MetricCursor, scalars
from lr_plugins.checkpoint_state import count, dict_of, list_of, real, record, row

STATE = record({"curves": dict_of(list_of(row(count, real))), "epochs": list_of(count), "waiting": dict_of(real)})
"""The form of `EpochMetrics.state` in a checkpoint."""


class EpochMetrics:
    """Collects what each epoch logs, as curves over optimizer steps.

    Args:
        names: the metrics to keep. Default None: all with `loss` in their names.
        measured: the metrics that are measured when an epoch starts, and are kept only then: in a run that is resumed
            within an epoch, they are logged again at its end. Default: none.
    """

    def __init__(self, names: Collection[str] | None = None, measured: Collection[str] = ()) -> None:
        self._names, self._measured = names, measured
        self.curves: dict[str, MetricPoints] = {}
        self.epochs: list[int] = []
        """The steps at which epochs start."""
        self._cursor = MetricCursor()
        self._waiting: dict[str, float] = {}  # from a checkpoint: metrics of an incomplete epoch

    @property
    def missing(self) -> set[str]:
        """The names that were never logged."""
        return set(self._names or ()) - set(self.curves)

    def collect(self, trainer: Trainer, steps: int, is_epoch_start: bool = False) -> None:
        """Add what has been logged since the last call.

        Args:
            trainer: the Trainer of the run.
            steps: optimizer steps since the start of the run.
            is_epoch_start: whether an epoch starts, so that measured metrics are kept.
        """
        metrics = dict(trainer.callback_metrics)
        measured = {name: metrics[name] for name in self._measured if name in metrics} if is_epoch_start else {}
        for name, value in {**self._new(metrics), **self._kept(measured)}.items():
            self.curves.setdefault(name, MetricPoints()).append(steps, value)
        self._cursor.advance(metrics)
        self._waiting = {}
        self.epochs.append(steps)

    def _is_kept(self, name: str) -> bool:
        return "loss" in name if self._names is None else name in self._names

    def _kept(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(value) for name, value in scalars(metrics).items() if self._is_kept(name)}

    def _new(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        logged = self._cursor.new(metrics)
        unmeasured = {name: value for name, value in logged.items() if name not in self._measured}
        return {**self._waiting, **self._kept(unmeasured)}

    def state(self, metrics: Mapping[str, Tensor]) -> dict[str, Any]:
        """The collected metrics, and those in `metrics` that are still to be collected; plain numbers."""
        curves = {
            name: [list(point) for point in zip(points.steps.tolist(), points.values.tolist(), strict=True)]
            for name, points in self.curves.items()
        }
        return {"curves": curves, "epochs": list(self.epochs), "waiting": self._new(metrics)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, which may come from a run that kept other metrics."""
        for name, points in state["curves"].items():
            if self._is_kept(name):
                curve = self.curves[name] = MetricPoints()
                for step, value in points:
                    curve.append(step, value)
        self.epochs = list(state["epochs"])
        self._waiting = {name: value for name, value in state["waiting"].items() if self._is_kept(name)}


class MetricPoints:
    """Values of a metric at optimizer steps."""

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []

    def append(self, step: int, value: float) -> None:
        """Add a point."""
        self._points.append((step, value))

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The steps, shape (n,)."""
        return np.array([step for step, _ in self._points], dtype=np.int64)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The values, shape (n,)."""
        return np.array([value for _, value in self._points], dtype=np.float64)
