"""Maps assignments to param groups. A group is split if an assignment selects only some of its parameters."""

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
    cache_known_groups,
    cached_known_groups,
    chosen_parameters,
    find_copies,
    groups_of,
    match_groups,
)
from lr_plugins.engine.step_hooks import inner_optimizers
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.assign import Assign
from lr_plugins.schedules.numerics import power

Names = Mapping[int, str]
"""Maps the id of a parameter to its name."""

Origin = tuple[tuple[int, int | None, tuple[int, int] | None], ...]
"""The assignments for a parameter, each with its layer and, if it matters, the time the parameter was added."""

OTHERS = "others"


def parameter_names(module: nn.Module) -> Names:
    """The names of a module's parameters."""
    return {id(parameter): name for name, parameter in module.named_parameters()}


def names_in_groups(optimizer: Optimizer) -> Names:
    """The parameter names that the optimizer was built with, if any."""
    return {
        id(parameter): name
        for group in optimizer.param_groups
        for name, parameter in zip(group.get("param_names", ()), group["params"], strict=False)
    }


class Layout:
    """Maps the assignments for one optimizer to its param groups.

    Args:
        optimizer: the optimizer.
        assignments: the assignments for it, by their index among all.
        names: the names of the module's parameters.

    Raises:
        InvalidArgumentError: a parameter belongs to none of an assignment's layers.
    """

    def __init__(self, optimizer: Optimizer, assignments: Mapping[int, Assign], names: Names) -> None:
        self._optimizer, self._assignments, self._names = optimizer, assignments, names
        self._layers = {
            index: layers_of(assignment, [name for name in names.values() if _matches_name(assignment, name)])
            for index, assignment in assignments.items()
            if assignment.layer_decay != 1.0
        }
        self._assigned_names: set[str] = set()  # of groups
        self._removed: list[KnownGroup] = []  # they may be added again
        self.added_at: dict[int, tuple[int, int]] = {}  # parameter id -> step and epoch
        self.groups: list[KnownGroup] = []

    def parameters(self) -> list[list[str]]:
        """The names of the parameters of each group."""
        return [[self._name(parameter) for parameter in known.group["params"]] for known in self.groups]

    def arrange(self, now: tuple[int, int] = (0, 0)) -> None:
        """Read the current groups, and split those of which an assignment selects only some parameters.

        Args:
            now: the optimizer step and the epoch at which new groups are added.
        """
        inner = inner_optimizers(self._optimizer)
        candidates = [*(self.groups or cached_known_groups(self._optimizer)), *self._removed]
        removed = {id(known): known.group for known in self._removed}
        matched = match_groups(groups_of(self._optimizer, inner), candidates, now)
        self._removed = [known for known in candidates if known not in matched]
        self._note_added(matched, removed, now)
        pieces = {id(known.group): self._pieces(known) for known in matched}
        self.groups = [piece for parts in pieces.values() for piece in parts]
        if len(self.groups) > len(pieces):
            for optimizer in (self._optimizer, *inner):  # they may share one list
                groups = optimizer.param_groups
                split = (pieces.get(id(group)) for group in list(groups))
                groups[:] = [
                    piece
                    for group, parts in zip(list(groups), split, strict=True)
                    for piece in ([part.group for part in parts] if parts else [group])
                ]
        for piece in self.groups:
            added = [self.added_at[id(parameter)] for parameter in piece.group["params"]]
            piece.added_at = added[0] if added else piece.added_at
        find_copies(self.groups, inner)
        cache_known_groups(self._optimizer, self.groups)

    def _note_added(self, known: Sequence[KnownGroup], removed: Mapping[int, Group], now: tuple[int, int]) -> None:
        """Note when parameters were added, and reset the initial values of groups that were added again."""
        present = {id(parameter): known_group for known_group in known for parameter in known_group.group["params"]}
        self.added_at = {parameter: when for parameter, when in self.added_at.items() if parameter in present}
        for parameter, known_group in present.items():
            is_new = id(known_group) in removed or bool(self.added_at)
            self.added_at.setdefault(parameter, now if is_new else known_group.added_at)
        for known_group in known:
            has_returned = id(known_group) in removed and known_group.group is not removed[id(known_group)]
            if has_returned and not all(known_group.holds(hyper) for hyper in known_group.initial_values):
                known_group.initial_values, known_group.base_values = {}, {}

    def restore_added_at(self, added_at: Sequence[tuple[int, int]]) -> None:
        """Restore when each of the groups was added."""
        for known, when in zip(self.groups, added_at, strict=True):
            known.added_at = when
            self.added_at |= {id(parameter): when for parameter in known.group["params"]}

    def _pieces(self, known: KnownGroup) -> list[KnownGroup]:
        group = known.group
        parameter_places = [self._place(parameter, known) for parameter in group["params"]]
        places = list(dict.fromkeys(parameter_places)) or [()]
        if len(places) == 1:
            label = self._label(None, places[0])
            if label and "name" not in group:
                group["name"] = self._unused(label, group)
            return [known]
        if isinstance(self._optimizer, torch.optim.LBFGS):
            patterns = [assignment.params for assignment in self._assignments.values() if assignment.params]
            chosen = patterns[0] if patterns else None
            raise InvalidArgumentError("Assign.params", chosen, "omitted for LBFGS, whose parameters cannot be split")
        pieces = []
        for place in places:
            chosen_indices = [index for index, other in enumerate(parameter_places) if other == place]
            name = self._unused(self._label(known.name, place) or OTHERS, group)
            piece = known.as_group({**group, **chosen_parameters(group, chosen_indices), "name": name})
            pieces.append(piece)
        kept = next((piece for piece, place in zip(pieces, places, strict=True) if not place), pieces[0])
        for piece in pieces:
            piece.series = known.series if piece is kept else None  # one piece continues the series of the whole group
        return pieces

    def _unused(self, name: str, group: Group) -> str:
        """A unique name: Lightning's LearningRateMonitor refuses duplicates."""
        others = (other.get("name") for other in self._optimizer.param_groups if other is not group)
        taken = {*others, *self._assigned_names}
        numbered = (f"{name}-{count}" for count in itertools.count(2))
        unused = name if name not in taken else next(other for other in numbered if other not in taken)
        self._assigned_names.add(unused)
        return unused

    def _place(self, parameter: nn.Parameter, known: KnownGroup) -> Origin:
        """The assignments that select a parameter by name, each with its layer and the time it was added."""
        return tuple(
            (
                index,
                self._layer(index, parameter),
                self.added_at[id(parameter)] if assignment.since == "group" else None,
            )
            for index, assignment in self._assignments.items()
            if (assignment.chooses or assignment.layer_decay != 1.0 or assignment.since == "group")
            and self._fits(assignment, self._name(parameter), known)
        )

    def _label(self, name: str | None, place: Origin) -> str:
        parts = [name]
        for index, layer, _ in place:
            assignment = self._assignments[index]
            parts += [assignment.name or _as_name(assignment.params)] if assignment.chooses else []
            parts += [] if layer is None else [f"layer{layer}"]
        return "/".join(part for part in parts if part)

    def _name(self, parameter: nn.Parameter) -> str:
        return self._names.get(id(parameter), "")

    def _layer(self, index: int, parameter: nn.Parameter) -> int | None:
        return self._layers[index].get(self._name(parameter)) if index in self._layers else None

    @staticmethod
    def _fits(assignment: Assign, name: str, known: KnownGroup) -> bool:
        by_group = assignment.group is None or assignment.group in (known.name, known.at)
        return by_group and _matches_name(assignment, name)

    def fits(self, assignment: Assign, known: KnownGroup) -> bool:
        """Whether an assignment applies to a group."""
        parameters = known.group["params"]
        return self._fits(assignment, self._name(parameters[0]) if parameters else "", known)

    def layer_scale(self, index: int, known: KnownGroup) -> float:
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
        InvalidArgumentError: a parameter belongs to none of the assignment's layers.
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
    """The depth of the outermost numbered modules; None if no module is numbered."""
    depths = [index for name in names for index, part in enumerate(name.split(".")) if part.isdigit()]
    return min(depths, default=None)


def _layer_key(layers: Sequence[str] | None, name: str, depth: int | None) -> tuple[Any, ...] | None:
    if layers is None:
        modules = name.split(".")[:-1]
        numbered = next((index for index, part in enumerate(modules) if part.isdigit()), None)
        end = len(modules) if depth is None else max(depth, 1) if numbered is None else numbered + 1
        return tuple(modules[:end])
    for index, pattern in enumerate(layers):
        match = re.search(pattern, name)
        if match:
            digits = match.group(1) if match.re.groups else None
            return index, int(digits) if digits and digits.isdigit() else 0
    return None


def _matches_name(assignment: Assign, name: str) -> bool:
    return assignment.params is None or re.search(assignment.params, name) is not None


def _as_name(pattern: str | None) -> str:
    """A name made from a regular expression: its letters and digits, joined by hyphens."""
    return re.sub(r"\W+", "-", pattern or "").strip("-")
