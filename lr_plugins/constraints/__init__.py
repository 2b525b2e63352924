"""Keras' constraints: projections of the weights after each update.

A constraint is a function of a tensor. `Constraints` applies it to the parameters of a module in a Trainer,
`constrain` in a training loop of your own. Lightning is imported when `Constraints` is first used.

Example:
    >>> import torch
    >>> from lr_plugins.keras import constraints
    >>> layer = torch.nn.Linear(4, 3)
    >>> callback = constraints.Constraints({r"weight$": constraints.MaxNorm(2), r"bias$": "non_neg"})
    >>> constraints.get("max_norm") == constraints.MaxNorm(max_value=2, axis=0)
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lr_plugins.constraints.formulas import Constraint, MaxNorm, MinMaxNorm, NonNeg, UnitNorm
from lr_plugins.constraints.serialization import deserialize, get, serialize
from lr_plugins.constraints.steps import ConstraintHandle, constrain

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

max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm
maxnorm, nonneg, unitnorm = MaxNorm, NonNeg, UnitNorm  # the names of the first releases of Keras 2


def __getattr__(name: str) -> Any:
    if name != "Constraints":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lr_plugins.constraints.callback import Constraints

    return Constraints
