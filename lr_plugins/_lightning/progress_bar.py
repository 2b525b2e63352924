"""The learning rate in Lightning's progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins.engine.recorder import Recorder

MAX_SHOWN = 3
"""So many learning rates are shown; of more param groups, the first."""


class ProgressBarLR:
    """Lets the progress bar of a Trainer show the learning rate of the step just taken, until `end`.

    A bar asks for what it shows when it refreshes, and only then: logging the learning rate for it would cost every
    step, and leave it among the metrics. What the module logs to the bar under the same name is shown instead.

    Args:
        trainer: the Trainer whose bar is meant, if it has one.
        recorders: of each optimizer.
    """

    def __init__(self, trainer: Trainer, recorders: Sequence[Recorder]) -> None:
        self._bar: Any = trainer.progress_bar_callback
        if self._bar is None:
            return
        original = self._bar.get_metrics

        def get_metrics(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
            shown = original(trainer, pl_module)
            added = {name: text for name, text in learning_rates(recorders).items() if name not in shown}
            return {**shown, **added}

        # On this bar alone, and not on its class, whatever that is.
        self._get_metrics, self._previous = get_metrics, vars(self._bar).get("get_metrics")
        vars(self._bar)["get_metrics"] = get_metrics

    def restore(self) -> None:
        """Leave the bar as it was."""
        if self._bar is None or vars(self._bar).get("get_metrics") is not self._get_metrics:
            return
        del vars(self._bar)["get_metrics"]
        if self._previous is not None:
            vars(self._bar)["get_metrics"] = self._previous


def learning_rates(recorders: Sequence[Recorder]) -> dict[str, str]:
    """The learning rates of the step just taken, by name, as text: a bar's own format may have few decimals."""
    series = {name: values for recorder in recorders for name, values in recorder.learning_rates() if len(values)}
    if len({(id(values.column), values.share) for values in series.values()}) == 1:
        series = {"lr": next(iter(series.values()))}  # groups of one schedule, which always agree
    return {name: f"{values.last():.3g}" for name, values in list(series.items())[:MAX_SHOWN]}
