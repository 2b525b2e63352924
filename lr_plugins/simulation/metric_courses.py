"""Courses to assume for metrics, whose values only a training knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.observation import BEGIN, EPOCH, VALIDATION, Observation, steps_between
from lr_plugins.validation import as_float

Course = float | Sequence[float] | Callable[[float], float]
"""A constant; values at equal distances from the start of the run to its end, with lines between; or a function of the
share of the run that has passed, from 0 to 1."""

_ALLOWED = "a number, a list of numbers from the start of the run to its end, or a function of the share of the run"


class Validations(NamedTuple):
    """When a run validates.

    Args:
        after: optimizer steps of an epoch after which it does, increasing.
        every_n_epochs: in each so many-th epoch only. Default 1: in each.
    """

    after: tuple[int, ...]
    every_n_epochs: int = 1


class Occasion(NamedTuple):
    """A time at which schedules observe, as in `Monitor`."""

    when: str
    step: int
    epoch: int


def occasions(steps: int, per_epoch: int, whens: Iterable[str], validations: Validations | None) -> Iterator[Occasion]:
    """The occasions of a run of so many steps, in the order in which a training has them.

    Validations are among them whether or not they are asked for.
    """
    every = {when: count for when in whens if (count := steps_between(when))}
    for epoch in range(math.ceil(steps / per_epoch)):
        first, end = epoch * per_epoch, min((epoch + 1) * per_epoch, steps)
        yield Occasion(EPOCH, first, epoch)
        yield Occasion(BEGIN, first, epoch)
        due = [
            (step, 0, when) for when, count in every.items() for step in range(first - first % count, end + 1, count)
        ]
        if validations and (epoch + 1) % validations.every_n_epochs == 0:
            due += [(first + after, 1, VALIDATION) for after in validations.after]
        for step, _, when in sorted(due):
            if first < step <= end:
                yield Occasion(when, step, epoch)


class SimulatedMetrics:
    """What would have been logged by each occasion, if the metrics took the courses given.

    A metric whose name begins with `val` is logged by each validation, one that is measured at the start of each epoch,
    any other at the end of each epoch and at each step.

    Args:
        courses: those of the metrics, by name.
        steps: of the run.
        validates: whether the run does.
        measured: the metrics that are measured at the start of each epoch, before it.
    """

    def __init__(
        self, courses: Mapping[str, Course], steps: int, validates: bool, measured: Iterable[str] = ()
    ) -> None:
        self._courses = {name: course_of(name, given) for name, given in courses.items()}
        self._steps, self._measured = steps, frozenset(measured)
        self._to_come = validates  # the first validation
        self._validated: dict[str, float] = {}
        self._ended: dict[str, float] = {}  # values of the last epoch that has ended
        self._new: dict[str, set[str]] = {}  # by occasion: metrics logged since the last one of this kind
        self._known: set[str] = set()

    def observation(self, occasion: Occasion) -> Observation:
        """What there is to be observed."""
        when, step, epoch = occasion
        if when == VALIDATION:
            self._to_come = False
            self._validated |= self._log((name for name in self._courses if name.startswith("val")), step)
        elif when == EPOCH and epoch:
            self._ended |= self._log(self._others(), step)
        logged = {**self._ended, **self._validated}
        new = self._new.get(when, set(logged))
        self._new[when] = set()
        news = {name: value for name, value in logged.items() if name in new}
        if steps_between(when):
            news |= {name: self._at(name, step) for name in self._others()}
        if when == EPOCH:
            news |= {name: self._at(name, step) for name in self._measured & self._courses.keys()}
        self._known |= set(news)
        return Observation(when, news, known=frozenset(self._known), complete=epoch > 0 and not self._to_come)

    def _others(self) -> list[str]:
        return [name for name in self._courses if not name.startswith("val") and name not in self._measured]

    def _log(self, names: Iterable[str], step: int) -> dict[str, float]:
        logged = {name: self._at(name, step) for name in names}
        for new in self._new.values():
            new |= set(logged)
        return logged

    def _at(self, name: str, step: int) -> float:
        value = self._courses[name](step / self._steps)
        if as_float(value) is None:
            raise InvalidArgumentError(f"the course of {name}", value, "a number everywhere")
        return float(value)


def course_of(name: str, given: Course) -> Callable[[float], float]:
    """A course as a function of the share of the run that has passed.

    Raises:
        InvalidArgumentError: it is not a course.

    Example:
        >>> course_of("loss", (2.0, 1.0, 0.8))(0.25)
        1.5
    """
    if callable(given):
        return given
    values = _numbers(name, given)
    shares = np.linspace(0.0, 1.0, len(values))
    return lambda share: float(np.interp(share, shares, values))


def describe_course(name: str, given: Course) -> str:
    """A course in words.

    Example:
        >>> describe_course("loss", (2.3, 0.1)), describe_course("acc", 0.5)
        ('loss goes from 2.3 to 0.1 in a straight line over the run', 'acc is 0.5 all the time')
    """
    if callable(given):
        return f"{name} follows the given function"
    values = _numbers(name, given)
    if len(values) == 1:
        return f"{name} is {values[0]:g} all the time"
    way = " to ".join(f"{value:g}" for value in values)
    lines = "a straight line" if len(values) == 2 else f"{len(values) - 1} straight lines of equal length"
    return f"{name} goes from {way} in {lines} over the run"


def read_course(text: str) -> tuple[str, Course]:
    """A metric and its course, as on the command line.

    Raises:
        InvalidArgumentError: it is not written like that.

    Example:
        >>> read_course("loss=2.3:0.1")
        ('loss', [2.3, 0.1])
    """
    name, _, values = text.partition("=")
    try:
        course = [float(value) for value in values.split(":")]
    except ValueError:
        course = []
    if not name.strip() or not course or not all(map(math.isfinite, course)):
        allowed = "NAME=VALUE, or NAME=FIRST:LAST for a straight line over the run (or more values, at equal distances)"
        raise InvalidArgumentError("--metric", text, allowed)
    return name.strip(), course


def _numbers(name: str, given: Any) -> list[float]:
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    read = [as_float(value) for value in several]
    numbers = [value for value in read if value is not None and math.isfinite(value)]
    if not numbers or len(numbers) < len(read):
        raise InvalidArgumentError(f"the course of {name}", given, _ALLOWED)
    return numbers
