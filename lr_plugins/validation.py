"""Checks of constructor arguments: each returns the normalized value, or raises one error that says what is allowed."""

from __future__ import annotations

import math
import numbers
import os
import re
import sys
from collections.abc import Container, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.paths import from_start

Choice = TypeVar("Choice", bound=str)
Built = TypeVar("Built")

LARGEST = 3.4028235677973362e38
"""The largest value of a hyper-parameter: larger ones are infinite in single precision, which parameters have."""

ENDS = f"single precision ends at {LARGEST:.6g}"
"""Why a finite number is too large, as a part of a sentence."""

_LARGEST_INTEGER = 2**53
"""A float has all integers up to it."""

_SMALLEST = sys.float_info.min
"""The smallest number with all its digits, and the smallest whose reciprocal is sure to be finite."""


def number(
    field: str,
    value: object,
    allowed: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> float:
    """A finite number within bounds, as a float.

    A number that must be above 0 may be divided by: its reciprocal is a finite number, too.

    Args:
        field: the dotted name the user knows the setting by.
        value: what was received.
        allowed: what is allowed, as the end of the sentence "<field> must be ...".
        above: the number is greater than this. Default -inf.
        at_least: the number is not less than this. Default -inf.
        at_most: the number is not greater than this. Default inf.

    Raises:
        InvalidArgumentError: it is not such a number.

    Example:
        >>> number("StepDecay.drop", 1, "a finite number > 0", above=0.0)
        1.0
    """
    result = as_float(value)
    if result is None or not math.isfinite(result) or result <= above or not at_least <= result <= at_most:
        raise InvalidArgumentError(field, value, allowed)
    if above == 0.0 and result < _SMALLEST:
        raise InvalidArgumentError(field, value, allowed, f"The smallest number to compute with is {_SMALLEST:.2g}.")
    return result


def as_float(value: object) -> float | None:
    """A number as a float, infinite if it is too large for one; None for anything else."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def learning_rate(field: str, value: object, *, optional: bool = False) -> float:
    """A learning rate: a finite number >= 0."""
    allowed = "a finite number >= 0" + (", or null (None) for the optimizer's own" if optional else "")
    return number(field, value, allowed, at_least=0.0)


def tidy(value: float) -> float:
    """10 for 10.0: whole numbers print, compare and count as the user wrote them.

    A float remains where it counts more than every integer up to it: NumPy takes no larger integers.

    Example:
        >>> tidy(10.0), tidy(2.5), tidy(1e30)
        (10, 2.5, 1e+30)
    """
    return int(value) if abs(value) <= 2.0**53 and value.is_integer() else value


def choice(field: str, value: object, choices: Iterable[Choice]) -> Choice:
    """One of a few texts, such as those of a `Literal` (`typing.get_args`).

    Example:
        >>> choice("Cyclic.mode", "triangular", ["triangular", "exp_range"])
        'triangular'
    """
    texts = tuple(choices)
    if not isinstance(value, str) or value not in texts:
        raise InvalidArgumentError(field, value, f"one of {', '.join(texts)}")
    return texts[texts.index(value)]  # a plain str, even where the value is of a sub-class of it


def build_from(kind: type[Built], config: Mapping[str, Any]) -> Built:
    """An object from the configuration that its `get_config` gave.

    Raises:
        InvalidArgumentError: the configuration does not have its arguments.
    """
    try:
        return kind(**config)
    except TypeError as error:
        raise InvalidArgumentError(
            f"the config of {kind.__name__}", dict(config), "its arguments", str(error)
        ) from error


def flag(field: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(field, value, "true or false")
    return value


def pattern(field: str, value: object) -> str:
    """A regular expression for the names of parameters."""
    allowed = "a regular expression for the names of parameters"
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(field, value, allowed)
    try:
        re.compile(value)
    except re.error as error:
        raise InvalidArgumentError(field, value, f"a regular expression ({error})") from None
    return value


# --- whole numbers, shares, folders ---------------------------------------------------------------------------


def as_integer(value: object) -> int | None:
    """An integer of any kind as an int; None for what is not an integer, such as True or 5.0."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _real(value: object) -> float:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def integer(field: str, value: object, minimum: int) -> int:
    """`value` as an int >= `minimum`; a bool or a float such as 5.0 is a mistake, not a number of things."""
    whole = as_integer(value)
    if whole is not None and minimum <= whole <= _LARGEST_INTEGER:
        return whole
    too_large = "The largest is 2**53." if whole is not None and whole > _LARGEST_INTEGER else ""
    raise InvalidArgumentError(field, value, f"an integer >= {minimum}", too_large)


def verbosity(field: str, value: object, allowed: str, levels: Container[int] | None = None) -> int:
    """How much is printed, as an int; True and False are 1 and 0, as in Keras.

    Args:
        field: the dotted name the user knows the setting by.
        value: what was received.
        allowed: what is allowed, as the end of the sentence "<field> must be ...".
        levels: the levels there are. Default None: any integer >= -1.

    Raises:
        InvalidArgumentError: it is not such an integer; the message says what is `allowed`.

    Example:
        >>> verbosity("KerasProgress.verbose", True, "0, 1 or 2", levels=range(3))
        1
    """
    level = int(value) if isinstance(value, bool) else as_integer(value)
    if level is None or (level < -1 if levels is None else level not in levels):
        raise InvalidArgumentError(field, value, allowed)
    return level


def seed(field: str, value: object) -> int:
    """`value` as a seed that every generator used here accepts."""
    whole = as_integer(value)
    if whole is not None and 0 <= whole < 2**32:
        return whole
    raise InvalidArgumentError(field, value, "an integer from 0 to 2**32 - 1")


def fraction(field: str, value: object) -> float:
    """`value` as a share in [0, 1)."""
    if 0 <= (real := _real(value)) < 1:
        return real
    raise InvalidArgumentError(field, value, "a number >= 0 and < 1", "0.2 is a fifth.")


def integers(field: str, value: object, minimum: int = 1) -> tuple[int, ...]:
    """`value` as a tuple of at least one integer >= `minimum`; any sequence will do, Hydra's lists too."""
    allowed = f"a list of integers >= {minimum}, at least one"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidArgumentError(field, value, allowed)
    try:
        numbers = tuple(integer(field, item, minimum) for item in cast("Iterable[object]", value))
    except InvalidArgumentError:
        raise InvalidArgumentError(field, value, allowed) from None
    if not numbers:
        raise InvalidArgumentError(field, value, allowed)
    return numbers


def folder(field: str, value: object) -> Path:
    """`value` as a path that stays the same, `~` expanded."""
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return from_start(value)
    raise InvalidArgumentError(field, value, "the path of a folder")
