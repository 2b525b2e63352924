"""Which optimizers of a Trainer step, and whether all of their steps are seen."""

from __future__ import annotations

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
    """The optimizers that Lightning steps, in their order; others may stand in the list of the Trainer."""
    wrapped = getattr(trainer.strategy, "_lightning_optimizers", None) or []
    return [wrapper.optimizer for wrapper in wrapped] or list(trainer.optimizers)


class OptimizerChanges:
    """Notices that other optimizers step than those that are followed.

    Args:
        trainer: the Trainer of the run.
        recorders: follow its optimizers; a list that `changed` changes.
        changed: is given the optimizers that are to be followed from now on.
        foreign: is given an optimizer that is about to step and is not the Trainer's. Default None: if it steps
            parameters of the Trainer's, a warning says that it is not driven.
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
        self.stop = watch(self.check)

    def check(self, stepping: Any = None) -> None:
        """Follow the optimizers that step now, where others have come in the place of those that are followed.

        Args:
            stepping: an optimizer that is about to step and is not followed. Default None: none is.
        """
        followed, now = [optimizer.optimizer for optimizer in self._recorders], stepping_optimizers(self._trainer)
        if stepping is not None and not any(optimizer is stepping for optimizer in now):
            for recorder in self._recorders:
                recorder.follow_inner()
            if any(recorder.follows(stepping) for recorder in self._recorders):
                return
            now = self._with(stepping, now)
            if not any(optimizer is stepping for optimizer in now):
                if not type(stepping).__name__.startswith("Lightning"):  # what wraps one of them
                    self._foreign(stepping)
                return
        if len(now) != len(followed) or any(
            optimizer is not other for optimizer, other in zip(now, followed, strict=True)
        ):
            self._changed(now)

    def _with(self, stepping: Any, now: list[Optimizer]) -> list[Optimizer]:
        """Those that are followed, with one that only the Trainer's list has and that steps all the same."""
        listed = list(self._trainer.optimizers)
        if len(now) != len(listed):
            return now
        return [optimizer if optimizer is stepping else other for optimizer, other in zip(listed, now, strict=True)]

    def _warn(self, stepping: Any) -> None:
        """Tell once of an optimizer that steps driven parameters and is not the Trainer's."""
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
    """Notices that weights have changed in a batch, and that no step of their optimizer was announced.

    An optimizer may step by a method of its own, as some implementations of SAM do: then each batch that changes its
    weights is counted as one step. Where an optimizer announces its steps and has no such method, something else may
    have changed them: only an epoch without any step tells.

    Args:
        trainer: the Trainer of the run.
        recorder: follows the optimizer.
        others: those of the other optimizers, whose steps may change parameters of this one, too.
        reported: the classes of optimizers that have been reported.
        counts: whether it is known already that steps are not announced. Default False.
        who: who tells of them. Default `"LearningRateScheduler"`.
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
        """An epoch is over, or the optimizer about to be replaced: look whether none of its steps was seen."""
        seen = self._recorder.seen_steps
        unseen = seen == self._seen_before and self._at_epoch is not None
        if unseen and not self.counts and self._state() != self._at_epoch:
            self.counts = True
            self._warn()
        self._seen_before, self._at_epoch = seen, self._state()

    def new_batch(self) -> None:
        """A batch begins."""
        if self._at_epoch is None:
            self._at_epoch = self._state()
        if self.counts:
            self._seen, self._at_batch = self._recorder.seen_steps, self._state()
            self._global_step = self._trainer.global_step

    def count(self) -> None:
        """A batch is over: count the step that it has taken unseen."""
        recorder, trainer = self._recorder, self._trainer
        if not self.counts or recorder.seen_steps != self._seen or self._state() == self._at_batch:
            return
        if trainer.lightning_module.automatic_optimization and trainer.global_step == self._global_step:
            return  # Lightning has not stepped: something else has changed the weights
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
        """What changes with the weights: how often they were written; and until a step was seen, their sums."""
        versions = sum(parameter._version for parameter in self._parameters)
        if self._recorder.seen_steps:
            return versions, []  # nothing that would wait for a device
        return versions, _sums([parameter.detach() for parameter in self._parameters if _is_readable(parameter)])


def unseen_steps(
    trainer: Trainer, recorders: Sequence[RealSteps], before: Sequence[UnseenSteps] = ()
) -> list[UnseenSteps]:
    """Look for unseen steps of several optimizers.

    Args:
        trainer: the Trainer of the run.
        recorders: follow the optimizers.
        before: those of the optimizers that were followed before, at the same places. Default: none were.
    """
    reported: set[str] = before[0].reported if before else set()
    return [
        UnseenSteps(trainer, recorder, recorders, reported, before[index].counts if index < len(before) else False)
        for index, recorder in enumerate(recorders)
    ]


def _sums(tensors: Sequence[torch.Tensor]) -> list[Any]:
    """The sum of each tensor, with one wait for each device.

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
    """Whether a parameter can be read without other processes; shards and tensors without data cannot.

    Example:
        >>> import torch
        >>> [_is_readable(torch.nn.Parameter(torch.zeros(1, device=device))) for device in ("cpu", "meta")]
        [True, False]
    """
    return type(parameter.data) is torch.Tensor and not parameter.is_meta


def _has_other_steps(optimizer: Any) -> bool:
    """Whether an optimizer has methods by whose names it may step, beside `step`."""
    names = set(dir(type(optimizer))) - set(dir(Optimizer))
    return any("step" in name and not name.startswith("_") and callable(getattr(optimizer, name)) for name in names)


class CountedSteps:
    """Compare our count of steps with Lightning's.

    Args:
        trainer: the Trainer of the run.
        steps: how many were counted when it began.
    """

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self._trainer, self._has_warned = trainer, False
        # Where the last batch of an epoch is done, the coming one is in the next.
        self.epoch = trainer.current_epoch + is_at_last_batch(trainer)
        self.steps, self.global_step = steps, trainer.global_step

    def compare(self, steps: int, at_the_end: bool = False) -> None:
        """Report where the counts differ: once, and at the end.

        Args:
            steps: how many are counted now.
            at_the_end: whether this is the end of the fit.
        """
        ours, theirs = steps - self.steps, self._trainer.global_step - self.global_step
        if ours == theirs:
            return
        message = f"LearningRateScheduler counted {ours} optimizer steps in this fit, Lightning counted"
        if getattr(self._trainer.precision_plugin, "scaler", None) is not None and ours < theirs:
            if at_the_end:  # an ordinary thing, which every start in half precision shows
                rank_zero_warn(f"{message} {theirs}: a gradient scaler has skipped {theirs - ours}. {_COUNTED}")
        elif at_the_end or not self._has_warned:
            self._has_warned = True
            rank_zero_warn(f"{message} {theirs}{self._why(ours, theirs)}. {_COUNTED}")

    def _why(self, ours: int, theirs: int) -> str:
        if self._trainer.lightning_module.automatic_optimization:
            return ""
        if ours > theirs:
            return ", which does not see steps of an optimizer that self.optimizers() has not wrapped"
        return ", and some of those did not happen or could not be seen"


_COUNTED = "The schedules use the first count."
