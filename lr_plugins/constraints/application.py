"""Constraints on the parameters of a module, applied after each real step of the optimizer that has them."""

from __future__ import annotations

import operator
import re
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.run_length import is_detached
from lr_plugins._lightning.stepping_optimizers import OptimizerChanges, UnseenSteps, stepping_optimizers
from lr_plugins.constraints.formulas import Constraint, Projection, apply_one_by_one, get
from lr_plugins.constraints.layouts import LAYOUTS, axes_in_order
from lr_plugins.engine.real_steps import RealSteps
from lr_plugins.engine.step_hooks import parameters_of
from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.optim.batches import spans
from lr_plugins.validation import choice, pattern

Patterns = Mapping[str, Constraint | Projection | str | Mapping[str, Any] | None]
Order = tuple[int, ...] | None

_FIELD = "Constraints.constraints"
_SHOWN = 8  # names of parameters in a message


class Chosen(NamedTuple):
    """A parameter with its constraint.

    Args:
        parameter: the parameter.
        projection: its constraint.
        order: the parameter's axes in the order in which the constraint counts them; None: as they are.
    """

    parameter: nn.Parameter
    projection: Projection
    order: Order


class Rules:
    """Which parameters of a module have which constraint; for the arguments see `Constraints`."""

    def __init__(self, constraints: Patterns, layout: str) -> None:
        if not isinstance(constraints, Mapping) or not constraints:
            allowed = "a dictionary: a regular expression for the names of parameters -> their constraint"
            raise InvalidArgument(_FIELD, constraints, allowed, 'E.g. {r"weight$": MaxNorm(2)}.')
        self.projections = {pattern(f"a key of {_FIELD}", key): get(value) for key, value in constraints.items()}
        self.layout = choice("Constraints.layout", layout, LAYOUTS)

    def chosen(self, module: nn.Module) -> list[Chosen]:
        """The parameters of a module that have a constraint.

        Raises:
            InvalidArgument: one cannot have the constraint that is meant for it.
            TrainingError: one is sharded.
        """
        found = []
        for name, parameter in module.named_parameters():
            key = next((one for one in reversed(self.projections) if re.search(one, name)), None)
            projection = None if key is None else self.projections[key]
            _check_is_whole(name, parameter, projection)
            if projection is None or is_lazy(parameter):
                continue
            if isinstance(projection, Constraint):
                projection.check(parameter, name)
            layer = module.get_submodule(name.rpartition(".")[0])
            found.append(Chosen(parameter, projection, axes_in_order(self.layout, layer, parameter)))
        return found

    def check(self, module: nn.Module) -> None:
        """Refuse a module that the constraints do not fit.

        Raises:
            InvalidArgument: a regular expression is found in no parameter's name, or a parameter that has a constraint
                cannot have it.
            TrainingError: a parameter is sharded.
        """
        self.chosen(module)
        names = [name for name, _ in module.named_parameters()]
        for key in self.projections:
            if not any(re.search(key, name) for name in names):
                some = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
                allowed = f"an expression found in the name of a parameter ({some})"
                raise InvalidArgument(f"a key of {_FIELD}", key, allowed)


class ConstrainedSteps(RealSteps):
    """Applies the constraints after each real step of one optimizer, to those of its parameters that it has updated.

    Args:
        optimizer: the optimizer.
        module: whose parameters they are. Neither is kept alive.
        rules: which of the parameters have which constraint.
    """

    happens_captured = True

    def __init__(self, optimizer: Any, module: nn.Module, rules: Rules) -> None:
        super().__init__(optimizer)
        self._module, self._rules = weakref.ref(module), rules
        self._chosen = rules.chosen(module)  # of the module as it was last: it may be gone before the optimizer
        self._parameters: list[Any] = []  # of the optimizer
        self._batches: list[tuple[Projection, Order, list[nn.Parameter]]] = []  # of those with a constraint
        self._updated: set[int] = set()  # the identities of those that the step under way updates

    def count_unseen_step(self) -> None:
        """Constrain what a step has updated that nothing has announced: its gradients may be gone by now."""
        self._take_parameters()
        self._updated = {id(one) for _, _, weights in self._batches for one in weights if one.requires_grad}
        self._end_step()

    def _begin_step(self) -> None:
        self._take_parameters()
        self._note_gradients()

    def _end_step(self) -> None:
        self._note_gradients()
        updated, self._updated = self._updated, set()
        with torch.no_grad():
            for projection, order, parameters in self._batches:
                weights = [one for one in parameters if id(one) in updated]
                for start, end in spans(weights) if weights else ():
                    _apply(projection, weights[start:end], order)

    def _note_gradients(self) -> None:
        """Note the parameters with a gradient: as in Keras, an update leaves out the others.

        An optimizer may drop the gradients within its step, or have them only after a closure.
        """
        self._updated.update(id(one) for _, _, weights in self._batches for one in weights if one.grad is not None)

    def _take_parameters(self) -> None:
        """Take the optimizer's parameters as they are: more may have come, others may be in their places."""
        optimizers = self._following.optimizers if self._following is not None else []
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        parameters = [one for group in groups for one in group["params"]]
        if len(parameters) == len(self._parameters) and all(map(operator.is_, parameters, self._parameters)):
            return
        module = self._module()
        if module is not None:
            self._chosen = self._rules.chosen(module)
        there, batches = {id(one) for one in parameters}, dict[Any, tuple[Projection, Order, list[nn.Parameter]]]()
        for one, projection, order in self._chosen:
            if id(one) in there:
                key = id(projection), order, one.device, one.dtype
                batches.setdefault(key, (projection, order, []))[2].append(one)
        self._parameters, self._batches = parameters, list(batches.values())


