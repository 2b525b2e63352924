"""The names of the series of a trace."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from lr_plugins.engine.known_groups import KnownGroup


def series_suffixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """The suffix of each optimizer's series: `""` for a single one, `/<class>-<index>` for each of several."""
    if len(optimizers) == 1:
        return [""]
    return [f"/{type(optimizer).__name__}-{index}" for index, optimizer in enumerate(optimizers)]


def name_series(groups: list[KnownGroup]) -> None:
    """Name the series of groups that have none yet, by the group's name or else its index.

    A single group needs no name, and keeps none if others are added later.
    """
    taken = {known.series for known in groups if known.series is not None}
    if not taken and len(groups) == 1:
        groups[0].series = ""
        return
    names = [str(known.group.get("name", index)) for index, known in enumerate(groups)]
    for index, (known, name) in enumerate(zip(groups, names, strict=True)):
        if known.series is None:
            alone = names.count(name) == 1 and f"/{name}" not in taken
            known.series = f"/{name}" if alone else f"/{name}-{index}"
            taken.add(known.series)
