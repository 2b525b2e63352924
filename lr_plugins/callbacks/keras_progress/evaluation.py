"""Keras' console output of `evaluate` and `predict`, from Lightning's `validate`, `test` and `predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from torch import Tensor

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.epoch_results import metrics_so_far, without_forks
from lr_plugins._lightning.metrics import logged_since
from lr_plugins.callbacks.keras_progress.units import Units
from lr_plugins.console.keras_text import EpochProgress, draw, keras3_line
from lr_plugins.console.line import ConsoleLine, write
from lr_plugins.rank_zero import rank_zero_only

INTERVAL = 0.05
"""Seconds from one refresh of a progress bar to the next, at least: Keras' own."""

_PREFIXES = {"validate": "val_", "test": "test_", "predict": ""}


class EvaluationProgress:
    """One run of `validate`, `test` or `predict` on the console.

    Keras 3 shows the metrics, by their names without `val_` or `test_`, sorted; Keras 2 the time alone, and nothing at
    all with `verbose=2`.

    Args:
        trainer: the Trainer, whose loaders are there.
        style: `"keras2"` or `"keras3"`.
        verbose: 2 for a line, 1 for a progress bar.
        chosen: names of metrics to show, in order. None: all.
    """

    def __init__(self, trainer: Trainer, style: str, verbose: int, chosen: Sequence[str] | None) -> None:
        self._trainer, self._style, self._verbose, self._chosen = trainer, style, verbose, chosen
        self._stage = str(trainer.state.fn.value)  # type: ignore[union-attr]
        self._before: dict[str, Tensor] = dict(trainer.callback_metrics)
        self._units = Units.of_evaluation(trainer, self._stage, style)
        self._started = perf_counter()
        self._first_step, self._batches = 0.0, 0
        self._line, self._refreshed = ConsoleLine(), float("-inf")

    @rank_zero_only
    def after_batch(self) -> None:
        """Count a batch, and refresh the progress bar when it is time."""
        self._batches += 1
        now = perf_counter()
        if self._batches == 1:
            self._first_step = now - self._started
        is_last = self._units.done(self._batches) == self._units.target
        if self._verbose != 1 or now - self._refreshed < INTERVAL or (self._style == "keras2" and is_last):
            return
        self._refreshed = now
        loop = getattr(self._trainer, f"{self._stage}_loop", None)
        found = metrics_so_far(loop._results) if self._shows_metrics and loop is not None else {}
        moment = self._moment(now - self._started, self._logs(found))
        self._line.show(lambda columns: draw(self._style, moment, columns))

    def end(self) -> None:
        """Write the line, or the bar as it stays."""
        elapsed = perf_counter() - self._started
        logged = logged_since(self._trainer.callback_metrics, self._before) if self._shows_metrics else {}
        logs = self._logs({name: value for name, value in logged.items() if value.numel() == 1})
        if self._verbose == 1:
            moment = self._moment(elapsed, logs, final=True)
            self._line.show(lambda columns: draw(self._style, moment, columns), final=True)
        elif self._style == "keras3":
            step_time = elapsed / self._batches if self._batches else 0.0
            write(f"{keras3_line(logs, elapsed, step_time, self._batches, self._units.target or self._batches)}\n")

    def abort(self) -> None:
        """End a bar that stays as it is, because something has gone wrong."""
        self._line.end()

    @property
    def _shows_metrics(self) -> bool:
        return self._style == "keras3" and self._stage != "predict"

    def _logs(self, found: Mapping[str, Any]) -> dict[str, float]:
        prefix = _PREFIXES[self._stage]
        found = without_forks(found)
        names = {name: name.removeprefix(prefix) for name in found}
        if len(set(names.values())) < len(names):  # a metric has the name of another one without the prefix
            names = {name: name for name in found}
        if self._chosen is None:
            order = sorted(found, key=names.__getitem__)
        else:
            order = [name for one in self._chosen for name in found if one in (name, names[name])]
        return {names[name]: float(found[name]) for name in order}

    def _moment(self, elapsed: float, logs: Mapping[str, float], final: bool = False) -> EpochProgress:
        done, target = self._units.done(self._batches), self._units.target
        if self._style == "keras3" and self._batches > 1:  # Keras 3 leaves the first step out, which takes longer
            unit_time = (elapsed - self._first_step) / (self._batches - 1)
        else:
            unit_time = elapsed / done if done else 0.0
        if target is None or done > target:
            target = done if final else None
        return EpochProgress(done, target, elapsed, unit_time, logs, final)
