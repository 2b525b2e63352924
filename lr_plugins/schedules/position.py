"""Where training stands, and how long it will be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgument, TrainingError

Count = int | npt.NDArray[np.int64]
"""A count of steps or epochs: one number, or an array of them where a whole curve is asked for at once."""

Value = float | npt.NDArray[np.float64]
"""A number, or an array of them."""


class RunLength(NamedTuple):
    """How long the run will be, as far as it is known; what is unknown is None.

    Args:
        steps_per_epoch: optimizer steps in one epoch (batches divided by gradient accumulation, rounded up).
        epochs: epochs of the run.
        steps: optimizer steps of the whole run. `RunLength.of` derives it from the other two.

    Example:
        >>> RunLength.of(steps_per_epoch=45, epochs=10).steps
        450
    """

    steps_per_epoch: int | None = None
    epochs: int | None = None
    steps: int | None = None

    @classmethod
    def of(cls, steps_per_epoch: int | None = None, epochs: int | None = None, steps: int | None = None) -> RunLength:
        """The run length with `steps` filled in where epochs and steps per epoch give it, or cap it."""
        if steps_per_epoch is not None and epochs is not None:
            whole = steps_per_epoch * epochs
            steps = whole if steps is None else min(steps, whole)
        return cls(steps_per_epoch, epochs, steps)

    def position(self, step: Count, base_learning_rate: float | None = None) -> Position:
        """The position at one optimizer step of this run (or at each of an array of steps)."""
        epoch = None if self.steps_per_epoch is None else step // self.steps_per_epoch
        return Position(step, epoch, self, base_learning_rate)


class Position(NamedTuple):
    """Where training stands: everything a schedule may look at.

    Args:
        step: optimizer steps taken before this one, from 0.
        epoch: epochs finished before this one, from 0; None if unknown.
        run: how long the run will be.
        base_learning_rate: the optimizer's own learning rate, for schedules that do not name one.

    Example:
        >>> Position(step=450, epoch=10).epoch
        10
    """

    step: Count
    epoch: Count | None = None
    run: RunLength = RunLength()
    base_learning_rate: float | None = None

    def elapsed(self, unit: str) -> Count:
        """How much of a unit has passed: `"st"` optimizer steps or `"ep"` whole epochs.

        Raises:
            TrainingError: epochs are asked for and this position does not know its epoch.
        """
        if unit == "st":
            return self.step
        if self.epoch is None:
            raise TrainingError(
                "this schedule counts epochs, and the position does not know its epoch; "
                "give Position(step, epoch), or RunLength.of(steps_per_epoch=...).position(step)"
            )
        return self.epoch


def as_position(position: Position | Count) -> Position:
    """A position; a plain number (or array) counts optimizer steps of a run of unknown length."""
    if isinstance(position, Position):
        return position
    if isinstance(position, np.ndarray):
        return Position(position)
    if isinstance(position, bool) or not isinstance(position, (int, np.integer)):
        raise InvalidArgument("position", position, "a Position, an integer step or an array of steps")
    return Position(int(position))


def floor(value: Value) -> Value:
    """The largest whole number not above `value`, for one number or each of an array."""
    # `float // 1` is one operation for both kinds, where math.floor and np.floor are two.
    return value // 1