class ConstraintHandle:
    """What `constrain` returns.

    Args:
        steps: applies the constraints.
    """

    def __init__(self, steps: ConstrainedSteps) -> None:
        self._steps = steps

    def remove(self) -> None:
        """Constrain no more; the weights remain as they are."""
        self._steps.detach()


def constrain(optimizer: Any, module: nn.Module, constraints: Patterns, layout: str = "keras") -> ConstraintHandle:
    """Constrain parameters of a module after each step of an optimizer, in a loop of your own.

    What `Constraints` does in a Trainer, by the same means. Neither the optimizer nor the module is kept alive.

    Args:
        optimizer: any optimizer, wrappers of others included. Constrained are those of the parameters that it has, also
            those that are added to it later.
        module: whose names the parameters have.
        constraints: as for `Constraints`.
        layout: as for `Constraints`. Default `"keras"`.

    Returns:
        An object with a method `remove()`, which ends it.

    Raises:
        InvalidArgument: an argument of the wrong kind, a regular expression that is found in no parameter's name, or an
            axis that a parameter does not have.
        TrainingError: a parameter is sharded, or nothing announces the optimizer's steps.

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
    if not steps.hears_steps:
        steps.detach()
        kind = type(optimizer).__name__
        raise TrainingError(
            f"constrain cannot follow the steps of {kind}, which is not a torch.optim.Optimizer and does not let its "
            f"method step be replaced. Derive {kind} from torch.optim.Optimizer."
        )
    return ConstraintHandle(steps)


class Constraints(Callback):
    r"""Constrain parameters of the module after each update, as `kernel_constraint` and `bias_constraint` do in Keras.

    `w = constraint(w)` after each real optimizer step, for the parameters that the step has updated. The weights that
    training starts from are left as they are until the first update; the optimizer's state (the velocity) is not
    constrained. It happens within the optimizer's step, behind hooks of the optimizer itself: `on_train_batch_end`,
    checkpoints and callbacks that average weights see the constrained ones. Works with any optimizer, with several of
    them, under accumulation, manual optimization and closures; a step that a gradient scaler skips changes nothing.
    Checkpoints need no state of it.

    The axes of a constraint are counted as Keras lays out the weights of the layer, so that `MaxNorm(2)` and
    `MaxNorm(2, axis=[0, 1, 2])` mean what they mean in a Keras script:

    | layer | torch has | constraints see, with `layout="keras"` |
    |---|---|---|
    | `Linear` | (outputs, inputs) | (inputs, outputs), as Keras' `Dense` |
    | `Conv1d`, `Conv2d`, `Conv3d` | (filters, inputs, \*kernel) | (\*kernel, inputs, filters), as `Conv2D` |
    | `ConvTranspose2d` and the like | (inputs, filters, \*kernel) | (\*kernel, filters, inputs), as `Conv2DTranspose` |
    | `RNN`, `LSTM`, `GRU`, their cells | (units, inputs) | (inputs, units), as `LSTM` |
    | `MultiheadAttention` | (outputs, inputs) | (inputs, outputs) |
    | `Embedding`, normalization, biases, parameters of your own modules | | the same as torch |

    With `layout="torch"` all axes are torch's own: there, the norms of a `Linear`'s units are those over axis 1.

    Args:
        constraints: for each regular expression, searched in the names of the module's parameters, a constraint: an
            object of this module or of Keras, a function of a tensor, a name such as `"max_norm"`, what `serialize`
            gave, or None for no constraint. Of several that are found in a name, the last one counts.
        layout: whose order of the axes the constraints count in, `"keras"` (the default) or `"torch"`.

    Raises:
        InvalidArgument: an argument of the wrong kind; when the fit starts, a regular expression that is found in no
            parameter's name, or an axis that a parameter does not have.
        TrainingError: when the fit starts, a parameter with a constraint is sharded (FSDP, tensor parallelism,
            DeepSpeed), where a norm would be that of a part.

    Source: keras/src/optimizers/base_optimizer.py (Keras 3.15; Keras 2.2.4 does the same).

    Example:
        >>> from lr_plugins.keras.constraints import MaxNorm, NonNeg
        >>> callback = Constraints({r"weight$": MaxNorm(2), r"^conv.*weight$": MaxNorm(2, axis=[0, 1, 2])})
        >>> callback = Constraints({r"head\.bias$": NonNeg(), r"head\.weight$": "unit_norm"})
    """

    def __init__(self, constraints: Patterns, layout: str = "keras") -> None:
        self._rules = Rules(constraints, layout)
        self.constraints, self.layout = self._rules.projections, self._rules.layout
        self._followed: list[ConstrainedSteps] = []  # of each optimizer of the Trainer, while training
        self._foreign: list[ConstrainedSteps] = []  # of other optimizers, while training
        self._changes: OptimizerChanges | None = None  # while training
        self._unseen: list[UnseenSteps] = []  # of each optimizer of the Trainer, while training
        self._told_unseen: set[str] = set()  # while training

    def check(self, module: nn.Module) -> None:
        """Refuse a module that the constraints do not fit, as the start of a fit does.

        Raises:
            InvalidArgument: a regular expression is found in no parameter's name, or an axis is not one of a parameter.
            TrainingError: a parameter with a constraint is sharded.
        """
        self._rules.check(module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that the constraints do not fit."""
        self.check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to follow the optimizers."""
        self._release()
        replace = partial(self._replace, trainer, pl_module)
        self._changes = OptimizerChanges(
            trainer, self._followed, replace, partial(self._follow_foreign, trainer, pl_module)
        )
        replace(stepping_optimizers(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether there were steps in the epoch before that nothing has announced."""
        self._check_optimizers()
        for unseen in self._unseen:
            unseen.end_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Follow optimizers that have come in the place of others."""
        self._check_optimizers()
        for unseen in self._unseen:
            unseen.new_batch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Constrain what a step of the batch has updated that nothing has announced."""
        for unseen in self._unseen:
            unseen.count()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers: Lightning does not tear callbacks down after an error."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers."""
        self._release()

    def _check_optimizers(self) -> None:
        if self._changes is not None:
            self._changes.check()

    def _replace(self, trainer: Trainer, pl_module: LightningModule, optimizers: list[Optimizer]) -> None:
        """Follow these optimizers of the Trainer from now on."""
        known, followed = [*self._followed, *self._foreign], []
        for optimizer in optimizers:
            steps = next((one for one in known if one.optimizer is optimizer), None)
            followed.append(steps or self._follow(trainer, pl_module, optimizer))
        for steps in self._followed:
            if steps not in followed:
                steps.detach()
        self._foreign = [steps for steps in self._foreign if steps not in followed]
        self._followed[:] = followed
        told = self._told_unseen
        self._unseen = [UnseenSteps(trainer, one, followed, told, who="Constraints") for one in followed]

    def _follow(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> ConstrainedSteps:
        steps = ConstrainedSteps(optimizer, pl_module, self._rules)
        steps.follow(is_detached(self, trainer))
        return steps

    def _follow_foreign(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Follow an optimizer that steps parameters with a constraint and is not the Trainer's."""
        if any(steps.is_under_way for steps in self._followed):
            return  # a part of a step, after which the constraints are applied
        if parameters_of(optimizer) & {id(one.parameter) for one in self._rules.chosen(pl_module)}:
            self._foreign.append(self._follow(trainer, pl_module, optimizer))

    def _release(self) -> None:
        for steps in (*self._followed, *self._foreign):
            steps.detach()
        if self._changes is not None:
            self._changes.stop()
        self._followed, self._foreign, self._changes = [], [], None
        self._unseen, self._told_unseen = [], set()

    def __getstate__(self) -> dict[str, Any]:
        """Without the optimizers and the module of a fit."""
        return state_without_fit(self, _followed=[], _foreign=[], _changes=None, _unseen=[], _told_unseen=set())


def _apply(projection: Projection, weights: list[nn.Parameter], order: Order) -> None:
    if isinstance(projection, Constraint):
        projection.apply_(weights, order)
    else:
        apply_one_by_one(projection, weights, order)


def _check_is_whole(name: str, parameter: nn.Parameter, projection: Projection | None) -> None:
    """Refuse a parameter that is a shard; also one of FSDP's without a constraint, for it hides the names of others."""
    flat = getattr(parameter, "_fsdp_flattened", False)
    sharded = flat or hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id")  # FSDP, DTensor, DeepSpeed
    if flat or (sharded and projection is not None):
        raise TrainingError(
            f"Constraints does not support sharded parameters, and {name} is one: its norm would be that of a part of "
            "the weight. Train with a strategy that keeps parameters whole, e.g. ddp."
        )
