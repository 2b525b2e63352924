"""lr = schedule(position): what every schedule is."""

from __future__ import annotations

import inspect
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from lr_plugins import renamed
from lr_plugins.checkpoint_state import WrongStateError, mapping, plain
from lr_plugins.errors import ImpossibleValueError, InvalidArgumentError, LearningRateError, shortened, shown
from lr_plugins.schedules.ahead import Ahead, is_foreseeable
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone
from lr_plugins.schedules.observation import SET, Change, Monitor, Observation
from lr_plugins.schedules.position import Count, Position, Value, as_position
from lr_plugins.validation import as_float, learning_rate

if TYPE_CHECKING:
    from lr_plugins.schedules.combinators.warmup import Rise

State = Mapping[str, Any] | None
"""The state of a schedule: None, or a mapping of names to plain numbers and texts that JSON can hold."""


_NUMPY = np.ndarray, np.generic
_INFINITY = np.float64(math.inf).view(np.uint64)
_OUT_OF_DOMAIN = "math domain error", "cannot convert float"
"""How the errors of Python's math functions begin for numbers outside of their domain."""


class _CallbackHook:
    """An attribute that callbacks have and schedules do not."""

    def __get__(self, schedule: Any, owner: type) -> NoReturn:
        kind = owner.__name__
        raise AttributeError(f"{kind} is a schedule, not a callback: callbacks=[LearningRateScheduler({kind}(...))]")


DEFINED: weakref.WeakValueDictionary[str, type[Schedule]] = weakref.WeakValueDictionary()
"""Every class of schedules that the program has defined, by its dotted name."""


