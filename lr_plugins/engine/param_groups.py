"""Which assignment is for which param group. A group is split where only some of its parameters are chosen."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lr_plugins.engine.known_groups import (
    Group,
    KnownGroup,
    chosen_parameters,
    find_copies,
    groups_of,
    match_groups,
    remember,
    remembered,
)
from lr_plugins.engine.step_hooks import optimizers_within
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.assign import Assign
from lr_plugins.schedules.numerics import power

Names = Mapping[int, str]
"""The names of parameters, by their identity."""

Origin = tuple[tuple[int, int | None, tuple[int, int] | None], ...]
"""The assignments for a parameter, each with its layer, and when it came, if that matters."""

OTHERS = "others"


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
    """Maps the assignments for one optimizer to its param groups.

    Args:
        optimizer: the optimizer.
        assignments: those for it, by their index among all.
        names: the names of the module's parameters.

    Raises:
        InvalidArgumentError: a parameter is in none of the layers that an assignment names.
    """

    def __init__(self, optimizer: Optimizer, assignments: Mapping[int, Assign], names: Names) -> None:
        self._optimizer, self._assignments, self._names = optimizer, assignments, names
        self._layers = {
            index: layers_of(assignment, [name for name in names.values() if _named(assignment, name)])
            for index, assignment in assignments.items()
            if assignment.layer_decay != 1.0
        }
        self._given: set[str] = set()  # names
        self._gone: list[KnownGroup] = []  # that may come back
        self.came: dict[int, tuple[int, int]] = {}  # the step and epoch at which each parameter came
        self.groups: list[KnownGroup] = []

    def parameters(self) -> list[list[str]]:
        """The names of the parameters of each group."""
        return [[self._name(one) for one in known.group["params"]] for known in self.groups]

    def arrange(self, begun: tuple[int, int] = (0, 0)) -> None:
        """Take the current groups, and split those of which only some parameters are chosen.

        Args:
            begun: the optimizer step and the epoch at which new groups come.
        """
        within = optimizers_within(self._optimizer)
        candidates = [*(self.groups or remembered(self._optimizer)), *self._gone]
        gone = {id(one): one.group for one in self._gone}
        known = match_groups(groups_of(self._optimizer, within), candidates, begun)
        self._gone = [one for one in candidates if one not in known]
        self._note_coming(known, gone, begun)
        pieces = {id(one.group): self._pieces(one) for one in known}
        self.groups = [piece for parts in pieces.values() for piece in parts]
        if len(self.groups) > len(pieces):
            for optimizer in (self._optimizer, *within):  # each has a list of its own, or the same one
                groups = optimizer.param_groups
                split = (pieces.get(id(group)) for group in list(groups))
                groups[:] = [
                    one
                    for group, parts in zip(list(groups), split, strict=True)
                    for one in ([part.group for part in parts] if parts else [group])
                ]
        for piece in self.groups:
            came = [self.came[id(parameter)] for parameter in piece.group["params"]]
            piece.begun = came[0] if came else piece.begun
        find_copies(self.groups, within)
        remember(self._optimizer, self.groups)

    def _note_coming(self, known: Sequence[KnownGroup], gone: Mapping[int, Group], begun: tuple[int, int]) -> None:
        """Note when parameters came, and the own values of groups that come back."""
        there = {id(parameter): one for one in known for parameter in one.group["params"]}
        self.came = {parameter: when for parameter, when in self.came.items() if parameter in there}
        for parameter, one in there.items():
            is_new = id(one) in gone or bool(self.came)
            self.came.setdefault(parameter, begun if is_new else one.begun)
        for one in known:
            came_back = id(one) in gone and one.group is not gone[id(one)]
            if came_back and not all(one.holds(hyper) for hyper in one.owns):
                one.owns, one.bases = {}, {}

    def restore_begun(self, begun: Sequence[tuple[int, int]]) -> None:
        """Restore when each of the groups came."""
        for known, when in zip(self.groups, begun, strict=True):
            known.begun = when
            self.came |= {id(parameter): when for parameter in known.group["params"]}

    def _pieces(self, known: KnownGroup) -> list[KnownGroup]:
        group = known.group
        where = [self._place(parameter, known) for parameter in group["params"]]
        places = list(dict.fromkeys(where)) or [()]
        if len(places) == 1:
            label = self._label(None, places[0])
            if label and "name" not in group:
                group["name"] = self._unused(label, group)
            return [known]
        if isinstance(self._optimizer, torch.optim.LBFGS):
            chosen = next(iter(one.params for one in self._assignments.values() if one.params), None)
            raise InvalidArgumentError("Assign.params", chosen, "left out for LBFGS, whose parameters cannot be split")
        pieces = []
        for place in places:
            mine = [index for index, other in enumerate(where) if other == place]
            name = self._unused(self._label(known.name, place) or OTHERS, group)
            piece = known.as_group({**group, **chosen_parameters(group, mine), "name": name})
            pieces.append(piece)
        kept = next((piece for piece, place in zip(pieces, places, strict=True) if not place), pieces[0])
        for piece in pieces:
            piece.series = known.series if piece is kept else None  # one piece keeps the column of the whole group
        return pieces

    def _unused(self, name: str, group: Group) -> str:
        """A name that no other group has: Lightning's LearningRateMonitor refuses duplicates."""
        taken = {one.get("name") for one in self._optimizer.param_groups if one is not group} | self._given
        numbered = (f"{name}-{count}" for count in itertools.count(2))
        unused = name if name not in taken else next(one for one in numbered if one not in taken)
        self._given.add(unused)
        return unused

    def _place(self, parameter: nn.Parameter, built: KnownGroup) -> Origin:
        """The assignments that choose a parameter by its name, each with its layer and the time it came."""
        return tuple(
            (index, self._layer(index, parameter), self.came[id(parameter)] if one.since == "group" else None)
            for index, one in self._assignments.items()
            if (one.chooses or one.layer_decay != 1.0 or one.since == "group")
            and self._fits(one, self._name(parameter), built)
        )

    def _label(self, name: str | None, place: Origin) -> str:
        parts = [name]
        for index, layer, _ in place:
            one = self._assignments[index]
            parts += [one.name or _cleaned(one.params)] if one.chooses else []
            parts += [] if layer is None else [f"layer{layer}"]
        return "/".join(part for part in parts if part)

    def _name(self, parameter: nn.Parameter) -> str:
        return self._names.get(id(parameter), "")

    def _layer(self, index: int, parameter: nn.Parameter) -> int | None:
        return self._layers[index].get(self._name(parameter)) if index in self._layers else None

    @staticmethod
    def _fits(assignment: Assign, name: str, built: KnownGroup) -> bool:
        by_group = assignment.group is None or assignment.group in (built.name, built.at)
        return by_group and _named(assignment, name)

    def fits(self, assignment: Assign, known: KnownGroup) -> bool:
        """Whether an assignment is for a group."""
        parameters = known.group["params"]
        return self._fits(assignment, self._name(parameters[0]) if parameters else "", known)

    def share(self, index: int, known: KnownGroup) -> float:
        """The factor of a group's layer in the assignment `index`."""
        assignment = self._assignments[index]
        layers = self._layers.get(index)
        if layers is None:
            return 1.0
        name = self._name(known.group["params"][0])
        if name not in layers:
            raise InvalidArgumentError(
                "Assign.layer_decay", assignment.layer_decay, "for parameters of the module only"
            )
        top: int = max(layers.values())
        factor = power(assignment.layer_decay, top - layers[name])
        if not factor < math.inf:
            hint = f"The lowest of {top + 1} layers would have {assignment.layer_decay:g} ** {top} times the value."
            raise InvalidArgumentError("Assign.layer_decay", assignment.layer_decay, "smaller", hint)
        return float(factor)


def layers_of(assignment: Assign, names: Sequence[str]) -> dict[str, int]:
    """The layer of each parameter, numbered from 0, the lowest.

    Raises:
        InvalidArgumentError: a parameter is in none of the assignment's layers.
    """
    keys = {name: _layer_key(assignment.layers, name, _depth(names)) for name in names}
    strays = [name for name, key in keys.items() if key is None]
    if strays:
        raise InvalidArgumentError(
            "Assign.layers",
            assignment.layers,
            "expressions that find all parameters",
            f"None of them finds {', '.join(strays[:5])}{' ...' if len(strays) > 5 else ''}.",
        )
    order = dict.fromkeys(keys.values())
    ranked = list(order) if assignment.layers is None else sorted(order)  # type: ignore[type-var]
    return {name: ranked.index(key) for name, key in keys.items()}


def _depth(names: Sequence[str]) -> int | None:
    """The depth of the outermost numbered modules; None where no module is numbered."""
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


def _cleaned(pattern: str | None) -> str:
    """A regular expression as a name: its letters and digits, joined by hyphens."""
    return re.sub(r"\W+", "-", pattern or "").strip("-")
