"""Absolute values: constant between boundaries, or interpolated between points."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules.duration import Boundaries, Duration, DurationLike, Lengths
from lr_plugins.schedules.milestones import END, POINT, Milestone, at_passing, passings
from lr_plugins.schedules.numerics import between, clip, cos
from lr_plugins.schedules.position import Position, RunLength, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.validation import choice, learning_rate

Interpolation = Literal["linear", "cosine"]
"""The ways from one value to the next."""

_NO_RUN = RunLength()  # nothing is known of it


class PiecewiseConstant(Schedule):
    """Absolute values that hold between boundaries.

    `lr = values[number of boundaries reached]`. A boundary is reached at its own step or epoch: with
    `boundaries=["3ep"]`, epoch index 3 is the first with the second value. (Keras' PiecewiseConstantDecay
    changes one later: it keeps the old value while `step <= boundary`.)

    Args:
        boundaries: where the value changes, increasing, > 0; plain numbers count optimizer steps.
        values: the learning rates, each >= 0; one more than there are boundaries.

    Raises:
        InvalidArgumentError: values do not fit the boundaries, or one is outside its range.
        TrainingError: boundaries in different units turn out not to increase in this run.

    Source: the schedule function of the MNIST article; Keras' PiecewiseConstantDecay but for the boundary.

    Example:
        >>> mnist = PiecewiseConstant(boundaries=["3ep", "5ep"], values=[0.002, 0.001, 0.0005])
        >>> [mnist(Position(step=0, epoch=epoch)) for epoch in (0, 2, 3, 5, 99)]
        [0.002, 0.002, 0.001, 0.0005, 0.0005]
    """

    def __init__(self, boundaries: Sequence[DurationLike], values: Sequence[float]) -> None:
        for name, given in (("boundaries", boundaries), ("values", values)):
            if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
                raise InvalidArgumentError(f"PiecewiseConstant.{name}", given, "a list")
        if len(values) != len(boundaries) + 1:
            raise InvalidArgumentError(
                "PiecewiseConstant.values",
                list(values),
                f"one longer than boundaries ({len(boundaries) + 1} values for {len(boundaries)} boundaries)",
            )
        self.boundaries = [
            Duration.of(boundary, field=f"PiecewiseConstant.boundaries[{index}]")
            for index, boundary in enumerate(boundaries)
        ]
        self.values = [learning_rate(f"PiecewiseConstant.values[{index}]", value) for index, value in enumerate(values)]
        if wrong := out_of_order(self.boundaries):
            index, before, after = wrong
            raise InvalidArgumentError(
                f"PiecewiseConstant.boundaries[{index}]", after, f"greater than the one before it, {before}"
            )
        self._mixed = len({boundary.unit for boundary in self.boundaries}) > 1
        self._ordered_in: RunLength | None = None

    def _require_order_in(self, run: RunLength) -> None:
        """Boundaries in different units are ordered by the run; whatever of it is known counts."""
        if wrong := out_of_order(self.boundaries, run):
            _, before, after = wrong
            raise TrainingError(
                f"the boundaries of PiecewiseConstant must increase, and in this run {after} is not after {before}"
            )
        self._ordered_in = run

    def value(self, position: Position, state: State) -> Value:
        """`values[number of boundaries reached]`."""
        if self._mixed and self._ordered_in != position.run:
            self._require_order_in(position.run)
        reached = self._passings.last(position)
        if isinstance(reached, np.ndarray):
            each: Value = np.asarray(self.values)[reached]
            return each
        return position.broadcast(self.values[int(reached)])

    @cached_property
    def _passings(self) -> Boundaries:
        return Boundaries(self.boundaries)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each boundary."""
        at = passings(self._passings, position)
        for index, (boundary, value) in enumerate(zip(self.boundaries, self.values[1:], strict=True)):
            field = f"PiecewiseConstant.boundaries[{index}]"
            yield at_passing(f"set to {value:g}", field, boundary, at[index], position.run)


