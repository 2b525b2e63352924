"""Schedules made of schedules: in sequence, multiplied, bounded, repeated, stretched, smoothed.

A combination changes the position its parts see, or the value they give; it knows nothing of their formulas. What its
parts remember is its own state: a dictionary by their index.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lr_plugins.checkpoint_state import record
from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import FLOOR, Milestone, begins, recurring
from lr_plugins.schedules.numerics import clip, nearly_whole
from lr_plugins.schedules.observation import Change, Monitor, Observation
from lr_plugins.schedules.position import Length, Position, RunLength, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.schedules.shapes.function import as_schedule
from lr_plugins.validation import learning_rate, number

_NONE = Length()
_FEW = 8  # parts, for which a loop is as quick as anything else


class Combination(Schedule):
    """A schedule made of others. Sub-classes say which position each part sees."""

    parts: tuple[Schedule, ...]

    def local_position(self, index: int, position: Position) -> Position:
        """The position as part `index` sees it."""
        return position

    def is_factor(self, index: int) -> bool:
        """Whether part `index` gives a factor, which begins at 1, and no learning rate."""
        return False

    def active(self, index: int, position: Position) -> bool:
        """Whether part `index` has a say at a position (of one step)."""
        return True

    @property
    def uses_optimizer_lr(self) -> bool:
        """Whether a part that gives a learning rate does."""
        return any(part.uses_optimizer_lr for index, part in enumerate(self.parts) if not self.is_factor(index))

    def start(self) -> State:
        """The states of those parts that remember something."""
        states = {str(index): part.start() for index, part in enumerate(self.parts)}
        known = {index: state for index, state in states.items() if state is not None}
        return known or None

    def check_state(self, state: Any, where: str = "state") -> None:
        """Those of the parts that remember something."""
        if self.start() is None:
            super().check_state(state, where)
            return
        parts = {str(index): part for index, part in enumerate(self.parts) if part.start() is not None}
        record({index: part.check_state for index, part in parts.items()})(state, where)

    @property
    def monitors(self) -> tuple[Monitor, ...]:
        """What the parts observe."""
        return tuple(dict.fromkeys(monitor for part in self.parts for monitor in part.monitors))

    @property
    def observes_when_inactive(self) -> bool:  # type: ignore[override]
        """Whether any part does."""
        return any(part.observes_when_inactive for part in self.parts)

    @property
    def is_pure(self) -> bool:
        """Whether all parts are."""
        return all(part.is_pure for part in self.parts)

    @property
    def kind(self) -> str:
        """Its own and those of its parts."""
        return f"{type(self).__name__}({', '.join(part.kind for part in self.parts)})"

    def observe(self, state: State, position: Position, observation: Observation) -> State:
        """Let those parts observe that remember something and have their say now, and those that always do."""
        if not state:
            return state
        advanced = dict(state)
        for key, part_state in state.items():
            index = int(key)
            in_turn = observation.in_turn and self.active(index, position)
            if in_turn or self.part_observes_when_inactive(index, position):
                seen = self.local_position(index, position)
                advanced[key] = self.parts[index].observe(part_state, seen, observation._replace(in_turn=in_turn))
        return advanced

    def part_observes_when_inactive(self, index: int, position: Position) -> bool:
        """Whether part `index` observes at a position where it has no say."""
        return self.parts[index].observes_when_inactive

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """Those of the parts, to be told with the learning rate that the whole gives."""
        for key, part_state in (after or {}).items():
            for change in self.parts[int(key)].changes((before or {}).get(key), part_state):
                yield change._replace(value=None)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Those of the parts."""
        for index, part in enumerate(self.parts):
            yield from part.milestones_in(self.local_position(index, position))

    def of(self, index: int, position: Position, state: State) -> Value:
        """The value of part `index`."""
        return self.parts[index].value(self.local_position(index, position), (state or {}).get(str(index)))


class Wrapper(Combination):
    """A combination of a single part."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = as_schedule(schedule, f"{type(self).__name__}.schedule")
        self.parts = (self.schedule,)

    def value(self, position: Position, state: State) -> Value:
        """The part's value at the position it sees."""
        return self.of(0, position, state)


