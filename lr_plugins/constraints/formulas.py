"""The constraints as functions of a tensor, with the operations of Keras on its torch backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lr_plugins.console.keras_styles import STYLES, Style
from lr_plugins.errors import InvalidArgumentError, TrainingError, described
from lr_plugins.validation import as_integer, build_from, choice, number

EPSILON = 1e-7
"""`keras.config.epsilon()`, added to a norm before dividing by it."""

Axis = int | Sequence[int]
Projection = Callable[[Tensor], Tensor]
"""What Keras accepts as a constraint: a function of a weight that returns the constrained weight."""


class Constraint:
    """Base class of constraints. A constraint of your own overrides `__call__`, as in Keras.

    Override `get_config` as well to make it serializable.

    Source: keras.constraints.Constraint.

    Example:
        >>> class Bounded(Constraint):
        ...     def __call__(self, w):
        ...         return w.clamp(-1, 1)
        >>> Bounded()(torch.tensor([-3.0, 0.5]))
        tensor([-1.0000,  0.5000])
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Let a class that overrides only `__call__` use it, and not its parent's `apply_`, for several weights."""
        super().__init_subclass__(**arguments)
        if "__call__" in vars(cls) and "apply_" not in vars(cls):
            cls.apply_ = Constraint.apply_  # type: ignore[method-assign]

    def __call__(self, w: Tensor) -> Tensor:
        """The constrained weight; `w` itself is not changed."""
        return w

    def apply_(self, weights: Sequence[Tensor], order: Sequence[int] | None = None) -> None:
        """Constrain weights in place.

        Args:
            weights: of any shapes.
            order: their axes in the order in which the constraint counts them. Default None: torch's order.
        """
        apply_one_by_one(self, weights, order)

    def check(self, weight: Tensor, name: str) -> None:
        """Raise an `InvalidArgumentError` for a weight that cannot be constrained.

        Args:
            weight: the tensor.
            name: what it is called in the message.
        """
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            kind = f"a tensor of {weight.dtype}" if isinstance(weight, Tensor) else f"a {type(weight).__name__}"
            allowed = f"a tensor of floating-point numbers for {type(self).__name__}"
            raise InvalidArgumentError(name, described(kind), allowed)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras' own `get_config` gives them."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Constraint:
        """Build one from its `get_config`, Keras' or ours."""
        return build_from(cls, config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class _NormConstraint(Constraint):
    """A constraint on the norms over some axes: `n = sqrt(sum(w ** 2, axis, keepdims=True))`."""

    def __init__(self, axis: Axis) -> None:
        self.axis = _axis(f"{type(self).__name__}.axis", axis)

    def check(self, weight: Tensor, name: str) -> None:
        """Raise an `InvalidArgumentError` for a weight that is not floating-point or does not have the axes."""
        super().check(weight, name)
        dimensions = max(weight.dim(), 1)  # torch accepts axis 0 for a scalar
        axes = [axis % dimensions for axis in self._axes if -dimensions <= axis < dimensions]
        if len(axes) < len(self._axes) or len(set(axes)) < len(axes):
            shape = tuple(weight.shape)
            allowed = f"different axes of {name}, whose shape {shape} has the axes {-dimensions} to {dimensions - 1}"
            raise InvalidArgumentError(f"{type(self).__name__}.axis", self.axis, allowed)

    @property
    def _axes(self) -> tuple[int, ...]:
        return (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)

    def __call__(self, w: Tensor) -> Tensor:
        """The constrained weight; `w` itself is not changed."""
        self.check(w, "the weight")
        return self._scaled(w, self._scales(self._sum(w, self._axes)))

    def apply_(self, weights: Sequence[Tensor], order: Sequence[int] | None = None) -> None:
        """Constrain weights of one device and dtype in place, all sizes together."""
        axes = self._axes if order is None else tuple(order[axis] for axis in self._axes)
        sums = [self._sum(weight, axes) for weight in weights]
        scales = self._scales(torch.cat([norms.reshape(-1) for norms in sums]))
        parts = torch.split(scales, [norms.numel() for norms in sums])
        self._rescale_(list(weights), [part.view_as(norms) for part, norms in zip(parts, sums, strict=True)])

    @staticmethod
    def _sum(weight: Tensor, axes: tuple[int, ...]) -> Tensor:
        return torch.sum(torch.square(weight), dim=axes, keepdim=True)

    def _scales(self, sums: Tensor) -> Tensor:
        """The factors of the weights (divisors, for `UnitNorm`), from the sums of their squares."""
        raise NotImplementedError

    def _scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        return weight * scale

    def _rescale_(self, weights: list[Tensor], scales: list[Tensor]) -> None:
        torch._foreach_mul_(weights, scales)


class MaxNorm(_NormConstraint):
    """Scale down weights whose norm is too large.

    `w * clip(n, 0, max_value) / (1e-7 + n)` with `n = sqrt(sum(w ** 2, axis, keepdims=True))`. A weight within the
    bound is multiplied by `n / (1e-7 + n)`, so it shrinks very slightly.

    Args:
        max_value: the largest norm, a finite number >= 0. Default 2.
        axis: the axis or axes of the norm. Default 0. They are the tensor's own axes when the constraint is called as a
            function; for those of a layer see `Constraints`.

    Raises:
        InvalidArgumentError: an argument outside its range; at the call, a tensor that does not have the axes.

    Source: keras.constraints.MaxNorm (Keras 3.15; Keras 2.2.4 has the same formula).

    Example:
        >>> MaxNorm(2)(torch.tensor([[3.0, 0.3], [4.0, 0.4]]))
        tensor([[1.2000, 0.3000],
                [1.6000, 0.4000]])
    """

    def __init__(self, max_value: float = 2, axis: Axis = 0) -> None:
        self.max_value = _norm("MaxNorm.max_value", max_value)
        super().__init__(axis)

    def _scales(self, sums: Tensor) -> Tensor:
        norms = torch.sqrt(sums)
        return torch.clamp(norms, 0, self.max_value) / (EPSILON + norms)

    def get_config(self) -> dict[str, Any]:
        """`max_value` and `axis`."""
        return {"max_value": self.max_value, "axis": self.axis}


class NonNeg(Constraint):
    """Set negative weights to 0.

    `max(w, 0)` in Keras 3; `w * (w >= 0)` in Keras 2, where a negative weight becomes -0.0, and -inf becomes NaN.

    Args:
        style: whose formula to use, `"keras3"` (the default) or `"keras2"`.

    Raises:
        InvalidArgumentError: an unknown style.

    Source: keras.constraints.NonNeg (Keras 3.15 and Keras 2.2.4).

    Example:
        >>> NonNeg()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
        >>> NonNeg(style="keras2")(torch.tensor([-1.0, 2.0]))
        tensor([-0., 2.])
    """

    def __init__(self, style: Style = "keras3") -> None:
        self.style = choice("NonNeg.style", style, STYLES)

    def __call__(self, w: Tensor) -> Tensor:
        """The weight with its negative elements set to 0."""
        self.check(w, "the weight")
        return w * _is_kept(w) if self.style == "keras2" else torch.maximum(w, _zero(w))

    def apply_(self, weights: Sequence[Tensor], order: Sequence[int] | None = None) -> None:
        """Constrain weights in place. The order of the axes makes no difference."""
        if self.style == "keras2":
            torch._foreach_mul_(list(weights), [_is_kept(weight) for weight in weights])
            return
        for weight in weights:  # torch._foreach_maximum_ keeps -0.0 where torch.maximum, and Keras, give 0.0
            torch.maximum(weight, _zero(weight), out=weight)

    def get_config(self) -> dict[str, Any]:
        """Empty, as in Keras; with `style` if it is not the default."""
        return {} if self.style == "keras3" else {"style": self.style}


class UnitNorm(_NormConstraint):
    """Scale the weights to norm 1.

    `w / (1e-7 + n)` with `n = sqrt(sum(w ** 2, axis, keepdims=True))`. Weights that are all 0 stay 0.

    Args:
        axis: the axis or axes of the norm. Default 0. They are the tensor's own axes when the constraint is called as a
            function; for those of a layer see `Constraints`.

    Raises:
        InvalidArgumentError: `axis` is not an integer or a list of integers; at the call, a tensor that does not have
            the axes.

    Source: keras.constraints.UnitNorm (Keras 3.15; Keras 2.2.4 has the same formula).

    Example:
        >>> UnitNorm(axis=1)(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """

    def __init__(self, axis: Axis = 0) -> None:
        super().__init__(axis)

    def _scales(self, sums: Tensor) -> Tensor:
        return EPSILON + torch.sqrt(sums)

    def _scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        return weight / scale

    def _rescale_(self, weights: list[Tensor], scales: list[Tensor]) -> None:
        torch._foreach_div_(weights, scales)

    def get_config(self) -> dict[str, Any]:
        """`axis`."""
        return {"axis": self.axis}


class MinMaxNorm(_NormConstraint):
    """Scale the weights so that their norm lies within bounds, at once or gradually.

    `w * (rate * clip(n, min_value, max_value) + (1 - rate) * n) / (1e-7 + n)` with
    `n = sqrt(sum(w ** 2, axis, keepdims=True))`. A weight that is all 0 stays 0, below any `min_value`.

    Args:
        min_value: the smallest norm, a finite number >= 0. Default 0.
        max_value: the largest norm, a finite number >= `min_value`. Default 1.
        rate: the share of the distance to the bounds that each update covers, 0 to 1. Default 1: all of it.
        axis: the axis or axes of the norm. Default 0. They are the tensor's own axes when the constraint is called as a
            function; for those of a layer see `Constraints`.

    Raises:
        InvalidArgumentError: an argument outside its range; at the call, a tensor that does not have the axes.

    Source: keras.constraints.MinMaxNorm (Keras 3.15; Keras 2.2.4 has the same formula).

    Example:
        >>> MinMaxNorm(min_value=1.0, max_value=2.0, rate=0.5)(torch.tensor([[0.0, 0.6], [3.0, 0.0]]))
        tensor([[0.0000, 0.8000],
                [2.5000, 0.0000]])
    """

    def __init__(self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Axis = 0) -> None:
        self.min_value = _norm("MinMaxNorm.min_value", min_value)
        self.max_value = _norm("MinMaxNorm.max_value", max_value)
        if self.max_value < self.min_value:
            raise InvalidArgumentError("MinMaxNorm.max_value", max_value, f"a number >= min_value, {min_value}")
        self.rate = _finite("MinMaxNorm.rate", rate, "a number from 0 to 1", at_least=0.0, at_most=1.0)
        super().__init__(axis)

    def _scales(self, sums: Tensor) -> Tensor:
        norms = torch.sqrt(sums)
        desired = self.rate * torch.clamp(norms, self.min_value, self.max_value) + (1 - self.rate) * norms
        return desired / (EPSILON + norms)

    def get_config(self) -> dict[str, Any]:
        """`min_value`, `max_value`, `rate` and `axis`."""
        return {"min_value": self.min_value, "max_value": self.max_value, "rate": self.rate, "axis": self.axis}


def apply_one_by_one(projection: Projection, weights: Sequence[Tensor], order: Sequence[int] | None = None) -> None:
    """Replace each weight by the result of a function, which sees its axes in the given order."""
    for weight in weights:
        permuted = weight if order is None else weight.permute(*order)
        constrained = projection(permuted)
        if not isinstance(constrained, Tensor) or constrained.shape != permuted.shape:
            name = getattr(projection, "__name__", type(projection).__name__)
            shape = tuple(constrained.shape) if isinstance(constrained, Tensor) else type(constrained).__name__
            raise TrainingError(
                f"the constraint {name} must return a tensor of the weight's shape, {tuple(permuted.shape)}; "
                f"it returned {shape}"
            )
        permuted.copy_(constrained)


def _is_kept(weight: Tensor) -> Tensor:
    """1 for elements that are not negative, else 0."""
    return (weight >= 0).to(weight.dtype)


def _zero(weight: Tensor) -> Tensor:
    """A scalar 0 for operations with a weight on any device."""
    return torch.zeros((), dtype=weight.dtype)


def _norm(field: str, value: object) -> float:
    return _finite(field, value, "a finite number >= 0", at_least=0.0)


def _finite(field: str, value: Any, allowed: str, **bounds: float) -> float:
    """A number within bounds. An int stays an int, as in Keras' config."""
    result = number(field, value, allowed, **bounds)
    return value if type(value) is int else result


def _axis(field: str, value: Any) -> int | list[int]:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    axes = [as_integer(axis) for axis in (value if is_list else [value])]
    checked = [axis for axis in axes if axis is not None]
    if not checked or len(checked) < len(axes):
        raise InvalidArgumentError(field, value, "an integer, or a list of at least one")
    return checked if is_list else checked[0]
