"""Other libraries' schedulers as schedules."""

from __future__ import annotations

import warnings
import weakref
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.optim import Optimizer, lr_scheduler

from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import choice

_DRIVABLE = ("lr", "momentum", "weight_decay")


# They compute each value from their count of steps alone, though they have no method for a count that is given.
_CLOSED_FORMS = (
    lr_scheduler.LambdaLR,
    lr_scheduler.OneCycleLR,
    lr_scheduler.CyclicLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
)


class TorchSchedule(Schedule):
    """Any scheduler of torch, Hugging Face or timm as a schedule.

    The scheduler is replayed on an optimizer of its own and its learning rates are remembered, so that it can be asked
    for any position; it costs 8 bytes and one of its steps for each step up to the furthest one asked for. Between two
    of its steps, as `smooth` and `stretched` ask for them, it is asked by its closed form; one that has none raises.

    A scheduler that cycles the momentum as well needs a second schedule for it:
    `[TorchSchedule(factory), Assign(TorchSchedule(factory, of="momentum"), to="momentum")]`. Where that is missing, it
    is reported.

    Args:
        factory: optimizer -> scheduler, e.g. `lambda optimizer: CosineAnnealingLR(optimizer, 100)`.
        initial_learning_rate: the optimizer's learning rate (or momentum, or weight decay), >= 0. Default None: the
            optimizer's own.
        per: what one step of the scheduler is, `"step"` (an optimizer step, the default) or `"epoch"`.
        of: which of the scheduler's values: `"lr"` (the default), `"momentum"` or `"weight_decay"`.

    Raises:
        InvalidArgument: an argument of the wrong kind; when first asked, where the factory makes no scheduler.
        TrainingError: it is asked between two steps, and computes each value from the one before.

    Example:
        >>> schedule = TorchSchedule(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5), initial_learning_rate=0.1)
        >>> [schedule(step) for step in (4, 0, 2)]
        [0.025, 0.1, 0.05]
    """

    def __init__(
        self,
        factory: Callable[[Optimizer], Any],
        *,
        initial_learning_rate: float | None = None,
        per: str = "step",
        of: str = "lr",
    ) -> None:
        if not callable(factory):
            raise InvalidArgument("TorchSchedule.factory", factory, "a function of an optimizer that makes a scheduler")
        self.factory = factory
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.per = choice("TorchSchedule.per", per, ("step", "epoch"))
        self.of = choice("TorchSchedule.of", of, _DRIVABLE)
        self._replays: dict[float, _Replay] = {}
        _KEYS_IN_USE[id(self)] = self

    def __getstate__(self) -> dict[str, Any]:
        """Without the replays, which can be made anew."""
        return {**self.__dict__, "_replays": {}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take a state over."""
        self.__dict__.update(state)
        _KEYS_IN_USE[id(self)] = self

    def value(self, position: Position, state: State) -> Value:
        """What the scheduler gives after so many of its steps."""
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
            self._report_others(replay)
        return self._replays[initial]

    def _report_others(self, replay: _Replay) -> None:
        """Say what else the scheduler moves, if nothing has been built to drive it."""
        in_use = {schedule.of for schedule in _KEYS_IN_USE.values()}
        for key in replay.moved():
            if self.of == "lr" and key not in in_use:
                rank_zero_warn(
                    f"TorchSchedule: {replay.name} moves the {key.replace('_', ' ')} as well, and only the learning "
                    f"rate is taken from it. Add Assign(TorchSchedule(factory, of={key!r}), "
                    f"to={key!r}), or let the scheduler leave it alone (cycle_momentum=False)."
                )


_KEYS_IN_USE: weakref.WeakValueDictionary[int, TorchSchedule] = weakref.WeakValueDictionary()


class _Replay:
    """A scheduler on an optimizer of its own, and the values it has given so far."""

    def __init__(self, factory: Callable[[Optimizer], Any], initial: float, of: str) -> None:
        self._factory, self._initial, self._of = factory, initial, of
        self._optimizer, self._scheduler = self._make()
        self._other: tuple[Optimizer, Any] | None = None  # a second one, for times between steps
        self._values = array("d")
        self._error: tuple[Exception, Any] | None = None  # with which it has stopped, and where
        self.name = type(self._scheduler).__name__
        if not hasattr(self._scheduler, "step"):
            raise InvalidArgument("what TorchSchedule.factory made", self._scheduler, "a scheduler with a method step")
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            hint = 'lr_plugins.ReduceLROnPlateau(rule="torch") does the same.'
            raise InvalidArgument("TorchSchedule.factory", self.name, "one of time alone", hint)

    def _make(self) -> tuple[Optimizer, Any]:
        values: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, self._of: self._initial}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], **values)
        return optimizer, self._factory(optimizer)

    def moved(self) -> list[str]:
        """What it has moved besides the value that is asked for."""
        group, built = self._optimizer.param_groups[0], self._optimizer.defaults
        return [key for key in _DRIVABLE if key not in ("lr", self._of) and group[key] != built[key]]

    def at_steps(self, steps: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """After whole numbers of its steps."""
        steps = np.maximum(steps, 0)
        self._reach(int(steps.max(initial=0)))
        found: npt.NDArray[np.float64] = np.frombuffer(self._values, dtype=np.float64)[steps]
        return found

    def at(self, time: float) -> float:
        """After a number of its steps."""
        time = max(time, 0)
        step = round(time)
        if abs(time - step) > 1e-9 * max(time, 1.0):  # 49 * (1 / 49) is meant to be 1
            return self._between(time)
        self._reach(step)
        return self._values[step]

    def _reach(self, step: int) -> None:
        while len(self._values) <= step:
            if self._error is not None:
                error, place = self._error
                raise error.with_traceback(place)
            if self._values:
                self._optimizer.step()  # torch warns of schedulers that step before their optimizer
                try:
                    self._advance(len(self._values))
                except Exception as error:  # it may have counted the step: asked again, it would give another's value
                    self._error = error, error.__traceback__
                    raise
            self._values.append(float(self._optimizer.param_groups[0][self._of]))

    def _advance(self, step: int) -> None:
        if not self._advance_timm(self._scheduler, step):
            self._scheduler.step()

    @staticmethod
    def _advance_timm(scheduler: Any, time: float) -> bool:
        # timm's schedulers are told where they are: an update, or an epoch if they count in epochs.
        if not hasattr(scheduler, "step_update"):
            return False
        in_epochs = getattr(scheduler, "t_in_epochs", True)
        scheduler.step(time) if in_epochs else scheduler.step_update(time)
        return True

    def _between(self, time: float) -> float:
        """At a time between two of its steps."""
        if self._other is None:
            self._other = self._make()
        optimizer, scheduler = self._other
        if not self._advance_timm(scheduler, time):
            if not (hasattr(scheduler, "_get_closed_form_lr") or isinstance(scheduler, _CLOSED_FORMS)):
                raise TrainingError(
                    f"{self.name} has no value at its step {time:g}, between two steps: it computes each value from "
                    "the one before. Ask TorchSchedule for whole steps only (no smooth, no stretched), or use a "
                    "schedule of lr_plugins"
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the argument, which torch calls deprecated
                scheduler.step(time)
        return float(optimizer.param_groups[0][self._of])
