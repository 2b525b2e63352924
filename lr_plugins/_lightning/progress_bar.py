"""The learning rate in Lightning's progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins.engine.recorder import Recorder

MOST = 3
"""So many learning rates are shown; of more param groups, the first."""


class ShownInBar:
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
        asked = self._bar.get_metrics

        def get_metrics(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
            found = asked(trainer, pl_module)
            ours = {name: text for name, text in learning_rates(recorders).items() if name not in found}
            return {**found, **ours}

        # On this bar alone, and not on its class, whatever that is.
        self._mine, self._before = get_metrics, vars(self._bar).get("get_metrics")
        vars(self._bar)["get_metrics"] = get_metrics

    def end(self) -> None:
        """Leave the bar as it was."""
        if self._bar is None or vars(self._bar).get("get_metrics") is not self._mine:
            return
        del vars(self._bar)["get_metrics"]
        if self._before is not None:
            vars(self._bar)["get_metrics"] = self._before


def learning_rates(recorders: Sequence[Recorder]) -> dict[str, str]:
    """The learning rates of the step just taken, by name, as text: a bar's own format may have few decimals."""
    series = {name: one for recorder in recorders for name, one in recorder.learning_rates() if len(one)}
    if len({(id(one.column), one.share) for one in series.values()}) == 1:
        series = {"lr": next(iter(series.values()))}  # groups of one schedule, which always agree
    return {name: f"{one.last():.3g}" for name, one in list(series.items())[:MOST]}
