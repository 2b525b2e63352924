"""Checks of constructor arguments, shared by the data modules and the models."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import cast

from lr_plugins.errors import InvalidArgument
from lr_plugins.places import from_start
from lr_plugins.schedules.schedule import flag as flag


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _real(value: object) -> float:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def integer(field: str, value: object, minimum: int) -> int:
    """`value` as an int >= `minimum`; a bool or a float such as 5.0 is a mistake, not a number of things."""
    number = _whole(value)
    if number is not None and number >= minimum:
        return number
    raise InvalidArgument(field, value, f"an integer >= {minimum}")


def seed(field: str, value: object) -> int:
    """`value` as a seed that every generator used here accepts."""
    number = _whole(value)
    if number is not None and 0 <= number < 2**32:
        return number
    raise InvalidArgument(field, value, "an integer from 0 to 2**32 - 1")


def fraction(field: str, value: object) -> float:
    """`value` as a share in [0, 1)."""
    if 0 <= (number := _real(value)) < 1:
        return number
    raise InvalidArgument(field, value, "a number >= 0 and < 1", "0.2 is a fifth.")


def positive(field: str, value: object) -> float:
    """`value` as a finite number > 0."""
    if 0 < (number := _real(value)) < math.inf:
        return number
    raise InvalidArgument(field, value, "a finite number > 0")


def integers(field: str, value: object, minimum: int = 1) -> tuple[int, ...]:
    """`value` as a tuple of at least one integer >= `minimum`; any sequence will do, Hydra's lists too."""
    allowed = f"a list of integers >= {minimum}, at least one"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidArgument(field, value, allowed)
    try:
        numbers = tuple(integer(field, item, minimum) for item in cast("Iterable[object]", value))
    except InvalidArgument:
        raise InvalidArgument(field, value, allowed) from None
    if not numbers:
        raise InvalidArgument(field, value, allowed)
    return numbers


def folder(field: str, value: object) -> Path:
    """`value` as a path that stays the same, `~` expanded."""
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return from_start(value)
    raise InvalidArgument(field, value, "the path of a folder")
