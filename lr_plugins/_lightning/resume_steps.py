"""The step at which each optimizer of a run resumes, checked against Lightning's counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lr_plugins._lightning.checkpoint_optimizers import SavedOptimizer
from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.epoch_results import is_at_last_batch, is_within_epoch
from lr_plugins.engine.driven_groups import DrivenGroups
from lr_plugins.engine.hyperparameter import LEARNING_RATE
from lr_plugins.engine.resume_policy import OnResume
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import TrainingError
from lr_plugins.rank_zero import rank_zero_warn

HOW_TO_CHOOSE = (
    'LearningRateScheduler(..., on_resume="config"), or on the command line callbacks.scheduler.on_resume=config'
)


class Counts(NamedTuple):
    """Lightning's own counts.

    Attributes:
        epoch: `current_epoch`.
        global_step: optimizer steps, of all optimizers together.
    """

    epoch: int
    global_step: int


def check_counts(policy: OnResume, trainer: Trainer, then: Counts | None, steps: Sequence[int]) -> list[int] | None:
    """The steps of each optimizer to resume from; None to restart.

    Args:
        policy: the value of `on_resume`.
        trainer: the Trainer that resumes the run.
        then: Lightning's counts at the time of `steps`; None if they are unknown.
        steps: the steps of each optimizer in the checkpoint or the last fit.

    Raises:
        TrainingError: Lightning's counts differ now, and the policy is `"error"`.
    """
    now = Counts(trainer.current_epoch, trainer.global_step)
    # A run that really resumes in epoch 0 is within that epoch, or at its last batch.
    if sum(steps) and now.epoch == 0 and not is_within_epoch(trainer) and not is_at_last_batch(trainer):
        report_reset(trainer, then, steps)
        return None
    # At the end of an epoch, Lightning may or may not have counted it.
    if then is None or (now.global_step == then.global_step and 0 <= now.epoch - then.epoch <= 1):
        return list(steps)
    mismatch = (
        f"{_taken(then, steps)} at global_step {then.global_step}, but the Trainer resumes in epoch {now.epoch} at "
        f"global_step {now.global_step}: one of the counts has changed"
    )
    if policy == "error":
        raise TrainingError(
            f"{mismatch}. on_resume selects Lightning's count (config) or the steps taken (checkpoint). {HOW_TO_CHOOSE}"
        )
    resumed = [now.global_step // len(steps)] * len(steps) if policy == "config" else list(steps)
    rank_zero_warn(f"LearningRateScheduler: {mismatch}. It continues at step {_joined(resumed)} (on_resume={policy}).")
    return resumed


def report_reset(trainer: Trainer, then: Counts | None, steps: Sequence[int]) -> None:
    """Report that Lightning's counters were reset, and that the schedules start over."""
    rank_zero_warn(
        f"LearningRateScheduler: {_taken(then, steps)}, and the Trainer starts at epoch 0 (its global_step is "
        f"{trainer.global_step}): its counters were reset. The schedules start over."
    )


def _taken(then: Counts | None, steps: Sequence[int]) -> str:
    return f"{_joined(steps)} optimizer steps were taken" + (f", in epoch {then.epoch}" if then else "")


