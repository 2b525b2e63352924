"""Which assignment is for which param group: groups are split where only some of their parameters are meant."""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules.assign import Assign

Group = dict[str, Any]
Names = Mapping[int, str]
"""The names of parameters, by their identity."""

OTHERS = "others"


class Built(NamedTuple):
    """A param group as the module built it."""

    at: int
    name: str | None


# What the groups of an optimizer come from, in the order of its groups: splitting moves their indices.
_BUILT: weakref.WeakKeyDictionary[Optimizer, list[Built]] = weakref.WeakKeyDictionary()


def parameter_names(module: nn.Module) -> Names:
    """The names of a module's parameters."""
    return {id(parameter): name for name, parameter in module.named_parameters()}


def names_in_groups(optimizer: Optimizer) -> Names:
    """The names that an optimizer was given with its parameters, if it was."""
    return {
        id(parameter): name
        for group in optimizer.param_groups
        for name, parameter in zip(group.get("param_names", ()), group["params"], strict=False)
    }


class Layout:
    """The assignments for one optimizer, laid out over its param groups.

    Args:
        optimizer: the optimizer.
        assignments: those for it, by their index among all.
        names: the names of the module's parameters.

    Raises:
        InvalidArgument: a parameter is in none of the layers that an assignment names.
    """

    def __init__(self, optimizer: Optimizer, assignments: Mapping[int, Assign], names: Names) -> None:
        self._optimizer, self._assignments, self._names = optimizer, assignments, names
        self._layers = {
            index: layers_of(assignment, [name for name in names.values() if _named(assignment, name)])
            for index, assignment in assignments.items()
            if assignment.layer_decay != 1.0
        }
        self._built = _BUILT.setdefault(optimizer, [])
        self._given: set[str] = set()  # names

    def parameters(self) -> list[list[str]]:
        """The names of the parameters of each group."""
        return [[self._name(one) for one in group["params"]] for group in self._optimizer.param_groups]

    def arrange(self) -> None:
        """Split groups, so that each is meant as a whole or not at all."""
        groups = self._optimizer.param_groups
        following = max((one.at for one in self._built), default=-1) + 1
        news = groups[len(self._built) :]
        self._built += [Built(index, group.get("name")) for index, group in enumerate(news, following)]
        pieces = [
            (piece, built)
            for group, built in zip(groups, self._built, strict=True)
            for piece in self._pieces(group, built)
        ]
        groups[:], self._built[:] = [piece for piece, _ in pieces], [built for _, built in pieces]

    def _pieces(self, group: Group, built: Built) -> list[Group]:
        where = [self._place(parameter, built) for parameter in group["params"]]
        places = list(dict.fromkeys(where)) or [()]
        if len(places) == 1:
            label = self._label(None, places[0])
            if label and "name" not in group:
                group["name"] = self._unused(label, group)
            return [group]
        if isinstance(self._optimizer, torch.optim.LBFGS):
            chosen = next(iter(one.params for one in self._assignments.values() if one.params), None)
            raise InvalidArgument("Assign.params", chosen, "left out for LBFGS, whose parameters cannot be split")
        pieces = []
        for place in places:
            mine = [index for index, other in enumerate(where) if other == place]
            name = self._unused(self._label(built.name, place) or OTHERS, group)
            pieces.append({**group, **_chosen(group, mine), "name": name})
        return pieces

    def _unused(self, name: str, group: Group) -> str:
        """A name that no group beside this one has: Lightning's LearningRateMonitor refuses doubles."""
        taken = {one.get("name") for one in self._optimizer.param_groups if one is not group} | self._given
        numbered = (f"{name}-{count}" for count in itertools.count(2))
        unused = name if name not in taken else next(one for one in numbered if one not in taken)
        self._given.add(unused)
        return unused

    def _place(self, parameter: nn.Parameter, built: Built) -> tuple[tuple[int, int | None], ...]:
        """Which assignments choose a parameter by its name, and in which layer each of them has it."""
        return tuple(
            (index, self._layer(index, parameter))
            for index, one in self._assignments.items()
            if (one.chooses or one.layer_decay != 1.0) and self._fits(one, self._name(parameter), built)
        )

    def _label(self, name: str | None, place: tuple[tuple[int, int | None], ...]) -> str:
        parts = [name]
        for index, layer in place:
            one = self._assignments[index]
            parts += [one.name or _cleaned(one.params)] if one.chooses else []
            parts += [] if layer is None else [f"layer{layer}"]
        return "/".join(part for part in parts if part)

    def _name(self, parameter: nn.Parameter) -> str:
        return self._names.get(id(parameter), "")

    def _layer(self, index: int, parameter: nn.Parameter) -> int | None:
        return self._layers[index].get(self._name(parameter)) if index in self._layers else None

    @staticmethod
    def _fits(assignment: Assign, name: str, built: Built) -> bool:
        by_group = assignment.group is None or assignment.group in (built.name, built.at)
        return by_group and _named(assignment, name)

    def fits(self, assignment: Assign, at: int) -> bool:
        """Whether an assignment is for the group at an index."""
        parameters = self._optimizer.param_groups[at]["params"]
        return self._fits(assignment, self._name(parameters[0]) if parameters else "", self._built[at])

    def share(self, index: int, at: int) -> float:
        """The factor of the layer that assignment `index` has the group at an index in."""
        assignment = self._assignments[index]
        layers = self._layers.get(index)
        if layers is None:
            return 1.0
        name = self._name(self._optimizer.param_groups[at]["params"][0])
        if name not in layers:
            raise InvalidArgument("Assign.layer_decay", assignment.layer_decay, "for parameters of the module only")
        top: int = max(layers.values())
        return float(assignment.layer_decay ** (top - layers[name]))


