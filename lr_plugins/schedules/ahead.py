"""The values of consecutive steps, computed ahead for loops that call a schedule at one step after the other.

A formula in Python takes microseconds for each value. NumPy computes a block of steps in little more time than one,
with bit for bit the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lr_plugins.schedules.position import Position
    from lr_plugins.schedules.schedule import Schedule

_CALLS = 8
"""Consecutive steps after which a block is computed: a caller that looks at single steps gets none."""

_LARGEST = 4096
"""Steps in a block; see `Schedule.__call__`."""

_PLAIN = int, float, type(None)


class Ahead:
    """Follows the calls of one schedule, and keeps the values of the steps that come next.

    They are those of one run, given by identity, and hold until an argument of any schedule changes.
    """

    changes = 0
    """How often an attribute of any schedule has been set."""

    __slots__ = ("_base", "_begin", "_changes", "_count", "_epochs", "_next", "_run", "_smooth", "_values")

    def __init__(self) -> None:
        self._run: Any = None
        self._base: float | None = None
        self._smooth = False
        self._begin = self._next = self._count = 0  # the first step of the block; the step after the last call
        self._changes = -1
        self._epochs: list[float | None] = []
        self._values: list[float] = []

    def value_at(self, where: Position) -> float | None:
        """The value at a position, if it has been computed; or else None."""
        step, epoch, run, base, smooth = where
        if type(step) is not int or run is not self._run or self._changes != Ahead.changes:
            return None
        index = step - self._begin
        is_known = 0 <= index < len(self._values) and base is self._base and smooth is self._smooth
        if is_known and type(epoch) in _PLAIN and epoch == self._epochs[index]:
            return self._values[index]
        return None

    def note(self, schedule: Schedule, where: Position) -> None:
        """Note a call that had to compute its value, and compute a block once several have come in a row.

        Args:
            schedule: the schedule that was called.
            where: a single position.
        """
        step, _, run, base, smooth = where
        if type(step) is not int:
            return
        follows = step == self._next or (self._values and step == self._begin + len(self._values))
        if not follows or run is not self._run or base is not self._base or smooth is not self._smooth:
            self._run, self._base, self._smooth, self._count = run, base, smooth, 0
        self._count += 1
        self._next = step + 1
        if self._count >= _CALLS and self._changes_are_known():
            self._compute(schedule, where, step + 1)

    def _changes_are_known(self) -> bool:
        if self._changes == Ahead.changes:
            return True
        self._changes, self._values, self._count = Ahead.changes, [], 1
        return False

    def _compute(self, schedule: Schedule, where: Position, begin: int) -> None:
        """The values of the steps from `begin` on; none if one of them cannot be computed."""
        size = min(max(4 * len(self._values), 2 * _CALLS), _LARGEST)
        steps = np.arange(begin, begin + size)
        self._begin, self._values, self._count = begin, [], 0
        epochs = _epochs_at(where, steps)
        if epochs is None:
            return
        try:
            values = schedule(where._replace(step=steps, epoch=epochs if epochs.dtype != object else None))
        except Exception:  # an error at a later step is raised at that step
            return
        if isinstance(values, np.ndarray) and values.dtype == np.float64:
            self._values, self._epochs, self._count = values.tolist(), epochs.tolist(), _CALLS


def _epochs_at(where: Position, steps: Any) -> Any:
    """The epochs of coming steps, an array; of objects, all None, where they are unknown; None if they are not told."""
    run = where.run
    if where.epoch is None:
        return np.full(steps.shape, None)
    if run.steps_per_epoch is None or run.clock is not None:
        return None
    return np.asarray(run.epochs_at(steps) if where.smooth else steps // run.steps_per_epoch)


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
