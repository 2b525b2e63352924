"""The position in a run, and the length of the run."""

from __future__ import annotations

import bisect
import math
import numbers
from collections.abc import Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lr_plugins import renamed
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.validation import as_float, tidy

Value = float | npt.NDArray[Any]
"""A number, or an array of numbers for a whole curve."""

Count = int | npt.NDArray[Any]
"""A whole number of optimizer steps, or an array of them."""


class EpochClock(NamedTuple):
    """The starts of the epochs of a run whose epochs differ in size.

    Attributes:
        begins: the optimizer steps at which the epochs started, from epoch 0 on, followed by the end of the current
            epoch. Later epochs are assumed to have the size of the current one.
        step: the optimizer step that is counted as 0: the start of a part of the run.
        epoch: the epoch that is counted as 0.
        ratio: the number of the run's steps (and epochs) that are counted as one.

    Example:
        >>> clock = EpochClock((0, 4, 12))
        >>> clock.epoch_at(8), clock.epoch_at(12), clock.step_at(0.5), clock.step_at(3)
        (1.5, 2.0, 2.0, 20.0)
    """

    begins: tuple[float, ...]
    step: float = 0
    epoch: float = 0
    ratio: float = 1

    def epoch_at(self, step: float) -> float:
        """The number of epochs passed at an optimizer step, with a fraction."""
        return (self._epoch_at(self.step + step * self.ratio) - self.epoch) / self.ratio

    def _epoch_at(self, step: float) -> float:
        last = len(self.begins) - 1
        if step >= self.begins[last]:
            return last + (step - self.begins[last]) / self._size(last - 1)
        index = max(bisect.bisect_right(self.begins, step) - 1, 0)
        return index + (step - self.begins[index]) / self._size(index)

    def step_at(self, epoch: float) -> float:
        """The optimizer step, with a fraction, at which a number of epochs has passed."""
        epoch, last = self.epoch + epoch * self.ratio, len(self.begins) - 1
        index = min(max(int(epoch), 0), last)
        step = self.begins[index] + (epoch - index) * self._size(min(index, last - 1))
        return (step - self.step) / self.ratio

    def since(self, step: float) -> EpochClock:
        """The same clock, restarted at an optimizer step."""
        start = self.step + step * self.ratio
        return self._replace(step=start, epoch=self._epoch_at(start))

    def rescaled(self, ratio: float) -> EpochClock:
        """The clock of a run that is `ratio` times shorter."""
        return self._replace(ratio=self.ratio * ratio)

    def _size(self, index: int) -> float:
        return max(self.begins[index + 1] - self.begins[index], 1)


class _RunLength(NamedTuple):
    """The fields of a `RunLength`."""

    steps_per_epoch: float | None = None
    epochs: float | None = None
    steps: float | None = None
    batch_size: float | None = None
    clock: EpochClock | None = None


