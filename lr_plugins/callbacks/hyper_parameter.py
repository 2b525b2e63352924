"""The numbers in an optimizer's param groups that a schedule can drive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from lr_plugins.errors import InvalidArgument

_LARGEST = 3.4028235677973362e38  # rounds to the largest number of the parameters' single precision
_BETAS = {"beta1": 0, "beta2": 1}


@dataclass(frozen=True)
class HyperParameter:
    """Where a hyper-parameter is kept in a param group, and which values it may have.

    Args:
        name: what it is called in messages and in the trace.
        key: its key in a param group.
        at: its place, where a tuple of numbers is kept under the key.
    """

    name: str
    key: str
    at: int | None = None

    @classmethod
    def of(cls, name: str, optimizer: Optimizer) -> HyperParameter | None:
        """That of an optimizer, or None if it has no such number."""
        group = optimizer.param_groups[0] if optimizer.param_groups else optimizer.defaults
        if name == "momentum" and "momentum" not in group and "betas" in group:
            return cls("momentum", "betas", 0)
        if name in _BETAS:
            return cls(name, "betas", _BETAS[name]) if "betas" in group else None
        value = group.get(name)
        is_number = isinstance(value, (int, float, torch.Tensor)) and not isinstance(value, bool)
        return cls(name, name) if is_number else None

    def read(self, values: dict[str, Any]) -> float:
        """Its value in a param group, or among an optimizer's defaults."""
        value = values[self.key]
        return float(value if self.at is None else value[self.at])

    def read_without_waiting(self, values: dict[str, Any]) -> float | None:
        """The same, or None where it is on an accelerator, whose work would have to be waited for."""
        value = values[self.key] if self.at is None else values[self.key][self.at]
        return None if isinstance(value, torch.Tensor) and value.device.type != "cpu" else float(value)

    def default(self, optimizer: Optimizer) -> float | None:
        """The optimizer's default, if it has one."""
        return self.read(optimizer.defaults) if self.key in optimizer.defaults else None

    def write_within(self, group: dict[str, Any], value: float) -> None:
        """Write it into a tuple of plain numbers."""
        assert self.at is not None
        numbers = list(group[self.key])
        numbers[self.at] = value
        group[self.key] = tuple(numbers)

    def own_tensor(self, optimizer: Optimizer, group: dict[str, Any]) -> torch.Tensor | None:
        """The tensor of a group, if it keeps one; it is made the group's own first.

        torch lets groups share one with each other and with the optimizer's default.
        """
        tensor = self._kept(group)
        if not isinstance(tensor, torch.Tensor):
            return None
        others = [self._kept(one) for one in optimizer.param_groups if one is not group]
        if any(tensor is other for other in (*others, self._kept(optimizer.defaults))):
            tensor = tensor.clone()
            if self.at is None:
                group[self.key] = tensor
            else:
                group[self.key] = tuple(tensor if at == self.at else one for at, one in enumerate(group[self.key]))
        return tensor

    def _kept(self, values: dict[str, Any]) -> Any:
        kept = values.get(self.key)
        return kept if self.at is None or kept is None else kept[self.at]

    @property
    def largest(self) -> float:
        """The largest value it may have."""
        # torch refuses a beta of 1: the mean it is the memory of would never learn anything.
        return math.nextafter(1.0, 0.0) if self.key == "betas" else _LARGEST

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return "learning rate" if self.name == "lr" else self.name.replace("_", " ")


LEARNING_RATE = HyperParameter("lr", "lr")


def hyper_parameter(name: str, optimizer: Optimizer) -> HyperParameter:
    """That of an optimizer.

    Raises:
        InvalidArgument: the optimizer has no such number.
    """
    found = HyperParameter.of(name, optimizer)
    if found is None:
        group = optimizer.param_groups[0]
        names = [key for key in group if key != "params" and HyperParameter.of(key, optimizer)]
        names += [beta for beta in ("momentum", *_BETAS) if HyperParameter.of(beta, optimizer)]
        allowed = f"a number in the param groups of {type(optimizer).__name__}: {', '.join(dict.fromkeys(names))}"
        raise InvalidArgument("Assign.to", name, allowed)
    return found
