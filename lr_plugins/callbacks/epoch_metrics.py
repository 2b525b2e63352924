"""The metrics of each epoch, to look at when training is over."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lr_plugins._lightning import Callback, LightningModule, Trainer
from lr_plugins.callbacks.observer import logged_since


class EpochMetrics(Callback):
    """Keep what each epoch logged: `values["val_loss"][3]` is the value of the fourth epoch.

    An epoch's metrics are taken once they are complete, those that a module logs in its own `on_train_epoch_end`
    included. A metric that an epoch did not log has no entry for it. Put it before callbacks that log something at the
    begin of an epoch. Checkpoints have the values so far, those of the epoch under way included.

    Example:
        >>> EpochMetrics().values
        {}
    """

    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}
        self._taken: dict[str, Tensor] = {}  # what the epochs so far have left in Lightning's dictionary
        self._waiting: dict[str, float] = {}  # logged before the checkpoint, for an epoch that was not taken yet
        self._ended: int | None = None
        self._trainer: Trainer | None = None  # while training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what waited in a checkpoint that was only tested."""
        if stage == "fit":
            self._waiting, self._ended = {}, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with a run's first epoch; one that goes on keeps its past."""
        self._trainer = trainer
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
        self._trainer = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take those of an epoch that was complete."""
        if self._ended is not None:
            self._take(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the Trainer."""
        self._trainer = None

    def _take(self, trainer: Trainer) -> None:
        if self._ended is not None:
            for name, value in self._news(trainer).items():
                self.values.setdefault(name, {})[self._ended] = value
            self._waiting = {}
        self._taken, self._ended = dict(trainer.callback_metrics), None

    def _news(self, trainer: Trainer) -> dict[str, float]:
        logged = logged_since(trainer.callback_metrics, self._taken)
        return {**self._waiting, **{name: float(value) for name, value in logged.items()}}

    def state_dict(self) -> dict[str, Any]:
        """The values, and what is logged but not yet of an epoch that is complete; plain numbers."""
        waiting = self._news(self._trainer) if self._trainer is not None else dict(self._waiting)
        values = {name: dict(epochs) for name, epochs in self.values.items()}
        return {"values": values, "waiting": waiting, "ended": self._ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the values of a checkpoint."""
        self.values = {name: dict(epochs) for name, epochs in state_dict["values"].items()}
        self._waiting, self._ended = dict(state_dict["waiting"]), state_dict["ended"]
