"""Constraints by Keras' names and configurations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from lr_plugins.constraints.formulas import Constraint, MaxNorm, MinMaxNorm, NonNeg, Projection, UnitNorm
from lr_plugins.errors import InvalidArgumentError

CONSTRAINTS: dict[str, type[Constraint]] = {
    "Constraint": Constraint,
    "MaxNorm": MaxNorm,
    "MinMaxNorm": MinMaxNorm,
    "NonNeg": NonNeg,
    "UnitNorm": UnitNorm,
    "constraint": Constraint,
    "max_norm": MaxNorm,
    "min_max_norm": MinMaxNorm,
    "non_neg": NonNeg,
    "unit_norm": UnitNorm,
}
"""The constraints by Keras' names."""

torch.serialization.add_safe_globals(list(CONSTRAINTS.values()))  # save_hyperparameters() puts them into checkpoints


def serialize(constraint: Constraint) -> dict[str, Any]:
    """A constraint as a dictionary of plain values: `{"class_name": ..., "config": ...}`.

    Example:
        >>> serialize(MaxNorm(3))
        {'class_name': 'MaxNorm', 'config': {'max_value': 3, 'axis': 0}}
    """
    return {"class_name": type(constraint).__name__, "config": constraint.get_config()}


def deserialize(config: Mapping[str, Any], custom_objects: Mapping[str, type[Constraint]] | None = None) -> Constraint:
    """The constraint of a dictionary that `serialize`, Keras' or ours, has made.

    Args:
        config: the dictionary.
        custom_objects: classes of your own, by name. Default None.

    Raises:
        InvalidArgumentError: not the dictionary of a known constraint.

    Example:
        >>> deserialize({"class_name": "UnitNorm", "config": {"axis": 1}})
        UnitNorm(axis=1)
    """
    known = {**CONSTRAINTS, **(custom_objects or {})}
    name = config.get("class_name") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or name not in known or not isinstance(config.get("config"), Mapping):
        allowed = f"a dictionary with class_name, one of {', '.join(known)}, and config"
        raise InvalidArgumentError("the serialized constraint", config, allowed)
    return known[name].from_config(config["config"])


def get(identifier: Any) -> Projection | None:
    """The constraint that an identifier stands for, as Keras' layers read their `kernel_constraint`.

    Args:
        identifier: a name (`"max_norm"` or `"MaxNorm"`, with the default arguments), the result of `serialize`, a
            class, a constraint or any other function of a tensor, or None for no constraint.

    Raises:
        InvalidArgumentError: anything else.

    Example:
        >>> get("unit_norm"), get(MaxNorm(3)), get(None)
        (UnitNorm(axis=0), MaxNorm(max_value=3, axis=0), None)
    """
    if identifier is None:
        return None
    found = CONSTRAINTS.get(identifier) if isinstance(identifier, str) else identifier
    if isinstance(found, Mapping):
        return deserialize(found)
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        names = ", ".join(name for name in CONSTRAINTS if name.islower())
        raise InvalidArgumentError("the constraint", identifier, f"a function of a tensor, None, or one of {names}")
    projection: Projection = found
    return projection
