"""Keras' EarlyStopping: its rule and its words, where Lightning looks for an early stopping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_plugins._lightning import compat
from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins._lightning.metrics import Observer, logged_since
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins.checkpoint_state import ChecksState, StateFormat, anything, count, dict_of, number_or_name, optional
from lr_plugins.console.keras_styles import STYLES
from lr_plugins.console.line import write
from lr_plugins.errors import InvalidArgument
from lr_plugins.metric_direction import better
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules.metric_driven.base import plain, whole
from lr_plugins.schedules.observation import EPOCH
from lr_plugins.validation import choice, flag, number

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


class EarlyStopping(ChecksState, compat.EarlyStopping):
    """Stop training when a metric has stopped improving, and restore the best weights if asked to.

    An epoch improves if `metric < best - min_delta` (mode min). The `patience`-th epoch in a row that does not is the
    last one. Keras 3 compares in float32 and takes the first value as the best, whatever it is; in Keras 2 NaN and
    infinity never are the best, unless `baseline` says so.

    With `restore_best_weights` the module has the weights of the best epoch when the fit has ended: in Keras 2 if it
    was stopped, in Keras 3 in any case.

    Args:
        monitor: the logged metric. Default `"val_loss"`. An epoch that does not log it is not counted, and a warning
            says so once.
        min_delta: by how much the metric must be better. Default 0.
        patience: epochs without an improvement before training stops, >= 0. Default 0: the first one.
        verbose: 1 prints what Keras prints. Default 0.
        mode: `"min"`, `"max"`, or `"auto"` (default), by the metric's name.
        baseline: a value that the metric has to improve on. Default None.
        restore_best_weights: whether to end with the weights of the best epoch. They are kept in the memory of the host
            and in checkpoints. Default False.
        start_from_epoch: epochs before this one are not looked at, >= 0. Default 0.
        style: `"keras2"` (default) for the rule and the words of Keras 2.2.4, `"keras3"` for those of Keras 3.

    Raises:
        InvalidArgument: an argument outside its range; when the fit starts, `restore_best_weights` under a strategy
            that keeps a part of the weights in each process.

    Source: keras.callbacks.EarlyStopping.

    Example:
        >>> callback = EarlyStopping("val_loss", patience=3, restore_best_weights=True, verbose=1)
        >>> trainer = Trainer(callbacks=[callback], max_epochs=100)  # doctest: +SKIP
        >>> trainer.fit(module)  # doctest: +SKIP
        Restoring model weights from the end of the best epoch
        Epoch 00017: early stopping
    """

    state_format = StateFormat(
        "EarlyStopping",
        {
            "wait": count,
            "best": optional(number_or_name),
            "best_epoch": count,
            "best_weights": optional(dict_of(anything)),
        },
    )

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        style: str = "keras2",
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise InvalidArgument("EarlyStopping.monitor", monitor, "the name of a logged metric")
        self.monitor = monitor
        as_number = int(verbose) if isinstance(verbose, bool) else verbose
        self.verbose = whole("EarlyStopping.verbose", as_number, -1)  # type: ignore[assignment]
        self.style = choice("EarlyStopping.style", style, STYLES)
        self.mode = choice("EarlyStopping.mode", mode, ("auto", "min", "max"))
        self._sign = self._direction()
        given = number("EarlyStopping.min_delta", min_delta, "a finite number")
        self.min_delta = given if style == "keras2" else abs(given)
        self.patience = whole("EarlyStopping.patience", patience)
        self.baseline = None if baseline is None else number("EarlyStopping.baseline", baseline, "a number, or None")
        self.restore_best_weights = flag("EarlyStopping.restore_best_weights", restore_best_weights)
        self.start_from_epoch = whole("EarlyStopping.start_from_epoch", start_from_epoch)
        self._seen: dict[str, Tensor] = {}  # as earlier epochs left the metrics
        self._has_warned = False
        self._is_restored = False  # from a checkpoint, until training begins
        self._stopped_in: int | None = None  # the epoch, where it has stopped this fit
        self._begin()

    def _direction(self) -> int:
        if self.mode != "auto":
            return 1 if self.mode == "min" else -1
        if self.style == "keras2":
            return -1 if "acc" in self.monitor else 1
        found = better(self.monitor)
        if found is None:
            hint = "The metric's name does not tell which."
            raise InvalidArgument("EarlyStopping.mode", "auto", f'"min" or "max" for {self.monitor!r}', hint)
        return 1 if found == "min" else -1

    def _begin(self) -> None:
        self.wait, self.best_epoch = 0, 0
        # Keras 2 begins with a best that any number improves on, or with the baseline.
        first = self._sign * math.inf if self.baseline is None else self.baseline
        self.best: float | None = first if self.style == "keras2" else None
        self.best_weights: dict[str, Any] | None = None

    # --- the run ----------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to keep weights of which each process has a part."""
        if stage == "fit":
            self._is_restored = False
        strategy = type(trainer.strategy).__name__
        if stage == "fit" and self.restore_best_weights and strategy in _SHARDED:
            allowed = f"False under {strategy}, where no process has all weights"
            raise InvalidArgument("EarlyStopping.restore_best_weights", True, allowed, "Use ModelCheckpoint.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh, or continue from a checkpoint."""
        if not self._is_restored:
            self._begin()
        self._stopped_in = None
        self._is_restored, self._has_warned, self._seen = False, False, dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: Keras decides when the epoch is over."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and stop. Lightning calls it behind the module's own hook, so all metrics are there."""
        logged = logged_since(trainer.callback_metrics, self._seen)
        self._seen = dict(trainer.callback_metrics)
        if getattr(trainer, "fast_dev_run", False) or trainer.current_epoch < self.start_from_epoch:
            return
        value = self._of_all_processes(trainer, logged)
        if value is None:
            self._warn(logged)
        elif (self._keras2 if self.style == "keras2" else self._keras3)(value, trainer.current_epoch, pl_module):
            self._stopped_in = trainer.current_epoch
            trainer.should_stop = True

    def _of_all_processes(self, trainer: Trainer, logged: dict[str, Tensor]) -> float | None:
        """The metric, the same in all processes: the mean over those that have logged it; None if none has."""
        observer = Observer(trainer, {EPOCH: [self.monitor]})
        found = float(logged[self.monitor]) if self.monitor in logged else None
        if trainer.world_size == 1:
            return found
        observer.add(EPOCH, {} if found is None else {self.monitor: found})
        value = observer.observation(EPOCH, {}).metrics.get(self.monitor)
        return None if value is None else float(value)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that training was stopped, and restore the best weights."""
        stopped = self._stopped_in
        if self.style == "keras2":
            if stopped is not None:
                self._restore(pl_module, "Restoring model weights from the end of the best epoch")
            self._say(f"Epoch {stopped + 1:05d}: early stopping" if stopped else "")  # silent about the first epoch
        else:
            self._say(f"Epoch {stopped + 1}: early stopping" if stopped else "")
            self._restore(pl_module, f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")

    def _restore(self, pl_module: LightningModule, words: str) -> None:
        if self.restore_best_weights and self.best_weights is not None:
            self._say(words)
            pl_module.load_state_dict(self.best_weights)

    def _say(self, words: str) -> None:
        if self.verbose > 0 and words:
            write(f"{words}\n")

    def _warn(self, logged: dict[str, Tensor]) -> None:
        if not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"Early stopping conditioned on metric `{self.monitor}` which is not available. "
                f"Available metrics are: {','.join(logged)}"
            )

    # --- the rules: whether to stop ---------------------------------------------------------------------------

    def _keras2(self, value: float, epoch: int, pl_module: LightningModule) -> bool:
        assert self.best is not None
        if self._improves(value, self.best):
            self._take(value, epoch, pl_module)
            self.wait = 0
            return False
        self.wait += 1
        return self.wait >= self.patience

    def _keras3(self, value: float, epoch: int, pl_module: LightningModule) -> bool:
        self.wait += 1
        if self.best is None or self._improves(value, self.best, np.float32):
            self._take(value, epoch, pl_module)
            if self.baseline is None or self._improves(value, self.baseline, np.float32):
                self.wait = 0
            return False
        return self.wait >= self.patience and epoch > 0

    def _improves(self, value: float, best: float, precision: type[float] | type[np.float32] = float) -> bool:
        """Whether a value is better, compared in a precision."""
        with np.errstate(over="ignore"):
            moved, bar = precision(value + self._sign * self.min_delta), precision(best)
        return bool(moved < bar if self._sign == 1 else moved > bar)

    def _take(self, value: float, epoch: int, pl_module: LightningModule) -> None:
        self.best, self.best_epoch = value, epoch
        if self.restore_best_weights:
            weights = pl_module.state_dict()
            self.best_weights = {
                name: one.detach().to("cpu", copy=True) if isinstance(one, Tensor) else one
                for name, one in weights.items()
            }

    # --- Lightning's names, and the checkpoint ----------------------------------------------------------------

    @property
    def stopped_epoch(self) -> int:  # type: ignore[override]
        """The epoch in which it has stopped the fit, from 0; 0 if it has not, as in Keras and Lightning."""
        return self._stopped_in or 0

    @property
    def wait_count(self) -> int:  # type: ignore[override]
        """Lightning's name for `wait`."""
        return self.wait

    @property
    def best_score(self) -> Tensor:  # type: ignore[override]
        """Lightning's name for `best`; NaN before the first epoch."""
        return torch.tensor(math.nan if self.best is None else self.best)

    @property
    def state_key(self) -> str:  # type: ignore[override]
        """One of each metric and mode has a state of its own."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def state_dict(self) -> dict[str, Any]:
        """What it has counted, the best value, and the best weights."""
        best = None if self.best is None else plain(self.best)
        state = {"wait": self.wait, "best": best, "best_epoch": self.best_epoch}
        return self.state_format.stamped({**state, "best_weights": self.best_weights})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        state = self.check_state_dict(state_dict)
        self.wait, self.best_epoch = state["wait"], state["best_epoch"]
        self.best = None if state["best"] is None else float(state["best"])
        self.best_weights, self._is_restored = state["best_weights"], True

    def __getstate__(self) -> dict[str, Any]:
        """Without the metrics of a fit."""
        return state_without_fit(self, _seen={})
