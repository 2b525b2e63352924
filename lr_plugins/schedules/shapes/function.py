"""A plain function as a schedule: of the epoch as in Keras, of the step, or of the fraction of the run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np

from lr_plugins.checkpoint_state import count, finite, flag, record
from lr_plugins.errors import InvalidArgumentError, TrainingError, shown
from lr_plugins.schedules.duration import Duration
from lr_plugins.schedules.numerics import clip
from lr_plugins.schedules.observation import BEGIN, SET, Change, Observation
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.validation import choice, learning_rate

Of = Literal["epoch", "step", "fraction"]

_RUN = Duration(100, "%")

# How Python and C libraries report a wrong number of arguments.
_WRONG_COUNT = re.compile(
    r"\btakes (?:from |exactly |at most |at least |no |\d)|\bmissing \d+ required "
    r"|\bexpected (?:at most |at least )?\d+ arg|\barguments: expected \d|\bgot multiple values for argument "
)


class _Single(float):
    """A learning rate that a function returned in single precision."""


class FunctionSchedule(Schedule):
    """A function of `epoch`, or of `(epoch, lr)`, called once at the start of each epoch; or of step or fraction.

    `lr = function(epoch)`, or `lr = function(epoch, lr of the previous epoch)`; for epoch 0 the latter is
    `initial_learning_rate`. As in Keras, a function that accepts two arguments gets two. If its signature does not show
    that, as with `np.vectorize` or a decorator that forwards `*args`, the first call decides, by Keras' rule: it is
    made with two arguments, and with one if the function does not accept two. Unlike in Keras, a TypeError from within
    the function is raised.

    With `of="step"`, `lr = function(step)`, and with `of="fraction"`, `lr = function(t / length of the run)`, called
    at every optimizer step, and once for each element of an array. The fraction rises from 0 at the start to 1 at the
    end, and stays there. Within a part of a sequence, both are counted from the start of the part, and the fraction is
    that of the part.

    Args:
        function: takes the epoch's index, an int from 0 (and the learning rate so far, a float), or the index of the
            optimizer step, an int from 0, or the fraction, a float from 0 to 1; returns the learning rate, a finite
            number >= 0.
        initial_learning_rate: the second argument for epoch 0. Default None: the optimizer's own learning rate. Only
            for functions of the epoch.
        of: `"epoch"`, `"step"` or `"fraction"`. Default `"epoch"`.

    Raises:
        InvalidArgumentError: `function` cannot be called with one or two arguments (for step and fraction: with one),
            or another argument is outside its range.
        TrainingError: it returned something that is not a finite number >= 0.

    Source: keras.callbacks.LearningRateScheduler; torch's LambdaLR and optax' schedules for the step, fastai's for
    the fraction.

    Example:
        >>> FunctionSchedule(lambda epoch: 0.002 if epoch < 3 else 0.001)(Position(step=0, epoch=3))
        0.001
        >>> decay = FunctionSchedule(lambda epoch, lr: lr * 0.5, initial_learning_rate=0.8)
        >>> decay(Position(step=0, epoch=2))
        0.1
        >>> FunctionSchedule(lambda step: 0.1 / (1 + step), of="step")(3)
        0.025
    """

    def __init__(
        self, function: Callable[..., float], *, initial_learning_rate: float | None = None, of: Of = "epoch"
    ) -> None:
        self.function = function
        self.of = choice("FunctionSchedule.of", of, get_args(Of))
        if isinstance(function, (type, Schedule)) or not callable(function):
            hint = "A schedule needs no FunctionSchedule around it." if isinstance(function, Schedule) else ""
            raise InvalidArgumentError("FunctionSchedule.function", function, f"a function of {self.of}", hint)
        self._takes_learning_rate = (
            _takes_learning_rate(function) if of == "epoch" else False
        )  # None: unknown before the first call
        if of != "epoch":
            if _takes(function, 0) is False:
                raise InvalidArgumentError("schedule", function, f"callable as schedule({of})")
            if initial_learning_rate is not None:
                raise InvalidArgumentError(
                    "FunctionSchedule.initial_learning_rate", initial_learning_rate, f"null (None) with of={of!r}"
                )
        self.initial_learning_rate = (
            None
            if initial_learning_rate is None
            else learning_rate("FunctionSchedule.initial_learning_rate", initial_learning_rate, optional=True)
        )

    @property
    def is_pure(self) -> bool:
        """False: the function may have side effects, so it is called only when its epoch or step comes."""
        return False

    @property
    def uses_optimizer_lr(self) -> bool:
        """Whether the function takes the learning rate, and `initial_learning_rate` is None."""
        takes = self._takes_learning_rate
        if takes is None:
            takes = _takes(self.function, 0, 0.0, follow_wrapped=True) is not False
        return takes and self.initial_learning_rate is None

    def own_lengths(self) -> Iterator[Duration]:
        """The run, for a function of its fraction."""
        if self.of == "fraction":
            yield _RUN

    def value(self, position: Position, state: State) -> Value:
        """The result of the function; for the epoch in the state, the remembered result."""
        if self.of == "step":
            return self._each(position.elapsed("st"), int)
        if self.of == "fraction":
            return self._each(clip(_RUN.ratio(position), 0.0, 1.0), float)
        epoch = position.elapsed("ep")
        if isinstance(epoch, np.ndarray):
            whole = epoch.astype(np.int64)
            different = np.unique(whole)
            answers = np.array([self._at(each, position, state) for each in different.tolist()], dtype=np.float64)
            each: Value = answers[np.searchsorted(different, whole)]
            return each
        return float(self._at(int(epoch), position, state))

    def start(self) -> State:
        """A state without an epoch; None unless the function is of the epoch."""
        return {} if self.of == "epoch" else None

    def check_state(self, state: Any, where: str = "state") -> None:
        """Check that the state is empty, or the last epoch with its result."""
        super().check_state(state, where)
        if state:
            record({"epoch": count, "learning_rate": finite}, {"single": flag})(state, where)

    def observe(self, state: State, position: Position, observation: Observation) -> State:
        """Call the function for this epoch, once."""
        if self.of != "epoch" or observation.when != BEGIN:
            return state
        epoch = position.elapsed("ep")
        assert not isinstance(epoch, np.ndarray)
        answer = self._at(int(epoch), position, state)
        # Keras 2 prints the digits of the type that the function returned.
        single = {"single": True} if isinstance(answer, _Single) else {}
        return {"epoch": int(epoch), "learning_rate": float(answer), **single}

    def announcement(self, state: State) -> Change:
        """The printed value is what the function returned."""
        return SET._replace(value=np.float32(state["learning_rate"])) if state and state.get("single") else SET

    def _each(self, times: Value, kind: type[int] | type[float]) -> Value:
        if isinstance(times, np.ndarray):
            return np.array([self._ask(kind(each)) for each in times.ravel()], dtype=np.float64).reshape(times.shape)
        return self._ask(kind(times))

    def _at(self, epoch: int, position: Position, state: State) -> float:
        if state and state["epoch"] == epoch:
            return float(state["learning_rate"])
        if self._takes_learning_rate is False:
            return self._ask(epoch)
        first, current = 0, None
        if state and state["epoch"] < epoch:
            first, current = state["epoch"] + 1, float(state["learning_rate"])
        if current is None:
            unknown = self.initial_learning_rate is None and position.base_learning_rate is None
            if self._takes_learning_rate is None and unknown:
                return self._without_learning_rate(epoch, position)
            current = self.initial(position)
        for past in range(first, epoch + 1):
            if self._takes_learning_rate:
                current = self._ask(past, current)
            else:
                current = self._find_out(past, current, epoch)
                if not self._takes_learning_rate:
                    break
        return current

    def _find_out(self, first: int, current: float, epoch: int) -> float:
        """Call it with two arguments for the epoch `first`; if it takes only one, with one for `epoch`."""
        try:
            answer = self._ask(first, current)
        except TypeError as error:
            if not _is_wrong_count(error):
                raise
            refused = error
        else:
            self._takes_learning_rate = True
            return answer
        try:
            answer = self._ask(epoch)
        except TypeError as error:
            if not _is_wrong_count(error) or _depth(error) > _depth(refused):
                raise  # from within the function, which takes one argument
            if _depth(error) < _depth(refused):
                raise refused from None  # from within the function, which takes two
            raise InvalidArgumentError("schedule", self.function, _CALLABLE, f"{refused}; {error}.") from None
        self._takes_learning_rate = False
        return answer

    def _without_learning_rate(self, epoch: int, position: Position) -> float:
        """Call it without a learning rate, as none is known, although it may take one."""
        try:
            return self._ask(epoch)
        except TypeError as error:
            if not _is_wrong_count(error):
                raise
        return self.initial(position)  # raises an error: it must be given

    def _ask(self, time: float, *learning_rate_so_far: float) -> float:
        try:
            answer: Any = self.function(time, *learning_rate_so_far)
        except OverflowError as error:  # its arithmetic has overflowed
            called = self._called(time, *learning_rate_so_far)
            raise TrainingError(
                f"the schedule function must return a finite number >= 0; {called} is too large for one ({error})"
            ) from error
        if isinstance(self.function, np.vectorize) and np.ndim(answer) == 0:
            answer = answer.item()  # it returns an array even for a single number
        try:
            checked = learning_rate("the learning rate", answer)
            return _Single(checked) if isinstance(answer, np.float32) else checked
        except InvalidArgumentError:
            called = self._called(time, *learning_rate_so_far)
            raise TrainingError(
                f"the schedule function must return a finite number >= 0; {called} returned {shown(answer)} "
                f"of type {type(answer).__name__}"
            ) from None

    def _called(self, *arguments: float) -> str:
        return f"{_name(self.function)}({', '.join(map(repr, arguments))})"


def as_schedule(schedule: Schedule | Callable[..., float], field: str = "schedule") -> Schedule:
    """A schedule; a plain function of `epoch` or `(epoch, lr)` becomes one.

    Args:
        schedule: the schedule or function.
        field: the name used in the error message.

    Raises:
        InvalidArgumentError: it is neither.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if hasattr(schedule, "get_last_lr"):
        hint = "To use a torch scheduler, wrap it: lr_plugins.TorchSchedule(lambda optimizer: ...)."
        raise InvalidArgumentError(field, schedule, "a schedule such as StepDecay(0.1)", hint)
    if isinstance(schedule, type) or not callable(schedule):
        raise InvalidArgumentError(
            field,
            schedule,
            "a schedule such as StepDecay(0.1), or a function of epoch or of (epoch, lr)",
        )
    return FunctionSchedule(schedule)