class Sequential(Combination):
    """Parts in turn, each counting from its own begin. Sub-classes say how long each part is."""

    _planned: tuple[RunLength, list[tuple[Length, RunLength]]] | None = None
    _clocked: tuple[list[tuple[Length, RunLength]], tuple[str, list[float]] | None] | None = None

    @abstractmethod
    def part_length(self, index: int, run: RunLength) -> Length:
        """How long a part (not the last) is, in a run."""

    def value(self, position: Position, state: State) -> Value:
        """The value of the part whose turn it is."""
        shape = position.shape
        if shape is None:
            return self.of(self._turn(position), position, state)
        # Each part is asked for its own time only: outside of it, its formula may have no value.
        turn, values = self._turns(position, shape), np.empty(shape)
        for index in range(len(self.parts)) if len(self.parts) <= _FEW else np.unique(turn).tolist():
            which = _which(turn, index)
            if which is not None:
                values[which] = self.of(index, position.chosen(which), state)
        return values

    def local_position(self, index: int, position: Position) -> Position:
        """Counted from the part's begin, in a run of the part's length."""
        return position.slice(*self._plan(position.run)[index])

    def active(self, index: int, position: Position) -> bool:
        """Whether it is the part's turn."""
        return self._turn(position) == index

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The begin of each part, and what happens in its time."""
        shape = position.shape or (1,)
        turn, indices = self._turns(position, shape), np.arange(shape[0])
        for index, part in enumerate(self.parts):
            if index:
                yield self.begin_of(index, begins(turn == index, position), position)
            which = _which(turn, index)
            if which is not None:
                for moment in part.milestones_in(self.local_position(index, position.chosen(which))):
                    yield moment.among(indices[which], stays=turn[-1] == index)

    def begin_of(self, index: int, at: npt.NDArray[np.intp], position: Position) -> Milestone:
        """That the turn comes to part `index`, not the first."""
        return Milestone(f"part {index + 1} begins", at)

    def _turn(self, position: Position) -> int:
        plan, index = self._plan(position.run), 0
        if len(plan) > _FEW and (starts := self._starts(plan)) is not None:
            passed: Any = position.elapsed(starts[0])
            return bisect_right(starts[1], passed)
        while index + 1 < len(plan) and _begun(plan[index + 1][0], position):
            index += 1
        return index

    def _turns(self, position: Position, shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
        plan = self._plan(position.run)
        if len(plan) > _FEW and (starts := self._starts(plan)) is not None:
            found = np.searchsorted(np.array(starts[1]), position.elapsed(starts[0]), side="right")
            return np.broadcast_to(np.asarray(found, dtype=np.intp), shape)
        turn = np.zeros(shape, dtype=np.intp)
        for index, (start, _) in enumerate(plan[1:]):
            turn += (turn == index) & _begun(start, position)
        return turn

    def _starts(self, plan: list[tuple[Length, RunLength]]) -> tuple[str, list[float]] | None:
        """When the parts but the first begin, where one clock tells it of all: the clock, and the times in order."""
        if self._clocked is None or self._clocked[0] is not plan:
            starts = [start for start, _ in plan[1:]]
            clocks = {start.counted_in for start in starts if start != _NONE}
            times = [-math.inf if start == _NONE else start.exact for start in starts]
            one = len(clocks) == 1 and None not in times
            self._clocked = plan, (clocks.pop(), [time for time in times if time is not None]) if one else None
        return self._clocked[1]

    def _plan(self, run: RunLength) -> list[tuple[Length, RunLength]]:
        """When each part begins, and the run it sees; the same for all positions of a run."""
        if self._planned is None or self._planned[0] != run:
            self._planned = run, list(self._parts_of(run))
        return self._planned[1]

    def _parts_of(self, run: RunLength) -> Iterator[tuple[Length, RunLength]]:
        start = Length()
        for index in range(len(self.parts) - 1):
            length = self.part_length(index, run.since(start))
            yield start, run.slice(length, start)
            start = _plus(start, length)
        rest = Length(run.steps, run.epochs) - start
        # Nothing is left where the parts before fill the run: beyond its end, the last counts one step or epoch.
        yield start, run.slice(Length(_positive(rest.steps), _positive(rest.epochs)), start)


class Chain(Sequential):
    """One schedule after another, each counting from its own begin.

    `lr(t) = schedules[i](t - start of i)`, where i is the last whose start has been reached. A part sees a run that
    is as long as the part: percent within it are percent of the part, and a shape that fills "the run" fills
    the part. What a part remembers is advanced only while it has its say; one that follows a metric (`LossDriven`)
    follows it all the time, so that it does not jump when its turn comes.

    Args:
        schedules: the parts, at least one.
        lengths: how long each part but the last is; the last has the rest of the run. Plain numbers count
            optimizer steps. Whole epochs end with an epoch; `"2.5ep"` ends within one, at the step, where the steps
            per epoch are known.

    Raises:
        InvalidArgument: there are not as many lengths as parts less one, or a part is no schedule.
        TrainingError: a length is a share of the run, and the length of the run is unknown.

    Source: optax.join_schedules, torch's SequentialLR.

    Example:
        >>> from lr_plugins import Constant, StepDecay
        >>> chain = Chain([Constant(0.1), StepDecay(1.0, drop=0.5, every="10st")], lengths=["20st"])
        >>> [chain(step) for step in (0, 19, 20, 29, 30)]
        [0.1, 0.1, 1.0, 1.0, 0.5]
    """

    def __init__(
        self, schedules: Sequence[Schedule | Callable[..., float] | float], *, lengths: Sequence[DurationLike]
    ) -> None:
        self.schedules = _schedules("Chain.schedules", schedules)
        if isinstance(lengths, str) or not isinstance(lengths, Sequence) or len(lengths) != len(self.schedules) - 1:
            raise InvalidArgument(
                "Chain.lengths", lengths, f"a list of {len(self.schedules) - 1}: one for each schedule but the last"
            )
        self.lengths = [Duration.of(length, field=f"Chain.lengths[{index}]") for index, length in enumerate(lengths)]
        self.parts = tuple(self.schedules)

    def part_length(self, index: int, run: RunLength) -> Length:
        """As given."""
        return self.lengths[index].known(run)

    def begin_of(self, index: int, at: npt.NDArray[np.intp], position: Position) -> Milestone:
        """With the lengths that it comes after."""
        start, _ = self._plan(position.run)[index]
        whole = Length(position.run.steps, position.run.epochs)
        pairs = ((start.steps, whole.steps), (start.epochs, whole.epochs))
        share = next((one / all_ for one, all_ in pairs if one is not None and all_), None)
        lengths = f"Chain.lengths={self.lengths[:index]}"
        what = f"part {index + 1} begins: {type(self.parts[index]).__name__}"
        return Milestone(what, at, lengths, share=share, run=position.run)


class Product(Combination):
    """A learning rate times factors.

    `lr = schedules[0] * schedules[1] * ...`. The first gives a learning rate; the others are factors, so that
    where they name no initial learning rate of their own they begin at 1. One that names another, and does not rise to
    1, is warned of: the product would begin elsewhere than the first schedule.

    A floor or a ceiling of a factor is a multiple of where it begins (`min_learning_rate="0.01x"`). One for the learning rate
    itself is that of the whole product: `(a * b).at_least(1e-5)`.

    Args:
        schedules: the parts, at least one. A number is a constant factor.

    Raises:
        InvalidArgument: a part is neither a schedule nor a number, or a factor has a learning rate as a bound.

    Source: Composer multiplies all schedules it is given.

    Example:
        >>> from lr_plugins import InverseTimeDecay, StepDecay
        >>> product = Product([InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5), StepDecay(drop=0.5, every="10st")])
        >>> product(12) == 0.1 / 7 * 0.5
        True
    """

    def __init__(self, schedules: Sequence[Schedule | float]) -> None:
        from lr_plugins.schedules.combinators.factors import check_factor, warn_of_factors

        self.schedules = _schedules("Product.schedules", schedules)
        self.parts = tuple(self.schedules)
        for part in self.parts[1:]:
            check_factor(part, self.parts[0])
        warn_of_factors(self)

    def is_factor(self, index: int) -> bool:
        """All but the first."""
        return index > 0

    def local_position(self, index: int, position: Position) -> Position:
        """The factors begin at 1."""
        return position._replace(base_learning_rate=1.0) if self.is_factor(index) else position

    def value(self, position: Position, state: State) -> Value:
        """The product."""
        result = self.of(0, position, state)
        for index in range(1, len(self.parts)):
            result = result * self.of(index, position, state)
        return result


class Bounded(Wrapper):
    """A schedule kept between a floor and a ceiling.

    `lr = min(max(schedule, min_learning_rate), max_learning_rate)`

    The bounds are those of a param group at the optimizer's default; other groups keep their ratio to it (torch's
    `eta_min` and `min_lr` are the same for all).

    Args:
        schedule: the schedule.
        min_learning_rate: the floor, >= 0. Default 0.
        max_learning_rate: the ceiling, >= the floor. Default None: no ceiling.

    Raises:
        InvalidArgument: a bound outside its range.

    Example:
        >>> from lr_plugins import ExponentialDecay
        >>> Bounded(ExponentialDecay(0.1, decay_steps="10st", decay_rate=0.1), min_learning_rate=1e-3)(500)
        0.001
    """

    def __init__(
        self, schedule: Schedule, *, min_learning_rate: float = 0.0, max_learning_rate: float | None = None
    ) -> None:
        super().__init__(schedule)
        self.min_learning_rate = learning_rate("Bounded.min_learning_rate", min_learning_rate)
        self.max_learning_rate = None
        if max_learning_rate is not None:
            allowed = f"a finite number >= min_learning_rate ({self.min_learning_rate:g}), or null"
            self.max_learning_rate = number(
                "Bounded.max_learning_rate", max_learning_rate, allowed, at_least=self.min_learning_rate
            )

    def value(self, position: Position, state: State) -> Value:
        """The nearest value within the bounds."""
        most = np.inf if self.max_learning_rate is None else self.max_learning_rate
        return clip(self.of(0, position, state), self.min_learning_rate, most)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Those of the schedule; and when it meets the bounds, if no more than the position decides that."""
        yield from super().milestones_in(position)
        if self.start() is None:
            value = self.of(0, position, None)
            held = value < self.min_learning_rate
            always = f"Bounded.min_learning_rate={self.min_learning_rate:g}" if np.all(held) else ""
            at = begins(held, position)
            yield Milestone("held at min_learning_rate", at, always, FLOOR, 1.0 if always else None, position.run)
            if self.max_learning_rate is not None:
                yield Milestone("held at max_learning_rate", begins(value > self.max_learning_rate, position))


