"""Keras' console output from any Lightning training: `model.fit(..., verbose=1)` and `verbose=2`, byte for byte.

`keras_text.py` says what the lines look like; here is decided what they show, and when they appear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from torch import Tensor

from lr_plugins._lightning.callback_order import put_before
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.epoch_results import metrics_so_far, without_forks
from lr_plugins._lightning.metrics import logged_since
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins.callbacks.keras_progress.evaluation import INTERVAL, EvaluationProgress
from lr_plugins.callbacks.keras_progress.units import Units, samples_of_run
from lr_plugins.callbacks.last_lr import LastLR, in_float32, is_scheduled
from lr_plugins.console.keras_styles import STYLES
from lr_plugins.console.keras_text import EpochProgress, draw, format_header, keras2_line, keras3_line
from lr_plugins.console.line import ConsoleLine, write
from lr_plugins.errors import InvalidArgument
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn

__all__ = ["KerasProgress"]


def _say(line: str) -> None:
    write(f"{line}\n")


# --- the callback -------------------------------------------------------------------------------------------


@dataclass
class _Epoch:
    """The epoch under way, or over with its line still to be printed."""

    index: int  # from 0
    started: float
    earlier: dict[str, Tensor]  # metrics as earlier epochs left them
    units: Units  # what a progress bar counts
    header_due: bool = True
    before_validation: dict[str, Tensor] = field(default_factory=dict)
    validated: dict[str, Tensor] = field(default_factory=dict)  # logged by the validations of this epoch
    batches: int = 0  # trained on here
    position: int = 0  # batches of the epoch that are done, those before an interruption included
    first_step: float = 0.0  # seconds from the epoch's begin to the end of the first batch here
    learning_rate: float | None = None
    elapsed: float | None = None  # known once the epoch is over
    line: ConsoleLine = field(default_factory=ConsoleLine)
    refreshed: float = float("-inf")  # when the bar was written last

    def is_validation(self, name: str, value: Any) -> bool:
        return name.startswith("val_") or self.validated.get(name) is value

    def moment(self, style: str, elapsed: float, logs: Mapping[str, float], final: bool = False) -> EpochProgress:
        """What a progress bar shows after so many seconds."""
        done, target = self.units.done(self.position), self.units.target
        here = done - self.units.done(self.position - self.batches)
        if style == "keras3" and self.batches > 1:  # Keras 3 leaves the first step out, which takes longer
            unit_time = (elapsed - self.first_step) / (self.batches - 1)
        else:
            unit_time = elapsed / here if here else 0.0
        if target is None or done > target:  # a stream, whose end is known when it is there
            target = done if final else None
        return EpochProgress(done, target, elapsed, unit_time, logs, final)


class KerasProgress(Callback):
    """Print what Keras' `fit` prints, to standard output: a progress bar, or one line per epoch.

    Switch Lightning's own bar off with `Trainer(enable_progress_bar=False)`. The callback moves before a scheduler and
    an early stopping, so that their messages stand where Keras has them. `validate` and `test` print what Keras'
    `evaluate` does, and `predict` its bar. Nothing is printed in sanity validation, and by processes other than the
    first.

    Shown are the scalars of `trainer.callback_metrics` that were logged in the epoch, those of training
    before those of validation (logged by a validation, or named `val_...`). A metric logged with both
    `on_step` and `on_epoch` is shown once, with the value of the epoch; one logged for steps only shows its
    last step, so log with `on_epoch=True` to see the mean that Keras shows.

    The line of an epoch appears when its metrics are complete, those logged in a module's own
    `on_train_epoch_end` included: at the start of the next epoch, or at the end of training. Its time covers the
    training and the validation of the epoch.

    The progress bar is refreshed after a batch, at most every 0.05 s, with the means over the batches so far of this
    process. An object of torchmetrics has none before the epoch's end: log it with `on_step=True`, too, to see
    its value of the last batch. A module that sums up by itself what it logs at the end of an epoch tells what it
    comes to so far in a method `metrics_so_far()`, a dictionary of numbers. On a terminal the bar is written over;
    where that would wrap, it is shortened, and then metrics are left out until the epoch is over. In a file each
    refresh is a line, as in Keras 2: choose `verbose=2` there.

    Args:
        style: `"keras2"` (default) prints what Keras 2.2.4 prints: sizes of the data, loss first, other metrics
            in the order they were logged; the bar counts samples where their number is known. `"keras3"` prints
            what Keras 3 prints: steps and time per step, metrics in alphabetical order, then, where something schedules
            it, the learning rate of the epoch's last optimizer step; no title when there is one epoch only; control
            characters on a terminal only. An epoch cut short shows the steps it made, where Keras claims all.
        metrics: names of the metrics to show, in this order. Default: all. One that is not logged is left out,
            with one warning that lists what is.
        verbose: 2 (default) one line per epoch, 1 a progress bar, 0 nothing.

    Raises:
        InvalidArgument: for another style or verbose, or metrics that are not a sequence of different names.

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

    def __init__(self, style: str = "keras2", metrics: Sequence[str] | None = None, verbose: int = 2) -> None:
        if style not in STYLES:
            raise InvalidArgument("KerasProgress.style", style, f"one of {', '.join(STYLES)}")
        if not isinstance(verbose, int) or verbose not in (0, 1, 2):
            allowed = "0 (nothing), 1 (a progress bar) or 2 (one line per epoch)"
            raise InvalidArgument("KerasProgress.verbose", verbose, allowed)
        self.style, self.verbose = style, verbose
        self.metrics = None if metrics is None else _checked_names(metrics)
        self._epoch: _Epoch | None = None
        self._evaluation: EvaluationProgress | None = None  # during validate, test or predict
        self._rate = LastLR()
        self._shows_rate = False
        self._order: dict[str, int] = {}  # of the names of training, as they came
        self._stream: int | None = None  # steps that the last epoch of a stream of unknown length had
        self._checked_logged = False

    # The order of the hooks below is that of a run.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take a place before the callbacks whose messages come below the title, as Keras' own has."""
        put_before(trainer, self, "LearningRateScheduler", "EarlyStopping")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the sizes of the data, where Keras does."""
        # Forget what a failed fit, the sanity validation or a call of `validate` left.
        self._epoch, self._rate, self._order, self._stream, self._checked_logged = None, LastLR(), {}, None, False
        self._shows_rate = is_scheduled(trainer)
        samples = samples_of_run(trainer) if self.style == "keras2" else None
        if samples is not None:
            self._say(f"Train on {samples[0]} samples, validate on {samples[1]} samples")
        theirs: Any = trainer.progress_bar_callback
        if self.verbose == 1 and theirs is not None and getattr(theirs, "is_enabled", True):
            rank_zero_warn(
                "KerasProgress and Lightning both draw a progress bar, into each other."
                " Set Trainer(enable_progress_bar=False)."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the epoch before, now complete, and the title of this one."""
        self._end_epoch(trainer, pl_module)
        epoch = self._open(trainer)
        # Keras 3 lets callbacks speak before the title, so there it waits for the first batch.
        if self.style == "keras2":
            self._print_header(trainer, epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the learning rate of the batch: after it, a torch scheduler has set the next one."""
        epoch = self._open(trainer)
        self._print_header(trainer, epoch)
        self._rate.note(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and refresh the progress bar when it is time."""
        epoch = self._open(trainer)
        epoch.batches, epoch.position = epoch.batches + 1, batch_idx + 1
        if self.verbose == 1:
            now = perf_counter()
            if epoch.batches == 1:
                epoch.first_step = now - epoch.started
            if now - epoch.refreshed >= INTERVAL:
                self._refresh(trainer, pl_module, epoch, now)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics are there before the validation; begin the progress of `validate`."""
        if trainer.state.fn != "fit":
            self._begin_evaluation(trainer)
            return
        self._open(trainer).before_validation = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics are the validation's; end the progress of `validate`."""
        if trainer.state.fn != "fit":
            self._end_evaluation()
            return
        epoch = self._open(trainer)
        epoch.validated.update(logged_since(trainer.callback_metrics, epoch.before_validation))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time and the learning rate; the module may still log, so the line waits."""
        epoch = self._epoch
        if epoch is None:  # resumed behind the last batch of an epoch: it has been reported
            return
        self._print_header(trainer, epoch)  # of an epoch without batches
        epoch.elapsed = perf_counter() - epoch.started
        epoch.learning_rate = self._rate.value(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        self._end_epoch(trainer, pl_module, last=True)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule, last: bool = False) -> None:
        # What callbacks say of an epoch's metrics comes after the epoch's line in Keras 2, and before it in Keras 3.
        if self.style == "keras2":
            self._print_line(trainer, last)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "observe_epoch"):
                callback.observe_epoch(trainer, pl_module, last)
        if self.style == "keras3":
            self._print_line(trainer, last)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print the line of an epoch that was complete; end that of a progress bar."""
        if self._evaluation is not None:
            self._evaluation.abort()
            self._evaluation = None
        # Otherwise its metrics are not reduced yet, which one process cannot do alone after an error.
        if self._epoch is not None and trainer.current_epoch > self._epoch.index:
            self._print_line(trainer, last=True)
        elif self._epoch is not None:
            self._epoch.line.end()

    def __getstate__(self) -> dict[str, Any]:
        """Without the module of a fit."""
        return state_without_fit(self, _evaluation=None)

    # --- validate, test and predict ---------------------------------------------------------------------------

    def _begin_evaluation(self, trainer: Trainer) -> None:
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
        """Begin the progress of `test`."""
        self._begin_evaluation(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count a batch of `test`."""
        self._after_evaluation_batch()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the progress of `test`."""
        self._end_evaluation()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the progress of `predict`."""
        self._begin_evaluation(trainer)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count a batch of `predict`."""
        self._after_evaluation_batch()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the progress of `predict`."""
        self._end_evaluation()

    # --- the epoch under way ----------------------------------------------------------------------------------

    def _open(self, trainer: Trainer) -> _Epoch:
        """The epoch under way. A run resumed within an epoch enters it by a batch or a validation."""
        if self._epoch is None:
            units = Units.of(trainer, self.style)
            units = units._replace(target=self._stream) if units.target is None else units
            self._epoch = _Epoch(trainer.current_epoch, perf_counter(), dict(trainer.callback_metrics), units)
        return self._epoch

    def _print_header(self, trainer: Trainer, epoch: _Epoch) -> None:
        if epoch.header_due and (self.style == "keras2" or trainer.max_epochs != 1):
            self._say(format_header(epoch.index, trainer.max_epochs))
        epoch.header_due = False

    def _say(self, line: str) -> None:
        if self.verbose:
            _say(line)

    @rank_zero_only
    def _refresh(self, trainer: Trainer, pl_module: LightningModule, epoch: _Epoch, now: float) -> None:
        """Write the progress bar anew."""
        # Keras 2 leaves the last batch to the epoch's end.
        if self.style == "keras2" and epoch.units.target == epoch.units.done(epoch.position):
            return
        epoch.refreshed = now
        own = getattr(pl_module, "metrics_so_far", None)
        logged: Any = trainer.fit_loop.epoch_loop._results
        found = {**metrics_so_far(logged), **(own() if callable(own) else {})}
        logs = {name: float(found[name]) for name in self._names(found, epoch)}
        moment = epoch.moment(self.style, now - epoch.started, logs)
        epoch.line.show(lambda columns: draw(self.style, moment, columns))

    def _print_line(self, trainer: Trainer, last: bool = False) -> None:
        """Print the line that is due, if any. Its metrics are reduced by now: reading them costs nothing."""
        epoch, self._epoch = self._epoch, None
        if epoch is None or epoch.elapsed is None or not self.verbose:
            return
        if trainer.num_training_batches == float("inf"):
            self._stream, epoch.units = epoch.position or None, epoch.units._replace(target=epoch.position or None)
        logged = logged_since(trainer.callback_metrics, epoch.earlier)
        logged = {name: value for name, value in logged.items() if value.numel() == 1}
        logs = {name: logged[name].item() for name in self._names(logged, epoch)}
        # Keras is silent about an epoch without steps, but for the line of Keras 2.
        if epoch.units.target or (self.style, self.verbose) == ("keras2", 2):
            self._print_epoch(epoch, epoch.elapsed, logs)
        if last or epoch.validated or not trainer.enable_validation:
            self._warn_of_missing(logged)

    def _print_epoch(self, epoch: _Epoch, elapsed: float, logs: dict[str, float]) -> None:
        if self.style == "keras3" and self._shows_rate and epoch.learning_rate is not None:
            logs.setdefault("learning_rate", in_float32(epoch.learning_rate))
        if self.verbose == 1:
            moment = epoch.moment(self.style, elapsed, logs, final=True)
            epoch.line.show(lambda columns: draw(self.style, moment, columns), final=True)
        elif self.style == "keras2":
            _say(keras2_line(logs, elapsed))
        elif epoch.units.target is not None:
            # With one line per epoch Keras never sees the first step apart: this is the mean over all.
            step_time = elapsed / epoch.batches if epoch.batches else 0.0
            _say(keras3_line(logs, elapsed, step_time, epoch.position, epoch.units.target))

    def _names(self, logged: Mapping[str, Any], epoch: _Epoch) -> list[str]:
        """Which metrics the line shows, in order."""
        if self.metrics is not None:
            return [name for name in self.metrics if name in logged]
        shown = without_forks(logged)
        validation = [name for name, value in shown.items() if epoch.is_validation(name, value)]
        training = [name for name in shown if name not in validation]
        if self.style == "keras3":
            return sorted(training) + sorted(validation)
        for name in training:
            self._order.setdefault(name, len(self._order))
        training.sort(key=self._order.__getitem__)  # as the progress bar had them
        return _first(training, "loss", "train_loss") + _first(validation, "val_loss")

    def _warn_of_missing(self, logged: Iterable[str]) -> None:
        logged = list(logged)
        missing = [name for name in self.metrics or () if name not in logged]
        if missing and not self._checked_logged:
            rank_zero_warn(
                f"KerasProgress.metrics has names that are not logged: {', '.join(missing)}."
                f" Logged are: {', '.join(logged) or 'none'}."
            )
        self._checked_logged = True


def _first(names: list[str], *leaders: str) -> list[str]:
    """The names with the leaders in front."""
    return sorted(names, key=lambda name: name not in leaders)


def _checked_names(metrics: Sequence[str]) -> tuple[str, ...]:
    names = None if isinstance(metrics, str) or not isinstance(metrics, Iterable) else tuple(metrics)
    if names is None or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InvalidArgument("KerasProgress.metrics", metrics, "None or a sequence of different metric names")
    return names
