"""The mathematics of schedules, for one number and for arrays alike.

NumPy's own functions would do for both, but cost ten times as much on a single number, and one is evaluated before
every optimizer step.
"""

from __future__ import annotations

import math

import numpy as np

from lr_plugins.schedules.position import Value

Condition = bool | np.ndarray


def floor(value: Value) -> Value:
    """The largest whole number not above."""
    return value // 1


def ceil(value: Value) -> Value:
    """The smallest whole number not below."""
    return -(-value // 1)


def cos(value: Value) -> Value:
    """The cosine."""
    return np.cos(value) if isinstance(value, np.ndarray) else math.cos(value)


def tanh(value: Value) -> Value:
    """The hyperbolic tangent."""
    return np.tanh(value) if isinstance(value, np.ndarray) else math.tanh(value)


def sqrt(value: Value) -> Value:
    """The square root."""
    return np.sqrt(value) if isinstance(value, np.ndarray) else math.sqrt(value)


def log(value: Value) -> Value:
    """The natural logarithm."""
    return np.log(value) if isinstance(value, np.ndarray) else math.log(value)


def log1p(value: Value) -> Value:
    """The natural logarithm of 1 + value."""
    return np.log1p(value) if isinstance(value, np.ndarray) else math.log1p(value)


def minimum(value: Value, most: Value) -> Value:
    """The smaller of two."""
    if isinstance(value, np.ndarray) or isinstance(most, np.ndarray):
        return np.minimum(value, most)
    return value if value < most else most


def maximum(value: Value, least: Value) -> Value:
    """The larger of two."""
    if isinstance(value, np.ndarray) or isinstance(least, np.ndarray):
        return np.maximum(value, least)
    return value if value > least else least


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
