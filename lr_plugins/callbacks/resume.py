"""Where a fit of LearningRateScheduler starts: the step of each optimizer, and the plan from there on.

The position comes from the checkpoint, from the last fit of the same Trainer, or else from Lightning's counts
(`_lightning/resume_steps.py`). The plan is that of the checkpoint or the new one, as `on_resume` says
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
from lr_plugins.callbacks.scheduler_state import Progress
from lr_plugins.engine.audit import OnConflict
from lr_plugins.engine.driven_optimizers import DrivenOptimizers
from lr_plugins.engine.resume_policy import OnResume
from lr_plugins.rank_zero import rank_zero_info, rank_zero_warn


@dataclass
class Start:
    """Where a fit starts.

    Args:
        progress: the steps, and what was saved with them.
        continues_fit: whether it continues the last fit of the same Trainer, and its trace.
        saved_optimizers: those of the checkpoint, where their learning rates are to be compared with the new ones.
    """

    progress: Progress
    continues_fit: bool
    saved_optimizers: Sequence[SavedOptimizer] | None


def decide_position(
    on_resume: OnResume,
    trainer: Trainer,
    driven: DrivenOptimizers,
    checkpoint: Progress | None,
    last_fit: Progress | None,
    saved_optimizers: Sequence[SavedOptimizer] | None,
) -> Start:
    """Decide at which step each optimizer continues.

    Args:
        on_resume: what to do where Lightning's counts and ours differ.
        trainer: the Trainer of the run.
        driven: the optimizers.
        checkpoint: what a checkpoint holds of this callback, if it does.
        last_fit: where the last fit of this Trainer ended, if there was one and no step was taken since.
        saved_optimizers: the optimizers of the checkpoint, if there is one.

    Raises:
        TrainingError: the counts differ, or do not tell the steps, and `on_resume` is `"error"`.
    """
    count = len(driven.writers)
    continues = checkpoint is None and last_fit is not None and len(last_fit.steps) == count
    known = last_fit if continues else checkpoint
    if known is None or len(known.steps) != count:
        # A new Trainer, or a checkpoint that was written without this callback: Lightning's counts have to do.
        steps = steps_of_each(on_resume, trainer, driven.writers, saved_optimizers)
        return Start(Progress(steps), False, saved_optimizers)
    counted = check_counts(on_resume, trainer, known.counts, known.steps)
    if counted is None:  # Lightning's counters were set back to 0
        return Start(Progress([0] * count), False, None)
    return Start(dataclasses.replace(known, steps=counted), continues, saved_optimizers)


def decide_plan(
    on_resume: OnResume, on_conflict: OnConflict, driven: DrivenOptimizers, clock: RunClock, start: Start
) -> None:
    """Restore what the schedules remember, and decide by which plan they continue.

    Raises:
        TrainingError: the learning rate would jump, and `on_resume` is `"error"`; or the choice cannot be followed.
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
    on_resume: OnResume, trainer: Trainer, driven: DrivenOptimizers, counted: CountedSteps, progress: Progress
) -> bool:
    """Whether the plan has to restart, because a callback has set Lightning's epochs back since training started.

    Raises:
        TrainingError: the epochs were set back to another one than the first, and `on_resume` is `"error"`.
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
    """Only record, where the resumed run had given way to other code."""
    for writer, was_active in zip(driven.writers, active, strict=False):
        if writer.active and not was_active:
            kind = type(writer.optimizer).__name__
            rank_zero_warn(
                f"LearningRateScheduler: other code has driven {kind} in this run; LearningRateScheduler "
                "continues to only record (on_conflict=theirs)."
            )
            writer.stop_writing()
