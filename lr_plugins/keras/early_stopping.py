"""Keras' EarlyStopping, with its rules and messages, as a subclass of Lightning's."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from torch import Tensor

from lr_plugins._lightning import compat
from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins._lightning.metrics import MetricCollector, MetricCursor
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins.checkpoint_state import ChecksState, StateFormat, anything, count, dict_of, number_or_name, optional
from lr_plugins.console.keras_styles import STYLES, Style
from lr_plugins.console.line import write
from lr_plugins.errors import InvalidArgumentError, UnsupportedError
from lr_plugins.metric_direction import Mode, better_in_keras2, improves
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules.metric_driven.base import direction, plain
from lr_plugins.schedules.observation import EPOCH
from lr_plugins.validation import choice, flag, integer, number, verbosity

_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


class EarlyStopping(ChecksState, compat.EarlyStopping):
    """Stop training when a metric has stopped improving, and optionally restore the best weights.

    An epoch improves if `metric + min_delta < best` (mode min). Training stops after `patience` epochs in a row without
    an improvement. Keras 3 compares in float32 and takes the first value as the best, whatever it is; in Keras 2 NaN
    and infinity are never the best, unless `baseline` is one of them.

    With `restore_best_weights` the module has the weights of the best epoch after the fit: in Keras 2 if training was
    stopped early, in Keras 3 in any case.

    Nine attributes are the arguments, and `wait`, `best`, `best_epoch` and `best_weights` have Keras' names.

    Args:
        monitor: the logged metric. Default `"val_loss"`. An epoch that does not log it is not counted, with one
            warning.
        min_delta: by how much the metric must be better. Default 0.
        patience: epochs without an improvement before training stops, >= 0. Default 0: stop at the first one.
        verbose: 1 prints Keras' messages. Default 0.
        mode: `"min"`, `"max"`, or `"auto"` (default), by the metric's name.
        baseline: a value that the metric has to improve on. Default None.
        restore_best_weights: whether to end with the weights of the best epoch. They are kept in host memory and in
            checkpoints. Default False.
        start_from_epoch: the first epoch that is compared, >= 0. Default 0.
        style: `"keras2"` (default) for the rule and the messages of Keras 2.2.4, `"keras3"` for those of Keras 3.

    Raises:
        InvalidArgumentError: an argument outside its range.
        UnsupportedError: when the fit starts, `restore_best_weights` with a strategy that shards the weights.

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
        mode: Mode = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        style: Style = "keras2",
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise InvalidArgumentError("EarlyStopping.monitor", monitor, "the name of a logged metric")
        self.monitor = monitor
        printed = "an integer: 0 (nothing) or 1 (Keras' messages)"
        self.verbose = verbosity("EarlyStopping.verbose", verbose, printed)  # type: ignore[assignment]
        self.style = choice("EarlyStopping.style", style, STYLES)
        self.mode = choice("EarlyStopping.mode", mode, get_args(Mode))
        judged = better_in_keras2(monitor) if style == "keras2" and mode == "auto" else mode
        self._sign = direction(self, judged, monitor)
        given = number("EarlyStopping.min_delta", min_delta, "a finite number")
        self.min_delta = given if style == "keras2" else abs(given)
        self.patience = integer("EarlyStopping.patience", patience, 0)
        self.baseline = None if baseline is None else number("EarlyStopping.baseline", baseline, "a number, or None")
        self.restore_best_weights = flag("EarlyStopping.restore_best_weights", restore_best_weights)
        self.start_from_epoch = integer("EarlyStopping.start_from_epoch", start_from_epoch, 0)
        self._cursor = MetricCursor()  # past the metrics of earlier epochs
        self._has_warned = False
        self._is_restored = False  # from a checkpoint, until training begins
        self._stopped_in: int | None = None  # the epoch in which this fit was stopped
        self._reset()

    def _reset(self) -> None:
        self.wait, self.best_epoch = 0, 0
        # Keras 2 starts from a best that any number improves on, or from the baseline.
        first = self._sign * math.inf if self.baseline is None else self.baseline
        self.best: float | None = first if self.style == "keras2" else None
        self.best_weights: dict[str, Any] | None = None

    # --- the run ----------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject `restore_best_weights` where each process has a part of the weights."""
        if stage == "fit":
            self._is_restored = False
        strategy = type(trainer.strategy).__name__
        if stage == "fit" and self.restore_best_weights and strategy in _SHARDING:
            raise UnsupportedError(
                f"EarlyStopping(restore_best_weights=True) does not support {strategy}, where no process has all "
                "weights. Use ModelCheckpoint to keep the best ones."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh, or continue from a checkpoint."""
        if not self._is_restored:
            self._reset()
        self._stopped_in, self._is_restored, self._has_warned = None, False, False
        self._cursor.advance(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: Keras compares at the end of the epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and stop. Lightning calls this after the module's own hook, so all metrics are logged."""
        logged = self._cursor.new(trainer.callback_metrics)
        self._cursor.advance(trainer.callback_metrics)
        if getattr(trainer, "fast_dev_run", False) or trainer.current_epoch < self.start_from_epoch:
            return
        value = self._of_all_processes(trainer, logged)
        if value is None:
            self._warn(logged)
        elif (self._keras2 if self.style == "keras2" else self._keras3)(value, trainer.current_epoch, pl_module):
            self._stopped_in = trainer.current_epoch
            trainer.should_stop = True

    def _of_all_processes(self, trainer: Trainer, logged: dict[str, Tensor]) -> float | None:
        """The metric, the same in all processes: the mean over those that logged it; None if none did."""
        local = float(logged[self.monitor]) if self.monitor in logged else None
        if trainer.world_size == 1:
            return local
        collector = MetricCollector(trainer, {EPOCH: [self.monitor]})
        collector.add(EPOCH, {} if local is None else {self.monitor: local})
        value = collector.observation(EPOCH, {}).metrics.get(self.monitor)
        return None if value is None else float(value)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that training was stopped, and restore the best weights."""
        stopped = self._stopped_in
        if self.style == "keras2":
            if stopped is not None:
                self._restore(pl_module, "Restoring model weights from the end of the best epoch")
            self._print(f"Epoch {stopped + 1:05d}: early stopping" if stopped else "")  # nothing for the first epoch
        else:
            self._print(f"Epoch {stopped + 1}: early stopping" if stopped else "")
            self._restore(pl_module, f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")

    def _restore(self, pl_module: LightningModule, message: str) -> None:
        if self.restore_best_weights and self.best_weights is not None:
            self._print(message)
            pl_module.load_state_dict(self.best_weights)

    def _print(self, message: str) -> None:
        if self.verbose > 0 and message:
            write(f"{message}\n")

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
        if improves(value, self.best, self._sign, self.min_delta):
            self._keep_best(value, epoch, pl_module)
            self.wait = 0
            return False
        self.wait += 1
        return self.wait >= self.patience

    def _keras3(self, value: float, epoch: int, pl_module: LightningModule) -> bool:
        self.wait += 1
        if self.best is None or improves(value, self.best, self._sign, self.min_delta, in_float32=True):
            self._keep_best(value, epoch, pl_module)
            if self.baseline is None or improves(value, self.baseline, self._sign, self.min_delta, in_float32=True):
                self.wait = 0
            return False
        return self.wait >= self.patience and epoch > 0

    def _keep_best(self, value: float, epoch: int, pl_module: LightningModule) -> None:
        self.best, self.best_epoch = value, epoch
        if self.restore_best_weights:
            self.best_weights = {
                name: entry.detach().to("cpu", copy=True) if isinstance(entry, Tensor) else entry
                for name, entry in pl_module.state_dict().items()
            }

    # --- Lightning's names and the checkpoint ----------------------------------------------------------------

    @property
    def stopped_epoch(self) -> int:  # type: ignore[override]
        """The epoch in which this callback stopped the fit, from 0; 0 if it did not, as in Keras and Lightning."""
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
        """Callbacks with different metrics or modes have separate states."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def state_dict(self) -> dict[str, Any]:
        """The count, the best value, and the best weights."""
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
        """Everything but the metrics of a fit."""
        return state_without_fit(self, _cursor=MetricCursor())
