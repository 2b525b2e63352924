"""The callback with which schedules drive a Trainer's optimizers."""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from lr_plugins import renamed
from lr_plugins._lightning.callback_order import order_scheduler
from lr_plugins._lightning.checkpoint_optimizers import SavedOptimizer, saved_optimizers
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.distributed import gather_objects
from lr_plugins._lightning.epoch_results import epoch_sums, is_at_last_batch, is_within_epoch, validation_follows
from lr_plugins._lightning.length_check import check_lengths
from lr_plugins._lightning.lr_scheduler_conflicts import check_added, check_configured, source_of
from lr_plugins._lightning.observations import Changes, Measure, Observations, apply_observation, check_measures
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.progress_bar import ProgressBarLR
from lr_plugins._lightning.resume_steps import Counts
from lr_plugins._lightning.run_clock import RunClock
from lr_plugins._lightning.run_length import is_detached
from lr_plugins._lightning.stepping_optimizers import (
    CountedSteps,
    OptimizerChanges,
    stepping_optimizers,
    unseen_steps,
)
from lr_plugins._lightning.unused_hooks import skip_unused_hooks, switch_hook
from lr_plugins._lightning.worker_results import send_to_main_process
from lr_plugins.callbacks import messages
from lr_plugins.callbacks.advice import advise, log_once
from lr_plugins.callbacks.resume import Start, decide_plan, decide_position, was_reset
from lr_plugins.callbacks.scheduler_fit import SchedulerFit
from lr_plugins.callbacks.scheduler_state import FORMAT, SchedulerProgress, check_fields
from lr_plugins.checkpoint_state import KeepsState
from lr_plugins.console.keras_styles import STYLES, Style
from lr_plugins.engine.audit import ON_CONFLICT, Audit, OnConflict, unknown
from lr_plugins.engine.driven_optimizers import DrivenOptimizers
from lr_plugins.engine.param_groups import parameter_names
from lr_plugins.engine.recorder import Recorder
from lr_plugins.engine.resume_policy import POLICIES, OnResume
from lr_plugins.engine.trace import Trace
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from lr_plugins.schedules import RunLength
from lr_plugins.schedules.assign import Assignments, Schedules
from lr_plugins.schedules.observation import BEGIN, EPOCH, VALIDATION
from lr_plugins.validation import choice, flag, verbosity


