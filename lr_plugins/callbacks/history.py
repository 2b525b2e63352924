"""Keras' History: the metrics and the learning rate of each epoch, to look at when training is over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.epoch_results import are_batches_done, is_at_last_batch, means_of_all_processes
from lr_plugins._lightning.metrics import logged_since
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.worker_results import bring_back
from lr_plugins.callbacks.last_lr import LastLR, is_scheduled
from lr_plugins.checkpoint_state import ChecksState, StateFormat, count, dict_of, flag, list_of, optional, real
from lr_plugins.console.keras_styles import LEARNING_RATE_NAMES
from lr_plugins.errors import InvalidArgument, require

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class History(ChecksState, Callback):
    """Keep what each epoch logged, and its learning rate, as Keras' `History` does.

    `history["val_loss"]`, or `history.history["val_loss"]` as in Keras, is a list of one number per epoch that
    logged it: an epoch without validation has none, and of several validations in an epoch the last counts.
    `history.values["val_loss"]` has the same by epoch. The names are Lightning's, `loss_step` among them, in Keras'
    order. Where something schedules it, `lr` is the learning rate of the epoch's last optimizer step (of the first
    param group; Keras rounds it to float32), unless the module logs something of that name; `history.learning_rates`
    has it by epoch in any case. `history.epoch` lists the epochs, from 0.

    An epoch's metrics are taken once they are complete, those that a module logs in its own `on_train_epoch_end`
    included: at the start of the next epoch, or at the end of training. Put it before callbacks that log something at
    the begin of an epoch. Checkpoints have all of it: the history of a resumed run is whole, where Keras' begins anew.
    What Lightning itself leaves out when it resumes stays out: the validation that would have followed the batch after
    which a checkpoint was taken, and the first part of an epoch's means (`LearningRateScheduler` restores those that a
    schedule follows).

    Args:
        style: `"keras2"` (default) calls the learning rate `lr` and has the metrics of validation first, `"keras3"`
            calls it `learning_rate` and sorts the metrics, those of training first.

    Raises:
        InvalidArgument: for another style.

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

    def __init__(self, style: str = "keras2") -> None:
        if style not in LEARNING_RATE_NAMES:
            raise InvalidArgument("History.style", style, f"one of {', '.join(LEARNING_RATE_NAMES)}")
        self.style = style
        self.epoch: list[int] = []
        self.values: dict[str, dict[int, float]] = {}
        """The metrics by name and epoch, without the learning rate."""
        self.learning_rates: dict[int, float] = {}
        """The learning rate by epoch."""
        self.is_scheduled = False
        """Whether something schedules the learning rate: only then does Keras' history have it."""
        self._rate = LastLR()
        self._taken: dict[str, Tensor] = {}  # what the epochs so far have left in Lightning's dictionary
        self._waiting: dict[str, float] = {}  # logged before the checkpoint, for an epoch that was not taken yet
        self._ended: int | None = None
        self._ended_with: float | None = None  # the learning rate of that epoch
        self._trainer: Trainer | None = None  # while training

    @property
    def history(self) -> dict[str, list[float]]:
        """The values of each epoch by name, in the order that Keras has; a copy."""
        return {name: [value for _, value in sorted(values.items())] for name, values in self._by_name().items()}

    def _by_name(self) -> dict[str, dict[int, float]]:
        by_name = {name: self.values[name] for name in self._in_order()}
        if self.learning_rates and self.is_scheduled:
            by_name.setdefault(LEARNING_RATE_NAMES[self.style], self.learning_rates)
        return by_name

    def _in_order(self) -> list[str]:
        """Keras 3 sorts the metrics of training, then those of validation; Keras 2 has the latter first, loss ahead."""
        validation = [name for name in self.values if name.startswith("val_")]
        training = [name for name in self.values if name not in validation]
        if self.style == "keras3":
            return sorted(training) + sorted(validation)
        return sorted(validation, key=lambda name: name != "val_loss") + sorted(
            training, key=lambda name: name != "loss"
        )

    def __getitem__(self, name: str) -> list[float]:
        """The values of each epoch; a copy."""
        history = self.history
        if name not in history:
            raise KeyError(f"{name!r}; the history has: {', '.join(history) or 'nothing yet'}")
        return history[name]

    def __contains__(self, name: object) -> bool:
        return name in self.history

    def __iter__(self) -> Iterator[str]:
        return iter(self.history)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw losses, other metrics and the learning rate over the epochs, one panel below the other.

        Args:
            path: a PNG to write. Default None: none; a notebook shows the figure that comes back.

        Raises:
            MissingExtra: matplotlib is not installed.

        Example:
            >>> figure = History().plot()
        """
        from lr_plugins.plotting.history import RATE, plot_history

        curves = {**self._by_name(), RATE: self.learning_rates}
        rate = curves.pop(LEARNING_RATE_NAMES[self.style], self.learning_rates)
        return plot_history({**curves, RATE: rate}, path)

    def frame(self) -> pandas.DataFrame:
        """A pandas frame with a row per epoch and a column per name; NaN where an epoch did not log it.

        The columns are those of `history`, in the same order.

        Raises:
            MissingExtra: pandas is not installed.

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
        """Forget what waited in a checkpoint that was only tested."""
        if stage == "fit":
            self._waiting, self._ended, self._ended_with = {}, None, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start empty in a run's first epoch; a run that continues keeps its past."""
        self._trainer, self._rate, self.is_scheduled = trainer, LastLR(), is_scheduled(trainer)
        if trainer.current_epoch == 0:
            self.epoch, self.values, self.learning_rates = [], {}, {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the metrics of the epoch before."""
        self._take(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the learning rate, in case nobody keeps a trace of it."""
        if self._ended is not None:  # resumed behind an epoch's last batch: the next epoch is not announced
            self._take(trainer)
        self._rate.note(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that this epoch's are due."""
        self._ended, used = trainer.current_epoch, self._rate.value(trainer)
        self._ended_with = self._ended_with if used is None else used  # before the checkpoint

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the metrics of the last epoch."""
        self._take(trainer)
        self._trainer = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take those of an epoch that was complete, and let go of the Trainer: Lightning calls no teardown then."""
        if self._ended is not None:
            self._take(trainer)
        self._waiting, self._trainer = self._news(trainer), None  # for a checkpoint that is saved because of it

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the Trainer; take what a checkpoint had, where there was nothing left to train."""
        if self._ended is not None:
            self._take(trainer)
        self._trainer = None
        results = {
            "epoch": self.epoch,
            "values": self.values,
            "learning_rates": self.learning_rates,
            "is_scheduled": self.is_scheduled,
        }
        bring_back(trainer, self, results)

    def _take(self, trainer: Trainer) -> None:
        if self._ended is not None:
            for name, value in self._news(trainer).items():
                self.values.setdefault(name, {})[self._ended] = value
            if self._ended_with is not None:
                self.learning_rates[self._ended] = self._ended_with
            self.epoch.append(self._ended)
            self._waiting = {}
        self._taken, self._ended, self._ended_with = dict(trainer.callback_metrics), None, None

    def _news(self, trainer: Trainer) -> dict[str, float]:
        logged = logged_since(trainer.callback_metrics, self._taken)
        return {**self._waiting, **{name: float(value) for name, value in logged.items()}}

    def __getstate__(self) -> dict[str, Any]:
        """Without the Trainer of a fit."""
        return state_without_fit(self, _trainer=None)

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The values, and what is logged but not yet of an epoch that is complete; plain numbers."""
        state = {
            "epoch": list(self.epoch),
            "values": {name: dict(epochs) for name, epochs in self.values.items()},
            "learning_rates": dict(self.learning_rates),
            "waiting": self._news(self._trainer) if self._trainer is not None else dict(self._waiting),
            "ended": self._ended,
            "ended_with": self._ended_with,
            "is_scheduled": self.is_scheduled,
        }
        return self.state_format.stamped(state)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what an epoch comes to whose batches are all done: Lightning's checkpoints do not keep it."""
        if self._trainer is None or self._ended is not None or not are_batches_done(trainer):
            return
        mine: dict[str, Any] = checkpoint["callbacks"][self.state_key]
        mine["waiting"] |= means_of_all_processes(trainer)
        mine["ended_with"] = self._rate.value(trainer)
        if is_at_last_batch(trainer):  # a run that resumes here does not end it again
            mine["ended"] = trainer.current_epoch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the values of a checkpoint."""
        state = self.check_state_dict(state_dict)
        self.epoch = list(state["epoch"])
        self.values = {name: dict(epochs) for name, epochs in state["values"].items()}
        self.learning_rates = dict(state["learning_rates"])
        self._waiting, self._ended = dict(state["waiting"]), state["ended"]
        self._ended_with = state["ended_with"]
        self.is_scheduled = state.get("is_scheduled", True)
