"""The learning rate that an optimizer was built with."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lr_plugins.engine.hyperparameter import LEARNING_RATE
from lr_plugins.engine.initial_values import base_value, initial_value, scale_of


class OptimizerLR:
    """The learning rate that an optimizer was built with; each param group keeps its ratio to it.

    Args:
        optimizer: the optimizer, as it was built.

    Raises:
        InvalidArgumentError: the groups have different learning rates and the default is 0, so there is no ratio.

    Example:
        >>> import torch
        >>> weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        >>> groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.05}]
        >>> optimizer = torch.optim.SGD(groups, lr=0.1)
        >>> OptimizerLR(optimizer).set(0.5)
        >>> [group["lr"] for group in optimizer.param_groups], optimizer.defaults["lr"]
        ([0.5, 0.25], 0.5)
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        initial_values = [initial_value(LEARNING_RATE, group, optimizer) for group in optimizer.param_groups]
        self.value = base_value(initial_values, LEARNING_RATE.default(optimizer))
        self._ratios = [
            scale_of(initial, self.value, LEARNING_RATE, optimizer, group)
            for group, initial in enumerate(initial_values)
        ]

    @property
    def name(self) -> str:
        """The optimizer's class."""
        return type(self._optimizer).__name__

    def try_out(self, value: float) -> None:
        """Use a learning rate for the next steps; the optimizer's default stays."""
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            _set_lr(self._optimizer, group, value * ratio)

    def set(self, value: float) -> None:
        """Change the optimizer as if it had been built with a learning rate."""
        self.try_out(value)
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            if "initial_lr" in group:
                group["initial_lr"] = value * ratio
        default = self._optimizer.defaults.get("lr")
        self._optimizer.defaults["lr"] = default.new_full((), value) if isinstance(default, Tensor) else value
        self.value = value


def _set_lr(optimizer: Optimizer, group: dict[str, Any], value: float) -> None:
    tensor = LEARNING_RATE.own_tensor(optimizer, group)
    if tensor is None:
        group["lr"] = value
    else:  # in place: compiled optimizers keep a reference to it
        tensor.fill_(value)
