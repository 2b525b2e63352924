"""The optimizers that a Trainer steps, and checks that all of their steps are seen."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.epoch_results import is_at_last_batch
from lr_plugins.engine.real_steps import RealSteps
from lr_plugins.engine.step_hooks import parameters_of, watch
from lr_plugins.rank_zero import rank_zero_warn


def stepping_optimizers(trainer: Trainer) -> list[Optimizer]:
    """The optimizers that Lightning steps, in order; `trainer.optimizers` may hold others."""
    wrapped = getattr(trainer.strategy, "_lightning_optimizers", None) or []
    return [wrapper.optimizer for wrapper in wrapped] or list(trainer.optimizers)


class OptimizerChanges:
    """Detects optimizers that step but are not followed.

    Args:
        trainer: the Trainer of the run.
        recorders: the recorders of its optimizers; `changed` updates this list.
        changed: called with the optimizers to follow from now on.
        foreign: called with an optimizer that is about to step and is not the Trainer's. Default None: warn that it is
            not driven, if it shares parameters with the Trainer's optimizers.
    """

    def __init__(
        self,
        trainer: Trainer,
        recorders: Sequence[RealSteps],
        changed: Callable[[list[Optimizer]], None],
        foreign: Callable[[Any], None] | None = None,
    ) -> None:
        self._trainer, self._recorders, self._changed = trainer, recorders, changed
        self._foreign = self._warn if foreign is None else foreign
        self._has_warned = False
        self._strategy = trainer.strategy
        self._wrapped: list[Any] = []  # Lightning's wrappers of the followed optimizers, once they were compared
        self.stop = watch(self.check)

    def check(self, stepping: Any = None) -> None:
        """Follow the optimizers that step now, if they are not those that are followed.

        Args:
            stepping: an optimizer that is about to step and is not followed. Default None.
        """
        if stepping is None and self.follows_all():
            return
        followed, now = [recorder.optimizer for recorder in self._recorders], stepping_optimizers(self._trainer)
        if stepping is not None and not any(optimizer is stepping for optimizer in now):
            for recorder in self._recorders:
                recorder.follow_inner()
            if any(recorder.follows(stepping) for recorder in self._recorders):
                return
            now = self._with(stepping, now)
            if not any(optimizer is stepping for optimizer in now):
                if not type(stepping).__name__.startswith("Lightning"):  # a wrapper of a followed optimizer
                    self._foreign(stepping)
                return
        if len(now) != len(followed) or not all(map(operator.is_, now, followed)):
            self._wrapped = []
            self._changed(now)

    def follows_all(self) -> bool:
        """Whether the optimizers that step are those that are followed: a quick check, for every batch."""
        wrapped: list[Any] | None = getattr(self._strategy, "_lightning_optimizers", None)
        if not wrapped:
            return False
        if wrapped == self._wrapped:  # if a wrapper holds another optimizer now, `watch` reports its step
            return True
        followed = [recorder.optimizer for recorder in self._recorders]
        if len(wrapped) != len(followed) or not all(map(operator.is_, [each.optimizer for each in wrapped], followed)):
            return False
        self._wrapped = list(wrapped)
        return True

    def _with(self, stepping: Any, now: list[Optimizer]) -> list[Optimizer]:
        """The stepping optimizers, with `stepping` in its place if the Trainer's list has it."""
        listed = list(self._trainer.optimizers)
        if len(now) != len(listed):
            return now
        return [optimizer if optimizer is stepping else other for optimizer, other in zip(listed, now, strict=True)]

    def _warn(self, stepping: Any) -> None:
        """Warn once of an optimizer that is not the Trainer's and steps driven parameters."""
        parameters = parameters_of(stepping)
        sharing = [recorder for recorder in self._recorders if parameters & parameters_of(recorder.optimizer)]
        for recorder in sharing:
            recorder.note_untracked_steps()
        if sharing and not self._has_warned:
            self._has_warned = True
            kind, other = type(stepping).__name__, type(sharing[0].optimizer).__name__
            rank_zero_warn(
                f"LearningRateScheduler: {kind}, which is not one of the Trainer's optimizers, steps parameters of "
                f"{other}. Its learning rate is neither driven nor recorded: return it from configure_optimizers()."
            )


