"""The callback that makes a schedule drive a Trainer's optimizers."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np

from lr_plugins._lightning import Callback, LightningModule, Trainer, rank_zero_only, rank_zero_warn
from lr_plugins.callbacks.trace import Trace
from lr_plugins.callbacks.trainer_facts import run_length
from lr_plugins.callbacks.writer import Writer, series_prefixes
from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules import Position, RunLength, Schedule, as_schedule
from lr_plugins.schedules.schedule import State

Measure = Callable[[Trainer, LightningModule], float]
MESSAGES = {
    "keras2": "\nEpoch {epoch:05d}: LearningRateScheduler setting {optimizer}learning rate to {value!r}.",
    "keras3": "\nEpoch {epoch}: LearningRateScheduler setting {optimizer}learning rate to {value!r}.",
}


@dataclass
class Progress:
    """Where a schedule stands in a run.

    Args:
        steps: taken by each optimizer.
        state: what the schedule remembers.
        metrics: monitored metrics that are still to be observed.
        schedule: the kind of schedule that the state belongs to.
    """

    steps: list[int] = field(default_factory=list)
    state: State = None
    metrics: dict[str, float] = field(default_factory=dict)
    schedule: str = ""


class LearningRateScheduler(Callback):
    """Set the learning rate of every optimizer step to what a schedule says.

    Works with any LightningModule and optimizer, in Trainers of `pytorch_lightning` and `lightning.pytorch`. The
    value is written immediately before each real optimizer step, computed from the position in the run; param
    groups keep their ratio to the optimizer's default lr. The learning rates used are in `trace`.

    Args:
        schedule: a schedule, or a function of `epoch` or of `(epoch, lr)` as in Keras, called once an epoch.
        verbose: 1 prints, at the begin of each epoch, what Keras prints; 0 nothing. Default 0.
        style: `"keras2"` for `Epoch 00004: ...` (the default), `"keras3"` for `Epoch 4: ...`.
        measure: quantities to measure at the begin of each epoch, by the name under which the schedule can
            monitor them (they are logged, too): functions of (trainer, module), e.g. a
            `lr_plugins.callbacks.FullPass`. Default: none.

    Raises:
        InvalidArgument: an argument of the wrong kind.
        TrainingError: during training, when the next learning rate cannot be known or is no finite number.

    Source: keras.callbacks.LearningRateScheduler.

    Example:
        >>> from lr_plugins import LearningRateScheduler, StepDecay
        >>> callback = LearningRateScheduler(StepDecay(0.1, drop=0.5, every="10ep"), verbose=1)
        >>> callback = LearningRateScheduler(lambda epoch: 0.002 if epoch < 3 else 0.001, verbose=1)
    """

    def __init__(
        self,
        schedule: Schedule | Callable[..., float],
        verbose: int = 0,
        style: str = "keras2",
        measure: Mapping[str, Measure] | None = None,
    ) -> None:
        self.schedule = as_schedule(schedule)
        if not isinstance(verbose, int):
            raise InvalidArgument("LearningRateScheduler.verbose", verbose, "0 (silent) or 1 (Keras' messages)")
        if style not in MESSAGES:
            raise InvalidArgument("LearningRateScheduler.style", style, f"one of {', '.join(MESSAGES)}")
        self.verbose, self.style = verbose, style
        self.measure = _measures(measure or {})
        self.trace = Trace()
        self.run_length = RunLength()
        self._progress = Progress(state=self.schedule.start())
        self._restored: Progress | None = None  # a checkpoint's, until training begins
        self._writers: list[Writer] = []  # while training
        self._trainer: Trainer | None = None  # while training
        self._left: tuple[weakref.ref[Trainer], int] | None = (
            None  # the last Trainer, and its count of steps at the end
        )

    @property
    def learning_rate(self) -> float:
        """What the schedule says for the coming step of the first optimizer; NaN outside of training."""
        return self._writers[0].learning_rate if self._writers else math.nan

    # --- the run: begin, epochs, end --------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second writer."""
        if stage != "fit":
            return
        self._restored = None  # that of a checkpoint which was only tested; the fit's own comes after this
        schedulers = [one for one in trainer.callbacks if isinstance(one, LearningRateScheduler)]  # type: ignore[attr-defined]
        if len(schedulers) > 1:
            raise InvalidArgument("Trainer.callbacks", schedulers, "a list with only one LearningRateScheduler")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the base learning rates: the optimizers are built, and no checkpoint has changed them yet."""
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):  # Lightning's stand-in has none
            raise InvalidArgument("configure_optimizers()", None, "a method that returns an optimizer to drive")
        if trainer.lr_scheduler_configs:
            theirs = ", ".join(type(one.scheduler).__name__ for one in trainer.lr_scheduler_configs)
            rank_zero_warn(
                f"{type(pl_module).__name__}.configure_optimizers() returns {theirs} as well. LearningRateScheduler "
                "overrides it at every step; return the optimizer alone, or leave LearningRateScheduler out."
            )
        names = series_prefixes(trainer.optimizers)
        self._writers = [
            Writer(optimizer, self._value, name) for optimizer, name in zip(trainer.optimizers, names, strict=True)
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the position in the run."""
        self._trainer = trainer
        self.run_length = run_length(trainer)
        self._take_position(trainer)
        for writer, step in zip(self._writers, self._progress.steps, strict=True):
            writer.total_steps = self.run_length.steps
            writer.attach(self.trace, step)

    def _take_position(self, trainer: Trainer) -> None:
        """Go on where a checkpoint or the last fit of this Trainer stands; begin anew otherwise."""
        restored, self._restored = self._restored, None
        count = len(self._writers)
        if restored is None and self._goes_on(trainer) and len(self._progress.steps) == count:
            return
        self.trace = Trace()
        # A new Trainer, or one whose checkpoint was written without this callback, tells the position by itself.
        self._progress = Progress([trainer.global_step // count] * count, self.schedule.start())
        if restored is not None and len(restored.steps) == count:
            self._progress.steps = restored.steps
            if restored.schedule == self.schedule.kind:
                self._progress = restored

    def _goes_on(self, trainer: Trainer) -> bool:
        return self._left is not None and self._left[0]() is trainer and self._left[1] == trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the first value where training resumes within an epoch, whose begin is then not announced."""
        for writer in self._writers:
            if math.isnan(writer.learning_rate):
                writer.refresh()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe what the epoch before has shown, set the learning rate, and say so."""
        measured = {name: measure(trainer, pl_module) for name, measure in self.measure.items()}
        for name, value in measured.items():
            pl_module.log(name, value, on_step=False, on_epoch=True, batch_size=1)
        if self._progress.state is not None:
            self._observe(trainer, measured)
        for writer in self._writers:
            writer.refresh()
        if self.verbose > 0:
            self._say(trainer.current_epoch + 1)

    def _observe(self, trainer: Trainer, measured: Mapping[str, SupportsFloat]) -> None:
        progress, writer = self._progress, self._writers[0]
        position = self._position(writer.step, writer.base_learning_rate)
        metrics: dict[str, SupportsFloat] = {**progress.metrics, **trainer.callback_metrics, **measured}
        progress.state, progress.metrics = self.schedule.observe(progress.state, position, metrics), {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers: Lightning does not tear callbacks down after an error."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers and the Trainer."""
        if stage == "fit" and self._restored is not None:  # the checkpoint was that of a finished run
            self._progress, self.trace = self._restored, Trace()
            self._left = weakref.ref(trainer), trainer.global_step
        self._restored = None
        self._release()

    def _release(self) -> None:
        if self._trainer is not None:
            self._progress = self._current()
            self._left = weakref.ref(self._trainer), self._trainer.global_step
        for writer in self._writers:
            writer.detach()
        self._writers, self._trainer = [], None

    # --- the value --------------------------------------------------------------------------------------

    def _position(self, step: int, base_learning_rate: float) -> Position:
        assert self._trainer is not None
        return Position(step, self._trainer.current_epoch, self.run_length, base_learning_rate)

    def _value(self, step: int, base_learning_rate: float) -> float:
        value = self.schedule(self._position(step, base_learning_rate), self._progress.state)
        assert not isinstance(value, np.ndarray)
        return value

    @rank_zero_only
    def _say(self, epoch: int) -> None:
        agree = len({writer.learning_rate for writer in self._writers}) == 1
        for index, writer in enumerate(self._writers[:1] if agree else self._writers):
            name = "" if agree else f"{type(writer.optimizer).__name__}-{index} "
            print(MESSAGES[self.style].format(epoch=epoch, optimizer=name, value=writer.learning_rate), flush=True)

    # --- the checkpoint ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the steps of each optimizer, what the schedule remembers, what it will look at next."""
        current = self._restored or self._current()  # a checkpoint's, where training has not begun
        return {
            "schedule": self.schedule.kind,
            "steps": list(current.steps),
            "state": None if current.state is None else dict(current.state),
            "metrics": dict(current.metrics),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training begins."""
        self._restored = Progress(
            list(state_dict["steps"]), state_dict["state"], dict(state_dict["metrics"]), state_dict["schedule"]
        )

    def _current(self) -> Progress:
        """Where the schedule stands now, with the monitored metrics: Lightning's checkpoints do not keep them."""
        if self._trainer is None or not self._writers:
            return self._progress
        found: dict[str, SupportsFloat] = {**self._progress.metrics, **self._trainer.callback_metrics}
        metrics = {name: float(found[name]) for name in self.schedule.monitors if name in found}
        steps = [writer.step for writer in self._writers]
        return Progress(steps, self._progress.state, metrics, self.schedule.kind)

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a fit: the Trainer, and the module behind Lightning's `log` and `log_dict`."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return {**kept, "_writers": [], "_trainer": None, "_left": None}


def _measures(measure: Mapping[str, Measure]) -> dict[str, Measure]:
    for name, function in measure.items():
        if not callable(function):
            raise InvalidArgument(
                f"LearningRateScheduler.measure[{name!r}]", function, "a function of (trainer, module), e.g. FullPass()"
            )
    return dict(measure)
