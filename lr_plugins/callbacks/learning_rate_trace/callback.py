"""The callback that publishes the trace: to the loggers, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from lr_plugins import renamed
from lr_plugins._lightning.artifacts import check_folder, has_matplotlib, log_artifacts, warn_without_matplotlib
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.monitor_names import Names
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.unused_hooks import skip_unused_hooks
from lr_plugins._lightning.worker_results import send_to_main_process
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
from lr_plugins.callbacks.learning_rate_trace import epoch_metrics
from lr_plugins.callbacks.learning_rate_trace.epoch_metrics import EpochMetrics
from lr_plugins.callbacks.learning_rate_trace.own_record import OwnRecord
from lr_plugins.callbacks.learning_rate_trace.publisher import TracePublisher
from lr_plugins.checkpoint_state import (
    KeepsState,
    StateFormat,
    WrongStateError,
    count,
    dict_of,
    list_of,
    row,
    tensor,
    text,
)
from lr_plugins.engine.recorder import Recorder
from lr_plugins.engine.trace import Trace
from lr_plugins.errors import InvalidArgumentError, described
from lr_plugins.paths import from_start
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.validation import choice, integer

_LONGEST_RUN = 10**9
"""The most steps that the series of a checkpoint may span; the table has a line for each."""


@renamed.arguments
class LearningRateTrace(KeepsState, Callback):
    """Log the learning rate used at every optimizer step, and save it as a table and a picture.

    The metric is `lr`, or `lr/<group>` with several param groups: one point per optimizer step, at x = that step,
    from 0. If the Trainer has a LearningRateScheduler, its trace is published; if not, this callback records the
    learning rates that the optimizers use, scheduled by torch or not at all. Checkpoints contain the trace so far, so
    the table of a resumed run is complete.

    Args:
        dirpath: folder for `lr_trace.csv` and `lr_trace.png`, written when training ends, with or without an error, and
            handed to every logger that takes artifacts. The picture also shows metrics (see `metrics`) and, in a
            resumed run, the steps before the checkpoint. Default None: no files.
        every_n_steps: hand points to the loggers once there are this many, >= 1, and at the end of each epoch.
            Default 10; that many may be lost if training is killed. 1 hands over each point at once, which takes more
            time per step.
        names: metric names: `"plain"` (default), or `"monitor"` for those of LearningRateMonitor, e.g. `lr-SGD` and
            `lr-SGD/pg1`. The table always uses the plain names.
        metrics: metrics to draw in panels below the learning rate: a name gets a panel of its own, a list of names
            shares one. The metrics that an epoch logs are drawn at the step at which it ends, those that are measured
            before it (`LearningRateScheduler(measure=...)`) at the step at which it starts. Default None: no panels;
            every logged metric with `loss` in its name is drawn beside the learning rate, on an axis of its own.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Example:
        >>> callback = LearningRateTrace(dirpath="outputs")
        >>> callback = LearningRateTrace("outputs", metrics=["training_set_loss", ["acc", "val_acc"]])
        >>> callback.metrics
        (('training_set_loss',), ('acc', 'val_acc'))
    """

    state_format = StateFormat(
        "LearningRateTrace",
        {
            "trace": dict_of(row(count, tensor("float64", 1))),
            "published": dict_of(count),
            "losses": epoch_metrics.STATE,  # named when only losses could be drawn
        },
        {"measured": list_of(text)},
    )

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        every_n_steps: int = 10,
        names: Names = "plain",
        metrics: Sequence[str | Sequence[str]] | None = None,
    ) -> None:
        self.every_n_steps = integer("LearningRateTrace.every_n_steps", every_n_steps, 1)
        self.names = choice("LearningRateTrace.names", names, get_args(Names))
        self.dirpath = from_start(dirpath) if dirpath is not None else None
        self.metrics = None if metrics is None else _panels(metrics)
        self._publisher = TracePublisher()
        self._scheduler: LearningRateScheduler | None = None
        self._recorded = Trace()  # without a scheduler
        self._own_record: OwnRecord | None = None  # without a scheduler, while training
        self._epoch_metrics = self._no_metrics()
        self._trainer: Trainer | None = None  # while training

    @property
    def trace(self) -> Trace:
        """The learning rates used so far: the scheduler's record, or this callback's own."""
        return self._scheduler.trace if self._scheduler is not None else self._recorded

    # --- the run ----------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the files can be written, before training starts."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":  # the trace stays that of the last fit
            return
        skip_unused_hooks(self, trainer)
        self._scheduler = None
        if self.dirpath is None:
            return
        check_folder("LearningRateTrace.dirpath", self.dirpath)
        warn_without_matplotlib("LearningRateTrace")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the scheduler of the run, or start recording."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._scheduler = next(
            (callback for callback in callbacks if isinstance(callback, LearningRateScheduler)), None
        )
        if self._scheduler is None:
            self._recorded = Trace()
            self._own_record = OwnRecord(trainer, self, self._recorded)
        self._epoch_metrics, self._trainer = self._no_metrics(), trainer
        self._publisher.start(self.every_n_steps, self.names)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the metrics of the previous epoch, which are complete now, and those measured before this one."""
        self._restore()
        self._epoch_metrics.collect(trainer, self._steps, is_epoch_start=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Restore the trace if training resumes within an epoch; follow optimizers that have been replaced."""
        self._restore()
        if self._own_record is not None:
            self._own_record.start_batch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Publish once there are enough new points."""
        if self._publisher.is_due(self.trace):
            self.publish(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the points of the epoch."""
        self.publish(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the last points and save the files."""
        self._trainer = None
        self._epoch_metrics.collect(trainer, self._steps)
        self._warn_of_missing(trainer)
        self._stop_recording()
        self.publish(trainer)
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save and publish the trace so far. If that fails, it only warns, so that the error itself is reported."""
        self._stop_recording()
        self._trainer = None
        for rescue in (self.save, self.publish):
            try:
                rescue(trainer)
            except Exception as error:
                rank_zero_warn(f"LearningRateTrace could not {rescue.__name__} the trace: {error}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish and save the trace of a checkpoint after which nothing was left to train."""
        if self._restored is not None:
            self._scheduler, self._recorded, self._epoch_metrics = None, Trace(), self._no_metrics()
            self._restore()
            self._epoch_metrics.collect(trainer, self._steps)
            self.publish(trainer)
            self.save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the trace to the process that called `fit`."""
        send_to_main_process(trainer, self, {"_scheduler": None, "_recorded": self.trace})

    @rank_zero_only
    def publish(self, trainer: Trainer) -> None:
        """Hand the new points to each logger."""
        self._publisher.publish(trainer, self.trace, self._recorders)

    @rank_zero_only
    def save(self, trainer: Trainer) -> None:
        """Write the table and the picture, and hand them to each logger that takes artifacts."""
        if self.dirpath is None or not self.trace:
            return
        files = [self.trace.to_csv(self.dirpath / "lr_trace.csv")]
        if has_matplotlib():
            files.append(self._draw(self.dirpath / "lr_trace.png"))
        log_artifacts(trainer, files)

    def _draw(self, path: Path) -> Path:
        from lr_plugins.plotting.learning_rate import plot_learning_rate

        epochs, curves = self._epoch_metrics.epochs, self._epoch_metrics.curves
        panels = [{name: curves[name] for name in panel if name in curves} for panel in self.metrics or ()]
        beside = curves if self.metrics is None else {}
        return plot_learning_rate(self.trace, path, metrics=beside, epochs=epochs, panels=panels)

    @rank_zero_only
    def _warn_of_missing(self, trainer: Trainer) -> None:
        missing = sorted(self._epoch_metrics.missing) if self.dirpath is not None else []
        if missing:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "none"
            rank_zero_warn(
                f"LearningRateTrace.metrics has names that were never logged: {', '.join(missing)}. "
                f"The picture has no curve for them. Logged metrics: {logged}."
            )

    def _stop_recording(self) -> None:
        if self._own_record is not None:
            self._own_record.stop()
        self._own_record = None

    def _no_metrics(self) -> EpochMetrics:
        names = None if self.metrics is None else {name for panel in self.metrics for name in panel}
        return EpochMetrics(names, measured=self._scheduler.measure if self._scheduler is not None else ())

    @property
    def _recorders(self) -> Sequence[Recorder]:
        if self._scheduler is not None:
            return self._scheduler.recorders
        return self._own_record.recorders if self._own_record is not None else ()

    @property
    def _steps(self) -> int:
        """Optimizer steps since the start of the run."""
        return max((series.next_step for series in self.trace.values()), default=0)

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The trace (8 bytes per step), which points the loggers have, and the metrics; plain values and tensors."""
        if self._restored is not None:  # training has not started
            return self.state_format.stamped(self._restored)
        metrics = dict(self._trainer.callback_metrics) if self._trainer is not None else {}
        state = {
            "trace": {
                name: [series.first_step, torch.from_numpy(series.values)] for name, series in self.trace.items()
            },
            "measured": [name for name, series in self.trace.items() if series.is_measured],
            "published": self._publisher.state(self.trace),
            "losses": self._epoch_metrics.state(metrics),
        }
        return self.state_format.stamped(state)

    def check_state_dict(self, state_dict: Any) -> dict[str, Any]:
        """The fields of a state, whose series must belong to one run."""

        def check_span(state: dict[str, Any]) -> None:
            spans = [(first_step, first_step + len(values)) for first_step, values in state["trace"].values()]
            if spans and max(end for _, end in spans) - min(first for first, _ in spans) > _LONGEST_RUN:
                raise WrongStateError("trace", described("steps far apart"), "one of steps of a single run")

        return self.state_format.read(state_dict, check_span)

    def _restore(self) -> None:
        """Put the steps before the checkpoint at the beginning of the trace."""
        state = self.take_restored()
        if state is None:
            return
        end = max((first_step + len(values) for first_step, values in state["trace"].values()), default=0)
        resumed_at = max((recorder.step for recorder in self._recorders), default=None)
        if resumed_at is not None and end > resumed_at:
            rank_zero_warn(
                f"LearningRateTrace: the trace in the checkpoint ends at step {end}, but the run resumes at step "
                f"{resumed_at}. The steps of the checkpoint are left out of the trace."
            )
            return
        for name, (first_step, values) in state["trace"].items():
            series = self.trace.series(name, first_step, name in state.get("measured", ()))
            if not len(series):
                for value in values.tolist():
                    series.append(value)
        self._publisher.load(self.trace, state["published"])
        self._epoch_metrics.load(state["losses"])

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the Trainer and the optimizers of a fit."""
        return state_without_fit(self, _trainer=None, _own_record=None)


def _panels(metrics: Sequence[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The names in each panel.

    Raises:
        InvalidArgumentError: not a list of names and of lists of names.
    """

    def are(kind: Callable[[object], bool], values: object) -> bool:
        return isinstance(values, Sequence) and not isinstance(values, str) and all(map(kind, values))

    def is_name(value: object) -> bool:
        return isinstance(value, str) and value != ""

    def is_panel(value: object) -> bool:
        return is_name(value) or (are(is_name, value) and bool(value))

    if not are(is_panel, metrics):
        allowed = 'null, or a list of metric names and of lists of names, e.g. ["loss", ["acc", "val_acc"]]'
        raise InvalidArgumentError("LearningRateTrace.metrics", metrics, allowed)
    return tuple((entry,) if isinstance(entry, str) else tuple(entry) for entry in metrics)
