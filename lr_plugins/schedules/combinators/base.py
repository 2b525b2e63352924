"""What all schedules made of schedules share.

A combinator maps positions into its parts' time, or changes the values they give; it does not know their formulas. The
states of its parts are its own state: a dictionary by their index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lr_plugins import renamed
from lr_plugins.checkpoint_state import record
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.milestones import Milestone
from lr_plugins.schedules.observation import Change, Monitor, Observation
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.schedules.shapes.function import as_schedule


@renamed.attributes
class Combination(Schedule):
    """A schedule made of others. Sub-classes define the position that each part sees."""

    parts: tuple[Schedule, ...]

    def local_position(self, index: int, position: Position) -> Position:
        """The position as part `index` sees it."""
        return position

    def is_factor(self, index: int) -> bool:
        """Whether part `index` is a factor, which starts at 1, rather than a learning rate."""
        return False

    def active(self, index: int, position: Position) -> bool:
        """Whether part `index` determines the value at a position (of one step)."""
        return True

    @property
    def uses_optimizer_lr(self) -> bool:
        """Whether a part that gives a learning rate, and not a factor, uses it."""
        return any(part.uses_optimizer_lr for index, part in enumerate(self.parts) if not self.is_factor(index))

    def start(self) -> State:
        """The states of the parts that have one, by their index."""
        states = {str(index): part.start() for index, part in enumerate(self.parts)}
        known = {index: state for index, state in states.items() if state is not None}
        return known or None

    def check_state(self, state: Any, where: str = "state") -> None:
        """Check the state of each part that has one."""
        if self.start() is None:
            super().check_state(state, where)
            return
        parts = {str(index): part for index, part in enumerate(self.parts) if part.start() is not None}
        record({index: part.check_state for index, part in parts.items()})(state, where)

    @property
    def monitors(self) -> tuple[Monitor, ...]:
        """The metrics that the parts observe."""
        return tuple(dict.fromkeys(monitor for part in self.parts for monitor in part.monitors))

    @property
    def observes_when_inactive(self) -> bool:  # type: ignore[override]
        """Whether any part observes while it is inactive."""
        return any(part.observes_when_inactive for part in self.parts)

    @property
    def is_pure(self) -> bool:
        """Whether all parts are pure."""
        return all(part.is_pure for part in self.parts)

    @property
    def kind(self) -> str:
        """Its own kind, and those of its parts."""
        return f"{type(self).__name__}({', '.join(part.kind for part in self.parts)})"

    def observe(self, state: State, position: Position, observation: Observation) -> State:
        """Advance the states of the parts that are active now, and of those that also observe while inactive."""
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
        """Whether part `index` observes at a position where it is inactive."""
        return self.parts[index].observes_when_inactive

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """The changes of the parts, reported with the learning rate of the whole."""
        for key, part_state in (after or {}).items():
            for change in self.parts[int(key)].changes((before or {}).get(key), part_state):
                yield change._replace(value=None)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The milestones of the parts."""
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


def schedules_of(field: str, schedules: Sequence[Any]) -> list[Schedule]:
    """Some schedules, at least one; a number is a constant, and a function of `epoch` or `(epoch, lr)` a schedule."""
    if isinstance(schedules, (str, bytes)) or not isinstance(schedules, Sequence) or not schedules:
        raise InvalidArgumentError(field, schedules, "a list of at least one schedule")
    return list(_each(field, schedules))


def _each(field: str, schedules: Sequence[Any]) -> Iterator[Schedule]:
    for index, part in enumerate(schedules):
        is_number = isinstance(part, (int, float)) and not isinstance(part, bool)
        yield Constant(part) if is_number else as_schedule(part, f"{field}[{index}]")
