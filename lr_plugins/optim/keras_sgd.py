"""Keras' momentum rule as a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lr_plugins.checkpoint_state import anything, count, dict_of, list_of, record, tensor
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.optim.batches import spans
from lr_plugins.validation import as_float

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

# The form of the state of a torch optimizer.
_FORM = record(
    {
        "state": dict_of(record({}, {"velocity": tensor()}, others=True), keys=anything),
        "param_groups": list_of(
            record({**dict.fromkeys(("lr", "momentum", "nesterov"), anything), "params": list_of(count)}, others=True)
        ),
    },
    others=True,
)

# Weights, gradients and, unless there is no momentum, velocities.
_Tensors = tuple[list[Any], list[Any], list[Any]]


class KerasSGD(Optimizer):
    """Stochastic gradient descent with the momentum rule of `keras.optimizers.SGD`.

    `v = momentum * v - lr * g`, then `w = w + v`; with `nesterov`, `w = w + momentum * v - lr * g`.

    It differs from `torch.optim.SGD` in the velocity, which is a sum of *steps*: each gradient keeps the learning rate
    of its own update. torch sums gradients (`b = momentum * b + g; w = w - lr * b`), so a new learning rate rescales
    all earlier ones. With a constant learning rate the two agree (`v = -lr * b`). With a schedule they differ: after a
    drop to 0, Keras' weights coast on while torch's stop. A schedule tuned in Keras needs this rule to train alike.

    With `momentum=0` it is plain gradient descent and has no state. Otherwise each parameter that has had a gradient
    has one state tensor, `"velocity"`. A parameter whose gradient is None is skipped, and so is its velocity. The
    floating-point operations and their order are those of Keras on its torch backend.

    Args:
        params: parameters, or dicts of param groups; a group may have its own `lr`, `momentum` and `nesterov`.
        lr: learning rate, a number >= 0 or a 0-d tensor. Default 0.01. A tensor may be changed in place between
            updates; a tensor on an accelerator is used without synchronization.
        momentum: share of the velocity that each update keeps, 0 to 1. Default 0.
        nesterov: look one step of momentum ahead. Default False. Without momentum it makes no difference.

    Raises:
        InvalidArgumentError: a setting outside its range, or the state of a `torch.optim.SGD` with momentum is loaded.
        TrainingError: `step` got a sparse gradient; no weight is changed then.

    Source: `keras/src/optimizers/sgd.py` (Keras 3.15; Keras 2.2.4 has the same rule). Sutskever, Martens, Dahl, Hinton:
    On the importance of initialization and momentum in deep learning, ICML 2013.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> optimizer = KerasSGD([weight], lr=0.5, momentum=0.5)
        >>> for lr in (0.5, 0.0):
        ...     optimizer.param_groups[0]["lr"] = lr
        ...     weight.grad = torch.tensor(1.0)
        ...     optimizer.step()
        ...     print(weight.item())
        0.5
        0.25
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 0.01, momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        _check_settings(lr, momentum, nesterov)
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group; settings that it does not have are those of the constructor."""
        if isinstance(param_group, dict):  # torch raises an error for anything else
            settings = {**self.defaults, **param_group}
            _check_settings(settings["lr"], settings["momentum"], settings["nesterov"])
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of `state_dict`; the velocities are restored bit for bit.

        Raises:
            InvalidArgumentError: not the state of a KerasSGD with the same numbers of parameters. Nothing is loaded
                then.
        """
        self._check_state(state_dict)
        # The groups of a torch.optim.SGD have all settings needed here, so its momentum would be lost silently.
        if any(state.get("momentum_buffer") is not None for state in state_dict["state"].values()):
            raise InvalidArgumentError(
                "KerasSGD.load_state_dict",
                "a state with 'momentum_buffer', of torch.optim.SGD",
                "given a state of KerasSGD, with 'velocity'",
                "Convert with velocity = -lr * momentum_buffer, lr being that of the last update.",
            )
        super().load_state_dict(state_dict)

    def _check_state(self, state_dict: Any) -> None:
        _FORM(state_dict, "KerasSGD.load_state_dict")
        saved, own = state_dict["param_groups"], self.param_groups
        sizes, own_sizes = ([len(group["params"]) for group in groups] for groups in (saved, own))
        if sizes != own_sizes:
            raise InvalidArgumentError(
                "the param groups of the state", sizes, f"of {own_sizes} parameters, as in this optimizer"
            )
        for group in saved:
            _check_settings(group["lr"], group["momentum"], group["nesterov"])
        numbers = [number for group in saved for number in group["params"]]
        weights = dict(zip(numbers, (weight for group in own for weight in group["params"]), strict=True))
        for number, state in state_dict["state"].items():
            velocity, weight = state.get("velocity"), weights.get(number)
            if velocity is not None and weight is not None and velocity.shape != weight.shape:
                shape = tuple(weight.shape)
                raise InvalidArgumentError(
                    f"the velocity of parameter {number}", tuple(velocity.shape), f"of shape {shape}"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: reevaluates the model, computes the gradients and returns the loss.

        Returns:
            The loss of `closure`; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Gather everything first, so that an error about a gradient leaves all groups unchanged.
        for group, tensors in [(group, self._gather(group)) for group in self.param_groups]:
            for weights, gradients, velocities in _batches(tensors):
                step_size = _step_size(self._used_learning_rate(group), weights[0].device)
                if group["momentum"] == 0:
                    _add_scaled_(weights, gradients, step_size)
                else:
                    _momentum_update_(weights, gradients, velocities, step_size, group["momentum"], group["nesterov"])
        return loss

    def _used_learning_rate(self, group: dict[str, Any]) -> float | Tensor:
        """The learning rate of the current step."""
        learning_rate: float | Tensor = group["lr"]
        return learning_rate

    def _gather(self, group: dict[str, Any]) -> _Tensors:
        """Weights, gradients and velocities of a group's parameters that have a gradient."""
        tensors: _Tensors = ([], [], [])
        weights, gradients, velocities = tensors
        for weight in group["params"]:
            gradient = weight.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                raise TrainingError(
                    f"KerasSGD needs dense gradients; got a sparse one for a parameter of shape {tuple(weight.shape)}."
                    " torch.nn.Embedding(..., sparse=False) gives dense ones."
                )
            weights.append(weight)
            gradients.append(gradient)
            velocities.append(None if group["momentum"] == 0 else self._velocity(weight))
        return tensors

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        velocity: Tensor = state["velocity"]
        return velocity


def _batches(tensors: _Tensors) -> Iterator[list[list[Any]]]:
    """Batches of weights, gradients and velocities for torch's foreach operations."""
    if not tensors[0]:
        return
    grouped = Optimizer._group_tensors_by_device_and_dtype(list(tensors))
    for columns, _ in grouped.values():
        for start, end in spans(columns[0]):
            yield [column[start:end] for column in columns]


def _step_size(lr: float | Tensor, device: torch.device) -> float | Tensor:
    """-lr, for the tensors of a device."""
    if isinstance(lr, Tensor) and lr.device.type != "cpu":
        return -lr.to(device, non_blocking=True)
    return -lr


def _momentum_update_(
    weights: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    step_size: float | Tensor,
    momentum: float,
    nesterov: bool,
) -> None:
    torch._foreach_mul_(velocities, momentum)
    _add_scaled_(velocities, gradients, step_size)
    if nesterov:
        _add_scaled_(weights, gradients, step_size)
        torch._foreach_add_(weights, velocities, alpha=momentum)
    else:
        torch._foreach_add_(weights, velocities)


def _add_scaled_(tensors: list[Tensor], others: list[Tensor], factor: float | Tensor) -> None:
    """`tensors += factor * others` in place."""
    if isinstance(factor, Tensor) and (factor.device.type != "cpu" or torch.compiler.is_compiling()):
        # `alpha` would read the number from the device, which waits for all work queued there.
        torch._foreach_add_(tensors, torch._foreach_mul(others, factor))
    else:
        torch._foreach_add_(tensors, others, alpha=factor)  # type: ignore[arg-type]


def _check_settings(lr: object, momentum: object, nesterov: object) -> None:
    if not _is_learning_rate(lr):
        raise InvalidArgumentError("KerasSGD.lr", lr, "a finite number >= 0, or a 0-d tensor of one")
    if not 0 <= _number(momentum) <= 1:
        raise InvalidArgumentError("KerasSGD.momentum", momentum, "a number in [0, 1]")
    if not isinstance(nesterov, bool):
        raise InvalidArgumentError("KerasSGD.nesterov", nesterov, "True or False")


def _is_learning_rate(lr: object) -> bool:
    if isinstance(lr, Tensor):
        # The value of a tensor on another device is not checked, which would wait for the device.
        return lr.dim() == 0 and (lr.device.type != "cpu" or _is_learning_rate(lr.item()))
    return 0 <= _number(lr) < math.inf


def _number(value: object) -> float:
    """A number as a float; NaN for what is not a number."""
    number = as_float(value)
    return math.nan if number is None else number
