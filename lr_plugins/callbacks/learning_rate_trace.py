"""The callback that publishes the trace: to the loggers, as a file and as a picture."""

from __future__ import annotations

import functools
import itertools
import math
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim import Optimizer

from lr_plugins._lightning.artifacts import can_draw, hand_to_loggers, make_folder, warn_of_no_picture
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.metrics import logged_since
from lr_plugins._lightning.monitor_names import NAMES, MonitorNames
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.run_length import is_detached
from lr_plugins._lightning.stepping_optimizers import OptimizerChanges, stepping_optimizers
from lr_plugins._lightning.worker_results import bring_back
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
from lr_plugins.checkpoint_state import (
    ChecksState,
    StateFormat,
    WrongState,
    count,
    dict_of,
    list_of,
    real,
    record,
    row,
    tensor,
)
from lr_plugins.engine.naming import series_suffixes
from lr_plugins.engine.recorder import Recorder
from lr_plugins.engine.trace import Trace
from lr_plugins.errors import InvalidArgument, described
from lr_plugins.paths import from_start
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.validation import choice

_WIDEST = 10**9  # steps of a run; a table has a line for each


class LearningRateTrace(ChecksState, Callback):
    """Log the learning rate used at every optimizer step, and keep it as a table and a picture.

    The metric is `lr`, or `lr/<group>` with several param groups: one point per optimizer step, at x = that step,
    from 0. Where the Trainer has a LearningRateScheduler, its trace is published; where it has none, this callback
    records what the optimizers use by themselves (torch's schedulers, or none). Checkpoints have the trace so far: the
    table of a resumed run is whole.

    Args:
        dirpath: folder for `lr_trace.csv` and `lr_trace.png`, written when training ends, also by an error. They
            are handed to every logger that takes artifacts. The picture shows metrics as well (see `metrics`), and,
            in a resumed run, the steps before the checkpoint. Default None: no files.
        every_n_steps: hand points to the loggers when this many have gathered, >= 1; and at the end of each epoch.
            Default 10: of so many, the last may be lacking when a training is killed. 1 hands over each, for more time
            at each step.
        names: metric names: `"plain"` (default), or `"monitor"` for those of LearningRateMonitor, e.g. `lr-SGD` and
            `lr-SGD/pg1`. The table always uses the plain names.
        metrics: metrics that the picture shows in panels below the learning rate: a name has a panel of its own, a
            list of names shares one. What an epoch has logged has a point at the step at which the epoch ended; what
            was measured before an epoch (`LearningRateScheduler(measure=...)`), at the step at which it began. Default
            None: no panels, and every logged metric with `loss` in its name is drawn beside the learning rate, on an
            axis of its own.

    Raises:
        InvalidArgument: an argument outside its range.

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
            "losses": record(  # of checkpoints from before any metric could be drawn
                {"curves": dict_of(list_of(row(count, real))), "epochs": list_of(count), "waiting": dict_of(real)}
            ),
        },
    )

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        every_n_steps: int = 10,
        names: str = "plain",
        metrics: Sequence[str | Sequence[str]] | None = None,
    ) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise InvalidArgument("LearningRateTrace.every_n_steps", every_n_steps, "an integer >= 1")
        self.dirpath = from_start(dirpath) if dirpath is not None else None
        self.every_n_steps, self.names = every_n_steps, choice("LearningRateTrace.names", names, NAMES)
        self.metrics = None if metrics is None else _panels(metrics)
        self._monitor_names = MonitorNames()
        self._scheduler: LearningRateScheduler | None = None
        self._recorders: list[Recorder] = []
        self._changes: OptimizerChanges | None = None
        self._recorded = Trace()  # where there is no scheduler
        self._epoch_metrics = self._no_metrics()
        self._restored: dict[str, Any] | None = None  # a checkpoint's, until training begins
        self._trainer: Trainer | None = None  # while training
        self._published_of = self._recorded
        self._published: dict[str, int] = {}  # by name: the first step that the loggers have not been given
        self._batches_to_go = 1  # until it is looked whether enough has gathered

    @property
    def trace(self) -> Trace:
        """The learning rates used so far: the scheduler's record, or else this callback's own."""
        return self._scheduler.trace if self._scheduler is not None else self._recorded

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make sure that the files can be written, before anything is trained."""
        self._restored = None  # that of a checkpoint which was only tested; the fit's own comes after this
        if stage != "fit":  # the trace stays that of the last fit
            return
        self._scheduler = None
        if self.dirpath is None:
            return
        make_folder("LearningRateTrace.dirpath", self.dirpath)
        warn_of_no_picture("LearningRateTrace")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the run's scheduler, or begin to record."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._scheduler = next((one for one in callbacks if isinstance(one, LearningRateScheduler)), None)
        if self._scheduler is None:
            self._record(trainer)
        self._epoch_metrics, self._trainer, self._batches_to_go = self._no_metrics(), trainer, 1

    def _no_metrics(self) -> EpochMetrics:
        names = None if self.metrics is None else {name for panel in self.metrics for name in panel}
        return EpochMetrics(names, measured=self._scheduler.measure if self._scheduler is not None else ())

    def _record(self, trainer: Trainer) -> None:
        self._recorded = Trace()
        optimizers = stepping_optimizers(trainer)
        begun = trainer.global_step // len(optimizers)
        self._recorders = self._follow(trainer, optimizers, begun)
        self._changes = OptimizerChanges(trainer, self._recorders, functools.partial(self._replace, trainer))

    def _follow(self, trainer: Trainer, optimizers: Sequence[Optimizer], begun: int = 0) -> list[Recorder]:
        """A recorder for each optimizer; for those that were followed, the one that they have."""
        before, recorders = self._recorders, []
        for index, (optimizer, name) in enumerate(zip(optimizers, series_suffixes(optimizers), strict=True)):
            old = before[index] if index < len(before) else None
            if old is not None and old.optimizer is optimizer:
                recorders.append(old)
                continue
            recorder = Recorder(optimizer, name, instead_of=old)
            recorder.attach(self._recorded, begun if old is None else old.step, is_detached(self, trainer))
            recorders.append(recorder)
        return recorders

    def _replace(self, trainer: Trainer, optimizers: list[Optimizer]) -> None:
        """Go on with other optimizers."""
        recorders = self._follow(trainer, optimizers)
        for old in self._recorders:
            if old not in recorders:
                old.detach()
        self._recorders[:] = recorders

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metrics of the epoch before, which are complete now, and what was measured before this one."""
        self._restore()
        self._epoch_metrics.take(trainer, self._steps, is_epoch_start=True)

    @property
    def _resumed_at(self) -> int | None:
        """The steps that the optimizers have taken; None where nothing is recorded."""
        return max((recorder.step for recorder in self._all_recorders), default=None)

    @property
    def _all_recorders(self) -> Sequence[Recorder]:
        return self._scheduler._writers if self._scheduler is not None else self._recorders

    @property
    def _steps(self) -> int:
        return max((series.next_step for series in self.trace.values()), default=0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take up the past where training resumes within an epoch; see which optimizers are there."""
        self._restore()
        if self._changes is not None:
            self._changes.check()
        for recorder in self._recorders:
            recorder.new_batch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Publish when enough has gathered."""
        self._batches_to_go -= 1
        if self._batches_to_go > 0:
            return
        waiting, published = 0, self._published
        for name, series in self.trace.by_name.items():
            waiting = max(waiting, series.next_step - published.get(name, 0))
        if waiting >= self.every_n_steps:
            self.publish(trainer)
            waiting = 0
        # A batch is a step, at most; or several, where the module steps by
        # itself: then this looks again half way.
        self._batches_to_go = max((self.every_n_steps - waiting) // 2, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the epoch's points."""
        self.publish(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish the last points and save."""
        self._trainer = None
        self._epoch_metrics.take(trainer, self._steps)
        self._warn_of_missing(trainer)
        self._stop_recording()
        self.publish(trainer)
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save and publish what there is; the error itself stays the one that is reported."""
        self._stop_recording()
        self._trainer = None
        for rescue in (self.save, self.publish):
            try:
                rescue(trainer)
            except Exception as error:
                rank_zero_warn(f"LearningRateTrace could not {rescue.__name__} the trace: {error}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Publish and save what a checkpoint has of a run in which nothing was left to train."""
        if self._restored is not None:
            self._scheduler, self._recorded, self._epoch_metrics = None, Trace(), self._no_metrics()
            self._restore()
            self._epoch_metrics.take(trainer, self._steps)
            self.publish(trainer)
            self.save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the process that called `fit` have the trace, too."""
        bring_back(trainer, self, {"_scheduler": None, "_recorded": self.trace})

    @rank_zero_only
    def publish(self, trainer: Trainer) -> None:
        """Hand the points that the loggers have not seen to each of them."""
        if self._published_of is not self.trace:  # the run began elsewhere than the last one ended
            self._published_of, self._published = self.trace, {}
        loggers = trainer.loggers
        if self.names == "monitor":
            self._monitor_names.see(self._all_recorders, trainer.lr_scheduler_configs)
        for name, series in self.trace.by_name.items():
            first = max(self._published.get(name, 0), series.first_step)
            values = series.tail(first)
            self._published[name] = series.next_step
            for logger in loggers if values else ():
                _hand_over(logger, self._monitor_names.of(name), first, values)

    def state_dict(self) -> dict[str, Any]:
        """The trace so far, 8 bytes a step, what of it the loggers have, and the metrics; plain values and tensors."""
        if self._restored is not None:  # training has not begun
            return self.state_format.stamped(self._restored)
        state = {
            "trace": {
                name: [series.first_step, torch.from_numpy(series.values)] for name, series in self.trace.items()
            },
            "published": dict(self._published) if self._published_of is self.trace else {},
            "losses": self._epoch_metrics.state(
                dict(self._trainer.callback_metrics) if self._trainer is not None else {}
            ),
        }
        return self.state_format.stamped(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training begins."""
        self._restored = self.check_state_dict(state_dict)

    def check_state_dict(self, state_dict: Any) -> dict[str, Any]:
        """The fields of a state; its series have to be of one run."""

        def check_span(state: dict[str, Any]) -> None:
            spans = [(first_step, first_step + len(values)) for first_step, values in state["trace"].values()]
            if spans and max(end for _, end in spans) - min(first for first, _ in spans) > _WIDEST:
                raise WrongState("trace", described("steps far apart"), "one of steps of a single run")

        return self.state_format.read(state_dict, check_span)

    def _restore(self) -> None:
        """Put the steps before the checkpoint in front of those to come."""
        state, self._restored = self._restored, None
        if state is None:
            return
        ends = [first_step + len(values) for first_step, values in state["trace"].values()]
        if self._resumed_at is not None and max(ends, default=0) > self._resumed_at:
            rank_zero_warn(
                f"LearningRateTrace: the trace in the checkpoint goes to step {max(ends)}, and the run resumes at step "
                f"{self._resumed_at}. The steps before are left out of the trace."
            )
            return
        for name, (first_step, values) in state["trace"].items():
            series = self.trace.series(name, first_step)
            if not len(series):
                for value in values.tolist():
                    series.append(value)
        self._published_of, self._published = self.trace, dict(state["published"])
        self._epoch_metrics.load(state["losses"])

    def __getstate__(self) -> dict[str, Any]:
        """Without the Trainer and the optimizers of a fit."""
        return state_without_fit(self, _trainer=None, _recorders=[], _changes=None)

    def _stop_recording(self) -> None:
        for recorder in self._recorders:
            recorder.detach()
        if self._changes is not None:
            self._changes.stop()
        self._recorders, self._changes = [], None

    @rank_zero_only
    def _warn_of_missing(self, trainer: Trainer) -> None:
        missing = sorted(self._epoch_metrics.missing) if self.dirpath is not None else []
        if missing:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "none"
            rank_zero_warn(
                f"LearningRateTrace.metrics names {', '.join(missing)}, of which nothing was logged, so the picture "
                f"has no curve of it; logged are: {logged}."
            )

    @rank_zero_only
    def save(self, trainer: Trainer) -> None:
        """Write the table and the picture, and hand them to each logger that takes artifacts."""
        if self.dirpath is None or not self.trace:
            return
        files = [self.trace.to_csv(self.dirpath / "lr_trace.csv")]
        if can_draw():
            from lr_plugins.plotting.learning_rate import plot_learning_rate

            picture, epochs, curves = (
                self.dirpath / "lr_trace.png",
                self._epoch_metrics.epochs,
                self._epoch_metrics.curves,
            )
            panels = [{name: curves[name] for name in panel if name in curves} for panel in self.metrics or ()]
            beside = curves if self.metrics is None else {}
            files.append(plot_learning_rate(self.trace, picture, metrics=beside, epochs=epochs, panels=panels))
        hand_to_loggers(trainer, files)


def _hand_over(logger: Any, name: str, first_step: int, values: array[float]) -> None:
    """Give a logger the values of consecutive steps: at once, if it takes them so."""
    takes_series = hasattr(type(logger), "log_series")  # a DummyLogger has whatever it is asked for
    for step, part in _without_gaps(first_step, values):
        if takes_series:
            logger.log_series(name, step, part)
            continue
        for at, value in enumerate(part, step):
            logger.log_metrics({name: value}, step=at)


def _without_gaps(first_step: int, values: array[float]) -> Iterator[tuple[int, array[float]]]:
    """The parts of values between the steps at which there were none."""
    if not any(map(math.isnan, values)):
        yield first_step, values
        return
    for is_gap, part in itertools.groupby(enumerate(values, first_step), lambda one: math.isnan(one[1])):
        points = list(part)
        if not is_gap:
            yield points[0][0], array("d", (value for _, value in points))


def _panels(metrics: Sequence[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The names in each panel.

    Raises:
        InvalidArgument: it is not a list of names or of lists of names.
    """

    def are(kind: Callable[[object], bool], values: object) -> bool:
        return isinstance(values, Sequence) and not isinstance(values, str) and all(map(kind, values))

    def is_name(value: object) -> bool:
        return isinstance(value, str) and value != ""

    def is_panel(value: object) -> bool:
        return is_name(value) or (are(is_name, value) and bool(value))

    if not are(is_panel, metrics):
        allowed = 'null, or a list of metric names and of lists of names, e.g. ["loss", ["acc", "val_acc"]]'
        raise InvalidArgument("LearningRateTrace.metrics", metrics, allowed)
    return tuple((entry,) if isinstance(entry, str) else tuple(entry) for entry in metrics)


class EpochMetrics:
    """What each epoch has logged, at the step at which it was complete.

    Args:
        names: the metrics to keep. Default None: every one with `loss` in its name.
        measured: those that are measured when an epoch starts, and noted only then: where a run is resumed within an
            epoch, what was measured before the epoch is logged again at its end. Default: none.
    """

    def __init__(self, names: Collection[str] | None = None, measured: Collection[str] = ()) -> None:
        self._names, self._measured = names, measured
        self.curves: dict[str, Points] = {}
        self.epochs: list[int] = []  # the steps at which they begin
        self._seen: dict[str, Tensor] = {}
        self._waiting: dict[str, float] = {}  # logged before the checkpoint

    @property
    def missing(self) -> set[str]:
        """The names of which nothing has been logged."""
        return set(self._names or ()) - set(self.curves)

    def take(self, trainer: Trainer, steps: int, is_epoch_start: bool = False) -> None:
        """Note what has been logged since the last time, `steps` optimizer steps after the start of the run."""
        metrics = dict(trainer.callback_metrics)
        measured = {name: metrics[name] for name in self._measured if name in metrics} if is_epoch_start else {}
        for name, value in {**self._news(metrics), **self._kept(measured)}.items():
            self.curves.setdefault(name, Points()).append(steps, value)
        self._seen, self._waiting = metrics, {}
        self.epochs.append(steps)

    def _is_kept(self, name: str) -> bool:
        return "loss" in name if self._names is None else name in self._names

    def _kept(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(value) for name, value in metrics.items() if self._is_kept(name) and value.numel() == 1}

    def _news(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        logged = logged_since(metrics, self._seen)
        return {
            **self._waiting,
            **self._kept({name: value for name, value in logged.items() if name not in self._measured}),
        }

    def state(self, metrics: Mapping[str, Tensor]) -> dict[str, Any]:
        """What has been noted, and what waits in `metrics` to be noted; plain numbers."""
        curves = {
            name: [list(point) for point in zip(points.steps.tolist(), points.values.tolist(), strict=True)]
            for name, points in self.curves.items()
        }
        return {"curves": curves, "epochs": list(self.epochs), "waiting": self._news(metrics)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, which may be of a run with other names."""
        for name, points in state["curves"].items():
            if self._is_kept(name):
                curve = self.curves[name] = Points()
                for step, value in points:
                    curve.append(step, value)
        self.epochs = list(state["epochs"])
        self._waiting = {name: value for name, value in state["waiting"].items() if self._is_kept(name)}


class Points:
    """Values at some steps."""

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []

    def append(self, step: int, value: float) -> None:
        """One more."""
        self._points.append((step, value))

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The steps, shape (n,)."""
        return np.array([step for step, _ in self._points], dtype=np.int64)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The values, shape (n,)."""
        return np.array([value for _, value in self._points], dtype=np.float64)