@renamed.arguments
class LearningRateScheduler(KeepsState, Callback):
    """Set the learning rate of every optimizer step to what a schedule says.

    Works with any LightningModule and optimizer, in Trainers of `pytorch_lightning` and `lightning.pytorch`. The value
    is in place before each real optimizer step, computed from the position in the run; param groups keep their ratio to
    the optimizer's default lr. Several schedules can drive different param groups, optimizers and hyper-parameters
    (see `Assign`). The values used are in `trace`.

    Args:
        schedule: a schedule; a function of `epoch` or `(epoch, lr)`, called once per epoch as in Keras; or a list (or a
            dictionary) of schedules and `Assign`s. If several match a param group, the last one wins.
        verbose: 1 prints Keras' messages: a line at the start of each epoch for a time-based schedule, and a line for
            each decision of a metric-driven one; 0 prints nothing. Default 0.
        style: `"keras2"` for `Epoch 00004: ...` (the default), `"keras3"` for `Epoch 4: ...`.
        measure: quantities to measure at the start of each epoch, by the name under which the schedule monitors them
            (they are logged as well): functions of (trainer, module), e.g. a `lr_plugins.callbacks.FullPass`. Default:
            none.
        on_resume: what to do when a run resumes (from a checkpoint, or in another fit) under another schedule, run
            length or optimizer's own learning rate, so that the learning rate would jump: `"error"` (the default)
            refuses and shows the differences; `"config"` uses the new configuration at the same position;
            `"checkpoint"` keeps the plan of the checkpoint; `"rescale"` stretches the rest of that plan to the new
            length.
        on_conflict: what to do when other code writes what the schedule drives (a scheduler that the module
            returns as well, StochasticWeightAveraging, your own code): `"ours"` (the default) overwrites it and warns
            once per source; `"theirs"` stops writing at the first conflict and only records; `"error"` raises.
            Conflicts are counted in `audit`.
        advice: log a hint when the fit starts if the schedule breaks a rule of thumb: without normalization layers,
            start between 0.001 and 0.01, and decay by at least 100x. True (the default) writes to Lightning's log,
            each line once per program; a function receives the lines of every fit; False reports nothing.

    Raises:
        InvalidArgumentError: an argument of the wrong kind; at the start of the fit, an assignment for something that
            the module or its optimizers do not have.
        TrainingError: during training, if the next learning rate is unknown or not a finite number.

    Source: keras.callbacks.LearningRateScheduler.

    Example:
        >>> from lr_plugins import LearningRateScheduler, StepDecay
        >>> callback = LearningRateScheduler(StepDecay(0.1, drop=0.5, every="10ep"), verbose=1)
        >>> callback = LearningRateScheduler(lambda epoch: 0.002 if epoch < 3 else 0.001, verbose=1)
        >>> from lr_plugins import Assign, CycleThrough, OneCycle
        >>> callback = LearningRateScheduler([OneCycle(0.1), Assign(CycleThrough(0.95, 0.85, 0.95), to="momentum")])
    """

    # Its attributes are the seven arguments; three records that outlast a fit (audit, trace, and the clock with the
    # length of the run); four for resuming; and two that are set only during a fit.

    state_format = FORMAT

    def __init__(
        self,
        schedule: Schedules,
        verbose: int = 0,
        *,
        style: Style = "keras2",
        measure: Mapping[str, Measure] | None = None,
        on_resume: OnResume = "error",
        on_conflict: OnConflict = "ours",
        advice: bool | Callable[[str], object] = True,
    ) -> None:
        self.assignments = Assignments.of(schedule)
        self.verbose = verbosity("LearningRateScheduler.verbose", verbose, "0 (silent) or 1 (Keras' messages)")
        self.style = choice("LearningRateScheduler.style", style, STYLES)
        self.measure = check_measures("LearningRateScheduler.measure", measure or {})
        self.on_resume = choice("LearningRateScheduler.on_resume", on_resume, POLICIES)
        self.on_conflict = choice("LearningRateScheduler.on_conflict", on_conflict, ON_CONFLICT)
        self.advice = advice if callable(advice) else flag("LearningRateScheduler.advice", advice)
        self.audit = Audit()
        self.trace = Trace()
        self._clock = RunClock()
        self._progress = SchedulerProgress()  # at the end of the last fit
        self._previous_fit: tuple[weakref.ref[Trainer], int] | None = None  # its Trainer, and global_step at its end
        self._saved_optimizers: list[SavedOptimizer] | None = None  # of a checkpoint, until training starts
        self._driven: DrivenOptimizers | None = None  # from `on_fit_start` on
        self._fit: SchedulerFit | None = None  # from `on_train_start` on

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first optimizer's coming step; NaN outside of training."""
        return self._driven.writers[0].learning_rate if self._driven is not None else math.nan

    @property
    def run_length(self) -> RunLength:
        """The length of the run as planned when training started; its clock follows the epochs' actual sizes."""
        return self._clock.run_length

    @property
    def recorders(self) -> Sequence[Recorder]:
        """The objects that count and record the steps of each optimizer; empty outside of training."""
        return self._driven.writers if self._driven is not None else []

    # --- the fit starts -----------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second scheduler, and put this one in order among the callbacks."""
        if stage != "fit":
            return
        super().setup(trainer, pl_module, stage)
        skip_unused_hooks(self, trainer)
        self._saved_optimizers = None
        schedulers = [callback for callback in trainer.callbacks if isinstance(callback, LearningRateScheduler)]  # type: ignore[attr-defined]
        if len(schedulers) > 1:
            raise InvalidArgumentError("Trainer.callbacks", schedulers, "a list with only one LearningRateScheduler")
        order_scheduler(trainer, self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training starts.

        Lightning's learning-rate and batch-size finders restore a checkpoint in the middle of a run. That state is
        ignored, because their steps were not counted.
        """
        if self._fit is None:
            super().load_state_dict(state_dict)

    def check_state_dict(self, state_dict: Any) -> dict[str, Any]:
        """The fields of a state, checked against each other and against the schedules."""
        schedules = {assignment.scope: assignment.schedule for assignment in self.assignments.assignments}
        return FORMAT.read(state_dict, lambda state: check_fields(state, schedules))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint's optimizers: it may have been saved without this callback."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self._fit is None:
            self._saved_optimizers = saved_optimizers(checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the base learning rates: the optimizers are built, and no checkpoint has changed them yet."""
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):  # Lightning's mock optimizer has none
            raise InvalidArgumentError("configure_optimizers()", None, "a method that returns an optimizer to drive")
        self.audit = Audit(self.on_conflict, functools.partial(source_of, trainer))
        optimizers, names = stepping_optimizers(trainer), parameter_names(pl_module)
        driven = DrivenOptimizers(optimizers, self.assignments, self._clock.position_at, names, self.audit)
        self._driven = driven
        saved = SchedulerProgress.of(self._restored).groups if self._restored is not None else []
        driven.check_groups(saved, [optimizer.sizes for optimizer in self._saved_optimizers or ()])
        check_configured(trainer, pl_module, driven, self.on_conflict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resume at the position of the checkpoint or of the last fit, or start at step 0."""
        driven = self._driven
        assert driven is not None
        self._clock.start(trainer, driven.writers)
        start = self._decide_position(trainer, driven)
        self._progress = start.progress
        if not start.continues_fit:
            self.trace = Trace()
        decide_plan(self.on_resume, self.on_conflict, driven, self._clock, start)
        observations = Observations(trainer, driven, self.measure, start.progress.steps)
        observations.restore(start.progress.waiting)
        check_lengths(trainer, self.run_length, [driven_groups.schedule for _, driven_groups in driven.driven_groups()])
        driven.attach(self.trace, start.progress.steps, self.run_length.steps, is_detached(self, trainer))
        unseen, counted = unseen_steps(trainer, driven.writers), CountedSteps(trainer, driven.steps_taken)
        bar = ProgressBarLR(trainer, driven.writers)
        # Last, because it registers a hook that only the end of the fit removes.
        changes = OptimizerChanges(trainer, driven.writers, self._replace_optimizers)
        self._fit = SchedulerFit(trainer, driven, observations, changes, unseen, counted, bar)
        observations.check_validation()
        if start.progress.sums:
            observations.resume_epoch(start.progress.sums, start.progress.pending_epoch_end)
            # Lightning does not call on_train_epoch_start for the next epoch then.
            if start.progress.pending_epoch_end is not None and trainer.fit_loop.restarted_mid_epoch:
                self._start_epoch(self._fit, trainer, pl_module)
        self._switch_batch_ends(self._fit)

    def _decide_position(self, trainer: Trainer, driven: DrivenOptimizers) -> Start:
        fields, optimizers = self.take_restored(), self._saved_optimizers
        checkpoint = None if fields is None else SchedulerProgress.of(fields)
        last_fit = self._progress if self._continues_fit(trainer) else None
        self._saved_optimizers, self._previous_fit = None, (weakref.ref(trainer), trainer.global_step)
        return decide_position(self.on_resume, trainer, driven, checkpoint, last_fit, optimizers)

    def _continues_fit(self, trainer: Trainer) -> bool:
        """Whether the last fit was by this Trainer, which has taken no step since."""
        if self._previous_fit is None:
            return False
        last_trainer, global_step = self._previous_fit
        return last_trainer() is trainer and global_step == trainer.global_step

    # --- epochs -------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe the previous epoch, set the learning rate, and print it."""
        fit = self._fit
        assert fit is not None
        self._restart_if_reset(fit, trainer)
        self._start_epoch(fit, trainer, pl_module)

    def _start_epoch(self, fit: SchedulerFit, trainer: Trainer, pl_module: LightningModule) -> None:
        driven = fit.driven
        check_added(trainer, driven, self.on_conflict)
        fit.optimizer_changes.check()
        self._clock.start_epoch(trainer, driven)
        for unseen in fit.unseen:
            unseen.end_epoch()
        if fit.counts_unseen_steps:
            self._switch_batch_ends(fit)
        self.observe_epoch(trainer, pl_module)
        fit.observations.observe(BEGIN)
        driven.refresh()
        if self.advice and not driven.steps_taken and driven.active:
            for _, driven_groups in driven.driven_groups():
                advise(pl_module, driven_groups, self.run_length.steps, self._report_advice)
        of_this_epoch, fit.changes_of_coming_epoch = fit.changes_of_coming_epoch, ()
        self._report(fit, trainer.current_epoch + 1, of_this_epoch)
        messages.announce(trainer.current_epoch + 1, driven, self.verbose, self.style)

    def observe_epoch(self, trainer: Trainer, pl_module: LightningModule, last: bool = False) -> None:
        """Observe the previous epoch, once, at the start of an epoch or after the `last` one."""
        fit = self._fit
        if fit is None or not fit.observations.is_epoch_due(trainer):
            return
        fit.agreement.check(trainer, self.trace)
        try:
            of_before, of_coming = fit.observations.observe_epoch(trainer, pl_module, last)
        except TrainingError as error:
            if not last:
                raise
            rank_zero_warn(f"LearningRateScheduler: {error}")  # no further value is needed
            return
        self._report(fit, trainer.current_epoch, of_before)
        fit.changes_of_coming_epoch = of_coming  # the header of that epoch may not be printed yet

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Detect replaced optimizers and param groups, and other schedulers.

        If training resumes within an epoch, this writes the first value, because the start of the epoch is skipped.
        """
        fit = self._fit
        assert fit is not None
        is_same_epoch = trainer.num_training_batches == self._clock.epoch_batches
        if fit.is_calm and is_same_epoch and fit.optimizer_changes.follows_all():
            for writer in fit.driven.writers:
                if not writer.is_settled():
                    break
            else:
                return
        check_added(trainer, fit.driven, self.on_conflict)
        fit.optimizer_changes.check()
        writers = fit.driven.writers
        if not writers[0].seen_steps:
            self._restart_if_reset(fit, trainer)
            fit.observations.note_first_batch()
        if not is_same_epoch:  # training resumed within it, or its size has changed
            self._clock.take_epoch_size(trainer, None)
        for writer, unseen in zip(writers, fit.unseen, strict=True):
            writer.new_batch()
            if not writer.is_written:
                writer.refresh()
            unseen.new_batch()
        fit.is_calm = self.on_conflict != "theirs" and not fit.counts_unseen_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let schedules observe that do so every few optimizer steps."""
        fit = self._fit
        assert fit is not None
        for unseen in fit.unseen:
            if unseen.counts:
                unseen.count()
        for writer, collector in fit.observations.by_writer.items():
            if not collector.is_of_steps:
                continue
            collector.add_loss(outputs)
            for when in collector.due(writer.step):
                changes = apply_observation(writer, collector.observation(when, {}))
                self._report(fit, trainer.current_epoch + 1, changes)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the schedules observe what the validation has logged."""
        if self._fit is not None and not trainer.sanity_checking:
            self._fit.observations.note(VALIDATION)
            self._report(self._fit, trainer.current_epoch + 1, self._fit.observations.observe(VALIDATION))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that an epoch is over. Its metrics are complete when the next one starts."""
        if self._fit is not None:
            self._fit.observations.note(EPOCH)

    # --- changes during the fit ---------------------------------------------------------------------------

    def _replace_optimizers(self, optimizers: list[Optimizer]) -> None:
        """Drive these optimizers from now on."""
        fit = self._fit
        assert fit is not None
        for unseen in fit.unseen:
            unseen.end_epoch()
        fit.observations.follow(fit.driven.replace(optimizers))
        fit.unseen = unseen_steps(fit.trainer, fit.driven.writers, fit.unseen)
        self._switch_batch_ends(fit)
        fit.driven.refresh_unwritten()  # last, because a schedule may refuse its position

    def _switch_batch_ends(self, fit: SchedulerFit) -> None:
        """Call `on_train_batch_end` only while it has something to do, and check the coming batch in full."""
        fit.is_calm = False
        switch_hook(self, fit.trainer, "on_train_batch_end", LearningRateScheduler, wanted=fit.needs_batch_ends)

    def _restart_if_reset(self, fit: SchedulerFit, trainer: Trainer) -> None:
        """Restart the plan if a callback has reset Lightning's epoch counter since training started."""
        if not was_reset(self.on_resume, trainer, fit.driven, fit.counted, self._progress):
            return
        self._progress = SchedulerProgress([0] * len(fit.driven.writers))
        fit.counted = CountedSteps(trainer, 0)
        fit.driven.restart()
        fit.observations.restart(self._progress.steps)
        self._switch_batch_ends(fit)
        self._clock.restart(trainer)
        fit.driven.refresh()

    def _report(self, fit: SchedulerFit, epoch: int, changes: Changes) -> None:
        messages.report(epoch, changes, fit.driven, self.verbose, self.style)

    @rank_zero_only
    def _report_advice(self, line: str) -> None:
        (self.advice if callable(self.advice) else log_once)(line)

    # --- the checkpoint -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The steps of each optimizer, the states of the schedules, and what they will observe next; plain values."""
        return (self._current() if self._restored is None else SchedulerProgress.of(self._restored)).state()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the sums of the current epoch, which Lightning's checkpoints do not contain."""
        fit = self._fit
        if fit is None:
            return
        if not is_detached(self, trainer)():
            fit.counted.compare(fit.driven.steps_taken)
        if fit.observations.needs_epoch_sums:
            state: dict[str, Any] = checkpoint["callbacks"][self.state_key]
            last = is_at_last_batch(trainer)
            kept = last or is_within_epoch(trainer)
            state["sums"] = gather_objects(trainer, epoch_sums(trainer)) if kept else []
            state["unended"] = validation_follows(trainer) if last else None

    def _current(self) -> SchedulerProgress:
        """The current progress of the schedules."""
        fit = self._fit
        if fit is None:
            return self._progress
        counts = Counts(fit.trainer.current_epoch, fit.trainer.global_step)
        return SchedulerProgress.now(fit.driven, fit.observations, self._clock, counts)

    # --- the fit ends -------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe the last epoch: its message is due, and another fit continues from here."""
        fit = self._fit
        assert fit is not None
        fit.agreement.check(trainer, self.trace)
        fit.counted.compare(fit.driven.steps_taken, at_the_end=True)
        # Code that stops a run early knows that its plan is not complete.
        self._clock.check_at_end(trainer, fit.driven, rank_zero_info if trainer.should_stop else rank_zero_warn)
        self.observe_epoch(trainer, pl_module, last=True)
        logged = ", ".join(sorted(fit.observations.known)) or "none"
        for name in fit.observations.never_logged:
            rank_zero_warn(
                f"LearningRateScheduler: a schedule observes {name!r}, which was never logged; logged metrics: {logged}"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the optimizers, because Lightning skips `teardown` after an error."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the optimizers and the Trainer."""
        restored = self.take_restored()
        if stage == "fit" and restored is not None:  # the checkpoint of a finished run
            self._progress, self.trace = SchedulerProgress.of(restored), Trace()
            self._previous_fit = weakref.ref(trainer), trainer.global_step
        self._saved_optimizers = None
        self._release()
        audit = dataclasses.replace(self.audit, source=unknown)
        send_to_main_process(trainer, self, {"trace": self.trace, "audit": audit, "_clock": self._clock})

    def _release(self) -> None:
        fit, driven = self._fit, self._driven
        if fit is not None:
            self._progress = self._current()
            self._previous_fit = weakref.ref(fit.trainer), fit.trainer.global_step
        if driven is not None:
            driven.detach()
        if fit is not None:
            fit.optimizer_changes.stop()
            fit.bar.restore()
            switch_hook(self, fit.trainer, "on_train_batch_end", LearningRateScheduler, wanted=True)
        self._clock.stop()
        self._driven = self._fit = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything except what belongs to a fit."""
        audit = dataclasses.replace(self.audit, source=unknown)
        return state_without_fit(self, audit=audit, _driven=None, _fit=None, _previous_fit=None)
