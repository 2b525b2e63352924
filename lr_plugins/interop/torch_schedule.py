"""Schedulers of other libraries as schedules."""

from __future__ import annotations

import warnings
import weakref
from array import array
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.optim import Optimizer, lr_scheduler

from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import choice

Clock = Literal["step", "epoch"]
Quantity = Literal["lr", "momentum", "weight_decay"]

# These compute each value from their step count alone, but have no `_get_closed_form_lr`.
_CLOSED_FORMS = (
    lr_scheduler.LambdaLR,
    lr_scheduler.OneCycleLR,
    lr_scheduler.CyclicLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
)


class TorchSchedule(Schedule):
    """Any torch, Hugging Face or timm scheduler as a schedule.

    The scheduler is replayed on its own optimizer and its values are cached, so the schedule has a value at any
    position. Reaching step n costs n steps of the scheduler, once, and 8 bytes for each. A position between two steps,
    as `smooth` and `stretched` produce, needs the scheduler's closed form; without one it is an error.

    A scheduler that cycles the momentum as well needs a second schedule for it:
    `[TorchSchedule(factory), Assign(TorchSchedule(factory, of="momentum"), to="momentum")]`. If it is missing, a
    warning is issued.

    Args:
        factory: a function of an optimizer that returns a scheduler, e.g.
            `lambda optimizer: CosineAnnealingLR(optimizer, 100)`.
        initial_learning_rate: the learning rate (or momentum, or weight decay) of the optimizer that the factory
            gets, >= 0. Default None: the value of the optimizer being trained.
        per: when the scheduler steps: once per `"step"` of the optimizer (the default) or once per `"epoch"`.
        of: which value to read: `"lr"` (the default), `"momentum"` or `"weight_decay"`.

    Raises:
        InvalidArgumentError: an argument of the wrong kind; or, on first use, the factory does not return a scheduler.
        TrainingError: a value between two steps is needed, and the scheduler computes each from the one before.

    Example:
        >>> from torch.optim.lr_scheduler import StepLR
        >>> schedule = TorchSchedule(lambda optimizer: StepLR(optimizer, 2, 0.5), initial_learning_rate=0.1)
        >>> [schedule(step) for step in (4, 0, 2)]
        [0.025, 0.1, 0.05]
    """

    __module__ = "lr_plugins.interop"  # the name in configurations, including those of earlier versions

    def __init__(
        self,
        factory: Callable[[Optimizer], Any],
        *,
        initial_learning_rate: float | None = None,
        per: Clock = "step",
        of: Quantity = "lr",
    ) -> None:
        if not callable(factory):
            raise InvalidArgumentError("TorchSchedule.factory", factory, "a function from optimizer to scheduler")
        self.factory = factory
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.per = choice("TorchSchedule.per", per, get_args(Clock))
        self.of = choice("TorchSchedule.of", of, get_args(Quantity))
        self._replays: dict[float, _Replay] = {}  # by initial value
        _INSTANCES[id(self)] = self

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the replays, which can be rebuilt."""
        return {**self.__dict__, "_replays": {}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        self.__dict__.update(state)
        _INSTANCES[id(self)] = self

    def value(self, position: Position, state: State) -> Value:
        """The scheduler's value after as many of its steps as have passed."""
        passed = position.elapsed("ep" if self.per == "epoch" else "st")
        replay = self._replay(self.initial(position))
        if not isinstance(passed, np.ndarray):
            return replay.at(passed)
        if np.issubdtype(passed.dtype, np.integer):
            return replay.at_steps(passed)
        return np.array([replay.at(time) for time in passed.ravel().tolist()], dtype=np.float64).reshape(passed.shape)

    def _replay(self, initial: float) -> _Replay:
        if initial not in self._replays:
            self._replays[initial] = replay = _Replay(self.factory, initial, self.of)
            self._warn_of_other_quantities(replay)
        return self._replays[initial]

    def _warn_of_other_quantities(self, replay: _Replay) -> None:
        """Warn if the scheduler changes another quantity that no `TorchSchedule` has been built for."""
        in_use = {schedule.of for schedule in _INSTANCES.values()}
        for key in replay.other_changed_quantities():
            if self.of == "lr" and key not in in_use:
                rank_zero_warn(
                    f"TorchSchedule: {replay.name} moves the {key.replace('_', ' ')} as well, and only the learning "
                    f"rate is taken from it. Add Assign(TorchSchedule(factory, of={key!r}), "
                    f"to={key!r}), or turn that off in the scheduler (cycle_momentum=False)."
                )