class UnseenSteps:
    """Detects batches that change the weights without a step of their optimizer being seen.

    An optimizer may step through a method of its own, as some implementations of SAM do. Each batch that changes its
    weights is then counted as one step. If an optimizer has no such method, other code may have changed the weights;
    only an epoch without any step proves that steps were missed.

    Args:
        trainer: the Trainer of the run.
        recorder: the recorder of the optimizer.
        others: the recorders of all optimizers; their steps may change parameters of this one, too.
        reported: the optimizer classes that have been reported.
        counts: whether steps are already known to go unseen. Default False.
        who: the sender of the warning. Default `"LearningRateScheduler"`.
    """

    def __init__(
        self,
        trainer: Trainer,
        recorder: RealSteps,
        others: Sequence[RealSteps],
        reported: set[str],
        counts: bool = False,
        who: str = "LearningRateScheduler",
    ) -> None:
        self._trainer, self._recorder, self._who = trainer, recorder, who
        self.reported = reported
        shared = {
            parameter for other in others if other is not recorder for parameter in parameters_of(other.optimizer)
        }
        groups = recorder.optimizer.param_groups
        self._parameters = [
            parameter for group in groups for parameter in group["params"] if id(parameter) not in shared
        ]
        self.counts = counts or _has_other_steps(recorder.optimizer) or not recorder.sees_steps
        self._at_batch: tuple[int, list[Any]] | None = None
        self._at_epoch: tuple[int, list[Any]] | None = None
        self._seen = self._seen_before = recorder.seen_steps
        self._global_step = 0

    def end_epoch(self) -> None:
        """Check, at the end of an epoch or before the optimizer is replaced, whether no step was seen."""
        seen = self._recorder.seen_steps
        unseen = seen == self._seen_before and self._at_epoch is not None
        if unseen and not self.counts and self._state() != self._at_epoch:
            self.counts = True
            self._warn()
        self._seen_before, self._at_epoch = seen, self._state()

    def new_batch(self) -> None:
        """Note the state of the weights at the start of a batch."""
        if self._at_epoch is None:
            self._at_epoch = self._state()
        if self.counts:
            self._seen, self._at_batch = self._recorder.seen_steps, self._state()
            self._global_step = self._trainer.global_step

    def count(self) -> None:
        """Count the unseen step of a batch at its end, if there was one."""
        recorder, trainer = self._recorder, self._trainer
        if not self.counts or recorder.seen_steps != self._seen or self._state() == self._at_batch:
            return
        if trainer.lightning_module.automatic_optimization and trainer.global_step == self._global_step:
            return  # Lightning has not stepped: other code has changed the weights
        recorder.count_unseen_step()
        self._warn()

    def _warn(self) -> None:
        kind = type(self._recorder.optimizer).__name__
        if kind not in self.reported:
            self.reported.add(kind)
            rank_zero_warn(
                f"{self._who}: the weights of {kind} have changed, but no call of step() was seen. Each "
                f"batch that changes them is counted as one step. Call {kind}.step(), so that every step is followed."
            )

    def _state(self) -> tuple[int, list[Any]]:
        """A fingerprint of the weights: their version counters and, until a step is seen, their sums."""
        versions = sum(parameter._version for parameter in self._parameters)
        if self._recorder.seen_steps:
            return versions, []  # no device is synchronized
        return versions, _sums([parameter.detach() for parameter in self._parameters if _is_readable(parameter)])


def unseen_steps(
    trainer: Trainer, recorders: Sequence[RealSteps], before: Sequence[UnseenSteps] = ()
) -> list[UnseenSteps]:
    """The `UnseenSteps` of each optimizer.

    Args:
        trainer: the Trainer of the run.
        recorders: the recorders of the optimizers.
        before: those of the previously followed optimizers, in the same order. Default: none.
    """
    reported: set[str] = before[0].reported if before else set()
    return [
        UnseenSteps(trainer, recorder, recorders, reported, before[index].counts if index < len(before) else False)
        for index, recorder in enumerate(recorders)
    ]


def _sums(tensors: Sequence[torch.Tensor]) -> list[Any]:
    """The sum of each tensor, with one synchronization per device and dtype.

    Example:
        >>> import torch
        >>> _sums([torch.ones(3), torch.ones(2, dtype=torch.float64), torch.ones(4)])
        [3.0, 4.0, 2.0]
    """
    by_kind: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.device, tensor.dtype), []).append(tensor.sum())
    return [value for sums in by_kind.values() for value in torch.stack(sums).tolist()]


def _is_readable(parameter: torch.Tensor) -> bool:
    """Whether a parameter can be read by this process alone; shards and tensors without data cannot.

    Example:
        >>> import torch
        >>> [_is_readable(torch.nn.Parameter(torch.zeros(1, device=device))) for device in ("cpu", "meta")]
        [True, False]
    """
    return type(parameter.data) is torch.Tensor and not parameter.is_meta


def _has_other_steps(optimizer: Any) -> bool:
    """Whether an optimizer has other methods than `step` that may take steps, judging by their names."""
    names = set(dir(type(optimizer))) - set(dir(Optimizer))
    return any("step" in name and not name.startswith("_") and callable(getattr(optimizer, name)) for name in names)


class CountedSteps:
    """Compares our count of steps with Lightning's.

    Args:
        trainer: the Trainer of the run.
        steps: the count at the start of the fit.
    """

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self._trainer, self._has_warned = trainer, False
        # After the last batch of an epoch, the coming batch is in the next one.
        self.epoch = trainer.current_epoch + is_at_last_batch(trainer)
        self.steps, self.global_step = steps, trainer.global_step

    def compare(self, steps: int, at_the_end: bool = False) -> None:
        """Report a difference between the counts: once, and at the end.

        Args:
            steps: the current count.
            at_the_end: whether this is the end of the fit.
        """
        ours, theirs = steps - self.steps, self._trainer.global_step - self.global_step
        if ours == theirs:
            return
        message = f"LearningRateScheduler counted {ours} optimizer steps in this fit, Lightning counted"
        if getattr(self._trainer.precision_plugin, "scaler", None) is not None and ours < theirs:
            if at_the_end:  # ordinary: a scaler skips the first steps in half precision
                rank_zero_warn(f"{message} {theirs}: a gradient scaler has skipped {theirs - ours}. {_COUNTED}")
        elif at_the_end or not self._has_warned:
            self._has_warned = True
            rank_zero_warn(f"{message} {theirs}{self._why(ours, theirs)}. {_COUNTED}")

    def _why(self, ours: int, theirs: int) -> str:
        if self._trainer.lightning_module.automatic_optimization:
            return ""
        if ours > theirs:
            return ", which misses steps of optimizers that self.optimizers() has not wrapped"
        return ", some of which did not happen or could not be seen"


_COUNTED = "The schedules use the former."
