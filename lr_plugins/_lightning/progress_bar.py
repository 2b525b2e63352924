"""The learning rate in Lightning's progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins.engine.recorder import Recorder

MAX_SHOWN = 3
"""The number of learning rates shown; those of further param groups are left out."""


class ProgressBarLR:
    """Shows the learning rate of the last step in the progress bar of a Trainer, until `restore`.

    The bar calls `get_metrics` only when it refreshes. Logging the learning rate instead would cost time at every step,
    and add it to the metrics. A metric that the module logs to the bar under the same name takes precedence.

    Args:
        trainer: the Trainer, which may have no bar.
        recorders: the recorders of the optimizers.
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

        # On this instance only, not on its class.
        self._get_metrics, self._previous = get_metrics, vars(self._bar).get("get_metrics")
        vars(self._bar)["get_metrics"] = get_metrics

    def restore(self) -> None:
        """Restore the bar."""
        if self._bar is None or vars(self._bar).get("get_metrics") is not self._get_metrics:
            return
        del vars(self._bar)["get_metrics"]
        if self._previous is not None:
            vars(self._bar)["get_metrics"] = self._previous


def learning_rates(recorders: Sequence[Recorder]) -> dict[str, str]:
    """The learning rates of the last step, by name, as text: the bar's own format may show too few decimals."""
    series = {name: values for recorder in recorders for name, values in recorder.learning_rates() if len(values)}
    if len({(id(values.column), values.share) for values in series.values()}) == 1:
        series = {"lr": next(iter(series.values()))}  # groups of one schedule always agree
    return {name: f"{values.last():.3g}" for name, values in list(series.items())[:MAX_SHOWN]}