def steps_of_each(
    policy: OnResume, trainer: Trainer, writers: Sequence[Writer], loaded: Sequence[SavedOptimizer] | None
) -> list[int]:
    """The number of steps that each optimizer has taken, if no record of them exists.

    Lightning counts the steps of several optimizers together; most optimizers keep a count in their own state.

    Raises:
        TrainingError: the counts are unknown, a schedule depends on them, and the policy is `"error"`.
    """
    total, count = trainer.global_step, len(writers)
    equal_shares = [total // count] * count
    if count == 1 or not total:
        return equal_shares
    known = [optimizer.steps for optimizer in loaded or ()]
    if len(known) == count:
        missing = total - sum(steps for steps in known if steps is not None)
        completed = [missing if steps is None else steps for steps in known]
        if known.count(None) <= 1 and missing >= 0 and sum(completed) == total:
            return completed
    if not any(_depends_on_step(driven, total) for writer in writers for driven in writer.driven_groups):
        return equal_shares
    per_optimizer = ", ".join(
        f"{type(writer.optimizer).__name__} {'unknown' if steps is None else steps}"
        for writer, steps in zip(writers, known, strict=False)
    )
    problem = (
        f"the checkpoint counts {total} steps of {count} optimizers together "
        f"({per_optimizer or 'none has a count of its own'}), but not how many each has taken"
    )
    if policy == "error":
        raise TrainingError(f"{problem}. To assume {equal_shares[0]} each: {HOW_TO_CHOOSE}")
    rank_zero_warn(f"LearningRateScheduler: {problem}. Assuming {equal_shares[0]} each.")
    return equal_shares


def _depends_on_step(driven: DrivenGroups, total: int) -> bool:
    if not driven.schedule.is_pure:
        return False
    try:
        values = {
            float(driven.schedule(driven.position_at(step, driven.base_value), driven.state))
            for step in (0, total // 2, total)
        }
    except TrainingError:
        return True
    return len(values) > 1


def check_rates(
    policy: OnResume,
    without_plan: Sequence[tuple[int, Writer, DrivenGroups]],
    steps: Sequence[int],
    loaded: Sequence[SavedOptimizer],
) -> None:
    """Refuse a jump of the learning rate from that in the checkpoint's optimizers, if the checkpoint has no plan.

    Args:
        policy: the value of `on_resume`.
        without_plan: the driven groups to check, with the optimizers' indices and writers.
        steps: the steps of each optimizer.
        loaded: the checkpoint's optimizers, in the order of `steps`.

    Raises:
        TrainingError: it would jump, unless the policy is `"config"`, or is `"error"` and the checkpoint's optimizer
            held its own learning rate.
    """
    jumps = list(_jumps(without_plan, steps, loaded))
    table = "\n".join(
        f"  {jump.name}: {jump.then:.6g} in the checkpoint, {jump.now:.6g} by {jump.schedule} (on_resume=config)"
        for jump in jumps
    )
    if not jumps:
        return
    if policy == "config" or (policy == "error" and not any(jump.driven for jump in jumps)):
        rank_zero_warn(f"LearningRateScheduler: at step {_joined(steps)} the learning rate changes.\n{table}")
        return
    impossible = f"on_resume={policy} cannot be applied: the checkpoint has no schedule of lr_plugins. " * (
        policy != "error"
    )
    raise TrainingError(
        f"at step {_joined(steps)} the learning rate would jump: the checkpoint was trained without this schedule.\n"
        f"{table}\n{impossible}To allow it: {HOW_TO_CHOOSE}. Or pass a schedule that continues from that value."
    )


class _Jump(NamedTuple):
    name: str
    then: float
    now: float
    schedule: str
    driven: bool  # whether something drove it in the checkpoint; otherwise it was the optimizer's own


def _jumps(
    without_plan: Sequence[tuple[int, Writer, DrivenGroups]], steps: Sequence[int], loaded: Sequence[SavedOptimizer]
) -> Iterator[_Jump]:
    for index, writer, driven in without_plan:
        if index >= len(loaded) or len(loaded[index].rates) != len(writer.groups) or driven.hyper != LEARNING_RATE:
            continue
        for known, scale in driven.scales.items():
            then = loaded[index].rates[writer.groups.index(known)]
            if then is None or not steps[index]:
                continue
            # A torch scheduler may or may not have set the value of the coming step already.
            near = [driven.value_at(step) * scale for step in (steps[index], steps[index] - 1)]
            if not any(math.isclose(then, value, rel_tol=1e-6) for value in near):
                was_driven = loaded[index].scheduled or not math.isclose(
                    then, known.initial_values[LEARNING_RATE], rel_tol=1e-6
                )
                name = f"lr{writer.suffix}{known.series or ''}"
                yield _Jump(name, then, near[0], type(driven.schedule).__name__, was_driven)


def _joined(steps: Sequence[int]) -> str:
    return " + ".join(map(str, steps))
