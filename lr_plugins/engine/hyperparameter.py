"""The hyper-parameters in an optimizer's param groups that a schedule can drive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.validation import LARGEST

_BETAS = {"beta1": 0, "beta2": 1}


@dataclass(frozen=True)
class HyperParameter:
    """The place of a hyper-parameter in a param group, and its allowed values.

    Args:
        name: its name in messages and in the trace.
        key: its key in a param group.
        at: its index, if the key holds a tuple of numbers.
    """

    name: str
    key: str
    at: int | None = None

    @classmethod
    def of(cls, name: str, group: Mapping[str, Any]) -> HyperParameter | None:
        """The hyper-parameter in a group; None if the group does not have it. Groups of an optimizer may differ."""
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
        """Its value; None if reading it would synchronize with an accelerator."""
        value = values[self.key] if self.at is None else values[self.key][self.at]
        return None if isinstance(value, torch.Tensor) and value.device.type != "cpu" else float(value)

    def default(self, optimizer: Optimizer) -> float | None:
        """The default of an optimizer, if it has one."""
        defaults = getattr(optimizer, "defaults", {})  # a wrapper may have none
        return self.read(defaults) if self == HyperParameter.of(self.name, defaults) else None

    def write_within(self, group: dict[str, Any], value: float) -> None:
        """Write it into a tuple of plain numbers."""
        assert self.at is not None
        numbers = list(group[self.key])
        numbers[self.at] = value
        group[self.key] = tuple(numbers)

    def own_tensor(self, optimizer: Optimizer, group: dict[str, Any]) -> torch.Tensor | None:
        """The tensor of a group, if it keeps one; a shared tensor is replaced by a copy.

        In torch, groups may share a tensor with each other and with the optimizer's defaults.
        """
        tensor = self.kept(group)
        if not isinstance(tensor, torch.Tensor):
            return None
        others = [self.kept(other) for other in optimizer.param_groups if other is not group]
        if any(tensor is other for other in (*others, self.kept(getattr(optimizer, "defaults", {})))):
            tensor = tensor.clone()
            if self.at is None:
                group[self.key] = tensor
            else:
                group[self.key] = tuple(tensor if at == self.at else other for at, other in enumerate(group[self.key]))
        return tensor

    def kept(self, values: Mapping[str, Any]) -> Any:
        """The number or tensor that the group holds; None if there is neither."""
        kept = values.get(self.key)
        return kept if self.at is None or kept is None else kept[self.at]

    @property
    def largest(self) -> float:
        """Its largest allowed value."""
        # torch refuses a beta of 1: the running mean would never change.
        return math.nextafter(1.0, 0.0) if self.key == "betas" else LARGEST

    def largest_in(self, group: Mapping[str, Any]) -> float:
        """The largest value that a param group can hold; lower for a tensor of lower precision."""
        kept = self.kept(group)
        if not isinstance(kept, torch.Tensor) or not kept.dtype.is_floating_point or kept.dtype == torch.float64:
            return self.largest
        numbers = torch.finfo(kept.dtype)
        if self.key == "betas":
            return float(1.0 - numbers.eps / 2.0)  # the largest below 1
        return self.largest if kept.dtype == torch.float32 else min(self.largest, float(numbers.max))

    @property
    def allowed(self) -> str:
        """The allowed values, completing the sentence "the <name> must be ..."."""
        return "a finite number >= 0" if self.largest > 1 else "a number >= 0 and < 1"

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "learning rate" if self.name == "lr" else self.name.replace("_", " ")


LEARNING_RATE = HyperParameter("lr", "lr")


def has_hyper_parameter(name: str, optimizer: Optimizer) -> bool:
    """Whether one of an optimizer's param groups has it; without groups, whether the defaults have it."""
    groups = optimizer.param_groups or [getattr(optimizer, "defaults", {})]
    return any(HyperParameter.of(name, group) is not None for group in groups)


def check_hyper_parameter(name: str, optimizer: Optimizer, groups: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a hyper-parameter that none of the param groups has.

    Raises:
        InvalidArgumentError: no group has it; the message lists those they have, or says that the optimizer chooses its
            own learning rate.
    """
    groups = list(groups)
    if any(HyperParameter.of(name, group) is not None for group in groups):
        return
    kind = type(optimizer).__name__
    if any(name in group and group[name] is None for group in groups):
        raise InvalidArgumentError(
            f"{name} of {kind}",
            None,
            "a number, for a schedule to drive",
            f"{kind} computes its own steps while {name} is None. Build it with a number (Adafactor of transformers: "
            "relative_step=False, scale_parameter=False), or choose other optimizers or groups by Assign.",
        )
    names = [key for group in groups for key in group if key != "params" and HyperParameter.of(key, group)]
    names += [beta for beta in ("momentum", *_BETAS) for group in groups if HyperParameter.of(beta, group)]
    allowed = f"a number in the param groups of {kind}: {', '.join(dict.fromkeys(names))}"
    raise InvalidArgumentError("Assign.to", name, allowed)
