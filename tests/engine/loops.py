"""Plain loops: an optimizer, its parameters, and steps without a Trainer."""

from __future__ import annotations

import torch
from torch import nn


def parameters(count: int) -> list[nn.Parameter]:
    """Parameters of one number each, with a gradient of 1."""
    made = [nn.Parameter(torch.zeros(1)) for _ in range(count)]
    for parameter in made:
        parameter.grad = torch.ones(1)
    return made


def sgd(*rates: float, lr: float = 0.1) -> torch.optim.SGD:
    """One param group for each rate, of an optimizer whose default is `lr`."""
    groups = [
        {"params": [parameter], "lr": rate} for parameter, rate in zip(parameters(len(rates)), rates, strict=True)
    ]
    return torch.optim.SGD(groups, lr=lr)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """What the groups hold."""
    return [group["lr"] for group in optimizer.param_groups]