_INSTANCES: weakref.WeakValueDictionary[int, TorchSchedule] = weakref.WeakValueDictionary()


class _Replay:
    """A scheduler stepped on its own optimizer, with its values so far."""

    def __init__(self, factory: Callable[[Optimizer], Any], initial: float, of: str) -> None:
        self._factory, self._initial, self._of = factory, initial, of
        self._optimizer, self._scheduler = self._make()
        self._second: tuple[Optimizer, Any] | None = None  # a second pair, for times between steps
        self._values = array("d")
        self._error: tuple[Exception, Any] | None = None  # what the scheduler raised, with its traceback
        self.name = type(self._scheduler).__name__
        if not hasattr(self._scheduler, "step"):
            raise InvalidArgumentError(
                "what TorchSchedule.factory returned", self._scheduler, "a scheduler with a step method"
            )
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            hint = 'lr_plugins.ReduceLROnPlateau(rule="torch") does the same.'
            raise InvalidArgumentError("TorchSchedule.factory", self.name, "a scheduler that observes no metric", hint)

    def _make(self) -> tuple[Optimizer, Any]:
        values: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, self._of: self._initial}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], **values)
        return optimizer, self._factory(optimizer)

    def other_changed_quantities(self) -> list[str]:
        """The quantities it has changed besides the learning rate and the value that is read."""
        group, defaults = self._optimizer.param_groups[0], self._optimizer.defaults
        return [key for key in get_args(Quantity) if key not in ("lr", self._of) and group[key] != defaults[key]]

    def at_steps(self, steps: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The values after whole numbers of scheduler steps."""
        steps = np.maximum(steps, 0)
        self._reach(int(steps.max(initial=0)))
        values: npt.NDArray[np.float64] = np.frombuffer(self._values, dtype=np.float64)[steps]
        return values

    def at(self, time: float) -> float:
        """The value after a number of scheduler steps, which may be fractional."""
        time = max(time, 0)
        step = round(time)
        if abs(time - step) > 1e-9 * max(time, 1.0):  # rounding: 49 * (1 / 49) is 1
            return self._between(time)
        self._reach(step)
        return self._values[step]

    def _reach(self, step: int) -> None:
        while len(self._values) <= step:
            if self._error is not None:
                error, traceback = self._error
                raise error.with_traceback(traceback)
            if self._values:
                self._optimizer.step()  # torch warns about schedulers that step before their optimizer
                try:
                    self._advance(len(self._values))
                except Exception as error:  # it may have counted the step already, so a retry would be one off
                    self._error = error, error.__traceback__
                    raise
            self._values.append(float(self._optimizer.param_groups[0][self._of]))

    def _advance(self, step: int) -> None:
        if not self._advance_timm(self._scheduler, step):
            self._scheduler.step()

    @staticmethod
    def _advance_timm(scheduler: Any, time: float) -> bool:
        # timm's schedulers take the current update, or the epoch if they count epochs.
        if not hasattr(scheduler, "step_update"):
            return False
        in_epochs = getattr(scheduler, "t_in_epochs", True)
        scheduler.step(time) if in_epochs else scheduler.step_update(time)
        return True

    def _between(self, time: float) -> float:
        """The value between two scheduler steps."""
        if self._second is None:
            self._second = self._make()
        optimizer, scheduler = self._second
        if not self._advance_timm(scheduler, time):
            if not (hasattr(scheduler, "_get_closed_form_lr") or isinstance(scheduler, _CLOSED_FORMS)):
                raise TrainingError(
                    f"{self.name} has no value at its step {time:g}, between two steps: it computes each value from "
                    "the one before. Use TorchSchedule without smooth() and stretched(), or use a schedule of "
                    "lr_plugins"
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch deprecates the argument
                scheduler.step(time)
        return float(optimizer.param_groups[0][self._of])
