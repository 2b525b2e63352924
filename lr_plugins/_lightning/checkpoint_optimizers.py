"""What a Lightning checkpoint tells of its optimizers, where it holds nothing of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class SavedOptimizer:
    """An optimizer as a checkpoint has it.

    Args:
        sizes: how many parameters each of its param groups has.
        rates: the learning rate of each group; None where it is no number.
        steps: how often it has stepped; None where its state does not say.
        scheduled: whether the checkpoint is of a run with schedulers of torch.
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
    """What has param groups: the state, or that of an optimizer within (a wrapper keeps its base's under a name)."""
    if isinstance(state, Mapping):
        if isinstance(state.get("param_groups"), list):
            yield state
        for value in state.values():
            if isinstance(value, Mapping):
                yield from _with_groups(value)


def _steps(state: Any, groups: list[Mapping[str, Any]]) -> int | None:
    """The most steps that a parameter has had; SGD does not count them."""
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
