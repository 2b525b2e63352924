"""Keras' console output of `evaluate` and `predict`, for Lightning's `validate`, `test` and `predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.epoch_results import metrics_so_far, without_forks
from lr_plugins._lightning.metrics import MetricCursor, scalars
from lr_plugins.callbacks.keras_progress.progress import Progress
from lr_plugins.callbacks.keras_progress.units import Units
from lr_plugins.console.keras_styles import Style
from lr_plugins.console.keras_text import keras3_line
from lr_plugins.console.line import write
from lr_plugins.rank_zero import rank_zero_only

_PREFIXES = {"validate": "val_", "test": "test_", "predict": ""}


class EvaluationProgress:
    """The console output of one run of `validate`, `test` or `predict`.

    Keras 3 shows the metrics, sorted, with their names stripped of `val_` or `test_`. Keras 2 shows the time alone, and
    prints nothing with `verbose=2`.

    Args:
        trainer: the Trainer, after its data loaders have been set up.
        style: `"keras2"` or `"keras3"`.
        verbose: 2 for a line, 1 for a progress bar.
        metrics: names of the metrics to show, in order. None: all.
    """

    def __init__(self, trainer: Trainer, style: Style, verbose: int, metrics: Sequence[str] | None) -> None:
        self._trainer, self._style, self._verbose, self._metrics = trainer, style, verbose, metrics
        self._stage = str(trainer.state.fn.value)  # type: ignore[union-attr]
        self._cursor = MetricCursor(trainer.callback_metrics)
        self._progress = Progress(Units.of_evaluation(trainer, self._stage, style), style)

    @rank_zero_only
    def after_batch(self) -> None:
        """Count a batch, and refresh the progress bar if it is due."""
        is_due = self._progress.count(self._progress.position + 1)
        if self._verbose == 1 and is_due:
            loop = getattr(self._trainer, f"{self._stage}_loop", None)
            so_far = metrics_so_far(loop._results) if self._shows_metrics and loop is not None else {}
            self._progress.refresh(self._logs(so_far))

    def end(self) -> None:
        """Print the line, or the final bar."""
        elapsed, progress = self._progress.elapsed, self._progress
        logged = self._cursor.new(self._trainer.callback_metrics) if self._shows_metrics else {}
        logs = self._logs(scalars(logged))
        if self._verbose == 1:
            progress.finish(elapsed, logs)
        elif self._style == "keras3":
            steps = progress.batches
            step_time = elapsed / steps if steps else 0.0
            write(f"{keras3_line(logs, elapsed, step_time, steps, progress.units.target or steps)}\n")

    def abort(self) -> None:
        """End the line of a bar that stays unfinished, after an error."""
        self._progress.abort()

    @property
    def _shows_metrics(self) -> bool:
        return self._style == "keras3" and self._stage != "predict"

    def _logs(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The metrics to show, by the names under which they are shown, in order."""
        prefix = _PREFIXES[self._stage]
        metrics = without_forks(metrics)
        shown = {name: name.removeprefix(prefix) for name in metrics}
        if len(set(shown.values())) < len(shown):  # one metric has the name of another without its prefix
            shown = {name: name for name in metrics}
        if self._metrics is None:
            order = sorted(metrics, key=shown.__getitem__)
        else:
            order = [name for wanted in self._metrics for name in metrics if wanted in (name, shown[name])]
        return {shown[name]: float(metrics[name]) for name in order}
