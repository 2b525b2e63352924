"""The values of consecutive steps, computed ahead for loops that call a schedule at one step after the other.

A formula in Python takes microseconds for each value. NumPy computes a block of steps in little more time than one,
with bit for bit the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from lr_plugins.schedules.position import Position
    from lr_plugins.schedules.schedule import Schedule

_CALLS = 8
"""Consecutive steps after which a block is computed: a caller that looks at single steps gets none."""

_LARGEST = 4096
"""Steps in a block; see `Schedule.__call__`."""

_PLAIN = int, float, type(None)


class _Block(NamedTuple):
    """The values of consecutive steps. It is replaced as a whole, so that other threads never see half of one."""

    run: Any  # compared by identity
    base: float | None
    smooth: bool
    changes: int  # `Ahead.changes` when it was computed
    begin: int  # the first step
    epochs: list[float | None]
    values: list[float]
    lists: list[Any]  # the arguments that are lists
    copies: list[Any]  # what they held when it was computed


class Ahead:
    """Follows the calls of one schedule, and keeps the values of the steps that come next.

    They hold for one run, and until an argument of any schedule changes.
    """

    changes = 0
    """How often an attribute of any schedule or length has been set."""

    __slots__ = ("_block", "_count", "_next", "_others", "_run")

    def __init__(self) -> None:
        self._block: _Block | None = None
        self._next = self._count = 0  # the step after the last call; calls in a row
        self._run: Any = None  # of the last call
        self._others: tuple[Any, ...] = ()  # what else a block depends on, at the last call

    def value_at(self, where: Position) -> float | None:
        """The value at a position, if it has been computed; or else None."""
        block = self._block
        if block is None:
            return None
        step, epoch, run, base, smooth = where
        if type(step) is not int or run is not block.run or block.changes != Ahead.changes:
            return None
        index = step - block.begin
        is_known = 0 <= index < len(block.values) and base == block.base and smooth is block.smooth
        if is_known and type(epoch) in _PLAIN and epoch == block.epochs[index] and block.lists == block.copies:
            return block.values[index]
        return None

    def note(self, schedule: Schedule, where: Position) -> None:
        """Note a call that had to compute its value, and compute a block once several have come in a row.

        Args:
            schedule: the schedule that was called.
            where: a single position.
        """
        step, block, run = where.step, self._block, where.run
        if type(step) is not int:
            return
        others = where.base_learning_rate, where.smooth, Ahead.changes
        in_a_row = step == self._next and run is self._run and others == self._others
        self._run, self._others, self._next = run, others, step + 1
        self._count, size = self._count + 1 if in_a_row else 1, 2 * _CALLS
        if block is not None and step == block.begin + len(block.values) and others == block[1:4] and run is block.run:
            self._count, size = _CALLS, 4 * len(block.values)  # the loop has used up its block
        if self._count >= _CALLS:
            self._block, self._count = _computed(schedule, where, step + 1, min(size, _LARGEST)), 0


def _computed(schedule: Schedule, where: Position, begin: int, size: int) -> _Block | None:
    """The values of some steps; None if one of them cannot be computed."""
    changes, lists = Ahead.changes, list(_lists_of(schedule))
    copies = [_copy(held) for held in lists]
    steps = np.arange(begin, begin + size)
    epochs = _epochs_at(where, steps)
    if epochs is None:
        return None
    try:
        values = schedule(where._replace(step=steps, epoch=epochs if epochs.dtype != object else None))
    except Exception:  # an error at a later step is raised at that step
        return None
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
        return None
    key = where.run, where.base_learning_rate, where.smooth, changes
    return _Block(*key, begin, epochs.tolist(), values.tolist(), lists, copies)


def _epochs_at(where: Position, steps: Any) -> Any:
    """The epochs of coming steps, an array; of objects, all None, where the position has none; None if unknown."""
    run = where.run
    if where.epoch is None:
        return np.full(steps.shape, None)
    if run.steps_per_epoch is None or run.clock is not None:
        return None
    return np.asarray(run.epochs_at(steps) if where.smooth else steps // run.steps_per_epoch)


def _lists_of(schedule: Schedule) -> Iterator[list[Any]]:
    """The arguments of a schedule and its parts that are lists, which may be changed in place."""
    for part in (schedule, *_parts_of(schedule)):
        yield from (value for name, value in vars(part).items() if type(value) is list and name[0] != "_")


def _copy(value: Any) -> Any:
    """A list with the same elements, and with copies of the lists among them."""
    return [_copy(element) for element in value] if type(value) is list else value


def is_foreseeable(schedule: Schedule) -> bool:
    """Whether the values of a schedule depend on nothing but its arguments and the position: all of it is ours.

    A schedule of the user's may read what it likes, and one that observes has a state.
    """
    parts = [schedule, *_parts_of(schedule)]
    ours = all(type(part).__module__.startswith("lr_plugins.schedules.") for part in parts)
    return ours and schedule.is_pure and not schedule.monitors and schedule.start() is None


def _parts_of(schedule: Schedule) -> Iterator[Schedule]:
    for part in getattr(schedule, "parts", ()):
        yield part
        yield from _parts_of(part)
