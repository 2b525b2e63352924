"""The names of the series of a trace."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer


def series_suffixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """The suffix of each optimizer's series: `""` for a single one, `/<class>-<index>` for each of several."""
    if len(optimizers) == 1:
        return [""]
    return [f"/{type(optimizer).__name__}-{index}" for index, optimizer in enumerate(optimizers)]
