"""Schedules one after another: which part has its turn, and the run that each part sees."""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import TrainingError
from lr_plugins.schedules.ahead import Ahead
from lr_plugins.schedules.combinators.base import Combination
from lr_plugins.schedules.milestones import Milestone, begins
from lr_plugins.schedules.numerics import nearly_whole
from lr_plugins.schedules.position import Length, Position, RunLength, Value
from lr_plugins.schedules.schedule import State

_NONE = Length()

_FEW = 8  # parts; a loop over so many is as fast as bisection


class Sequential(Combination):
    """Parts one after another, each counting from its own start. Sub-classes define how long each part is."""

    _planned: tuple[tuple[RunLength, int], list[tuple[Length, RunLength]]] | None = None
    _clocked: tuple[list[tuple[Length, RunLength]], tuple[str, list[float]] | None] | None = None

    @abstractmethod
    def part_length(self, index: int, run: RunLength) -> Length:
        """How long a part (not the last) is, in a run."""

    def value(self, position: Position, state: State) -> Value:
        """The value of the part whose turn it is."""
        shape = position.shape
        if shape is None:
            return self.of(self._turn(position), position, state)
        # Each part is evaluated in its own time only: its formula may be undefined outside of it.
        turn, values = self._turns(position, shape), np.empty(shape)
        for index in range(len(self.parts)) if len(self.parts) <= _FEW else np.unique(turn).tolist():
            which = _which(turn, index)
            if which is not None:
                values[which] = self.of(index, position.chosen(which), state)
        return values

    def local_position(self, index: int, position: Position) -> Position:
        """Counted from the part's start, in a run of the part's length."""
        return position.slice(*self._plan(position.run)[index])

    def active(self, index: int, position: Position) -> bool:
        """Whether it is the part's turn."""
        return self._turn(position) == index

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The start of each part, and the milestones within it."""
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
        """The milestone at which part `index`, not the first, starts."""
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
            turns = np.searchsorted(np.array(starts[1]), position.elapsed(starts[0]), side="right")
            return np.broadcast_to(np.asarray(turns, dtype=np.intp), shape)
        turn = np.zeros(shape, dtype=np.intp)
        for index, (start, _) in enumerate(plan[1:]):
            turn += (turn == index) & _begun(start, position)
        return turn

    def _starts(self, plan: list[tuple[Length, RunLength]]) -> tuple[str, list[float]] | None:
        """The clock and the start times of all parts but the first; None where they are not all in one clock."""
        if self._clocked is None or self._clocked[0] is not plan:
            starts = [start for start, _ in plan[1:]]
            clocks = {start.counted_in for start in starts if start != _NONE}
            times = [-math.inf if start == _NONE else start.exact for start in starts]
            is_single = len(clocks) == 1 and None not in times
            self._clocked = plan, (clocks.pop(), [time for time in times if time is not None]) if is_single else None
        return self._clocked[1]

    def _plan(self, run: RunLength) -> list[tuple[Length, RunLength]]:
        """When each part starts, and the run it sees; cached until the run or an argument changes."""
        key = run, Ahead.changes
        if self._planned is None or self._planned[0] != key:
            self._planned = key, list(self._parts_of(run))
        return self._planned[1]

    def _parts_of(self, run: RunLength) -> Iterator[tuple[Length, RunLength]]:
        start = Length()
        for index in range(len(self.parts) - 1):
            length = self.part_length(index, run.since(start))
            yield start, run.slice(length, start)
            start = _plus(start, length)
        rest = Length(run.steps, run.epochs) - start
        # Where the other parts fill the run, the last one sees a run of one step or epoch, past the end.
        yield start, run.slice(Length(_positive(rest.steps), _positive(rest.epochs)), start)


def _begun(start: Length, position: Position) -> bool | npt.NDArray[np.bool_]:
    """Whether the start of a part (not the first) has been reached."""
    if start == _NONE:
        return True
    passed, begin = position.elapsed(start.counted_in), start.exact
    if begin is None:
        raise TrainingError(
            "the parts of this schedule are counted in steps and in epochs, and the steps per epoch are unknown; "
            "count them in the same unit"
        )
    return passed >= begin


def _plus(start: Length, length: Length) -> Length:
    def plus(first: float | None, second: float | None) -> float | None:
        return None if first is None or second is None else first + second

    exact = "ep" if start.counted_in == length.counted_in == "ep" else "st"
    steps = plus(start.steps, length.steps)
    # Six times 100 samples of 24 a step end at step 25, and not at 25.000000000000004, which would be a step later.
    whole: Any = nearly_whole(steps) if isinstance(steps, float) else steps
    return Length(whole, plus(start.epochs, length.epochs), exact)


def _positive(length: float | None) -> float | None:
    return 1.0 if length is not None and length <= 0 else length


def _which(turn: npt.NDArray[np.intp], index: int) -> slice | npt.NDArray[np.bool_] | None:
    """Where it is a part's turn: a slice if contiguous, as in a curve; None if nowhere."""
    is_turn = turn == index
    count = int(np.count_nonzero(is_turn))
    if not count:
        return None
    if is_turn.ndim == 1:
        first = int(is_turn.argmax())
        if is_turn[first : first + count].all():
            return slice(first, first + count)
    return np.asarray(is_turn)