def layers_of(assignment: Assign, names: Sequence[str]) -> dict[str, int]:
    """The number of the layer of each parameter, from 0, the lowest.

    Raises:
        InvalidArgument: one is in none of the assignment's layers.
    """
    keys = {name: _layer_key(assignment.layers, name, _depth(names)) for name in names}
    strays = [name for name, key in keys.items() if key is None]
    if strays:
        raise InvalidArgument(
            "Assign.layers",
            assignment.layers,
            "expressions that find all parameters",
            f"None of them finds {', '.join(strays[:5])}{' ...' if len(strays) > 5 else ''}.",
        )
    order = dict.fromkeys(keys.values())
    ranked = list(order) if assignment.layers is None else sorted(order)  # type: ignore[type-var]
    return {name: ranked.index(key) for name, key in keys.items()}


def _depth(names: Sequence[str]) -> int | None:
    """How deep the modules are beside which the first numbered ones stand; None where none is numbered."""
    depths = [index for name in names for index, part in enumerate(name.split(".")) if part.isdigit()]
    return min(depths, default=None)


def _layer_key(layers: Sequence[str] | None, name: str, depth: int | None) -> tuple[Any, ...] | None:
    if layers is None:
        modules = name.split(".")[:-1]
        numbered = next((index for index, part in enumerate(modules) if part.isdigit()), None)
        end = len(modules) if depth is None else max(depth, 1) if numbered is None else numbered + 1
        return tuple(modules[:end])
    for index, pattern in enumerate(layers):
        found = re.search(pattern, name)
        if found:
            digits = found.group(1) if found.re.groups else None
            return index, int(digits) if digits and digits.isdigit() else 0
    return None


def _named(assignment: Assign, name: str) -> bool:
    return assignment.params is None or re.search(assignment.params, name) is not None


def _chosen(group: Group, which: Sequence[int]) -> Group:
    """A group's parameters, and what it keeps for each of them, at some places."""
    return {key: [group[key][index] for index in which] for key in ("params", "param_names") if key in group}


def _cleaned(pattern: str | None) -> str:
    """What is left of a regular expression as a name: letters, digits and hyphens."""
    return re.sub(r"\W+", "-", pattern or "").strip("-")
