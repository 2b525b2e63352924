"""Checks of schedules that are factors of a learning rate."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.combinators.base import Combination
from lr_plugins.schedules.metric_driven.base import MetricDriven
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.schedules.shapes.function import FunctionSchedule

_OF_ALL = "A bound of the learning rate itself is one of the whole product: (a * b).at_least({:g}), or at_most."


def check_factor(factor: Schedule, of: Schedule | None = None) -> None:
    """Refuse learning rates as bounds of a factor: only multiples of where it starts make sense there.

    Args:
        factor: the schedule that serves as a factor.
        of: the schedule that gives the learning rate, if one is known.

    Raises:
        InvalidArgumentError: a floor or a ceiling in it is a learning rate.
    """
    start = None if of is None else initial_of(of)
    for part in _leaves(factor):
        for name in part.bounds if isinstance(part, MetricDriven) else ():
            limit = getattr(part, name)
            if isinstance(limit, float) and limit:
                allowed = 'a multiple of where it begins, such as "0.01x", for a schedule that is a factor'
                meant = f'Did you mean "{limit / start:.12g}x"? ' if start else ""
                raise InvalidArgumentError(
                    f"{type(part).__name__}.{name}", limit, allowed, meant + _OF_ALL.format(limit)
                )


def warn_of_factors(product: Combination) -> None:
    """Warn of factors that start at another value than 1; the warning points at the line that makes the product.

    A number or a function is a factor as it stands, and a rise to 1 starts below it.
    """
    first = initial_of(product.parts[0])
    for index in range(1, len(product.parts)):
        begin, head = initial_of(product.parts[index]), _head(product.parts[index])
        rises = getattr(head, "end_learning_rate", None) == 1.0
        if begin in (None, 1.0) or rises or isinstance(head, (Constant, FunctionSchedule)):
            continue
        times = "" if first is None else f": {first:g} * {begin:g} = {first * begin:g}"
        message = (
            f"Product.schedules[{index}] ({type(head).__name__}) is a factor, and begins at {begin:g} instead of 1, so "
            f"that the product does not begin at the learning rate of its first schedule{times}. Leave the learning "
            f"rate of the factor out; or, if that is meant, write {begin:g} * ..."
        )
        warnings.warn(message, stacklevel=_outside())


def initial_of(schedule: Schedule) -> float | None:
    """The learning rate that a schedule names to start from; None if it names none."""
    begin: float | None = getattr(_head(schedule), "initial_learning_rate", None)
    return begin


def _head(schedule: Schedule) -> Schedule:
    """The part of a combination that gives its first learning rate."""
    if not isinstance(schedule, Combination) or "initial_learning_rate" in vars(schedule):
        return schedule
    heads = (part for index, part in enumerate(schedule.parts) if not schedule.is_factor(index))
    return _head(next(heads, schedule.parts[0]))


def _leaves(schedule: Schedule) -> Iterator[Schedule]:
    if isinstance(schedule, Combination):
        for part in schedule.parts:
            yield from _leaves(part)
    else:
        yield schedule


def _outside() -> int:
    """The number of frames from the caller up to the first one outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("lr_plugins."):
        level, frame = level + 1, frame.f_back
    return level
