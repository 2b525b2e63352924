"""Milestones: what happens when in a run, as far as the arguments of a schedule determine it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lr_plugins.schedules.duration import Boundaries, Duration
from lr_plugins.schedules.position import Position, RunLength, Value

WARMUP = "warm-up"  # a rise before the schedule itself
END = "end"  # from there on nothing changes any more
MILESTONE = "milestone"  # a change
POINT = "point"  # between two segments of a curve
FLOOR = "floor"  # below which a schedule does not fall
PERIOD = "period"  # after each of which something happens again


class Milestone(NamedTuple):
    """Something that happens at some of the positions looked at.

    Args:
        what: what happens, in a few words: `"warm-up ends"`.
        at: the indices of the positions at which it does; none where it happens at none of them.
        argument: the argument that says when: `"Warmup.warmup_steps=5%"`; empty where none does.
        kind: what sort of milestone it is: `"warm-up"`, `"end"`, `"milestone"`, `"point"`, `"floor"` or `"period"`.
        share: when it comes, as a share of the run that the schedule sees; None if unknown.
        run: the run that the schedule sees.
        stays: whether its effect lasts until the end of the whole run.
    """

    what: str
    at: npt.NDArray[np.intp]
    argument: str = ""
    kind: str = MILESTONE
    share: float | None = None
    run: RunLength = RunLength()
    stays: bool = True

    def among(self, indices: npt.NDArray[np.intp], stays: bool) -> Milestone:
        """The same milestone with indices among more positions, of which these are a subset."""
        return self._replace(at=indices[self.at], stays=self.stays and stays)


def one_time(what: str, argument: str, length: Duration, position: Position, kind: str = MILESTONE) -> Milestone:
    """A milestone as soon as a length has passed.

    Example:
        >>> run = RunLength.of(steps_per_epoch=10, epochs=4)
        >>> one_time("drops", "Some.milestone", Duration.of("3ep"), run.position(np.arange(40))).at.tolist()
        [30]
    """
    return at_passing(what, argument, length, begins(length.passed(position), position), position.run, kind)


def passings(boundaries: Boundaries, position: Position) -> dict[int, npt.NDArray[np.intp]]:
    """The indices at which each of some lengths has passed, by the index of the length.

    Example:
        >>> boundaries = Boundaries([Duration.of("3ep"), Duration.of("5st")])
        >>> at = passings(boundaries, RunLength.of(steps_per_epoch=10, epochs=4).position(np.arange(40)))
        >>> {index: indices.tolist() for index, indices in at.items()}
        {0: [30], 1: [5]}
    """
    at: dict[int, list[int]] = {}
    for order, count in boundaries.passed(position):
        counts = np.broadcast_to(np.asarray(count), position.shape or (1,))
        for index in order:
            at[index] = []
        for step in np.flatnonzero(counts[1:] > counts[:-1]).tolist():
            for index in order[int(counts[step]) : int(counts[step + 1])]:
                at[index].append(step + 1)
    return {index: np.array(indices, dtype=np.intp) for index, indices in at.items()}


def at_passing(
    what: str, argument: str, length: Duration, at: npt.NDArray[np.intp], run: RunLength, kind: str = MILESTONE
) -> Milestone:
    """A milestone where a length has passed, at the indices that `passings` found."""
    return Milestone(what, at, f"{argument}={length}", kind, share_of(length, run), run)


def recurring(what: str, argument: str, length: Duration, count: Value, position: Position) -> Milestone:
    """A milestone whenever the count of how often a length has passed goes up."""
    counts = np.broadcast_to(np.asarray(count), position.shape or (1,))
    at = np.flatnonzero(counts[1:] > counts[:-1]) + 1
    return Milestone(what, at, f"{argument}={length}", PERIOD, share_of(length, position.run), position.run)


def begins(condition: Any, position: Position) -> npt.NDArray[np.intp]:
    """The indices at which a condition begins to hold."""
    holds = np.broadcast_to(np.asarray(condition), position.shape or (1,))
    return np.flatnonzero(holds[1:] & ~holds[:-1]) + 1


def share_of(length: Duration, run: RunLength) -> float | None:
    """A length as a share of a run; None where one of them is unknown.

    Example:
        >>> share_of(Duration.of("5ep"), RunLength.of(steps_per_epoch=10, epochs=4))
        1.25
    """
    span = length.span(run)
    for part, whole in ((span.steps, run.steps), (span.epochs, run.epochs)):
        if part is not None and whole:
            return part / whole
    return None


def final(argument: str, length: Duration, position: Position, falls: bool) -> Milestone:
    """The milestone at which a shape reaches its end value; only a fall can reach it too soon."""
    return one_time("end value reached", argument, length, position, END if falls else POINT)
