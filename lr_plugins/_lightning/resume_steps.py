"""The steps that a run resumes from, checked against what Lightning has counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lr_plugins._lightning.checkpoint_optimizers import SavedOptimizer
from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.epoch_results import is_at_last_batch, is_within_epoch
from lr_plugins.engine.driven_groups import DrivenGroups
from lr_plugins.engine.hyperparameter import LEARNING_RATE
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import TrainingError
from lr_plugins.rank_zero import rank_zero_warn

CHOOSE = 'LearningRateScheduler(..., on_resume="config"), or on the command line callbacks.scheduler.on_resume=config'


class Counts(NamedTuple):
    """What Lightning has counted.

    Attributes:
        epoch: `current_epoch`.
        global_step: optimizer steps, of all optimizers together.
    """

    epoch: int
    global_step: int


def check_counts(policy: str, trainer: Trainer, then: Counts | None, steps: Sequence[int]) -> list[int] | None:
    """The steps of each optimizer to resume from; None to restart.

    Args:
        policy: the value of `on_resume`.
        trainer: the Trainer that resumes the run.
        then: what Lightning had counted when the steps were; None if it is unknown.
        steps: of each optimizer, as a checkpoint or the last fit has them.

    Raises:
        TrainingError: Lightning counts otherwise now, and the policy is `"error"`.
    """
    now = Counts(trainer.current_epoch, trainer.global_step)
    # In a run that goes on in epoch 0, this is under way, or its last batch is done.
    if sum(steps) and now.epoch == 0 and not is_within_epoch(trainer) and not is_at_last_batch(trainer):
        report_set_back(trainer, then, steps)
        return None
    # At the end of an epoch, Lightning may have counted it or not.
    if then is None or (now.global_step == then.global_step and 0 <= now.epoch - then.epoch <= 1):
        return list(steps)
    what = (
        f"{_taken(then, steps)} at global_step {then.global_step}, and the Trainer goes on in epoch {now.epoch} at "
        f"global_step {now.global_step}: one of the counts was changed"
    )
    if policy == "error":
        raise TrainingError(
            f"{what}. on_resume decides which counts: Lightning's (config) or the steps taken (checkpoint). {CHOOSE}"
        )
    kept = [now.global_step // len(steps)] * len(steps) if policy == "config" else list(steps)
    rank_zero_warn(f"LearningRateScheduler: {what}. It continues at step {_list(kept)} (on_resume={policy}).")
    return kept


def report_set_back(trainer: Trainer, then: Counts | None, steps: Sequence[int]) -> None:
    """Report that Lightning's counters were reset, and that the schedules start over."""
    rank_zero_warn(
        f"LearningRateScheduler: {_taken(then, steps)}, and the Trainer starts at epoch 0 (its global_step is "
        f"{trainer.global_step}): its counters were reset. The schedules start over."
    )


def _taken(then: Counts | None, steps: Sequence[int]) -> str:
    return f"{_list(steps)} optimizer steps were taken" + (f", in epoch {then.epoch}" if then else "")


def steps_of_each(
    policy: str, trainer: Trainer, writers: Sequence[Writer], loaded: Sequence[SavedOptimizer] | None
) -> list[int]:
    """How many steps each optimizer has taken, where nothing of ours tells.

    Lightning counts the steps of several optimizers together; the state of most optimizers has their own count.

    Raises:
        TrainingError: it cannot be told, it matters to a schedule, and the policy is `"error"`.
    """
    total, count = trainer.global_step, len(writers)
    alike = [total // count] * count
    if count == 1 or not total:
        return alike
    known = [one.steps for one in loaded or ()]
    if len(known) == count:
        missing = total - sum(steps for steps in known if steps is not None)
        found = [missing if steps is None else steps for steps in known]
        if known.count(None) <= 1 and missing >= 0 and sum(found) == total:
            return found
    if not any(_depends_on_step(drive, total) for writer in writers for drive in writer.drives):
        return alike
    told = ", ".join(
        f"{type(writer.optimizer).__name__} {'unknown' if steps is None else steps}"
        for writer, steps in zip(writers, known, strict=False)
    )
    what = (
        f"the checkpoint has {total} steps of {count} optimizers together ({told or 'of each nothing is known'}), and "
        "nothing that tells how many each has taken"
    )
    if policy == "error":
        raise TrainingError(f"{what}. To assume {alike[0]} each: {CHOOSE}")
    rank_zero_warn(f"LearningRateScheduler: {what}. Assuming {alike[0]} each.")
    return alike


def _depends_on_step(drive: DrivenGroups, total: int) -> bool:
    if not drive.schedule.is_pure:
        return False
    try:
        values = {
            float(drive.schedule(drive.position_at(step, drive.base), drive.state)) for step in (0, total // 2, total)
        }
    except TrainingError:
        return True
    return len(values) > 1


def check_rates(
    policy: str,
    drives: Sequence[tuple[int, Writer, DrivenGroups]],
    steps: Sequence[int],
    loaded: Sequence[SavedOptimizer],
) -> None:
    """Refuse that the learning rate jumps from what a checkpoint's optimizers have, where no plan of ours is known.

    Args:
        policy: the value of `on_resume`.
        drives: those to look at, with the optimizers' indices and writers.
        steps: of each optimizer.
        loaded: the checkpoint's optimizers, in the order of `steps`.

    Raises:
        TrainingError: it would jump; unless the policy is `"config"`, or `"error"` where the checkpoint's optimizer
            held its own learning rate.
    """
    jumps = list(_jumps(drives, steps, loaded))
    told = "\n".join(
        f"  {one.name}: {one.then:.6g} in the checkpoint, {one.now:.6g} by {one.schedule} (on_resume=config)"
        for one in jumps
    )
    if not jumps:
        return
    if policy == "config" or (policy == "error" and not any(one.driven for one in jumps)):
        rank_zero_warn(f"LearningRateScheduler: at step {_list(steps)} the learning rate changes.\n{told}")
        return
    impossible = f"on_resume={policy} cannot be applied: the checkpoint has no schedule of ours. " * (policy != "error")
    raise TrainingError(
        f"at step {_list(steps)} the checkpoint was trained with another scheduler, and the learning rate would jump.\n"
        f"{told}\n{impossible}To allow it: {CHOOSE}. Or pass a schedule that continues from that value."
    )


class _Jump(NamedTuple):
    name: str
    then: float
    now: float
    schedule: str
    driven: bool  # then, by something; otherwise it was the optimizer's own


def _jumps(
    drives: Sequence[tuple[int, Writer, DrivenGroups]], steps: Sequence[int], loaded: Sequence[SavedOptimizer]
) -> Iterator[_Jump]:
    for index, writer, drive in drives:
        if index >= len(loaded) or len(loaded[index].rates) != len(writer.groups) or drive.hyper != LEARNING_RATE:
            continue
        for known, share in drive.shares.items():
            then = loaded[index].rates[writer.groups.index(known)]
            if then is None or not steps[index]:
                continue
            # A scheduler of torch may have set the coming step's value already, or not yet.
            near = [drive.value_at(step) * share for step in (steps[index], steps[index] - 1)]
            if not any(math.isclose(then, value, rel_tol=1e-6) for value in near):
                driven = loaded[index].scheduled or not math.isclose(then, known.owns[LEARNING_RATE], rel_tol=1e-6)
                name = f"lr{writer.suffix}{known.series or ''}"
                yield _Jump(name, then, near[0], type(drive.schedule).__name__, driven)


def _list(steps: Sequence[int]) -> str:
    return " + ".join(map(str, steps))
