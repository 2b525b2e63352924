"""Keras' constraints under Keras' names, as in `keras.constraints`; documented in `lr_plugins.constraints`.

Example:
    >>> from lr_plugins.keras import constraints
    >>> constraints.deserialize(constraints.serialize(constraints.MaxNorm(3)))
    MaxNorm(max_value=3, axis=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lr_plugins import constraints as _constraints
from lr_plugins.constraints import (
    Constraint,
    ConstraintHandle,
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    UnitNorm,
    constrain,
    deserialize,
    get,
    max_norm,
    min_max_norm,
    non_neg,
    serialize,
    unit_norm,
)
from lr_plugins.constraints import maxnorm as maxnorm
from lr_plugins.constraints import nonneg as nonneg
from lr_plugins.constraints import unitnorm as unitnorm

if TYPE_CHECKING:
    from lr_plugins.constraints.callback import Constraints

__all__ = [
    "Constraint",
    "ConstraintHandle",
    "Constraints",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "UnitNorm",
    "constrain",
    "deserialize",
    "get",
    "max_norm",
    "min_max_norm",
    "non_neg",
    "serialize",
    "unit_norm",
]


def __getattr__(name: str) -> Any:
    if name != "Constraints":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _constraints.Constraints
