"""The optimizers in a Lightning checkpoint, for checkpoints that were saved without LearningRateScheduler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class SavedOptimizer:
    """An optimizer in a checkpoint.

    Args:
        sizes: the number of parameters in each param group.
        rates: the learning rate of each group; None if it is not a number.
        steps: the number of steps taken; None if the state does not contain it.
        scheduled: whether the run had torch schedulers.
    """

    sizes: list[int] = field(default_factory=list)
    rates: list[float | None] = field(default_factory=list)
    steps: int | None = None
    scheduled: bool = False


def saved_optimizers(checkpoint: Mapping[str, Any]) -> list[SavedOptimizer]:
    """The optimizers of a checkpoint, in their order.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> adam = torch.optim.Adam([weight], lr=0.1)
        >>> weight.sum().backward()
        >>> adam.step()
        >>> saved_optimizers({"optimizer_states": [adam.state_dict()]})
        [SavedOptimizer(sizes=[1], rates=[0.1], steps=1, scheduled=False)]
    """
    scheduled = bool(checkpoint.get("lr_schedulers"))
    return [_saved_optimizer(state, scheduled) for state in checkpoint.get("optimizer_states") or []]


def _saved_optimizer(state: Any, scheduled: bool) -> SavedOptimizer:
    with_groups: Mapping[str, Any] = next(_with_groups(state), {"param_groups": [], "state": {}})
    groups = [group for group in with_groups["param_groups"] if isinstance(group, Mapping)]
    return SavedOptimizer(
        [len(group.get("params", ())) for group in groups],
        [_number(group.get("lr")) for group in groups],
        _steps(with_groups.get("state"), groups),
        scheduled,
    )


def _with_groups(state: Any) -> Iterator[Mapping[str, Any]]:
    """The states with param groups: this one, and those of inner optimizers, which a wrapper keeps under a name."""
    if isinstance(state, Mapping):
        if isinstance(state.get("param_groups"), list):
            yield state
        for value in state.values():
            if isinstance(value, Mapping):
                yield from _with_groups(value)


def _steps(state: Any, groups: list[Mapping[str, Any]]) -> int | None:
    """The largest step count of a parameter; SGD does not keep one."""
    states = state.values() if isinstance(state, Mapping) else ()
    counts = [
        _number(state_or_group.get("step"))
        for state_or_group in (*states, *groups)
        if isinstance(state_or_group, Mapping)
    ]
    known = [count for count in counts if count is not None]
    return int(max(known)) if known else None


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