@renamed.attributes
class RunLength(_RunLength):
    """The length of a run; unknown fields are None.

    Args:
        steps_per_epoch: optimizer steps in one epoch (batches divided by gradient accumulation, rounded up), > 0.
        epochs: epochs of the run, >= 0.
        steps: optimizer steps of the whole run, >= 0. `RunLength.of` derives it from the other two.
        batch_size: samples of one optimizer step, > 0: those of a batch, times the batches and processes per step.
        clock: the actual starts of the epochs, if not all have `steps_per_epoch` steps. Default None: they have.

    Raises:
        InvalidArgumentError: one of them is not a finite number within its range.

    Example:
        >>> RunLength.of(steps_per_epoch=45, epochs=10).steps
        450
    """

    __slots__ = ()

    def __new__(
        cls,
        steps_per_epoch: float | None = None,
        epochs: float | None = None,
        steps: float | None = None,
        batch_size: float | None = None,
        clock: EpochClock | None = None,
    ) -> RunLength:
        """Check the arguments. Results of `_make` and `_replace` are not checked again."""
        if not (clock is None or isinstance(clock, EpochClock)):
            raise InvalidArgumentError("RunLength.clock", clock, "an EpochClock, or None")
        return super().__new__(
            cls,
            _known("steps_per_epoch", steps_per_epoch),
            _known("epochs", epochs, allow_zero=True),
            _known("steps", steps, allow_zero=True),
            _known("batch_size", batch_size),
            clock,
        )

    @classmethod
    def of(
        cls,
        steps_per_epoch: float | None = None,
        epochs: float | None = None,
        steps: float | None = None,
        batch_size: float | None = None,
    ) -> RunLength:
        """The run length, with `steps` derived from epochs and steps per epoch, or capped by them.

        Args:
            steps_per_epoch: optimizer steps in one epoch, > 0. Default None: unknown, as for the others.
            epochs: epochs of the run, >= 0.
            steps: optimizer steps of the run, >= 0; if the epochs give a lower number, that counts.
            batch_size: samples of one optimizer step, > 0.

        Raises:
            InvalidArgumentError: one of them is not a finite number within its range, or the number of steps is not
                finite.
        """
        given = cls(steps_per_epoch, epochs, steps, batch_size)
        if given.steps_per_epoch is None or given.epochs is None:
            return given
        whole = given.steps_per_epoch * given.epochs
        return given._replace(steps=_known("steps", whole if given.steps is None else min(given.steps, whole), True))

    def slice(self, length: Length, start: Length | None = None) -> RunLength:
        """The run length of a part of this run that begins at `start`."""
        clock = self.since(start).clock
        return RunLength._make((self.steps_per_epoch, length.epochs, length.steps, self.batch_size, clock))

    def since(self, start: Length | None) -> RunLength:
        """This run with its epochs counted from `start`."""
        if self.clock is None or start is None:
            return self
        step = start.steps if start.steps is not None else self.clock.step_at(start.epochs or 0)
        return self._replace(clock=self.clock.since(step))

    def epochs_at(self, step: Any) -> Any:
        """The number of epochs passed at an optimizer step, with a fraction; None if unknown."""
        if step is None or self.steps_per_epoch is None:
            return None
        return step / self.steps_per_epoch if self.clock is None else self.clock.epoch_at(step)

    def steps_at(self, epoch: Any) -> Any:
        """The optimizer step at which a number of epochs has passed; None if unknown."""
        if epoch is None or self.steps_per_epoch is None:
            return None
        return epoch * self.steps_per_epoch if self.clock is None else self.clock.step_at(epoch)

    def position(self, step: Count, base_learning_rate: float | None = None) -> Position:
        """The position at one optimizer step of this run (or at each of an array of steps)."""
        epoch = None if self.steps_per_epoch is None else self._whole_epochs_at(step)
        return Position(step, epoch, self, base_learning_rate)

    def _whole_epochs_at(self, step: Any) -> Any:
        assert self.steps_per_epoch is not None
        if self.clock is None:
            return step // self.steps_per_epoch
        if isinstance(step, np.ndarray):
            return np.array([math.floor(self.clock.epoch_at(each)) for each in step.tolist()])
        return math.floor(self.clock.epoch_at(step))


def _known(name: str, value: Any, allow_zero: bool = False) -> Any:
    """A length of the run as a Python number; None if it is unknown."""
    if value is None:
        return None
    number = as_float(value)
    if number is None or not math.isfinite(number) or number < 0 or not (number or allow_zero):
        allowed = f"a finite number {'>= 0' if allow_zero else '> 0'}, or None where it is unknown"
        raise InvalidArgumentError(f"RunLength.{name}", value, allowed)
    return tidy(number) if isinstance(value, numbers.Integral) else number