class Repeated(Wrapper):
    """A schedule over and over again.

    `lr(t) = schedule(t mod every)`. The schedule sees a run of length `every`.

    Args:
        schedule: the schedule.
        every: the period, > 0; a plain number counts optimizer steps.

    Raises:
        InvalidArgument: `every` is no length.

    Example:
        >>> from lr_plugins import StepDecay
        >>> [Repeated(StepDecay(0.1, every="1st"), every="3st")(step) for step in range(5)]
        [0.1, 0.05, 0.025, 0.1, 0.05]
    """

    def __init__(self, schedule: Schedule, *, every: DurationLike) -> None:
        super().__init__(schedule)
        self.every = Duration.of(every, field="Repeated.every")

    def local_position(self, index: int, position: Position) -> Position:
        """Counted from the begin of the current repetition."""
        once, done = self.every.known(position.run), self._done(position)
        start = Length(_times(once.steps, done), _times(once.epochs, done), once.counted_in)
        if position.run.clock is not None and self.every.unit == "ep":  # its steps are not the same each time
            start = start._replace(steps=position.run.steps_at(start.epochs))
        return position.slice(start, position.run.slice(once, start))

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each repetition; what happens within them does not stay."""
        yield recurring("begins anew", "Repeated.every", self.every, self._done(position), position)
        for moment in super().milestones_in(position):
            yield moment._replace(stays=False)

    def _done(self, position: Position) -> Value:
        """How many repetitions are over."""
        if self.every.unit == "sp":  # counted exactly, where steps would be fractions
            passed, length = self.every.measure(position)
            return passed // length
        once, clock = self.every.known(position.run), position.run.clock
        passed = position.elapsed(once.counted_in)
        if clock is not None and self.every.unit == "ep" and once.counted_in == "st":
            epochs: Value = position.run.epochs_at(passed)
            return epochs // self.every.value
        return passed // (once.exact or math.inf)


class Stretched(Wrapper):
    """A schedule on a run `ratio` times as long as it was made for.

    `lr(t) = schedule(t / ratio)`: every length in it, of whatever unit, becomes `ratio` times as long.

    Args:
        schedule: the schedule.
        ratio: how many times as long, > 0: 0.1 for a run of a tenth of the length.

    Raises:
        InvalidArgument: the ratio is no finite number > 0.

    Source: Composer's scale_schedule_ratio.

    Example:
        >>> from lr_plugins import StepDecay
        >>> Stretched(StepDecay(0.1, drop=0.5, every="100st"), ratio=0.1)(10)
        0.05
    """

    def __init__(self, schedule: Schedule, *, ratio: float) -> None:
        super().__init__(schedule)
        self.ratio = number("Stretched.ratio", ratio, "a finite number > 0", above=0.0)

    def local_position(self, index: int, position: Position) -> Position:
        """As the run the schedule was made for has it."""
        return position.rescaled(self.ratio)


class Smooth(Wrapper):
    """A schedule whose epochs move at every step instead of holding.

    `lr(step) = schedule(epoch = step / steps per epoch)`

    Args:
        schedule: the schedule.

    Source: MMEngine's convert_to_iter_based.

    Example:
        >>> from lr_plugins import ExponentialDecay, RunLength
        >>> schedule = Smooth(ExponentialDecay(1.0, decay_steps="1ep", decay_rate=0.25))
        >>> schedule(RunLength.of(steps_per_epoch=10).position(5))
        0.5
    """

    def local_position(self, index: int, position: Position) -> Position:
        """With the epoch as a fraction."""
        return position.smoothly()


class PerEpoch(Wrapper):
    """A schedule that is looked at once an epoch, at its first step, and holds in between.

    `lr(step) = schedule(first step of the epoch)`

    Args:
        schedule: the schedule.

    Example:
        >>> from lr_plugins import InverseTimeDecay, RunLength
        >>> schedule = PerEpoch(InverseTimeDecay(1.0, decay_steps=10, decay_rate=1.0))
        >>> [schedule(RunLength.of(steps_per_epoch=10).position(step)) for step in (0, 9, 10)]
        [1.0, 1.0, 0.5]
    """

    def local_position(self, index: int, position: Position) -> Position:
        """With the step held at the epoch's first."""
        return position.at_epoch_begin()