class PiecewiseInterpolation(Schedule):
    """Points, and the way from each to the next: a line, or half a wave of the cosine.

    `lr = a + (b - a) * s` between two points of the values a and b, where s is the share of the way that has passed,
    or `(1 - cos(pi * share)) / 2`. At a point it is the point's value; before the first it is the first value, and
    after the last the last.

    Where all points count epochs, it holds within an epoch; otherwise it moves at every optimizer step.

    Args:
        points: pairs of when and the learning rate there, >= 0, at least one; when is 0 or a duration, increasing;
            plain numbers count optimizer steps. As a factor of a `Product` the values are factors.
        interpolation: `"linear"` or `"cosine"`. Default `"linear"`.

    Raises:
        InvalidArgumentError: a point is not such a pair, or the points do not increase.
        TrainingError: points in different units turn out not to increase in this run.

    Source: numpy.interp; optax.piecewise_interpolate_schedule (whose values are factors of the one before).

    Example:
        >>> triangle = PiecewiseInterpolation([[0, 0.0], [100, 0.1], [300, 0.0]])
        >>> [triangle(step) for step in (0, 50, 100, 200, 300, 999)]
        [0.0, 0.05, 0.1, 0.05, 0.0, 0.0]
    """

    def __init__(self, points: Sequence[Sequence[DurationLike]], *, interpolation: Interpolation = "linear") -> None:
        if isinstance(points, (str, bytes)) or not isinstance(points, Sequence) or not points:
            raise InvalidArgumentError(
                "PiecewiseInterpolation.points", points, "a list of [when, learning rate], not empty"
            )
        self.points = [self._point(index, point) for index, point in enumerate(points)]
        self.interpolation = choice("PiecewiseInterpolation.interpolation", interpolation, get_args(Interpolation))
        self._whens = [when for when, _ in self.points]
        self._values = [value for _, value in self.points]
        if wrong := out_of_order(self._whens):
            index, before, after = wrong
            raise InvalidArgumentError(
                f"PiecewiseInterpolation.points[{index}]", after, f"after the one before it, {before}"
            )

    @staticmethod
    def _point(index: int, point: object) -> tuple[Duration, float]:
        field = f"PiecewiseInterpolation.points[{index}]"
        if isinstance(point, (str, bytes)) or not isinstance(point, Sequence) or len(point) != 2:
            raise InvalidArgumentError(field, point, "a pair [when, learning rate]")
        return Duration.of(point[0], field=f"{field}[0]", allow_zero=True), learning_rate(f"{field}[1]", point[1])

    def value(self, position: Position, state: State) -> Value:
        """The point of the way from the last point passed to the next."""
        if len(self.points) == 1:
            return position.broadcast(self._values[0])
        passed, times, is_new = self._lengths.measure(position)
        for index in range(1, len(times)) if is_new else ():
            if times[index - 1] >= times[index]:
                before, after = self._whens[index - 1 : index + 1]
                self._lengths.forget()
                raise TrainingError(
                    f"the points of PiecewiseInterpolation must increase, and in this run {after} is not after {before}"
                )
        return interpolate(passed, times, self._values, self.interpolation)

    @cached_property
    def _lengths(self) -> Lengths:
        return Lengths(self._whens)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each point but the first; the last is the end where the way leads down to it."""
        at = passings(Boundaries(self._whens[1:]), position)
        for index in range(1, len(self.points)):
            when, value = self.points[index]
            kind = END if index == len(self.points) - 1 and value < self._values[index - 1] else POINT
            field, what = f"PiecewiseInterpolation.points[{index}]", f"point {index + 1} reached"
            yield at_passing(what, field, when, at[index - 1], position.run, kind)


def out_of_order(durations: Sequence[Duration], run: RunLength = _NO_RUN) -> tuple[int, Duration, Duration] | None:
    """The first that does not come after all before it: (its index, the first it does not come after, itself).

    Compared in the same unit, or in different ones as far as the run allows. 0 is 0 in each unit.
    """
    latest: dict[str, Duration] = {}  # of each unit: those before come before it in every run
    for index, after in enumerate(durations):
        if any(_comes_too_late(before, after, run) for before in latest.values()):
            before = next(before for before in durations[:index] if _comes_too_late(before, after, run))
            return index, before, after
        latest[after.unit] = after
    return None


def _comes_too_late(before: Duration, after: Duration, run: RunLength) -> bool:
    earlier, later = _in_one_clock(before, after, run)
    return earlier is not None and later is not None and earlier >= later


def _in_one_clock(before: Duration, after: Duration, run: RunLength) -> tuple[float | None, float | None]:
    if before.unit == after.unit or not after.value:
        return before.value, after.value
    earlier, later = before.span(run), after.span(run)
    if earlier.steps is not None and later.steps is not None:
        return earlier.steps, later.steps
    return earlier.epochs, later.epochs


def interpolate(passed: Value, times: Sequence[float], values: Sequence[float], interpolation: str) -> Value:
    """The value at a time, given those at some times that do not decrease; constant outside of them."""
    if isinstance(passed, np.ndarray):
        return _interpolate_all(passed, times, values, interpolation)
    if passed <= times[0]:
        return values[0]
    index = bisect_left(times, passed, 1)
    if index == len(times):
        return values[-1]
    share = (passed - times[index - 1]) / (times[index] - times[index - 1])
    return on_the_way(values[index - 1], values[index], share, interpolation)


def _interpolate_all(
    passed: npt.NDArray[np.float64], times: Sequence[float], values: Sequence[float], interpolation: str
) -> Value:
    if len(times) == 1:
        return np.full(passed.shape, values[0])
    ends, ats = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    index = np.searchsorted(ends[1:-1], passed)
    lengths = np.diff(ends)
    share = clip((passed - ends[index]) / np.where(lengths > 0, lengths, 1.0)[index], 0.0, 1.0)
    return on_the_way(ats[index], ats[index + 1], share, interpolation)


def on_the_way(start: Value, end: Value, share: Value, interpolation: str) -> Value:
    """A share of the way from one value to another, along a line or half a wave of the cosine."""
    if interpolation == "linear":
        return between(start, end, share)
    # What is left of the way, so that a small value keeps its digits whether it is at the start or at the end.
    return between(end, start, 0.5 * (1.0 + cos(math.pi * share)))