@renamed.attributes
class Position(NamedTuple):
    """A position in a run: everything that a schedule may depend on.

    Attributes:
        step: optimizer steps taken before this one, from 0; None if unknown.
        epoch: epochs finished before this one, from 0; None if unknown.
        run: the length of the run.
        base_learning_rate: the optimizer's own learning rate, for schedules without an initial one.
        smooth: whether `epoch` has a fraction that increases at every step, instead of being whole.

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
        """The optimizer steps (`"st"`) or epochs (`"ep"`) that have passed.

        Raises:
            TrainingError: the position does not contain them.
        """
        passed = self.epoch if unit == "ep" else self.step
        if passed is None:
            raise TrainingError(
                "this schedule counts epochs, and the position does not know its epoch; "
                "give RunLength.of(steps_per_epoch=...) (or its .position(step)), or Position(step, epoch)"
                if unit == "ep"
                else "this schedule counts optimizer steps from an epoch on, and the steps per epoch are unknown; "
                "count both in the same unit"
            )
        return passed

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of an array of positions; None for a single position."""
        for counted in (self.step, self.epoch):
            if isinstance(counted, np.ndarray):
                return counted.shape
        return None

    def broadcast(self, value: float) -> Value:
        """A number with the shape of this position: itself, or an array filled with it."""
        shape = self.shape
        return value if shape is None else np.full(shape, value)

    def chosen(self, which: slice | npt.NDArray[np.bool_]) -> Position:
        """A selection of an array of positions."""
        step, epoch = (count[which] if isinstance(count, np.ndarray) else count for count in (self.step, self.epoch))
        return self._replace(step=step, epoch=epoch)

    def each(self) -> Iterator[Position]:
        """The single positions of an array of positions."""
        counts = np.broadcast_arrays(*(count for count in (self.step, self.epoch) if isinstance(count, np.ndarray)))
        columns = iter([count.ravel().tolist() for count in counts])
        step, epoch = (
            next(columns) if isinstance(count, np.ndarray) else repeat(count) for count in (self.step, self.epoch)
        )
        for each_step, each_epoch in zip(step, epoch, strict=False):
            yield self._replace(step=each_step, epoch=each_epoch)

    # --- the same position within a part of the run --------------------------------------------------------

    def smoothly(self) -> Position:
        """This position with a fractional epoch that increases at every step."""
        if self.step is None or self.run.steps_per_epoch is None:
            raise TrainingError("to move smoothly within an epoch, a schedule has to know the steps per epoch")
        return self._replace(epoch=self.run.epochs_at(self.step), smooth=True)

    def at_epoch_begin(self) -> Position:
        """This position with the step held at the first step of the epoch."""
        epoch = self.elapsed("ep") // 1
        if self.run.steps_per_epoch is None:
            raise TrainingError("to hold a value within an epoch, a schedule has to know the steps per epoch")
        return self._replace(epoch=epoch, step=self.run.steps_at(epoch))

    def rescaled(self, ratio: float) -> Position:
        """The corresponding position in a run that is `ratio` times shorter."""
        # Divided by ratio, not multiplied by 1 / ratio: 49 * (1 / 49) is less than 1.
        run = self.run._replace(epochs=_rescaled(self.run.epochs, ratio), steps=_rescaled(self.run.steps, ratio))
        if self.run.clock is not None:
            run = run._replace(clock=self.run.clock.rescaled(ratio))
        return self._replace(step=_rescaled(self.step, ratio), epoch=_rescaled(self.epoch, ratio), run=run)

    def slice(self, start: Length, run: RunLength) -> Position:
        """This position relative to the part of the run that begins at `start` and has the length `run`."""
        step = None if self.step is None or start.steps is None else self.step - start.steps
        if start.counted_in == "ep" or step is None or run.steps_per_epoch is None:
            epoch = None if self.epoch is None or start.epochs is None else self.epoch - start.epochs
        else:
            # A part may begin within an epoch; its epochs are counted from there.
            epoch = run.epochs_at(step) if self.smooth else run._whole_epochs_at(step)
        return Position(step, epoch, run, self.base_learning_rate, self.smooth)

    def since(self, step: int, epoch: int) -> Position:
        """This position relative to the rest of the run from an optimizer step in an epoch."""
        start = Length(step, epoch, "ep" if self.run.steps_at(epoch) == step else "st")
        rest = Length(self.run.steps, self.run.epochs) - start
        return self.slice(start, self.run.slice(rest, start))

    def at_begin(self) -> Position:
        """The first position of this run."""
        step, epoch = (None if count is None else 0 for count in (self.step, self.epoch))
        return self._replace(step=step, epoch=epoch)


class Length(NamedTuple):
    """A length of time in steps and in epochs; None if unknown.

    Attributes:
        steps: optimizer steps.
        epochs: epochs.
        counted_in: the unit it was given in, `"st"` or `"ep"`, in which it is exact.
    """

    steps: float | None = 0
    epochs: float | None = 0
    counted_in: str = "ep"

    @property
    def exact(self) -> float | None:
        """The length in the unit it was given in."""
        return self.steps if self.counted_in == "st" else self.epochs

    def __sub__(self, other: Length) -> Length:
        def minus(one: float | None, two: float | None) -> float | None:
            return None if one is None or two is None else one - two

        return Length(minus(self.steps, other.steps), minus(self.epochs, other.epochs), self.counted_in)


def _rescaled(value: Any, ratio: float) -> Any:
    return None if value is None else value / ratio


def as_position(position: Position | Count) -> Position:
    """A position; a plain number (or array) counts optimizer steps of a run of unknown length."""
    if isinstance(position, Position):
        return position
    if isinstance(position, np.ndarray):
        return Position(position)
    whole = isinstance(position, (int, np.integer)) or (
        isinstance(position, (float, np.floating)) and float(position).is_integer()
    )
    if isinstance(position, bool) or not whole:
        raise InvalidArgumentError("position", position, "a Position, a whole number of steps or an array of steps")
    return Position(int(position))
