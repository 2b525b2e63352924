"""The param groups of an optimizer, recognized even if their dictionaries are replaced."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lr_plugins.engine.hyperparameter import HyperParameter

Group = dict[str, Any]


@dataclass(eq=False)
class KnownGroup:
    """A param group and its history.

    Args:
        group: its current dictionary in the optimizer.
        at: its index when it was added; the pieces of a split group have that of the whole group.
        name: its name at that time, if it had one.
        initial_values: the values that it was built with.
        base_values: the optimizer's own values at that time.
        written: the values last written to it.
        series: the suffix in the names of its series: `""` or `"/backbone"`. None: not named yet.
        added_at: the optimizer step and the epoch at which it was added.
        copies: the dictionaries for the same parameters in inner optimizers.
    """

    group: Group
    at: int
    name: str | None = None
    initial_values: dict[HyperParameter, float] = field(default_factory=dict)
    base_values: dict[HyperParameter, float] = field(default_factory=dict)
    written: dict[HyperParameter, float] = field(default_factory=dict)
    series: str | None = None
    added_at: tuple[int, int] = (0, 0)
    copies: list[Group] = field(default_factory=list)

    @property
    def parameters(self) -> set[int]:
        """The ids of its parameters."""
        return {id(parameter) for parameter in self.group["params"]}

    @property
    def used(self) -> Group:
        """The dictionary whose values a step uses: that of the innermost optimizer."""
        return self.copies[-1] if self.copies else self.group

    def holds(self, hyper: HyperParameter) -> bool:
        """Whether it still holds what was written last."""
        written = self.written.get(hyper)
        return written is not None and math.isclose(hyper.read(self.group), written, rel_tol=1e-6)

    def as_group(self, group: Group) -> KnownGroup:
        """A copy for another dictionary: its replacement, or a part of it."""
        return dataclasses.replace(
            self,
            group=group,
            initial_values=dict(self.initial_values),
            base_values=dict(self.base_values),
            written=dict(self.written),
            copies=[],
        )


class _ByIdentity:
    """Maps objects to their known groups, weakly and by identity: they may not be hashable."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], list[KnownGroup]]] = {}

    def get(self, target: Any) -> list[KnownGroup]:
        reference, known = self._known.get(id(target), (None, []))
        return known if reference is not None and reference() is target else []

    def put(self, target: Any, known: list[KnownGroup]) -> None:
        key = id(target)
        try:
            reference = weakref.ref(target, lambda _: self._known.pop(key, None))
        except TypeError:  # an object with slots may not support weak references
            return
        self._known[key] = reference, known


_KNOWN = _ByIdentity()


def cached_known_groups(optimizer: Any) -> list[KnownGroup]:
    """The known groups of an optimizer."""
    return _KNOWN.get(optimizer)


def cache_known_groups(optimizer: Any, groups: Iterable[KnownGroup]) -> None:
    """Keep the known groups for as long as the optimizer exists."""
    _KNOWN.put(optimizer, list(groups))


def groups_of(optimizer: Any, inner: Sequence[Any]) -> list[Group]:
    """The param groups of an optimizer, and those that only its inner optimizers have."""
    groups = list(optimizer.param_groups)
    parameters = {id(parameter) for group in groups for parameter in group["params"]}
    for inner_optimizer in inner:
        groups += [
            group
            for group in inner_optimizer.param_groups
            if not any(group is known for known in groups)
            and not parameters & {id(parameter) for parameter in group["params"]}
        ]
    return groups


def find_copies(groups: Sequence[KnownGroup], inner: Sequence[Any]) -> None:
    """Find the dictionaries of inner optimizers for the same parameters, and split them in the same way."""
    owner = {id(parameter): known for known in groups for parameter in known.group["params"]}
    own_groups = {id(known.group) for known in groups}
    for known in groups:
        known.copies = []
    for optimizer in inner:
        inner_groups: list[Group] = []
        for group in optimizer.param_groups:
            places: dict[KnownGroup, list[int]] = {}
            for index, parameter in enumerate(group["params"]):
                if id(group) not in own_groups and id(parameter) in owner:
                    places.setdefault(owner[id(parameter)], []).append(index)
            pieces = {known: {**group, **chosen_parameters(group, which)} for known, which in places.items()}
            if len(pieces) < 2:
                pieces = dict.fromkeys(pieces, group)
            for known, piece in pieces.items():
                known.copies.append(piece)
            inner_groups += pieces.values() if len(pieces) > 1 else [group]
        if len(inner_groups) > len(optimizer.param_groups):
            optimizer.param_groups[:] = inner_groups


def chosen_parameters(group: Group, which: Sequence[int]) -> Group:
    """The parameters of a group at some indices, and their names."""
    return {key: [group[key][index] for index in which] for key in ("params", "param_names") if key in group}


def match_groups(groups: list[Group], known: list[KnownGroup], added_at: tuple[int, int] = (0, 0)) -> list[KnownGroup]:
    """Match each group to a known one, or to a new entry.

    A group is recognized by its dictionary; if that has been replaced, as by `load_state_dict`, by its parameters.

    Args:
        groups: the current groups.
        known: the known groups; the entry of a replaced group gets the new dictionary.
        added_at: the optimizer step and the epoch at which new groups are added.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> [group] = match_groups([{"params": [weight], "lr": 0.1}], [])
        >>> [same] = match_groups([{"params": [weight], "lr": 0.2}], [group])
        >>> same is group, group.group["lr"]
        (True, 0.2)
    """
    by_dictionary = {id(match.group): match for match in known}
    present = {id(group) for group in groups}
    removed = [match for match in known if id(match.group) not in present]
    by_parameter = {parameter: match for match in removed for parameter in match.parameters}
    next_index = max((match.at for match in known), default=-1) + 1
    matches: list[KnownGroup] = []
    for group in groups:
        match = by_dictionary.get(id(group))
        if match is None:
            match = next(
                (by_parameter[id(parameter)] for parameter in group["params"] if id(parameter) in by_parameter), None
            )
            if match is None:
                match, next_index = KnownGroup(group, next_index, group.get("name"), added_at=added_at), next_index + 1
            elif match in matches:  # one group has become several
                match = match.as_group(group)
                match.series = None
            else:
                match.group = group
        matches.append(match)
    return matches