@renamed.attributes
class Schedule(ABC):
    """What the learning rate should be, as a pure function of position.

    A schedule owns no counter and mutates nothing: it can be called for any position, in any order. A schedule that
    depends on metrics is passed a small `state`, made by `start` and advanced by `observe`; the training loop keeps it.
    Sub-classes implement `value`, and keep each constructor argument in an attribute of the same name. `from_config`
    knows a class by its dotted name as soon as it is defined.

    Example:
        >>> from lr_plugins import StepDecay, RunLength
        >>> schedule = StepDecay(0.1, drop=0.5, every="10ep")
        >>> schedule(RunLength.of(steps_per_epoch=30).position(step=600))
        0.025
    """

    initial_learning_rate: float | None = None
    _ahead: Ahead | Literal[False] | None = None  # None: it has not been called yet; False: it cannot be foreseen

    observes_when_inactive: bool = False
    """Whether it observes before and after its turn as well, as a part of a sequence. Schedules that count (a plateau's
    patience) do not; `LossDriven` does, and is up to date when its turn comes."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Make the class known by its name, and its constructor explain calls of an earlier version."""
        super().__init_subclass__(**arguments)
        renamed.check_overrides(cls)
        if "__init__" in vars(cls):
            renamed.arguments(cls)
        DEFINED[f"{cls.__module__}.{cls.__qualname__}"] = cls

    # What Lightning asks a callback first; a schedule among the Trainer's callbacks says what to do.
    setup = on_exception = state_key = _CallbackHook()

    preview = renamed.FormerAttribute("preview", "the function lr_plugins.preview(schedule, ...)")

    def __call__(self, position: Position | Count, state: State = None) -> Value:
        """The learning rate at a position.

        Args:
            position: a `Position`; or a plain number of optimizer steps, or a NumPy array of them (then an array
                comes back), for schedules that look at nothing else.
            state: the schedule's state; without it, the value is that of a run which has observed nothing.

        Returns:
            A finite number >= 0 for a position of one step. For one whose step or epoch is an array (or both), an array
            of its shape, also where the values do not depend on what the array counts; of up to 4096 elements, each is
            bit for bit the value of a call of its own.

        Raises:
            ImpossibleValueError: the formula gives something else there, because its numbers overflow or become
                negative.
            TrainingError: the value depends on something that is unknown at this position.
        """
        where = position if type(position) is Position else as_position(position)
        ahead = self._ahead
        if ahead and state is None:
            known = ahead.value_at(where)
            if known is not None:
                return known
        if isinstance(where.step, _NUMPY) or isinstance(where.epoch, _NUMPY):
            return self._curve(where, state)
        try:
            value = self.value(where, state)
        except (ArithmeticError, ValueError, TypeError) as error:
            explained = self._explained(error, where)
            if explained is None:
                raise
            raise explained from error
        if type(value) is float and 0.0 <= value < math.inf:
            if ahead is not False and state is None:
                self._look_ahead(where)
            return value
        return self._require_value(value, where)

    def _look_ahead(self, where: Position) -> None:
        """Note a call, if the values of the next ones can be foreseen."""
        if self._ahead is None:
            self._ahead = Ahead() if is_foreseeable(self) else False
        if self._ahead:
            self._ahead.note(self, where)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_ahead"}  # a copy looks ahead by itself

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name[0] != "_":
            Ahead.changes += 1

    def _curve(self, where: Position, state: State) -> Value:
        """The values at an array of positions, or at one whose step or epoch is a number of NumPy's."""
        arrays = where.shape is not None
        if arrays and where.run.clock is not None:  # epochs of different sizes: each step has a time of its own
            return self._one_by_one(where, state)
        try:
            with np.errstate(all="ignore"):
                value = self.value(where, state)
        except (ArithmeticError, ValueError, TypeError) as error:
            explained = self._explained(error, where)
            if explained is None:
                raise
            if arrays and isinstance(explained, ImpossibleValueError):
                return self._one_by_one(where, state)  # says at which step
            raise explained from error
        if not arrays or not isinstance(value, np.ndarray):
            self._require_value(value, where)
            return np.full(where.shape, value) if where.shape is not None else value
        return value if _are_values(value) else self._one_by_one(where, state)

    def _one_by_one(self, where: Position, state: State) -> Value:
        """The values at an array of positions, each by a call of its own."""
        if where.shape is None:
            return self._require_value(math.nan, where)
        return np.array([self(position, state) for position in where.each()], dtype=np.float64).reshape(where.shape)

    def _require_value(self, value: Any, where: Position) -> Value:
        """A value that is a finite number >= 0, whatever its type."""
        number = as_float(value)
        if number is None and hasattr(value, "__float__") and not isinstance(value, (bool, np.bool_)):
            with suppress(Exception):  # a tensor of one number
                number = float(value) if getattr(value, "ndim", 0) == 0 else None
        if number is None or not 0.0 <= number < math.inf:
            raise self._impossible(shown(value), where)
        checked: Value = value
        return checked

    def _explained(self, error: Exception, where: Position) -> LearningRateError | None:
        """The error to raise for an error in the formula, if it comes from numbers that overflow; or None."""
        for name in ("step", "epoch"):
            count = getattr(where, name)
            kind = count.dtype.kind if isinstance(count, np.ndarray) else None
            if count is not None and kind not in ("i", "u", "f") and (kind or as_float(count) is None):
                return InvalidArgumentError(f"Position.{name}", count, "a number, an array of numbers, or None")
        numeric = isinstance(error, ArithmeticError) or str(error).startswith(_OUT_OF_DOMAIN)
        if isinstance(error, LearningRateError) or not numeric or not self.is_pure:
            return None
        return self._impossible(f"no number ({error})", where)

    def _impossible(self, value: str, where: Position) -> ImpossibleValueError:
        when = f"in epoch {where.epoch}" if where.step is None else f"at step {where.step}"
        return ImpossibleValueError("learning rate", "a finite number >= 0", value, shortened(when, 40), shown(self))

    @abstractmethod
    def value(self, position: Position, state: State) -> Value:
        """The formula."""

    def start(self) -> State:
        """The state before the first step."""
        return None

    def check_state(self, state: Any, where: str = "state") -> None:
        """Refuse what is not a state of this schedule, e.g. from a damaged checkpoint.

        A sub-class with a state extends it where more than plain values is required.

        Args:
            state: the value to check.
            where: its name in the message.

        Raises:
            WrongStateError: it is not a state of this schedule.
        """
        if self.start() is None and state is not None:
            raise WrongStateError(where, state, f"None, since {type(self).__name__} remembers nothing")
        if self.start() is not None:
            mapping(state, where)
            plain(state, where)

    @property
    def is_pure(self) -> bool:
        """Whether its values may be computed ahead of time, for many steps at once, from the current state.

        True, unless a call may have side effects, as a function of the user's: that is called at its own step.
        """
        return True

    @property
    def uses_optimizer_lr(self) -> bool:
        """Whether it starts from the optimizer's own learning rate, because it names no other."""
        return "initial_learning_rate" in self.config() and self.initial_learning_rate is None

    @property
    def monitors(self) -> tuple[Monitor, ...]:
        """The logged metrics this schedule observes, and when."""
        return ()

    @property
    def kind(self) -> str:
        """The kind of schedule, parts included: a state fits all schedules of one kind."""
        return type(self).__name__

    def observe(self, state: State, position: Position, observation: Observation) -> State:
        """The state after an observation; the same state where the occasion is not this schedule's."""
        return state

    def announcement(self, state: State) -> Change:
        """What is reported at the start of an epoch for a schedule of time."""
        return SET

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """What an observation has changed, for the messages."""
        return ()

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The milestones among an array of increasing positions, as far as the arguments determine them."""
        yield from ()

    def own_lengths(self) -> Iterator[Duration]:
        """The lengths of time in its arguments, without those of its parts."""
        yield from _lengths_among(vars(self).values())

    def initial(self, position: Position) -> float:
        """The learning rate a schedule starts from: `initial_learning_rate`, or else the optimizer's own."""
        return self.resolve("initial_learning_rate", position)

    def resolve(self, name: str, position: Position) -> float:
        """The learning rate given as the argument `name`, or else the optimizer's own."""
        given: float | None = getattr(self, name)
        if given is not None:
            return given
        if position.base_learning_rate is not None:
            return position.base_learning_rate
        raise InvalidArgumentError(
            f"{type(self).__name__}.{name}",
            None,
            "given where no optimizer is at hand",
            "None means the optimizer's own learning rate; give it as base_learning_rate, or name one here.",
        )

    # --- combination --------------------------------------------------------------------------------------
    # The combinators are schedules, and these methods of a schedule build them: the one circle among the imports. It is
    # closed when a method is called; a registry that combinators enter would hide from a reader what a method builds.

    @renamed.method_arguments()
    def then(self, following: Schedule | Callable[..., float], *, after: DurationLike) -> Schedule:
        """This schedule for the length `after`, then another one, counting from its own start (see `Chain`)."""
        from lr_plugins.schedules.combinators.chain import Chain

        return Chain([self, following], lengths=[after])

    @renamed.method_arguments(length="called warmup_steps")
    def with_warmup(
        self,
        warmup_steps: DurationLike,
        *,
        start_factor: float = 0.0,
        shape: Rise | Schedule | Callable[..., float] = "linear",
        prefix: bool = True,
    ) -> Schedule:
        """This schedule after a rise to its first value (see `Warmup`)."""
        from lr_plugins.schedules.combinators.warmup import Warmup

        return Warmup(self, warmup_steps=warmup_steps, start_factor=start_factor, shape=shape, prefix=prefix)

    def __mul__(self, factor: Schedule | float) -> Schedule:
        """This schedule times a factor, or times a schedule of factors (see `Product`)."""
        from lr_plugins.schedules.combinators.product import Product

        return Product([self, factor])

    __rmul__ = __mul__

    def at_least(self, min_learning_rate: float) -> Schedule:
        """This schedule with a floor (see `Bounded`)."""
        from lr_plugins.schedules.combinators.bounded import Bounded

        return Bounded(self, min_learning_rate=min_learning_rate)

    def at_most(self, max_learning_rate: float) -> Schedule:
        """This schedule with a ceiling (see `Bounded`)."""
        from lr_plugins.schedules.combinators.bounded import Bounded

        return Bounded(self, max_learning_rate=max_learning_rate)

    def repeated(self, every: DurationLike) -> Schedule:
        """This schedule again and again (see `Repeated`)."""
        from lr_plugins.schedules.combinators.repeated import Repeated

        return Repeated(self, every=every)

    def stretched(self, ratio: float) -> Schedule:
        """This schedule on a run `ratio` times as long (see `Stretched`)."""
        from lr_plugins.schedules.combinators.stretched import Stretched

        return Stretched(self, ratio=ratio)

    def smooth(self) -> Schedule:
        """This schedule with epochs that move at every step (see `Smooth`)."""
        from lr_plugins.schedules.combinators.epochs import Smooth

        return Smooth(self)

    def per_epoch(self) -> Schedule:
        """This schedule held within each epoch (see `PerEpoch`)."""
        from lr_plugins.schedules.combinators.epochs import PerEpoch

        return PerEpoch(self)

    # --- what it is ---------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, in their normalized form."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        arguments = ", ".join(
            f"{name}={str(value) if isinstance(value, Duration) else value!r}" for name, value in self.config().items()
        )
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.config() == other.config()

    def __hash__(self) -> int:
        return hash(repr(self))


def _are_values(values: npt.NDArray[Any]) -> bool:
    """Whether all of them are finite numbers >= 0."""
    if not values.size:
        return True
    # As integers, such floats are below infinity, and all others at or above it: one pass instead of two.
    if values.dtype == np.float64 and values.view(np.uint64).max() < _INFINITY:
        return True
    return bool(values.dtype.kind in "fiu" and values.min() >= 0 and values.max() < math.inf)


def _lengths_among(values: Iterable[object]) -> Iterator[Duration]:
    for value in values:
        if isinstance(value, Duration):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _lengths_among(value)


def start_of(owner: Schedule, value: object) -> float | None:
    """A schedule's `initial_learning_rate`: a finite number >= 0, or None for the optimizer's own."""
    field = f"{type(owner).__name__}.initial_learning_rate"
    return None if value is None else learning_rate(field, value, optional=True)
