"""The values that an optimizer was built with: its base value, and the scale of each param group."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch.optim import Optimizer

from lr_plugins.engine.hyperparameter import LEARNING_RATE, HyperParameter
from lr_plugins.errors import InvalidArgumentError


def initial_value(hyper: HyperParameter, group: dict[str, Any], optimizer: Optimizer) -> float:
    """The value that a param group was built with; a torch scheduler keeps it as `initial_lr`.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5)
        >>> optimizer.param_groups[0]["lr"], initial_value(LEARNING_RATE, optimizer.param_groups[0], optimizer)
        (0.05, 0.1)
    """
    if hyper != LEARNING_RATE or "initial_lr" not in group:
        return hyper.read(group)
    default = hyper.default(optimizer)
    # OneCycleLR replaces initial_lr by a fraction of its own peak; the value that the group was built with is lost.
    return default if "max_lr" in group and default is not None else float(group["initial_lr"])


def base_value(initial_values: Collection[float], default: float | None) -> float:
    """The optimizer's own value: that of its groups if they agree, otherwise its default, if it has one.

    Args:
        initial_values: those of its groups; at least one.
        default: the optimizer's default; None if it has none.

    Example:
        >>> base_value([0.1, 0.1], default=0.3), base_value([0.1, 0.2], default=0.3), base_value([0.1, 0.2], None)
        (0.1, 0.3, 0.1)
    """
    return next(iter(initial_values)) if default is None or len(set(initial_values)) == 1 else default


def scale_of(initial: float, base: float, hyper: HyperParameter, optimizer: Optimizer, group: int) -> float:
    """The ratio of a group's initial value to the optimizer's, which it keeps while a schedule drives it.

    Args:
        initial: the value that the group was built with.
        base: the optimizer's own value.
        hyper: the hyper-parameter.
        optimizer: the optimizer, for the message.
        group: the index of the group, for the message.

    Raises:
        InvalidArgumentError: there is no ratio, because the optimizer's own value is 0 and the group's is not.
    """
    if initial == base:
        return 1.0
    if base > 0:
        return initial / base
    raise InvalidArgumentError(
        f"the default {hyper.name} of {type(optimizer).__name__}",
        base,
        "greater than 0 if param groups have values of their own",
        f"Group {group} has {hyper.name} {initial:g}, and groups keep their ratio to the default.",
    )
