"""Keras' History: the metrics and the learning rate of each epoch, for inspection after training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.epoch_results import are_batches_done, is_at_last_batch, means_of_all_processes
from lr_plugins._lightning.metrics import MetricCursor
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.unused_hooks import skip_unused_hooks
from lr_plugins._lightning.worker_results import send_to_main_process
from lr_plugins.callbacks.last_lr import LastLR, is_scheduled
from lr_plugins.checkpoint_state import ChecksState, StateFormat, count, dict_of, flag, list_of, optional, real
from lr_plugins.console.keras_styles import LEARNING_RATE_NAMES, STYLES, Style
from lr_plugins.errors import require
from lr_plugins.validation import choice

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class History(ChecksState, Callback):
    """Record the metrics and the learning rate of each epoch, as Keras' `History` does.

    `history["val_loss"]`, or `history.history["val_loss"]` as in Keras, is a list with one number for each epoch that
    logged the metric. An epoch without validation adds nothing; if there are several validations in an epoch, the last
    one counts. `history.values["val_loss"]` has the same numbers by epoch; `history.epoch` lists the epochs, from 0.
    The names are Lightning's, including `loss_step`, in Keras' order.

    If the learning rate is scheduled, `lr` is that of the epoch's last optimizer step (of the first param group; Keras
    rounds it to float32), unless the module logs a metric of that name. `history.learning_rates` always has it, by
    epoch.

    The metrics of an epoch are collected once they are complete, including those that a module logs in its own
    `on_train_epoch_end`: at the start of the next epoch, or at the end of training. Place this callback before any that
    logs at the start of an epoch. Checkpoints contain the whole history, so that of a resumed run is complete; Keras'
    starts again. Two things are missing because Lightning does not resume them: the validation that would have followed
    the batch after which the checkpoint was saved, and the first part of an epoch's means (`LearningRateScheduler`
    restores those that a schedule monitors).

    Args:
        style: `"keras2"` (default) calls the learning rate `lr` and puts the validation metrics first; `"keras3"` calls
            it `learning_rate` and sorts the metrics, training before validation.

    Raises:
        InvalidArgumentError: an unknown style.

    Source: keras.callbacks.History.

    Example:
        >>> history = History()
        >>> trainer = Trainer(callbacks=[history], max_epochs=3)  # doctest: +SKIP
        >>> trainer.fit(module)  # doctest: +SKIP
        >>> history["lr"]  # doctest: +SKIP
        [0.002, 0.002, 0.001]
        >>> history.history, history.epoch
        ({}, [])
    """

    state_format = StateFormat(
        "History",
        {
            "epoch": list_of(count),
            "values": dict_of(dict_of(real, keys=count)),
            "learning_rates": dict_of(real, keys=count),
            "waiting": dict_of(real),
            "ended": optional(count),
            "ended_with": optional(real),
        },
        {"is_scheduled": flag},
    )

    def __init__(self, style: Style = "keras2") -> None:
        self.style = choice("History.style", style, STYLES)
        self.epoch: list[int] = []
        self.values: dict[str, dict[int, float]] = {}
        """The metrics by name and epoch, without the learning rate."""
        self.learning_rates: dict[int, float] = {}
        """The learning rate by epoch."""
        self.is_scheduled = False
        """Whether the learning rate is scheduled; Keras' history has it only then."""
        self._rate = LastLR()
        self._cursor = MetricCursor()  # past the metrics of the epochs that are in the history
        self._waiting: dict[str, float] = {}  # from a checkpoint: metrics of an epoch that is not in the history yet
        self._ended: int | None = None  # an epoch that has ended and is not in the history yet
        self._ended_with: float | None = None  # the learning rate of that epoch
        self._trainer: Trainer | None = None  # while training

    @property
    def history(self) -> dict[str, list[float]]:
        """The values of each epoch by name, in Keras' order. A copy."""
        return {name: [value for _, value in sorted(values.items())] for name, values in self._by_name().items()}

    def _by_name(self) -> dict[str, dict[int, float]]:
        by_name = {name: self.values[name] for name in self._in_order()}
        if self.learning_rates and self.is_scheduled:
            by_name.setdefault(LEARNING_RATE_NAMES[self.style], self.learning_rates)
        return by_name

    def _in_order(self) -> list[str]:
        """Keras 3 sorts training, then validation metrics; Keras 2 has validation first, with the losses ahead."""
        validation = [name for name in self.values if name.startswith("val_")]
        training = [name for name in self.values if name not in validation]
        if self.style == "keras3":
            return sorted(training) + sorted(validation)
        return sorted(validation, key=lambda name: name != "val_loss") + sorted(
            training, key=lambda name: name != "loss"
        )

    def __getitem__(self, name: str) -> list[float]:
        """The values of each epoch. A copy."""
        history = self.history
        if name not in history:
            raise KeyError(f"{name!r}; the history has: {', '.join(history) or 'nothing yet'}")
        return history[name]

    def __contains__(self, name: object) -> bool:
        return name in self.history

    def __iter__(self) -> Iterator[str]:
        return iter(self.history)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Plot losses, other metrics and the learning rate over the epochs, one panel below the other.

        Args:
            path: a PNG to write. Default None: no file; a notebook shows the returned figure.

        Raises:
            MissingExtraError: matplotlib is not installed.

        Example:
            >>> figure = History().plot()
        """
        from lr_plugins.plotting.history import RATE, plot_history

        curves = {**self._by_name(), RATE: self.learning_rates}
        rate = curves.pop(LEARNING_RATE_NAMES[self.style], self.learning_rates)
        return plot_history({**curves, RATE: rate}, path)

    def frame(self) -> pandas.DataFrame:
        """A pandas DataFrame with a row per epoch; NaN where an epoch did not log the metric.

        The columns are those of `history`, in the same order.

        Raises:
            MissingExtraError: pandas is not installed.

        Example:
            >>> History().frame().empty
            True
        """
        require("pandas", "plot", "History.frame")
        import pandas

        index = pandas.Index(self.epoch, name="epoch", dtype="int64")
        columns = {
            name: [values.get(epoch, math.nan) for epoch in self.epoch] for name, values in self._by_name().items()
        }
        return pandas.DataFrame(columns, index)

    # --- the run ----------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Discard the pending metrics of a checkpoint that was loaded for `test` or `validate`."""
        if stage == "fit":
            skip_unused_hooks(self, trainer)
            self._waiting, self._ended, self._ended_with = {}, None, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the history in the first epoch of a run; a resumed run keeps it."""
        self._trainer, self._rate, self.is_scheduled = trainer, LastLR(), is_scheduled(trainer)
        if trainer.current_epoch == 0:
            self.epoch, self.values, self.learning_rates = [], {}, {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the previous epoch, whose metrics are complete now."""
        self._add_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the learning rate, in case no callback keeps a trace of it."""
        if self._ended is not None:  # resumed after an epoch's last batch: the start of the next one is skipped
            self._add_epoch(trainer)
        self._rate.note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has ended, with its learning rate."""
        self._ended, used = trainer.current_epoch, self._rate.value(trainer)
        self._ended_with = (
            self._ended_with if used is None else used
        )  # without a step since the checkpoint, keep its value

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the last epoch."""
        self._add_epoch(trainer)
        self._trainer = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add an epoch that was complete; release the Trainer, because Lightning skips `teardown` after an error."""
        if self._ended is not None:
            self._add_epoch(trainer)
        self._waiting, self._trainer = self._new_metrics(trainer), None  # for a checkpoint saved because of the error

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the Trainer; add the epoch of a checkpoint after which nothing was left to train."""
        if self._ended is not None:
            self._add_epoch(trainer)
        self._trainer = None
        results = {
            "epoch": self.epoch,
            "values": self.values,
            "learning_rates": self.learning_rates,
            "is_scheduled": self.is_scheduled,
        }
        send_to_main_process(trainer, self, results)

    def _add_epoch(self, trainer: Trainer) -> None:
        """Add the epoch that has ended, if any."""
        if self._ended is not None:
            for name, value in self._new_metrics(trainer).items():
                self.values.setdefault(name, {})[self._ended] = value
            if self._ended_with is not None:
                self.learning_rates[self._ended] = self._ended_with
            self.epoch.append(self._ended)
            self._waiting = {}
        self._cursor.advance(trainer.callback_metrics)
        self._ended, self._ended_with = None, None

    def _new_metrics(self, trainer: Trainer) -> dict[str, float]:
        logged = self._cursor.new(trainer.callback_metrics)
        return {**self._waiting, **{name: float(value) for name, value in logged.items()}}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the Trainer."""
        return state_without_fit(self, _trainer=None)

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The history, and what has been logged in the current epoch; plain numbers."""
        state = {
            "epoch": list(self.epoch),
            "values": {name: dict(epochs) for name, epochs in self.values.items()},
            "learning_rates": dict(self.learning_rates),
            "waiting": self._new_metrics(self._trainer) if self._trainer is not None else dict(self._waiting),
            "ended": self._ended,
            "ended_with": self._ended_with,
            "is_scheduled": self.is_scheduled,
        }
        return self.state_format.stamped(state)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the means of an epoch whose batches are all done: Lightning's checkpoints do not contain them."""
        if self._trainer is None or self._ended is not None or not are_batches_done(trainer):
            return
        state: dict[str, Any] = checkpoint["callbacks"][self.state_key]
        state["waiting"] |= means_of_all_processes(trainer)
        state["ended_with"] = self._rate.value(trainer)
        if is_at_last_batch(trainer):  # a run resumed here does not end this epoch again
            state["ended"] = trainer.current_epoch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of a checkpoint."""
        state = self.check_state_dict(state_dict)
        self.epoch = list(state["epoch"])
        self.values = {name: dict(epochs) for name, epochs in state["values"].items()}
        self.learning_rates = dict(state["learning_rates"])
        self._waiting, self._ended = dict(state["waiting"]), state["ended"]
        self._ended_with = state["ended_with"]
        self.is_scheduled = state.get("is_scheduled", True)
