"""Keras' optimizers, with the arguments of a Keras script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lr_plugins.checkpoint_state import count
from lr_plugins.console.keras_styles import LEARNING_RATE_NAMES, STYLES, Style
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.optim import KerasSGD
from lr_plugins.schedules.keras.decays import InverseTimeDecay
from lr_plugins.validation import choice, number

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

_BLOCK = 256  # factors computed in one NumPy call, which costs little more than a call for one


class SGD(KerasSGD):
    """Keras' SGD: momentum, Nesterov, and a decay of the learning rate per update.

    `lr_t = lr / (1 + decay * iterations)`, then `v = momentum * v - lr_t * g` and `w = w + v`; with `nesterov`,
    `w = w + momentum * v - lr_t * g`. `iterations` counts the updates before this one, from 0.

    The decay is an `InverseTimeDecay`, `optimizer.decay_schedule`. It multiplies the learning rates in `param_groups`,
    which a scheduler may set: with a `LearningRateScheduler` an update uses `scheduled / (1 + decay * iterations)`, as
    in Keras. The trace and MLflow show the learning rate that was used; `History` and the progress lines show the
    undecayed one, as in Keras.

    Args:
        params: parameters, or dicts of param groups; a group may have its own `lr`, `momentum` and `nesterov`.
        learning_rate: >= 0, a number or a 0-d tensor. Default 0.01.
        momentum: share of the velocity that each update keeps, 0 to 1. Default 0.
        decay: what each update adds to the divisor, >= 0. Default 0: no decay.
        nesterov: look one step of momentum ahead. Default False.
        lr: the older name of `learning_rate`; give only one of the two.

    Raises:
        InvalidArgumentError: an argument outside its range, or both `lr` and `learning_rate`.

    Source: keras.optimizers.SGD of Keras 2, whose `decay` Keras 3 ignores.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> optimizer = SGD([weight], lr=0.5, decay=1.0)
        >>> for _ in range(2):
        ...     weight.grad = torch.tensor(1.0)
        ...     optimizer.step()
        ...     print(weight.item())
        0.5
        0.25
        >>> optimizer.get_config()
        {'lr': 0.5, 'momentum': 0.0, 'decay': 1.0, 'nesterov': False}
        >>> optimizer.iterations
        2
    """

    def __init__(
        self,
        params: ParamsT,
        learning_rate: float | Tensor | None = None,
        momentum: float = 0.0,
        decay: float = 0.0,
        nesterov: bool = False,
        lr: float | Tensor | None = None,
    ) -> None:
        if learning_rate is not None and lr is not None:
            raise InvalidArgumentError("SGD.lr", lr, "left out where learning_rate is given, which is its newer name")
        given = lr if learning_rate is None else learning_rate
        self._given_decay = number("SGD.decay", decay, "a finite number >= 0", at_least=0.0)
        super().__init__(params, 0.01 if given is None else given, momentum, nesterov)

    @property
    def decay(self) -> float:
        """What each update adds to the divisor."""
        # The groups are what torch copies, pickles and loads.
        return float(self.param_groups[0]["decay"]) if self.param_groups else self._given_decay

    @property
    def decay_schedule(self) -> InverseTimeDecay:
        """The decay as a schedule of factors, which starts at 1."""
        return InverseTimeDecay(1.0, decay_steps=1, decay_rate=self.decay)

    @property
    def iterations(self) -> int:
        """The number of updates so far."""
        iterations: int = self.param_groups[0]["iterations"]
        return iterations

    def learning_rate_factor(self) -> float:
        """The factor of the learning rates in the next update: `1 / (1 + decay * iterations)`."""
        decay, iterations = self.decay, self.iterations
        if not decay:
            return 1.0
        cached_decay, first, factors = self.__dict__.get("_factors", (None, 0, []))
        if cached_decay != decay or not first <= iterations < first + len(factors):
            block = np.arange(iterations, iterations + _BLOCK)
            first, factors = iterations, np.asarray(self.decay_schedule(block)).tolist()
            self._factors = decay, first, factors
        return float(factors[iterations - first])

    def _used_learning_rate(self, group: dict[str, Any]) -> float | Tensor:
        return super()._used_learning_rate(group) * self.learning_rate_factor()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, and count the update.

        Args:
            closure: reevaluates the model, computes the gradients and returns the loss.

        Returns:
            The loss of `closure`; None without one.
        """
        loss = super().step(closure)
        iterations = self.iterations + 1
        for group in self.param_groups:
            group["iterations"] = iterations
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group; settings that it does not have are those of the constructor."""
        if isinstance(param_group, dict):  # torch raises an error for anything else
            if param_group.get("decay", self.decay) != self.decay:
                allowed = f"that of the optimizer, {self.decay:g}, because all groups share its count of updates"
                raise InvalidArgumentError("the decay of a param group", param_group["decay"], allowed)
            iterations = self.iterations if self.param_groups else 0
            param_group = {**param_group, "decay": self.decay, "iterations": iterations}
        super().add_param_group(param_group)

    def _check_state(self, state_dict: Any) -> None:
        super()._check_state(state_dict)
        for index, group in enumerate(state_dict["param_groups"]):
            where = f"param_groups[{index}]"
            count(group.get("iterations"), f"{where}.iterations in the state of SGD")
            number(f"{where}.decay in the state of SGD", group.get("decay"), "a finite number >= 0", at_least=0.0)

    def get_config(self, style: Style = "keras2") -> dict[str, Any]:
        """The settings, in the form of Keras' own `get_config`.

        Args:
            style: `"keras2"` (default) calls the learning rate `lr`, `"keras3"` `learning_rate`.
        """
        name = LEARNING_RATE_NAMES[choice("SGD.get_config.style", style, STYLES)]
        group = self.param_groups[0]
        return {
            name: float(group["lr"]),
            "momentum": group["momentum"],
            "decay": self.decay,
            "nesterov": group["nesterov"],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], params: ParamsT) -> SGD:
        """Build an optimizer from a config of `get_config` and the parameters, which a config does not contain.

        Raises:
            InvalidArgumentError: the config has an unknown field.

        Example:
            >>> import torch
            >>> config = {"lr": 0.1, "momentum": 0.9, "decay": 0.005, "nesterov": False}
            >>> SGD.from_config(config, [torch.nn.Parameter(torch.zeros(1))]).get_config() == config
            True
        """
        fields = ("lr", "learning_rate", "momentum", "decay", "nesterov")
        given = {name: value for name, value in config.items() if name != "name"}
        others = [str(name) for name in given if name not in fields]
        if others:
            raise InvalidArgumentError("the config of SGD", ", ".join(others), f"made of {', '.join(fields)}")
        return cls(params, **given)
