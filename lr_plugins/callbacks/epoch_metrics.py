"""The metrics of each epoch, to look at when training is over."""

from __future__ import annotations

from torch import Tensor

from lr_plugins._lightning import Callback, LightningModule, Trainer
from lr_plugins.callbacks.observer import logged_since


class EpochMetrics(Callback):
    """Keep what each epoch logged: `values["val_loss"][3]` is the value of the fourth epoch.

    An epoch's metrics are taken once they are complete, those that a module logs in its own `on_train_epoch_end`
    included. A metric that an epoch did not log has no entry for it. Put it before callbacks that log something at the
    begin of an epoch.

    Example:
        >>> EpochMetrics().values
        {}
    """

    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}
        self._taken: dict[str, Tensor] = {}  # what the epochs so far have left in Lightning's dictionary
        self._ended: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with a run's first epoch; one that goes on keeps its past."""
        if trainer.current_epoch == 0:
            self.values = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the metrics of the epoch before."""
        self._take(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that this epoch's are due."""
        self._ended = trainer.current_epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the metrics of the last epoch."""
        self._take(trainer)

    def _take(self, trainer: Trainer) -> None:
        if self._ended is not None:
            for name, value in logged_since(trainer.callback_metrics, self._taken).items():
                self.values.setdefault(name, {})[self._ended] = float(value)
        self._taken, self._ended = dict(trainer.callback_metrics), None
