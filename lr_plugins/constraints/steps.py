"""Applies constraints after each real step of an optimizer; `constrain`, for training loops without Lightning."""

from __future__ import annotations

import operator
import weakref
from typing import Any

import torch
from torch import nn

from lr_plugins.constraints.formulas import Constraint, Projection, apply_one_by_one
from lr_plugins.constraints.layouts import Layout
from lr_plugins.constraints.rules import Order, Patterns, Rules
from lr_plugins.engine.real_steps import RealSteps
from lr_plugins.errors import TrainingError
from lr_plugins.optim.batches import spans


class ConstrainedSteps(RealSteps):
    """Applies the constraints after each real step of one optimizer, to the parameters that the step has updated.

    Args:
        optimizer: the optimizer.
        module: the module that names the parameters. Neither it nor the optimizer is kept alive.
        rules: which parameters have which constraint.
    """

    capturable = True

    def __init__(self, optimizer: Any, module: nn.Module, rules: Rules) -> None:
        super().__init__(optimizer)
        self._module, self._rules = weakref.ref(module), rules
        self._constrained = rules.constrained(module)  # kept, because the module may be gone before the optimizer
        self._parameters: list[Any] = []  # of the optimizer
        self._batches: list[tuple[Projection, Order, list[nn.Parameter]]] = []  # the constrained ones among them
        self._updated: set[int] = set()  # ids of the parameters that the current step updates

    def count_unseen_step(self) -> None:
        """Constrain after a step that no hook announced. Its gradients may be gone, so all count as updated."""
        self._take_parameters()
        self._updated = {id(weight) for _, _, weights in self._batches for weight in weights if weight.requires_grad}
        self._end_step()

    def _begin_step(self) -> None:
        self._take_parameters()
        self._note_gradients()

    def _end_step(self) -> None:
        self._note_gradients()
        updated, self._updated = self._updated, set()
        with torch.no_grad():
            for projection, order, parameters in self._batches:
                weights = [parameter for parameter in parameters if id(parameter) in updated]
                for start, end in spans(weights) if weights else ():
                    _apply(projection, weights[start:end], order)

    def _note_gradients(self) -> None:
        """Note the parameters with a gradient; as in Keras, an update skips the others.

        An optimizer may drop the gradients within its step, or get them from a closure.
        """
        weights = (weight for _, _, weights in self._batches for weight in weights)
        self._updated.update(id(weight) for weight in weights if weight.grad is not None)

    def _take_parameters(self) -> None:
        """Read the optimizer's parameters anew: some may have been added or replaced."""
        optimizers = self._following.optimizers if self._following is not None else []
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        parameters = [parameter for group in groups for parameter in group["params"]]
        if len(parameters) == len(self._parameters) and all(map(operator.is_, parameters, self._parameters)):
            return
        module = self._module()
        if module is not None:
            self._constrained = self._rules.constrained(module)
        own = {id(parameter) for parameter in parameters}
        batches: dict[Any, tuple[Projection, Order, list[nn.Parameter]]] = {}
        for parameter, projection, order in self._constrained:
            if id(parameter) in own:
                key = id(projection), order, parameter.device, parameter.dtype
                batches.setdefault(key, (projection, order, []))[2].append(parameter)
        self._parameters, self._batches = parameters, list(batches.values())


class ConstraintHandle:
    """What `constrain` returns.

    Args:
        steps: applies the constraints.
    """

    def __init__(self, steps: ConstrainedSteps) -> None:
        self._steps = steps

    def remove(self) -> None:
        """Stop constraining; the weights remain as they are."""
        self._steps.detach()


def constrain(optimizer: Any, module: nn.Module, constraints: Patterns, layout: Layout = "keras") -> ConstraintHandle:
    """Constrain parameters of a module after each step of an optimizer, in a training loop of your own.

    Does what `Constraints` does in a Trainer. Neither the optimizer nor the module is kept alive.

    Args:
        optimizer: any optimizer, including wrappers of other optimizers. Only parameters that it has are constrained,
            including those that are added to it later.
        module: the module that names the parameters.
        constraints: as for `Constraints`.
        layout: as for `Constraints`. Default `"keras"`.

    Returns:
        An object with a method `remove()`, which ends it.

    Raises:
        InvalidArgumentError: an argument of the wrong type, a regular expression that matches no parameter, or an axis
            that a parameter does not have.
        TrainingError: a parameter is sharded, or the optimizer's steps cannot be followed.

    Source: keras/src/optimizers/base_optimizer.py (Keras 3.15).

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        >>> handle = constrain(optimizer, layer, {r"weight$": "unit_norm"})
        >>> layer(torch.tensor([3e4, 4e4])).backward()
        >>> optimizer.step()
        >>> layer.weight.data
        tensor([[-0.6000, -0.8000]])
        >>> handle.remove()
    """
    rules = Rules(constraints, layout)
    rules.check(module)
    steps = ConstrainedSteps(optimizer, module, rules)
    steps.follow()
    if not steps.sees_steps:
        steps.detach()
        kind = type(optimizer).__name__
        raise TrainingError(
            f"constrain cannot follow the steps of {kind}, which is not a torch.optim.Optimizer and does not let its "
            f"method step be replaced. Derive {kind} from torch.optim.Optimizer."
        )
    return ConstraintHandle(steps)


def _apply(projection: Projection, weights: list[nn.Parameter], order: Order) -> None:
    if isinstance(projection, Constraint):
        projection.apply_(weights, order)
    else:
        apply_one_by_one(projection, weights, order)
