"""Which parameters of a module have which constraint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from torch import nn
from torch.nn.parameter import is_lazy

from lr_plugins.constraints.formulas import Constraint, Projection
from lr_plugins.constraints.layouts import Layout, axes_in_order
from lr_plugins.constraints.serialization import get
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.validation import choice, pattern

Patterns = Mapping[str, Constraint | Projection | str | Mapping[str, Any] | None]
Order = tuple[int, ...] | None

_FIELD = "Constraints.constraints"
_SHOWN = 8  # names of parameters in a message


class Constrained(NamedTuple):
    """A parameter with its constraint.

    Args:
        parameter: the parameter.
        projection: its constraint.
        order: the parameter's axes in the order in which the constraint counts them; None for torch's order.
    """

    parameter: nn.Parameter
    projection: Projection
    order: Order


class Rules:
    """Which parameters of a module have which constraint; for the arguments see `Constraints`."""

    def __init__(self, constraints: Patterns, layout: Layout) -> None:
        if not isinstance(constraints, Mapping) or not constraints:
            allowed = "a dictionary from regular expressions for the names of parameters to their constraints"
            raise InvalidArgumentError(_FIELD, constraints, allowed, 'E.g. {r"weight$": MaxNorm(2)}.')
        self.projections = {pattern(f"a key of {_FIELD}", key): get(value) for key, value in constraints.items()}
        self.layout = choice("Constraints.layout", layout, get_args(Layout))

    def constrained(self, module: nn.Module) -> list[Constrained]:
        """The parameters of a module that have a constraint.

        Raises:
            InvalidArgumentError: a constraint does not fit its parameter.
            TrainingError: a parameter is sharded.
        """
        found = []
        for name, parameter in module.named_parameters():
            key = next((key for key in reversed(self.projections) if re.search(key, name)), None)
            projection = None if key is None else self.projections[key]
            _check_not_sharded(name, parameter, projection)
            if projection is None or is_lazy(parameter):
                continue
            if isinstance(projection, Constraint):
                projection.check(parameter, name)
            layer = module.get_submodule(name.rpartition(".")[0])
            found.append(Constrained(parameter, projection, axes_in_order(self.layout, layer, parameter)))
        return found

    def check(self, module: nn.Module) -> None:
        """Reject a module that the constraints do not fit.

        Raises:
            InvalidArgumentError: a regular expression matches no parameter, or a constraint does not fit its parameter.
            TrainingError: a parameter is sharded.
        """
        self.constrained(module)
        names = [name for name, _ in module.named_parameters()]
        for key in self.projections:
            if not any(re.search(key, name) for name in names):
                first = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
                allowed = f"a regular expression found in the name of a parameter ({first})"
                raise InvalidArgumentError(f"a key of {_FIELD}", key, allowed)


def _check_not_sharded(name: str, parameter: nn.Parameter, projection: Projection | None) -> None:
    """Reject a constraint on a sharded parameter, and any flat parameter of FSDP, which hides other names."""
    flat = getattr(parameter, "_fsdp_flattened", False)
    sharded = flat or hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id")  # FSDP, DTensor, DeepSpeed
    if flat or (sharded and projection is not None):
        raise TrainingError(
            f"Constraints does not support sharded parameters such as {name}, because the norm would be that of a part "
            "of the weight. Train with a strategy that keeps parameters whole, e.g. ddp."
        )
