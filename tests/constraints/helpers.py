"""Helpers for the tests of constraints."""

from __future__ import annotations

import torch
from torch import nn

from lr_plugins.keras.constraints import (
    Constraint,
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    UnitNorm,
)

EPS = 1e-7
EACH = [MaxNorm(0.5), UnitNorm(), MinMaxNorm(0.2, 0.6, 0.5), NonNeg(), NonNeg("keras2")]


class Halved(Constraint):
    """One of a user's own."""

    def __call__(self, w):
        return w / 2


def parameter(*values):
    return nn.Parameter(torch.tensor(values))
