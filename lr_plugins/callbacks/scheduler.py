"""The callback that makes a schedule drive a Trainer's optimizers."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

from torch.optim import Optimizer

from lr_plugins._lightning import Callback, LightningModule, Trainer, rank_zero_only, rank_zero_warn
from lr_plugins.callbacks.drive import Drive
from lr_plugins.callbacks.param_groups import Names, parameter_names
from lr_plugins.callbacks.trace import Trace
from lr_plugins.callbacks.trainer_facts import run_length
from lr_plugins.callbacks.writer import Writer, check_chosen, optimizers_of, series_suffixes, settings
from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules import Position, RunLength, Schedule
from lr_plugins.schedules.assign import Assign, Assignments
from lr_plugins.schedules.position import Count
from lr_plugins.schedules.schedule import State

Measure = Callable[[Trainer, LightningModule], float]
Schedules = (
    Schedule
    | Assign
    | Assignments
    | Callable[..., float]
    | Sequence[Schedule | Assign | Callable[..., float]]
    | Mapping[str, Schedule | Assign | Callable[..., float]]
)
MESSAGES = {
    "keras2": "\nEpoch {epoch:05d}: LearningRateScheduler setting {what} to {value!r}.",
    "keras3": "\nEpoch {epoch}: LearningRateScheduler setting {what} to {value!r}.",
}


@dataclass
class Progress:
    """Where the schedules stand in a run.

    Args:
        steps: taken by each optimizer.
        states: what each schedule remembers, with its kind: the state of one kind does not fit another.
        metrics: monitored metrics that are still to be observed.
    """

    steps: list[int] = field(default_factory=list)
    states: dict[str, tuple[str, State]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class LearningRateScheduler(Callback):
    """Set the learning rate of every optimizer step to what a schedule says.

    Works with any LightningModule and optimizer, in Trainers of `pytorch_lightning` and `lightning.pytorch`. The
    value is written immediately before each real optimizer step, computed from the position in the run; param
    groups keep their ratio to the optimizer's default lr. Several schedules can be given, for different param groups,
    optimizers and hyper-parameters (see `Assign`). The values used are in `trace`.

    Args:
        schedule: a schedule, or a function of `epoch` or of `(epoch, lr)` as in Keras, called once an epoch; or a
            list of schedules and `Assign`s (or a dictionary of them by name), of which the last that fits counts.
        verbose: 1 prints, at the begin of each epoch, what Keras prints; 0 nothing. Default 0.
        style: `"keras2"` for `Epoch 00004: ...` (the default), `"keras3"` for `Epoch 4: ...`.
        measure: quantities to measure at the begin of each epoch, by the name under which the schedule can
            monitor them (they are logged, too): functions of (trainer, module), e.g. a
            `lr_plugins.callbacks.FullPass`. Default: none.

    Raises:
        InvalidArgument: an argument of the wrong kind; at the begin of the fit, an assignment for something that the
            module or its optimizers do not have.
        TrainingError: during training, when the next learning rate cannot be known or is no finite number.

    Source: keras.callbacks.LearningRateScheduler.

    Example:
        >>> from lr_plugins import LearningRateScheduler, StepDecay
        >>> callback = LearningRateScheduler(StepDecay(0.1, drop=0.5, every="10ep"), verbose=1)
        >>> callback = LearningRateScheduler(lambda epoch: 0.002 if epoch < 3 else 0.001, verbose=1)
        >>> from lr_plugins import Assign, CycleThrough, OneCycle
        >>> callback = LearningRateScheduler([OneCycle(0.1), Assign(CycleThrough(0.95, 0.85, 0.95), to="momentum")])
    """

    def __init__(
        self,
        schedule: Schedules,
        verbose: int = 0,
        style: str = "keras2",
        measure: Mapping[str, Measure] | None = None,
    ) -> None:
        self.assignments = Assignments.of(schedule)
        if not isinstance(verbose, int):
            raise InvalidArgument("LearningRateScheduler.verbose", verbose, "0 (silent) or 1 (Keras' messages)")
        if style not in MESSAGES:
            raise InvalidArgument("LearningRateScheduler.style", style, f"one of {', '.join(MESSAGES)}")
        self.verbose, self.style = verbose, style
        self.measure = _measures(measure or {})
        self.trace = Trace()
        self.run_length = RunLength()
        self._progress = Progress()
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
        self._writers = self._make_writers(trainer.optimizers, parameter_names(pl_module))

    def _make_writers(self, optimizers: Sequence[Optimizer], names: Names) -> list[Writer]:
        mine = optimizers_of(list(self.assignments), optimizers)
        suffixes = series_suffixes(optimizers)
        writers = [
            Writer(optimizer, assignments, self._position, names, suffix)
            for optimizer, assignments, suffix in zip(optimizers, mine, suffixes, strict=True)
        ]
        check_chosen(list(self.assignments), writers, names)
        return writers

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
            restored = self._progress
        else:
            self.trace = Trace()
        # A new Trainer, or one whose checkpoint was written without this callback, tells the position by itself.
        self._progress = Progress([trainer.global_step // count] * count)
        if restored is not None and len(restored.steps) == count:
            self._progress = restored
        for key, drive in self._drives():
            kind, state = self._progress.states.get(key, ("", None))
            if kind == drive.schedule.kind:
                drive.state = state

    def _drives(self) -> Iterator[tuple[str, Drive]]:
        """All drives, by what tells them apart in a checkpoint."""
        for index, writer in enumerate(self._writers):
            for drive in writer.drives:
                yield f"{index}.{drive.assignment}.{drive.number}", drive

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
        self._observe(trainer, measured)
        for writer in self._writers:
            writer.refresh()
        if self.verbose > 0:
            self._say(trainer.current_epoch + 1)

    def _observe(self, trainer: Trainer, measured: Mapping[str, SupportsFloat]) -> None:
        metrics: dict[str, SupportsFloat] = {**self._progress.metrics, **trainer.callback_metrics, **measured}
        self._progress.metrics = {}
        for writer in self._writers:
            for drive in writer.drives:
                if drive.state is not None:
                    place = self._position(writer.step, drive.base)
                    drive.state = drive.schedule.observe(drive.state, place, metrics)

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

    def _position(self, step: Count, base: float) -> Position:
        assert self._trainer is not None
        return Position(step, self._trainer.current_epoch, self.run_length, base)

    @rank_zero_only
    def _say(self, epoch: int) -> None:
        for what, value in settings(self._writers):
            print(MESSAGES[self.style].format(epoch=epoch, what=what, value=value), flush=True)

    # --- the checkpoint ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the steps of each optimizer, what the schedules remember, what they will look at next."""
        current = self._restored or self._current()  # a checkpoint's, where training has not begun
        return {
            "steps": list(current.steps),
            "states": {key: [kind, state] for key, (kind, state) in current.states.items()},
            "metrics": dict(current.metrics),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training begins."""
        states = {key: (kind, state) for key, (kind, state) in state_dict["states"].items()}
        self._restored = Progress(list(state_dict["steps"]), states, dict(state_dict["metrics"]))

    def _current(self) -> Progress:
        """Where the schedules stand now, with the monitored metrics: Lightning's checkpoints do not keep them."""
        if self._trainer is None or not self._writers:
            return self._progress
        found: dict[str, SupportsFloat] = {**self._progress.metrics, **self._trainer.callback_metrics}
        monitors = {name for one in self.assignments for name in one.schedule.monitors}
        metrics = {name: float(found[name]) for name in sorted(monitors) if name in found}
        states: dict[str, tuple[str, State]] = {
            key: (drive.schedule.kind, drive.state) for key, drive in self._drives() if drive.state is not None
        }
        return Progress([writer.step for writer in self._writers], states, metrics)

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
