"""Keras' console output from any Lightning training: `model.fit(..., verbose=1)` and `verbose=2`, byte for byte.

`lr_plugins.console.keras_text` defines what the lines look like; this callback decides what they show and when they
are printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lr_plugins._lightning.callback_order import put_before
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.epoch_results import metrics_so_far, without_forks
from lr_plugins._lightning.metrics import MetricCursor, scalars
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.unused_hooks import skip_unused_hooks
from lr_plugins.callbacks.keras_progress.evaluation import EvaluationProgress
from lr_plugins.callbacks.keras_progress.progress import Progress
from lr_plugins.callbacks.keras_progress.units import Units, samples_of_run
from lr_plugins.callbacks.last_lr import LastLR, in_float32, is_scheduled
from lr_plugins.console.keras_styles import STYLES, Style
from lr_plugins.console.keras_text import format_header, keras2_line, keras3_line
from lr_plugins.console.line import write
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.validation import choice, verbosity

__all__ = ["KerasProgress"]

_VERBOSE = "0 (nothing), 1 (a progress bar) or 2 (one line per epoch)"


@dataclass
class _Epoch:
    """The current epoch, or one that is over with its line still to be printed."""

    index: int  # from 0
    progress: Progress
    cursor: MetricCursor  # past the metrics of earlier epochs
    validation_cursor: MetricCursor = field(default_factory=MetricCursor)  # past those before a validation
    validated: dict[str, Tensor] = field(default_factory=dict)  # logged by the validations of this epoch
    header_due: bool = True
    learning_rate: float | None = None
    elapsed: float | None = None  # known once the epoch is over

    def is_validation(self, name: str, value: Any) -> bool:
        return name.startswith("val_") or self.validated.get(name) is value


class KerasProgress(Callback):
    """Print what Keras' `fit` prints to standard output: a progress bar, or one line per epoch.

    Switch Lightning's own bar off with `Trainer(enable_progress_bar=False)`. The callback moves in front of schedulers
    and early stopping, so that their messages appear where Keras prints them. `validate` and `test` print what Keras'
    `evaluate` prints, and `predict` its bar. Only the first process prints, and nothing during sanity validation.

    It shows the scalars in `trainer.callback_metrics` that were logged in the epoch, training before validation metrics
    (logged by a validation loop, or named `val_...`). A metric logged with both `on_step` and `on_epoch` is shown once,
    with its value for the epoch; a metric logged for steps only shows the last step, so log with `on_epoch=True` to see
    the mean that Keras shows.

    The line of an epoch is printed once its metrics are complete, including those that a module logs in its own
    `on_train_epoch_end`: at the start of the next epoch, or at the end of training. Its time covers the training and
    the validation of the epoch.

    The progress bar is refreshed after a batch, at most every 0.05 s, with this process' means over the batches so far.
    A torchmetrics object has no mean before the end of the epoch: log it with `on_step=True` as well to see its value
    for the last batch. A module that accumulates its own epoch metrics can report the current ones in a method
    `metrics_so_far()`, a dictionary of numbers. On a terminal the bar is overwritten in place; if it would wrap, it is
    shortened, and then metrics are left out until the epoch is over. In a file each refresh is a line of its own, as in
    Keras 2; use `verbose=2` there.

    Args:
        style: `"keras2"` (default) prints what Keras 2.2.4 prints: the sizes of the data, the loss first, other metrics
            in the order in which they were logged; the bar counts samples if their number is known. `"keras3"` prints
            what Keras 3 prints: steps and time per step, metrics in alphabetical order, then, if it is scheduled, the
            learning rate of the epoch's last optimizer step; no header if there is only one epoch; control characters
            on a terminal only. An epoch that is cut short shows the steps taken; Keras shows all.
        metrics: names of the metrics to show, in this order. Default: all. A metric that is not logged is left out,
            with one warning that lists the logged ones.
        verbose: 2 (default) one line per epoch, 1 a progress bar, 0 nothing.

    Raises:
        InvalidArgumentError: an unknown style or verbosity, or metrics that are not a sequence of different names.

    Source: keras.callbacks.ProgbarLogger and keras.utils.Progbar.

    Example:
        >>> trainer = Trainer(callbacks=[KerasProgress()], enable_progress_bar=False)  # doctest: +SKIP
        >>> trainer.fit(module)  # doctest: +SKIP
        Train on 60000 samples, validate on 10000 samples
        Epoch 1/10
         - 13s - loss: 0.4354 - acc: 0.8625 - val_loss: 0.0707 - val_acc: 0.9762
        >>> KerasProgress(style="keras3", metrics=["loss", "val_loss"], verbose=1).metrics
        ('loss', 'val_loss')
    """

    def __init__(self, style: Style = "keras2", metrics: Sequence[str] | None = None, verbose: int = 2) -> None:
        self.style = choice("KerasProgress.style", style, STYLES)
        self.verbose = verbosity("KerasProgress.verbose", verbose, _VERBOSE, levels=range(3))
        self.metrics = None if metrics is None else _checked_names(metrics)
        self._epoch: _Epoch | None = None
        self._evaluation: EvaluationProgress | None = None  # during validate, test or predict
        self._rate = LastLR()
        self._shows_rate = False
        self._order: dict[str, int] = {}  # of the training metrics, as they were first logged
        self._stream_steps: int | None = None  # in the last epoch of a stream of unknown length
        self._has_warned = False

    # --- training, in the order of a run ----------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move in front of the callbacks whose messages follow the header, as in Keras."""
        put_before(trainer, self, "LearningRateScheduler", "EarlyStopping")
        skip_unused_hooks(self, trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the sizes of the data, as Keras does."""
        # Discard what a failed fit, the sanity validation or a call of `validate` has left.
        self._epoch, self._rate, self._order, self._stream_steps, self._has_warned = None, LastLR(), {}, None, False
        self._shows_rate = is_scheduled(trainer)
        samples = samples_of_run(trainer) if self.style == "keras2" else None
        if samples is not None:
            self._print(f"Train on {samples[0]} samples, validate on {samples[1]} samples")
        bar: Any = trainer.progress_bar_callback
        if self.verbose == 1 and bar is not None and getattr(bar, "is_enabled", True):
            rank_zero_warn(
                "KerasProgress and Lightning both draw a progress bar on the same line. "
                "Set Trainer(enable_progress_bar=False)."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the previous epoch, which is complete now, and the header of this one."""
        self._end_epoch(trainer, pl_module)
        epoch = self._current_epoch(trainer)
        # In Keras 3 the messages of callbacks come before the header, so it waits for the first batch.
        if self.style == "keras2":
            self._print_header(trainer, epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the learning rate of the batch: after the batch, a torch scheduler has set the next one."""
        self._print_header(trainer, self._current_epoch(trainer))
        self._rate.note(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and refresh the progress bar if it is due."""
        is_due = self._current_epoch(trainer).progress.count(batch_idx + 1)
        if self.verbose == 1 and is_due:
            self._refresh(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics exist before the validation; start the progress of `validate`."""
        if trainer.state.fn != "fit":
            self._start_evaluation(trainer)
            return
        self._current_epoch(trainer).validation_cursor.advance(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics the validation logged; end the progress of `validate`."""
        if trainer.state.fn != "fit":
            self._end_evaluation()
            return
        epoch = self._current_epoch(trainer)
        epoch.validated.update(epoch.validation_cursor.new(trainer.callback_metrics))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time and the learning rate. The module may still log, so the line waits."""
        epoch = self._epoch
        if epoch is None:  # resumed after the last batch of an epoch, whose line has been printed
            return
        self._print_header(trainer, epoch)  # for an epoch without batches
        epoch.elapsed = epoch.progress.elapsed
        epoch.learning_rate = self._rate.value(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        self._end_epoch(trainer, pl_module, last=True)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule, last: bool = False) -> None:
        # Messages of callbacks about an epoch's metrics follow the epoch's line in Keras 2 and precede it in Keras 3.
        if self.style == "keras2":
            self._print_line(trainer, last)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "observe_epoch"):
                callback.observe_epoch(trainer, pl_module, last)
        if self.style == "keras3":
            self._print_line(trainer, last)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print the line of an epoch that was complete; end the line of an unfinished progress bar."""
        if self._evaluation is not None:
            self._evaluation.abort()
            self._evaluation = None
        # The metrics of an incomplete epoch are not reduced yet; after an error one process cannot reduce them alone.
        if self._epoch is not None and trainer.current_epoch > self._epoch.index:
            self._print_line(trainer, last=True)
        elif self._epoch is not None:
            self._epoch.progress.abort()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the module and the evaluation of a run."""
        return state_without_fit(self, _evaluation=None)

    # --- validate, test and predict ---------------------------------------------------------------------------

    def _start_evaluation(self, trainer: Trainer) -> None:
        self._evaluation = EvaluationProgress(trainer, self.style, self.verbose, self.metrics) if self.verbose else None

    def _after_evaluation_batch(self) -> None:
        if self._evaluation is not None:
            self._evaluation.after_batch()

    def _end_evaluation(self) -> None:
        if self._evaluation is not None:
            self._evaluation.end()
        self._evaluation = None

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count a batch of `validate`."""
        self._after_evaluation_batch()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the progress of `test`."""
        self._start_evaluation(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count a batch of `test`."""
        self._after_evaluation_batch()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the progress of `test`."""
        self._end_evaluation()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the progress of `predict`."""
        self._start_evaluation(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count a batch of `predict`."""
        self._after_evaluation_batch()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the progress of `predict`."""
        self._end_evaluation()

    # --- the current epoch ------------------------------------------------------------------------------------

    def _current_epoch(self, trainer: Trainer) -> _Epoch:
        """The current epoch. A run that is resumed within an epoch enters it with a batch or a validation."""
        if self._epoch is None:
            units = Units.of(trainer, self.style)
            units = units._replace(target=self._stream_steps) if units.target is None else units
            cursor = MetricCursor(trainer.callback_metrics)
            self._epoch = _Epoch(trainer.current_epoch, Progress(units, self.style), cursor)
        return self._epoch

    def _print_header(self, trainer: Trainer, epoch: _Epoch) -> None:
        if epoch.header_due and (self.style == "keras2" or trainer.max_epochs != 1):
            self._print(format_header(epoch.index, trainer.max_epochs))
        epoch.header_due = False

    def _print(self, line: str) -> None:
        if self.verbose:
            write(f"{line}\n")

    @rank_zero_only
    def _refresh(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the progress bar with the metrics so far."""
        epoch = self._current_epoch(trainer)
        own = getattr(pl_module, "metrics_so_far", None)
        logged: Any = trainer.fit_loop.epoch_loop._results
        metrics = {**metrics_so_far(logged), **(own() if callable(own) else {})}
        epoch.progress.refresh({name: float(metrics[name]) for name in self._names(metrics, epoch)})

    def _print_line(self, trainer: Trainer, last: bool = False) -> None:
        """Print the line that is due, if any. Its metrics are already reduced, so reading them costs nothing."""
        epoch, self._epoch = self._epoch, None
        if epoch is None or epoch.elapsed is None or not self.verbose:
            return
        progress = epoch.progress
        if trainer.num_training_batches == float("inf"):
            self._stream_steps = progress.position or None
            progress.units = progress.units._replace(target=self._stream_steps)
        logged = scalars(epoch.cursor.new(trainer.callback_metrics))
        logs = {name: logged[name].item() for name in self._names(logged, epoch)}
        # Keras prints nothing for an epoch without steps, except for the line of Keras 2.
        if progress.units.target or (self.style, self.verbose) == ("keras2", 2):
            self._print_epoch(epoch, epoch.elapsed, logs)
        if last or epoch.validated or not trainer.enable_validation:
            self._warn_of_missing(logged)

    def _print_epoch(self, epoch: _Epoch, elapsed: float, logs: dict[str, float]) -> None:
        if self.style == "keras3" and self._shows_rate and epoch.learning_rate is not None:
            logs.setdefault("learning_rate", in_float32(epoch.learning_rate))
        progress = epoch.progress
        if self.verbose == 1:
            progress.finish(elapsed, logs)
        elif self.style == "keras2":
            self._print(keras2_line(logs, elapsed))
        elif progress.units.target is not None:
            # With one line per epoch, Keras does not exclude the first step from the mean.
            step_time = elapsed / progress.batches if progress.batches else 0.0
            self._print(keras3_line(logs, elapsed, step_time, progress.position, progress.units.target))

    def _names(self, logged: Mapping[str, Any], epoch: _Epoch) -> list[str]:
        """The metrics to show, in order."""
        if self.metrics is not None:
            return [name for name in self.metrics if name in logged]
        shown = without_forks(logged)
        validation = [name for name, value in shown.items() if epoch.is_validation(name, value)]
        training = [name for name in shown if name not in validation]
        if self.style == "keras3":
            return sorted(training) + sorted(validation)
        for name in training:
            self._order.setdefault(name, len(self._order))
        training.sort(key=self._order.__getitem__)  # in the order of the progress bar
        return _first(training, "loss", "train_loss") + _first(validation, "val_loss")

    def _warn_of_missing(self, logged: Iterable[str]) -> None:
        logged = list(logged)
        missing = [name for name in self.metrics or () if name not in logged]
        if missing and not self._has_warned:
            rank_zero_warn(
                f"KerasProgress.metrics has names that are not logged: {', '.join(missing)}."
                f" Logged metrics: {', '.join(logged) or 'none'}."
            )
        self._has_warned = True


def _first(names: list[str], *leaders: str) -> list[str]:
    """The names, with the leaders in front."""
    return sorted(names, key=lambda name: name not in leaders)


def _checked_names(metrics: Sequence[str]) -> tuple[str, ...]:
    names = None if isinstance(metrics, str) or not isinstance(metrics, Iterable) else tuple(metrics)
    if names is None or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InvalidArgumentError("KerasProgress.metrics", metrics, "None or a sequence of different metric names")
    return names
