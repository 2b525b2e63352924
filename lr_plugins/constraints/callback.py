"""Constraints on the parameters of a module, as a callback."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.run_length import is_detached
from lr_plugins._lightning.stepping_optimizers import OptimizerChanges, UnseenSteps, stepping_optimizers
from lr_plugins.constraints.layouts import Layout
from lr_plugins.constraints.rules import Patterns, Rules
from lr_plugins.constraints.steps import ConstrainedSteps
from lr_plugins.engine.step_hooks import parameters_of


class Constraints(Callback):
    r"""Constrain parameters of the module after each update, as `kernel_constraint` and `bias_constraint` do in Keras.

    `w = constraint(w)` after each real optimizer step, for the parameters that the step has updated. The initial
    weights are not constrained before the first update, and the optimizer's state (the velocity) never is. The
    constraints are applied within the optimizer's step, after the optimizer's own hooks, so `on_train_batch_end`,
    checkpoints and weight-averaging callbacks see the constrained weights. Any optimizer works, as do several of them,
    gradient accumulation, manual optimization and closures; a step that a gradient scaler skips changes nothing. The
    callback has no state in checkpoints.

    The axes of a constraint are those of Keras' layout of the layer's weights, so that `MaxNorm(2)` and
    `MaxNorm(2, axis=[0, 1, 2])` mean what they mean in a Keras script:

    | layer | torch's layout | what constraints see with `layout="keras"` |
    |---|---|---|
    | `Linear` | (outputs, inputs) | (inputs, outputs), as Keras' `Dense` |
    | `Conv1d`, `Conv2d`, `Conv3d` | (filters, inputs, \*kernel) | (\*kernel, inputs, filters), as `Conv2D` |
    | `ConvTranspose2d` and the like | (inputs, filters, \*kernel) | (\*kernel, filters, inputs), as `Conv2DTranspose` |
    | `RNN`, `LSTM`, `GRU`, their cells | (units, inputs) | (inputs, units), as `LSTM` |
    | `MultiheadAttention` | (outputs, inputs) | (inputs, outputs) |
    | `Embedding`, normalization, biases, parameters of your own modules | | the same as torch |

    With `layout="torch"` the axes are torch's own: the norms of a `Linear`'s units are then taken over axis 1.

    Args:
        constraints: a dictionary from regular expressions, searched in the names of the module's parameters, to
            constraints: one of this package or of Keras, a function of a tensor, a name such as `"max_norm"`, the
            result of `serialize`, or None for no constraint. If several expressions match a name, the last one counts.
        layout: whose order of axes the constraints use, `"keras"` (the default) or `"torch"`.

    Raises:
        InvalidArgumentError: an argument of the wrong type; when the fit starts, a regular expression that matches no
            parameter, or an axis that a parameter does not have.
        TrainingError: when the fit starts, a parameter with a constraint is sharded (FSDP, tensor parallelism,
            DeepSpeed), so that a norm would be that of a part of it.

    Source: keras/src/optimizers/base_optimizer.py (Keras 3.15; Keras 2.2.4 does the same).

    Example:
        >>> from lr_plugins.keras.constraints import MaxNorm, NonNeg
        >>> callback = Constraints({r"weight$": MaxNorm(2), r"^conv.*weight$": MaxNorm(2, axis=[0, 1, 2])})
        >>> callback = Constraints({r"head\.bias$": NonNeg(), r"head\.weight$": "unit_norm"})
    """

    def __init__(self, constraints: Patterns, layout: Layout = "keras") -> None:
        self._rules = Rules(constraints, layout)
        self.constraints, self.layout = self._rules.projections, self._rules.layout
        self._followed: list[ConstrainedSteps] = []  # of each optimizer of the Trainer, while training
        self._foreign: list[ConstrainedSteps] = []  # of other optimizers, while training
        self._changes: OptimizerChanges | None = None  # while training
        self._unseen: list[UnseenSteps] = []  # of each optimizer of the Trainer, while training
        self._warned_unseen: set[str] = set()  # the warnings given, while training

    def check(self, module: nn.Module) -> None:
        """Reject a module that the constraints do not fit, as the start of a fit does.

        Raises:
            InvalidArgumentError: a regular expression matches no parameter, or a parameter does not have an axis.
            TrainingError: a parameter with a constraint is sharded.
        """
        self._rules.check(module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reject a module that the constraints do not fit."""
        self.check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to follow the optimizers."""
        self._release()
        replace = partial(self._replace, trainer, pl_module)
        self._changes = OptimizerChanges(
            trainer, self._followed, replace, partial(self._follow_foreign, trainer, pl_module)
        )
        replace(stepping_optimizers(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check for steps of the previous epoch that no hook announced."""
        self._check_optimizers()
        for unseen in self._unseen:
            unseen.end_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Follow optimizers that have replaced others."""
        self._check_optimizers()
        for unseen in self._unseen:
            unseen.new_batch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Constrain after a step that no hook announced."""
        for unseen in self._unseen:
            unseen.count()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the optimizers: Lightning does not call `teardown` after an error."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the optimizers."""
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
        warned = self._warned_unseen
        self._unseen = [UnseenSteps(trainer, steps, followed, warned, who="Constraints") for steps in followed]

    def _follow(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> ConstrainedSteps:
        steps = ConstrainedSteps(optimizer, pl_module, self._rules)
        steps.follow(is_detached(self, trainer))
        return steps

    def _follow_foreign(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Follow an optimizer that is not the Trainer's and steps parameters with a constraint."""
        if any(steps.is_under_way for steps in self._followed):
            return  # part of a step of the Trainer's optimizer, after which the constraints are applied
        if parameters_of(optimizer) & {id(one.parameter) for one in self._rules.constrained(pl_module)}:
            self._foreign.append(self._follow(trainer, pl_module, optimizer))

    def _release(self) -> None:
        for steps in (*self._followed, *self._foreign):
            steps.detach()
        if self._changes is not None:
            self._changes.stop()
        self._followed, self._foreign, self._changes = [], [], None
        self._unseen, self._warned_unseen = [], set()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the optimizers and the module of a fit."""
        return state_without_fit(self, _followed=[], _foreign=[], _changes=None, _unseen=[], _warned_unseen=set())