def _schedules(field: str, schedules: Sequence[Any]) -> list[Schedule]:
    if isinstance(schedules, (str, bytes)) or not isinstance(schedules, Sequence) or not schedules:
        raise InvalidArgument(field, schedules, "a list of at least one schedule")
    return list(_each(field, schedules))


def _each(field: str, schedules: Sequence[Any]) -> Iterator[Schedule]:
    from lr_plugins.schedules.shapes.constant import Constant

    for index, one in enumerate(schedules):
        is_number = isinstance(one, (int, float)) and not isinstance(one, bool)
        yield Constant(one) if is_number else as_schedule(one, f"{field}[{index}]")


def _begun(start: Length, position: Position) -> bool | npt.NDArray[np.bool_]:
    """Whether the begin of a part (not the first) has been reached."""
    if start == _NONE:
        return True
    passed, begin = position.elapsed(start.counted_in), start.exact
    if begin is None:
        raise TrainingError(
            "the parts of this schedule are counted in steps and in epochs, and the steps per epoch are unknown; "
            "count them in the same unit"
        )
    return passed >= begin


def _plus(one: Length, two: Length) -> Length:
    def plus(first: float | None, second: float | None) -> float | None:
        return None if first is None or second is None else first + second

    exact = "ep" if one.counted_in == two.counted_in == "ep" else "st"
    steps = plus(one.steps, two.steps)
    # Six times 100 samples of 24 a step end at step 25, and not at 25.000000000000004, which would be a step later.
    whole: Any = nearly_whole(steps) if isinstance(steps, float) else steps
    return Length(whole, plus(one.epochs, two.epochs), exact)


def _positive(length: float | None) -> float | None:
    return 1.0 if length is not None and length <= 0 else length


def _which(turn: npt.NDArray[np.intp], index: int) -> slice | npt.NDArray[np.bool_] | None:
    """Where it is a part's turn: a slice if in one piece, as in a curve; None if nowhere."""
    mine = turn == index
    count = int(np.count_nonzero(mine))
    if not count:
        return None
    if mine.ndim == 1:
        first = int(mine.argmax())
        if mine[first : first + count].all():
            return slice(first, first + count)
    return np.asarray(mine)


def _times(length: float | None, count: Value) -> Any:
    return None if length is None else length * count