_CALLABLE = "callable as schedule(epoch) or schedule(epoch, lr)"


def _takes_learning_rate(function: Callable[..., float]) -> bool | None:
    """Whether Keras would call it with two arguments, which depends on their number, not on their names.

    None if only a call can tell.
    """
    both = _takes(function, 0, 0.0)
    if both is False and _takes(function, 0) is False:
        raise InvalidArgumentError("schedule", function, _CALLABLE)
    return both


def _takes(function: Callable[..., float], *arguments: float, follow_wrapped: bool = False) -> bool | None:
    """Whether a function can be called with these arguments; None if only a call can tell.

    A decorator that forwards `*args` accepts anything; the decorated function may not. `functools.wraps` gives the
    decorator the signature of that function, which may differ from its own.
    """
    if isinstance(function, np.ufunc):  # further positional arguments are `out` arrays
        return function.nin == len(arguments)
    try:
        signature = inspect.signature(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return None
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    named = sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    return True if named >= len(arguments) else None


def _is_wrong_count(error: TypeError) -> bool:
    """Whether a call failed because of the number of its arguments."""
    return _depth(error) == 1 or _WRONG_COUNT.search(str(error)) is not None


def _depth(error: TypeError) -> int:
    """The number of calls between `_ask` and the error; functions written in C do not count."""
    depth, trace = -1, error.__traceback__
    while trace is not None:
        depth, trace = depth + 1, trace.tb_next
    return depth


def _name(function: Callable[..., float]) -> str:
    return getattr(function, "__name__", type(function).__name__)
