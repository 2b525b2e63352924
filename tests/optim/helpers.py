"""Helpers for the tests of KerasSGD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

UPDATES = 60
# One entry per update: the learning rate moves every few updates, up and down, and is 0 for a while.
MOVING = [lr for lr in (0.05, 0.2, 0.01, 0.0, 0.1, 0.05, 0.3, 0.002, 0.02, 0.15, 0.05, 0.01) for _ in range(5)]
# 60 float32 updates of weights below 3 (a rounding there is up to 1.2e-7): 1.2e-6 is the most that was measured,
# between the rule in float64, operation by operation in float32, and torch.
ROUNDING = 1.5e-6
RULES = pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.0, True), (0.9, False), (0.9, True)], ids=str
)


def the_rule(weight, gradients, lrs, momentum, nesterov):
    """The trajectory in float64, by the formula and nothing else."""
    w, v, trajectory = np.asarray(weight, np.float64), np.zeros(np.shape(weight)), []
    for g, lr in zip(np.asarray(gradients, np.float64), lrs, strict=True):
        v = momentum * v - lr * g
        w = w + (momentum * v - lr * g if nesterov else v)
        trajectory.append(w)
    return np.array(trajectory)


def updates(optimizer, weight, gradients, lrs):
    """The trajectory of `weight` under prescribed gradients and learning rates."""
    trajectory = []
    for gradient, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.as_tensor(gradient).clone()
        optimizer.step()
        trajectory.append(weight.detach().numpy().copy())
    return np.array(trajectory)


def prescribed(size=1003, seed=0):
    """Float32 start and gradients; the size leaves a remainder in vectors of 4, 8 and 16."""
    generator = np.random.default_rng(seed)
    start = (0.3 * generator.standard_normal(size)).astype(np.float32)
    return start, (0.1 * generator.standard_normal((UPDATES, size))).astype(np.float32)


def parameter(value):
    return nn.Parameter(torch.as_tensor(value).clone())
