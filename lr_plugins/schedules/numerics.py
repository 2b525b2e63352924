"""The mathematics of schedules, for one number and for arrays alike.

NumPy's own functions would do for both, but cost ten times as much on a single number, and one is evaluated before
every optimizer step. Their tanh, log and power (before NumPy 2 their cos as well) differ from the C library's, which
Python calls, in the last bit of some values: arrays of up to `EXACT_BLOCK` elements go through the C library as well,
so that steps computed ahead in a block are bit for bit those computed one by one; longer ones, whole curves to look at,
through NumPy, five times faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import repeat
from typing import Literal

import numpy as np
import numpy.typing as npt

from lr_plugins.schedules.position import Value

Dtype = Literal["float64", "float32"]
"""A precision to compute in."""

Condition = bool | np.ndarray
_Array = npt.NDArray[np.float64]

EXACT_BLOCK = 4096
"""The largest size of an array whose values are bit for bit those of single numbers. The blocks that
the writer computes ahead are not larger; whole curves would take five times as long (benchmarks/shapes.py)."""

_ROUNDING = 1e-6  # a sample, of as many as a float can count

_GRID = np.linspace(0.0, math.pi, 257)
_COS_IS_EXACT = bool((np.cos(_GRID) == [math.cos(angle) for angle in _GRID.tolist()]).all())
"""Whether NumPy's cosine is the C library's; one that is not differs in every tenth value or so."""


def floor(value: Value) -> Value:
    """The largest whole number not above."""
    return np.floor(value) if isinstance(value, np.ndarray) else value // 1


def nearly_whole(value: Value) -> Value:
    """A number as it is; the whole number instead where it is one but for rounding.

    Example:
        >>> nearly_whole(19.999999999999993), nearly_whole(19.99)
        (20.0, 19.99)
    """
    whole = floor(value + 0.5)
    off: Value = value - whole
    return where((off < _ROUNDING) & (off > -_ROUNDING), whole, value)


def ceil(value: Value) -> Value:
    """The smallest whole number not below."""
    return np.ceil(value) if isinstance(value, np.ndarray) else -(-value // 1)


def cos(value: Value) -> Value:
    """The cosine."""
    if not isinstance(value, np.ndarray):
        return math.cos(value)
    if _COS_IS_EXACT or value.size > EXACT_BLOCK:
        return np.cos(value)
    return _one_by_one(map(math.cos, value.ravel().tolist()), value)


def tanh(value: Value) -> Value:
    """The hyperbolic tangent."""
    if not isinstance(value, np.ndarray):
        return math.tanh(value)
    return _one_by_one(map(math.tanh, value.ravel().tolist()), value) if value.size <= EXACT_BLOCK else np.tanh(value)


def log1p(value: Value) -> Value:
    """The natural logarithm of 1 + value."""
    if not isinstance(value, np.ndarray):
        return math.log1p(value)
    return _one_by_one(map(math.log1p, value.ravel().tolist()), value) if value.size <= EXACT_BLOCK else np.log1p(value)


def sqrt(value: Value) -> Value:
    """The square root, correctly rounded on every platform."""
    return np.sqrt(value) if isinstance(value, np.ndarray) else math.sqrt(value)


def power(base: Value, exponent: Value) -> Value:
    """A base >= 0 to an exponent (> 0 where the base is 0), either or both of them arrays; infinite if too large."""
    if not isinstance(base, np.ndarray) and not isinstance(exponent, np.ndarray):
        return _power(base, exponent)
    like = base if isinstance(base, np.ndarray) else exponent
    assert isinstance(like, np.ndarray)
    if like.size > EXACT_BLOCK:
        return _many_powers(base, exponent)
    bases, exponents = _elements(base), _elements(exponent)
    try:
        return _one_by_one(map(math.pow, bases, exponents), like)
    except OverflowError:
        return _one_by_one(map(_power, bases, exponents), like)


def _elements(value: Value) -> Iterable[float]:
    elements: Iterable[float] = value.ravel().tolist() if isinstance(value, np.ndarray) else repeat(value)
    return elements


def _one_by_one(values: Iterable[float], like: _Array) -> _Array:
    return np.fromiter(values, np.float64, like.size).reshape(like.shape)


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


def _many_powers(base: Value, exponent: Value) -> _Array:
    if isinstance(base, np.ndarray) or base == 0.0:
        return np.asarray(np.power(base, exponent), np.float64)
    # Where the result is 0 or infinite, NumPy would take ten times as long to find out.
    magnitude = math.log2(base) * exponent
    with np.errstate(over="ignore"):
        result = np.power(base, np.where(np.abs(magnitude) > 1100.0, 0.0, exponent))
    result[magnitude < -1100.0] = 0.0
    result[magnitude > 1100.0] = math.inf
    return result


def minimum(value: Value, most: Value) -> Value:
    """The smaller of two; NaN where the value is."""
    if isinstance(value, np.ndarray) or isinstance(most, np.ndarray):
        return np.minimum(value, most)
    return value if value < most or value != value else most


def maximum(value: Value, least: Value) -> Value:
    """The larger of two; NaN where the value is."""
    if isinstance(value, np.ndarray) or isinstance(least, np.ndarray):
        return np.maximum(value, least)
    return value if value > least or value != value else least


def clip(value: Value, least: Value, most: Value) -> Value:
    """The nearest value within bounds."""
    return minimum(maximum(value, least), most)


def where(condition: Condition, then: Value, otherwise: Value) -> Value:
    """One value where a condition holds and another where it does not; both have been computed."""
    return (
        np.where(condition, then, otherwise) if isinstance(condition, np.ndarray) else then if condition else otherwise
    )


def between(start: Value, end: Value, share: Value) -> Value:
    """The number a share of the way from one number to another; exact at both ends, and never outside them."""
    if isinstance(share, np.ndarray):
        way = end - start
        return np.where(share < 0.5, start + way * share, end - way * (1.0 - share))
    if share < 0.5:
        return start + (end - start) * share
    return end - (end - start) * (1.0 - share)
