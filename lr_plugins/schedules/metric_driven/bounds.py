"""Floors and ceilings: a learning rate, or a multiple of the one a schedule starts from."""

from __future__ import annotations

import math
import re

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.validation import number

Bound = float | str | None
"""A learning rate; `"10x"`, ten times the initial one; or None."""

_OR_TIMES = ', or a multiple of the initial learning rate such as "10x"'
_TIMES = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*x\s*")


def bound(field: str, value: object) -> float | str:
    """A floor: a finite number >= 0, or such a number of times the initial learning rate, `"10x"`.

    Raises:
        InvalidArgumentError: it is neither.

    Example:
        >>> bound("Greedy.min_learning_rate", "0.01 x"), bound("Greedy.min_learning_rate", 0)
        ('0.01x', 0.0)
    """
    return _read(field, value, f"a finite number >= 0{_OR_TIMES}")


def ceiling(field: str, value: object) -> Bound:
    """The same for a ceiling, > 0; None for none.

    Raises:
        InvalidArgumentError: it is neither.
    """
    return None if value is None else _read(field, value, f"a finite number > 0{_OR_TIMES}, or null (None)", above=0.0)


def _read(field: str, value: object, allowed: str, above: float = -math.inf) -> float | str:
    if not isinstance(value, str):
        return number(field, value, allowed, at_least=0.0, above=above)
    match = _TIMES.fullmatch(value)
    try:
        times = number(field, float(match[1] if match else ""), allowed, at_least=0.0, above=above)
    except ValueError:
        raise InvalidArgumentError(field, value, allowed) from None
    return f"{times:g}x" if float(f"{times:g}") == times else f"{times!r}x"


def level(limit: Bound, initial: float) -> float | None:
    """The learning rate that a bound means, given the initial one; None for none.

    Example:
        >>> level("10x", 0.01), level(0.5, 0.01), level(None, 0.01)
        (0.1, 0.5, None)
    """
    return float(limit[:-1]) * initial if isinstance(limit, str) else limit


def within(value: float, initial: float, low: Bound, high: Bound) -> float:
    """A learning rate between a floor and a ceiling; the floor, where the two contradict each other."""
    most, least = level(high, initial), level(low, initial)
    if most is not None:
        value = min(value, most)
    return value if least is None else max(value, least)


def in_order(owner: str, floor: tuple[str, Bound], roof: tuple[str, Bound]) -> None:
    """Refuse a floor above the ceiling, where both are given in the same way.

    Raises:
        InvalidArgumentError: it is above.
    """
    (low_name, low), (high_name, high) = floor, roof
    least, most = level(low, 1.0), level(high, 1.0)
    if least is not None and most is not None and isinstance(low, str) == isinstance(high, str) and least > most:
        raise InvalidArgumentError(f"{owner}.{high_name}", high, f"at least {low_name} ({low})")
