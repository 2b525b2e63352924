"""Keras' constraints: projections of the weights after each update.

A constraint is a function of a tensor. `Constraints` applies it to the parameters of a module in a Trainer,
`constrain` in a loop of your own.

Example:
    >>> import torch
    >>> from lr_plugins.keras import constraints
    >>> layer = torch.nn.Linear(4, 3)
    >>> callback = constraints.Constraints({r"weight$": constraints.MaxNorm(2), r"bias$": "non_neg"})
    >>> constraints.get("max_norm") == constraints.MaxNorm(max_value=2, axis=0)
    True
"""

from __future__ import annotations

from lr_plugins.constraints.application import ConstraintHandle, Constraints, constrain
from lr_plugins.constraints.formulas import (
    Constraint,
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    UnitNorm,
    deserialize,
    get,
    serialize,
)

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

max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm
maxnorm, nonneg, unitnorm = MaxNorm, NonNeg, UnitNorm  # of the first Keras 2
