"""The learning rate that an optimizer was built with."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lr_plugins.engine.hyperparameter import LEARNING_RATE
from lr_plugins.errors import InvalidArgument


class OptimizerLR:
    """An optimizer's own learning rate, of which each param group has its share.

    Args:
        optimizer: the optimizer, as it was built.

    Raises:
        InvalidArgument: its groups have different learning rates, and its default is 0, to which they have no ratio.

    Example:
        >>> import torch
        >>> weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        >>> groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.05}]
        >>> optimizer = torch.optim.SGD(groups, lr=0.1)
        >>> OptimizerLR(optimizer).become(0.5)
        >>> [group["lr"] for group in optimizer.param_groups], optimizer.defaults["lr"]
        ([0.5, 0.25], 0.5)
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        owns = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        default = LEARNING_RATE.default(optimizer)
        alike = len(set(owns)) == 1
        self.value = owns[0] if alike or default is None else default
        if not alike and not self.value > 0:
            raise InvalidArgument(
                f"the default lr of {self.name}",
                self.value,
                "greater than 0 where param groups have values of their own",
            )
        self._shares = [1.0 if alike else own / self.value for own in owns]

    @property
    def name(self) -> str:
        """The optimizer's class."""
        return type(self._optimizer).__name__

    def try_out(self, value: float) -> None:
        """Give each group its share of a value, for the steps to come."""
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            _put(self._optimizer, group, value * share)

    def become(self, value: float) -> None:
        """Be as if the optimizer had been built with a value."""
        self.try_out(value)
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            if "initial_lr" in group:
                group["initial_lr"] = value * share
        default = self._optimizer.defaults.get("lr")
        self._optimizer.defaults["lr"] = default.new_full((), value) if isinstance(default, Tensor) else value
        self.value = value


def _put(optimizer: Optimizer, group: dict[str, Any], value: float) -> None:
    tensor = LEARNING_RATE.own_tensor(optimizer, group)
    if tensor is None:
        group["lr"] = value
    else:  # in place: compiled optimizers hold on to it
        tensor.fill_(value)
