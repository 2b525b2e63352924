"""The param groups of an optimizer, known again when another dictionary takes the place of one."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lr_plugins.callbacks.hyper_parameter import HyperParameter

Group = dict[str, Any]


@dataclass(eq=False)
class KnownGroup:
    """A param group, and what is remembered of it.

    Args:
        group: the dictionary that the optimizer has now.
        at: its index when it came; the pieces of a group that was split have that of the group.
        name: its name then, if it had one.
        owns: what it was built with.
        bases: the optimizer's own values then.
        written: what was written to it last.
        series: what its series are called after the hyper-parameter: `""` or `"/backbone"`. None: not named yet.
        begun: the optimizer step and the epoch at which it came.
        copies: the dictionaries of optimizers within, which hold the same parameters.
    """

    group: Group
    at: int
    name: str | None = None
    owns: dict[HyperParameter, float] = field(default_factory=dict)
    bases: dict[HyperParameter, float] = field(default_factory=dict)
    written: dict[HyperParameter, float] = field(default_factory=dict)
    series: str | None = None
    begun: tuple[int, int] = (0, 0)
    copies: list[Group] = field(default_factory=list)

    @property
    def parameters(self) -> set[int]:
        """The identities of its parameters."""
        return {id(parameter) for parameter in self.group["params"]}

    def as_group(self, group: Group) -> KnownGroup:
        """The same for another dictionary: one that was put in its place, or a piece of it."""
        return dataclasses.replace(
            self,
            group=group,
            owns=dict(self.owns),
            bases=dict(self.bases),
            written=dict(self.written),
            copies=[],
        )


_KNOWN: weakref.WeakKeyDictionary[Any, list[KnownGroup]] = weakref.WeakKeyDictionary()


def remembered(optimizer: Any) -> list[KnownGroup]:
    """What is remembered of an optimizer's groups."""
    return _KNOWN.get(optimizer, []) if _can_be_remembered(optimizer) else []


def remember(optimizer: Any, groups: Iterable[KnownGroup]) -> None:
    """Keep it for as long as the optimizer lives."""
    if _can_be_remembered(optimizer):
        _KNOWN[optimizer] = list(groups)


def _can_be_remembered(optimizer: Any) -> bool:
    """Whether there can be weak references to an optimizer: an object with slots may have none."""
    try:
        return hash(weakref.ref(optimizer)) is not None
    except TypeError:
        return False


def match_groups(groups: list[Group], known: list[KnownGroup], begun: tuple[int, int] = (0, 0)) -> list[KnownGroup]:
    """What is known of each of the groups; of those that are new, that they are there.

    A group is known by its dictionary; or else by its parameters, if those were in one that is there no more, as after
    `load_state_dict`.

    Args:
        groups: those that there are now.
        known: what is remembered; of a group that was replaced, the new dictionary is taken.
        begun: the optimizer step and the epoch at which those come that are new.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> [group] = match_groups([{"params": [weight], "lr": 0.1}], [])
        >>> [same] = match_groups([{"params": [weight], "lr": 0.2}], [group])
        >>> same is group, group.group["lr"]
        (True, 0.2)
    """
    by_dictionary = {id(one.group): one for one in known}
    there = {id(group) for group in groups}
    gone = [one for one in known if id(one.group) not in there]
    by_parameter = {parameter: one for one in gone for parameter in one.parameters}
    following = max((one.at for one in known), default=-1) + 1
    found: list[KnownGroup] = []
    for group in groups:
        one = by_dictionary.get(id(group))
        if one is None:
            one = next((by_parameter[id(each)] for each in group["params"] if id(each) in by_parameter), None)
            if one is None:
                one, following = KnownGroup(group, following, group.get("name"), begun=begun), following + 1
            elif one in found:  # what was one group are several now
                one = one.as_group(group)
            else:
                one.group = group
        found.append(one)
    return found


def name_series(groups: list[KnownGroup]) -> None:
    """Name the series of those that have no name yet: by the group's name, or else by its index.

    A group that is alone needs no name, and has none when others come later.
    """
    taken = {one.series for one in groups if one.series is not None}
    if not taken and len(groups) == 1:
        groups[0].series = ""
        return
    names = [str(one.group.get("name", index)) for index, one in enumerate(groups)]
    for index, (one, name) in enumerate(zip(groups, names, strict=True)):
        if one.series is None:
            alone = names.count(name) == 1 and f"/{name}" not in taken
            one.series = f"/{name}" if alone else f"/{name}-{index}"
            taken.add(one.series)
