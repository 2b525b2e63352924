"""A plain function of the epoch as a schedule, as in Keras."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import numpy as np

from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, learning_rate


class FunctionSchedule(Schedule):
    """A function of `epoch`, or of `(epoch, lr)`, called once at the begin of each epoch.

    `lr = function(epoch)`, or `lr = function(epoch, lr of the epoch before)`; for epoch 0 the latter is
    `initial_learning_rate`. As in Keras, a function that can take two arguments gets two.

    Args:
        function: takes the epoch's index, an int from 0 (and the learning rate so far, a float); returns the
            learning rate, a finite number >= 0.
        initial_learning_rate: what a function of two arguments is given for epoch 0. Default None: the
            optimizer's own.

    Raises:
        InvalidArgument: `function` cannot be called with one or two arguments.
        TrainingError: it returned something that is not a finite number >= 0.

    Source: keras.callbacks.LearningRateScheduler.

    Example:
        >>> FunctionSchedule(lambda epoch: 0.002 if epoch < 3 else 0.001)(Position(step=0, epoch=3))
        0.001
        >>> decay = FunctionSchedule(lambda epoch, lr: lr * 0.5, initial_learning_rate=0.8)
        >>> decay(Position(step=0, epoch=2))
        0.1
    """

    def __init__(self, function: Callable[..., float], initial_learning_rate: float | None = None) -> None:
        self.function = function
        self._takes_learning_rate = _takes_learning_rate(function)
        self.initial_learning_rate = (
            None
            if initial_learning_rate is None
            else learning_rate("FunctionSchedule.initial_learning_rate", initial_learning_rate, optional=True)
        )

    def value(self, position: Position, state: State) -> Value:
        """The remembered value of this epoch; without one, the function asked for it (and those before)."""
        epoch = position.elapsed("ep")
        if isinstance(epoch, np.ndarray):
            known = {int(one): self._at(int(one), position, state) for one in np.unique(epoch)}
            return np.array([known[int(one)] for one in epoch.ravel()], dtype=np.float64).reshape(epoch.shape)
        return self._at(int(epoch), position, state)

    def start(self) -> State:
        """No epoch has been asked for yet."""
        return {}

    def observe(self, state: State, position: Position, metrics: Mapping[str, SupportsFloat]) -> State:
        """Ask the function for this epoch, once."""
        epoch = position.elapsed("ep")
        assert not isinstance(epoch, np.ndarray)
        return {"epoch": int(epoch), "learning_rate": self._at(int(epoch), position, state)}

    def _at(self, epoch: int, position: Position, state: State) -> float:
        if state and state["epoch"] == epoch:
            return float(state["learning_rate"])
        if not self._takes_learning_rate:
            return self._ask(epoch)
        first, current = 0, None
        if state and state["epoch"] < epoch:
            first, current = state["epoch"] + 1, float(state["learning_rate"])
        if current is None:
            current = self.initial(position)
        for past in range(first, epoch + 1):
            current = self._ask(past, current)
        return current

    def _ask(self, epoch: int, *learning_rate_so_far: float) -> float:
        answer: Any = self.function(epoch, *learning_rate_so_far)
        try:
            return learning_rate("the learning rate", answer)
        except InvalidArgument:
            called = f"{_name(self.function)}({', '.join(map(repr, (epoch, *learning_rate_so_far)))})"
            raise TrainingError(
                f"the schedule function must return a finite number >= 0; {called} returned {answer!r} "
                f"of type {type(answer).__name__}"
            ) from None


def as_schedule(schedule: Schedule | Callable[..., float]) -> Schedule:
    """A schedule; a plain function of `epoch` or `(epoch, lr)` becomes one.

    Raises:
        InvalidArgument: it is neither.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, type) or not callable(schedule):
        raise InvalidArgument(
            "schedule",
            schedule,
            "a schedule such as StepDecay(0.1), or a function of epoch or of (epoch, lr)",
        )
    return FunctionSchedule(schedule)


def _takes_learning_rate(function: Callable[..., float]) -> bool:
    """Whether Keras would call it with two arguments: it looks at what can be called, not at the names."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C tell nothing
        return False
    for arguments in ((0, 0.0), (0,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    raise InvalidArgument("schedule", function, "callable as schedule(epoch) or schedule(epoch, lr)")


def _name(function: Callable[..., float]) -> str:
    return getattr(function, "__name__", type(function).__name__)
