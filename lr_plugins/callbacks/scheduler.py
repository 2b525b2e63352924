"""The callback that makes a schedule drive a Trainer's optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import numpy as np

from lr_plugins._lightning import Callback, LightningModule, Trainer, rank_zero_only
from lr_plugins.callbacks.trace import Trace
from lr_plugins.callbacks.trainer_facts import run_length
from lr_plugins.callbacks.writer import Writer
from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules import Position, RunLength, Schedule, as_schedule
from lr_plugins.schedules.schedule import State

Measure = Callable[[Trainer, LightningModule], float]
MESSAGES = {
    "keras2": "\nEpoch {epoch:05d}: LearningRateScheduler setting {optimizer}learning rate to {value!r}.",
    "keras3": "\nEpoch {epoch}: LearningRateScheduler setting {optimizer}learning rate to {value!r}.",
}


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
        self.measure = dict(measure or {})
        self.trace = Trace()
        self.run_length = RunLength()
        self._writers: list[Writer] = []
        self._state: State = self.schedule.start()
        self._seen: dict[str, float] = {}  # monitored metrics of before this fit, until they are observed
        self._restored: dict[str, Any] | None = None  # a checkpoint's state, until training begins
        self._steps: list[int] = []  # taken by each optimizer in the fits before this one ...
        self._left_at = 0  # ... which left the Trainer's own count here
        self._trainer: Trainer | None = None

    @property
    def learning_rate(self) -> float:
        """What the schedule says for the coming step of the first optimizer; NaN before training begins."""
        return self._writers[0].learning_rate if self._writers else math.nan

    # --- the run: begin, epochs, end --------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second writer."""
        schedulers = [one for one in trainer.callbacks if isinstance(one, LearningRateScheduler)]  # type: ignore[attr-defined]
        if stage == "fit" and len(schedulers) > 1:
            raise InvalidArgument("Trainer.callbacks", schedulers, "a list with only one LearningRateScheduler")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the base learning rates: the optimizers are built, and no checkpoint has changed them yet."""
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):  # Lightning's stand-in has none
            raise InvalidArgument("configure_optimizers()", None, "a method that returns an optimizer to drive")
        self._steps = [writer.step for writer in self._writers]
        many = len(trainer.optimizers) > 1
        self._writers = [
            Writer(optimizer, self._value, f"lr/{type(optimizer).__name__}-{index}" if many else "lr")
            for index, optimizer in enumerate(trainer.optimizers)
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the position in the run."""
        self._trainer = trainer
        self.run_length = run_length(trainer)
        for writer, step in zip(self._writers, self._take_position(trainer), strict=True):
            writer.attach(self.trace, step)

    def _take_position(self, trainer: Trainer) -> list[int]:
        """The steps taken so far, of each optimizer; what the schedule remembers is made to fit them."""
        restored, self._restored = self._restored, None
        count = len(self._writers)
        if restored is None and trainer.global_step == self._left_at and len(self._steps) == count:
            return self._steps  # another fit of the same Trainer goes on where the last one ended
        self.trace, self._state, self._seen = Trace(), self.schedule.start(), {}
        if restored is None or len(restored["steps"]) != count:
            # A new Trainer, or one whose checkpoint was written without this callback.
            return [trainer.global_step // count] * count
        if restored["schedule"] == type(self.schedule).__name__:
            self._state, self._seen = restored["state"], restored["metrics"]
        return list(restored["steps"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the first value where training resumes within an epoch, whose begin is then not announced."""
        for writer in self._writers:
            if math.isnan(writer.learning_rate):
                writer.refresh()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe what the epoch before has shown, set the learning rate, and say so."""
        if self._state is not None:
            self._observe(trainer, pl_module)
        for writer in self._writers:
            writer.refresh()
        if self.verbose > 0:
            self._say(trainer.current_epoch + 1)

    def _observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = {name: measure(trainer, pl_module) for name, measure in self.measure.items()}
        for name, value in measured.items():
            pl_module.log(name, value, on_step=False, on_epoch=True, batch_size=1)
        writer = self._writers[0]
        position = self._position(writer.step, writer.base_learning_rate)
        metrics: dict[str, SupportsFloat] = {**self._seen, **trainer.callback_metrics, **measured}
        self._state, self._seen = self.schedule.observe(self._state, position, metrics), {}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers and the Trainer, also when training failed."""
        if self._trainer is not None:
            self._seen, self._left_at = self._monitored(), trainer.global_step
        for writer in self._writers:
            writer.detach()
        self._trainer = None

    # --- the value --------------------------------------------------------------------------------------

    def _position(self, step: int, base_learning_rate: float) -> Position:
        assert self._trainer is not None
        return Position(step, self._trainer.current_epoch, self.run_length, base_learning_rate)

    def _value(self, step: int, base_learning_rate: float) -> float:
        value = self.schedule(self._position(step, base_learning_rate), self._state)
        assert not isinstance(value, np.ndarray)
        return value

    @rank_zero_only
    def _say(self, epoch: int) -> None:
        agree = len({writer.learning_rate for writer in self._writers}) == 1
        for writer in self._writers[:1] if agree else self._writers:
            name = "" if agree else f"{type(writer.optimizer).__name__} "
            print(MESSAGES[self.style].format(epoch=epoch, optimizer=name, value=writer.learning_rate), flush=True)

    # --- the checkpoint ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the steps of each optimizer, what the schedule remembers, what it will look at next."""
        return {
            "schedule": type(self.schedule).__name__,
            "steps": [writer.step for writer in self._writers],
            "state": None if self._state is None else dict(self._state),
            "metrics": self._monitored(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training begins."""
        self._restored = state_dict

    def _monitored(self) -> dict[str, float]:
        """The monitored metrics as they stand: Lightning's checkpoints do not keep them."""
        logged = self._trainer.callback_metrics if self._trainer is not None else {}
        found: dict[str, SupportsFloat] = {**self._seen, **logged}
        return {name: float(found[name]) for name in self.schedule.monitors if name in found}
