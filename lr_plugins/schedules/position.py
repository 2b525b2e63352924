"""Where training stands, and how long it will be."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgument, TrainingError

Value = float | npt.NDArray[Any]
"""A number, or an array of them where a whole curve is asked for at once."""

Count = int | npt.NDArray[Any]
"""A whole count of optimizer steps, or an array of them."""


class RunLength(NamedTuple):
    """How long the run will be, as far as it is known; what is unknown is None.

    Attributes:
        steps_per_epoch: optimizer steps in one epoch (batches divided by gradient accumulation, rounded up).
        epochs: epochs of the run.
        steps: optimizer steps of the whole run. `RunLength.of` derives it from the other two.
        batch_size: samples of one optimizer step: those of a batch, times batches and processes of a step.

    Example:
        >>> RunLength.of(steps_per_epoch=45, epochs=10).steps
        450
    """

    steps_per_epoch: float | None = None
    epochs: float | None = None
    steps: float | None = None
    batch_size: float | None = None

    @classmethod
    def of(
        cls,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
    ) -> RunLength:
        """The run length with `steps` filled in where epochs and steps per epoch give it, or cap it."""
        if steps_per_epoch is not None and epochs is not None:
            whole = steps_per_epoch * epochs
            steps = whole if steps is None else min(steps, whole)
        return cls(steps_per_epoch, epochs, steps, batch_size)

    def part(self, length: Span) -> RunLength:
        """A part of this run as a run of its own."""
        return RunLength(self.steps_per_epoch, length.epochs, length.steps, self.batch_size)

    def position(self, step: Count, base_learning_rate: float | None = None) -> Position:
        """The position at one optimizer step of this run (or at each of an array of steps)."""
        epoch = None if self.steps_per_epoch is None else step // self.steps_per_epoch
        return Position(step, epoch, self, base_learning_rate)


class Position(NamedTuple):
    """Where training stands: everything a schedule may look at.

    Attributes:
        step: optimizer steps taken before this one, from 0; None if unknown.
        epoch: epochs finished before this one, from 0; None if unknown.
        run: how long the run will be.
        base_learning_rate: the optimizer's own learning rate, for schedules that do not name one.
        smooth: whether epochs are counted with a fraction that moves at every step, instead of whole.

    Example:
        >>> Position(step=450, epoch=10).epoch
        10
    """

    step: Value | None
    epoch: Value | None = None
    run: RunLength = RunLength()
    base_learning_rate: float | None = None
    smooth: bool = False

    def elapsed(self, unit: str) -> Value:
        """How much of a unit has passed: `"st"` optimizer steps or `"ep"` epochs.

        Raises:
            TrainingError: this position does not know it.
        """
        passed = self.epoch if unit == "ep" else self.step
        if passed is None:
            raise TrainingError(
                "this schedule counts epochs, and the position does not know its epoch; "
                "give Position(step, epoch), or RunLength.of(steps_per_epoch=...).position(step)"
                if unit == "ep"
                else "this schedule counts optimizer steps from an epoch on, and the steps per epoch are unknown; "
                "count both in the same unit"
            )
        return passed

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of the arrays of this position; None if it is a single one."""
        for counted in (self.step, self.epoch):
            if isinstance(counted, np.ndarray):
                return counted.shape
        return None

    def like(self, value: float) -> Value:
        """A number in the form of this position: itself, or an array of it."""
        shape = self.shape
        return value if shape is None else np.full(shape, value)

    def chosen(self, which: slice | npt.NDArray[np.bool_]) -> Position:
        """Some of an array of positions."""
        step, epoch = (one[which] if isinstance(one, np.ndarray) else one for one in (self.step, self.epoch))
        return self._replace(step=step, epoch=epoch)

    # --- the same position as a part of the run sees it -----------------------------------------------------

    def smoothly(self) -> Position:
        """With the epoch as a fraction that moves at every step."""
        if self.step is None or self.run.steps_per_epoch is None:
            raise TrainingError("to move smoothly within an epoch, a schedule has to know the steps per epoch")
        return self._replace(epoch=self.step / self.run.steps_per_epoch, smooth=True)

    def at_epoch_begin(self) -> Position:
        """With the step held at the epoch's first."""
        epoch = self.elapsed("ep") // 1
        if self.run.steps_per_epoch is None:
            raise TrainingError("to hold a value within an epoch, a schedule has to know the steps per epoch")
        return self._replace(epoch=epoch, step=epoch * self.run.steps_per_epoch)

    def shrunk(self, ratio: float) -> Position:
        """As the run that this one is `ratio` times as long as has it at this point."""
        # Divided, and not multiplied by 1 / ratio: 49 * (1 / 49) is less than 1.
        run = self.run._replace(epochs=_shrunk(self.run.epochs, ratio), steps=_shrunk(self.run.steps, ratio))
        return self._replace(step=_shrunk(self.step, ratio), epoch=_shrunk(self.epoch, ratio), run=run)

    def part(self, start: Span, run: RunLength) -> Position:
        """As the part of the run that begins at `start`, a run of its own, has it."""
        step = None if self.step is None or start.steps is None else self.step - start.steps
        if start.counted_in == "ep" or step is None or run.steps_per_epoch is None:
            epoch = None if self.epoch is None or start.epochs is None else self.epoch - start.epochs
        else:
            # A part may begin within an epoch; its own epochs are counted from there.
            epoch = step / run.steps_per_epoch if self.smooth else step // run.steps_per_epoch
        return Position(step, epoch, run, self.base_learning_rate, self.smooth)

    def at_begin(self) -> Position:
        """The very first of this run."""
        step, epoch = (None if one is None else 0 for one in (self.step, self.epoch))
        return self._replace(step=step, epoch=epoch)


class Span(NamedTuple):
    """A length of time in both clocks; None where it cannot be told.

    Attributes:
        steps: optimizer steps.
        epochs: epochs.
        counted_in: the clock it was given in, `"st"` or `"ep"`: the exact one.
    """

    steps: float | None = 0
    epochs: float | None = 0
    counted_in: str = "ep"

    @property
    def exact(self) -> float | None:
        """How long it is in the clock it was given in."""
        return self.steps if self.counted_in == "st" else self.epochs

    def __sub__(self, other: Span) -> Span:
        def minus(one: float | None, two: float | None) -> float | None:
            return None if one is None or two is None else one - two

        return Span(minus(self.steps, other.steps), minus(self.epochs, other.epochs), self.counted_in)


def _shrunk(value: Any, ratio: float) -> Any:
    return None if value is None else value / ratio


def as_position(position: Position | Count) -> Position:
    """A position; a plain number (or array) counts optimizer steps of a run of unknown length."""
    if isinstance(position, Position):
        return position
    if isinstance(position, np.ndarray):
        return Position(position)
    if isinstance(position, bool) or not isinstance(position, (int, np.integer)):
        raise InvalidArgument("position", position, "a Position, an integer step or an array of steps")
    return Position(int(position))
