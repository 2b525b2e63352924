"""Where a fit of LearningRateScheduler starts: the step of each optimizer, and the plan from there on.

The position comes from the checkpoint, from the last fit of the same Trainer, or else from Lightning's counts
(`_lightning/resume_steps.py`). The plan is that of the checkpoint or the new one, depending on `on_resume`
(`engine/resume_policy.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lr_plugins._lightning.checkpoint_optimizers import SavedOptimizer
from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.resume_steps import (
    Counts,
    check_counts,
    check_rates,
    report_reset,
    steps_of_each,
)
from lr_plugins._lightning.run_clock import RunClock
from lr_plugins._lightning.stepping_optimizers import CountedSteps
from lr_plugins.callbacks.scheduler_state import SchedulerProgress
from lr_plugins.engine.audit import OnConflict
from lr_plugins.engine.driven_optimizers import DrivenOptimizers
from lr_plugins.engine.resume_policy import OnResume
from lr_plugins.rank_zero import rank_zero_info, rank_zero_warn


@dataclass
class Start:
    """The start of a fit.

    Args:
        progress: the steps, and the state saved with them.
        continues_fit: whether it continues the last fit of the same Trainer, and its trace.
        saved_optimizers: those of the checkpoint, if their learning rates must be compared with the new ones.
    """

    progress: SchedulerProgress
    continues_fit: bool
    saved_optimizers: Sequence[SavedOptimizer] | None


def decide_position(
    on_resume: OnResume,
    trainer: Trainer,
    driven: DrivenOptimizers,
    checkpoint: SchedulerProgress | None,
    last_fit: SchedulerProgress | None,
    saved_optimizers: Sequence[SavedOptimizer] | None,
) -> Start:
    """Decide at which step each optimizer resumes.

    Args:
        on_resume: what to do if Lightning's counts differ from ours.
        trainer: the Trainer of the run.
        driven: the optimizers.
        checkpoint: the state of this callback in the checkpoint, if any.
        last_fit: the end of this Trainer's last fit, if there was one and no step was taken since.
        saved_optimizers: the optimizers of the checkpoint, if there is one.

    Raises:
        TrainingError: the counts differ, or the steps are unknown, and `on_resume` is `"error"`.
    """
    count = len(driven.writers)
    continues = checkpoint is None and last_fit is not None and len(last_fit.steps) == count
    known = last_fit if continues else checkpoint
    if known is None or len(known.steps) != count:
        # A new Trainer, or a checkpoint saved without this callback: use Lightning's counts.
        steps = steps_of_each(on_resume, trainer, driven.writers, saved_optimizers)
        return Start(SchedulerProgress(steps), False, saved_optimizers)
    counted = check_counts(on_resume, trainer, known.counts, known.steps)
    if counted is None:  # Lightning's counters were reset
        return Start(SchedulerProgress([0] * count), False, None)
    return Start(dataclasses.replace(known, steps=counted), continues, saved_optimizers)


def decide_plan(
    on_resume: OnResume, on_conflict: OnConflict, driven: DrivenOptimizers, clock: RunClock, start: Start
) -> None:
    """Restore the states of the schedules, and decide which plan they follow.

    Raises:
        TrainingError: the learning rate would jump, and `on_resume` is `"error"`; or `on_resume` cannot be applied.
    """
    progress = start.progress
    saved_run = next((saved.length for saved in progress.schedules.values()), None)
    clock.restore(progress.begins, saved_run, progress.steps[0])
    driven.restore(progress.schedules, progress.series, progress.begun)
    with clock.at_coming_step():
        for line in driven.apply_resume_policy(on_resume, progress.schedules, clock.run_length, progress.steps):
            rank_zero_info(line)
        if on_conflict == "theirs":
            _stop_writing_as_before(driven, progress.active)
        if start.saved_optimizers is not None:
            without_plan = driven.without_plan(progress.schedules, progress.active)
            check_rates(on_resume, without_plan, progress.steps, start.saved_optimizers)


def was_reset(
    on_resume: OnResume, trainer: Trainer, driven: DrivenOptimizers, counted: CountedSteps, progress: SchedulerProgress
) -> bool:
    """Whether the plan must restart, because a callback has reset Lightning's epoch counter since training started.

    Raises:
        TrainingError: the counter was reset to another epoch than the first, and `on_resume` is `"error"`.
    """
    if trainer.current_epoch >= counted.epoch or driven.steps_taken > counted.steps:
        return False
    then = Counts(counted.epoch, counted.global_step)
    if trainer.current_epoch:
        check_counts(on_resume, trainer, then, progress.steps)
        return False
    report_reset(trainer, then, progress.steps)
    return True


def _stop_writing_as_before(driven: DrivenOptimizers, active: Sequence[bool]) -> None:
    """Only record, if the resumed run had stopped writing because of other code."""
    for writer, was_active in zip(driven.writers, active, strict=False):
        if writer.active and not was_active:
            kind = type(writer.optimizer).__name__
            rank_zero_warn(
                f"LearningRateScheduler: other code has driven {kind} in this run; LearningRateScheduler still only "
                "records (on_conflict=theirs)."
            )
            writer.stop_writing()
