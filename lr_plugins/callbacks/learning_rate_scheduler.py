"""The callback that makes a schedule drive a Trainer's optimizers."""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

from torch.optim import Optimizer

from lr_plugins._lightning.callback_order import put_in_order
from lr_plugins._lightning.checkpoint_optimizers import SavedOptimizer, saved_optimizers
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.distributed import of_all_processes
from lr_plugins._lightning.epoch_results import (
    epoch_means,
    epoch_sums,
    is_at_last_batch,
    is_within_epoch,
    restore_epoch_sums,
    validate,
    validation_follows,
)
from lr_plugins._lightning.length_check import check_lengths
from lr_plugins._lightning.metrics import Observer
from lr_plugins._lightning.progress_bar import ShownInBar
from lr_plugins._lightning.rank_agreement import Agreement
from lr_plugins._lightning.resume_position import Counts, check_counts, check_rates, report_set_back, steps_of_each
from lr_plugins._lightning.run_length import is_detached, run_length
from lr_plugins._lightning.stepping_optimizers import (
    CountedSteps,
    OptimizerChanges,
    UnseenSteps,
    stepping_optimizers,
)
from lr_plugins._lightning.worker_results import bring_back
from lr_plugins.callbacks.advice import advise, log_once
from lr_plugins.callbacks.scheduler_state import FORMAT, Progress, check_fields
from lr_plugins.checkpoint_state import ChecksState
from lr_plugins.console.keras_text import format_rate
from lr_plugins.engine.audit import CHOICES, Audit, unknown
from lr_plugins.engine.driven_groups import DrivenGroups, sampled_steps
from lr_plugins.engine.epoch_starts import EpochStarts
from lr_plugins.engine.naming import series_suffixes
from lr_plugins.engine.param_groups import Names, parameter_names
from lr_plugins.engine.plan_change import POLICIES, Saved, apply_resume_policy
from lr_plugins.engine.trace import Trace
from lr_plugins.engine.writer import Writer, check_chosen, describe_targets, optimizers_of
from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from lr_plugins.schedules import Position, RunLength
from lr_plugins.schedules.assign import Assign, Assignments, Schedules
from lr_plugins.schedules.metric_driven.base import MetricDriven
from lr_plugins.schedules.observation import BEGIN, EPOCH, VALIDATION, Change, Monitor, Observation
from lr_plugins.schedules.position import Count
from lr_plugins.validation import choice, flag

Measure = Callable[[Trainer, LightningModule], float]
MESSAGES = {
    "keras2": "\nEpoch {epoch:05d}: {who} {verb} {what} to {value}.{why}",
    "keras3": "\nEpoch {epoch}: {who} {verb} {what} to {value}.{why}",
}


class LearningRateScheduler(ChecksState, Callback):
    """Set the learning rate of every optimizer step to what a schedule says.

    Works with any LightningModule and optimizer, in Trainers of `pytorch_lightning` and `lightning.pytorch`. The
    value is written immediately before each real optimizer step, computed from the position in the run; param
    groups keep their ratio to the optimizer's default lr. Several schedules can be given, for different param groups,
    optimizers and hyper-parameters (see `Assign`). The values used are in `trace`.

    Args:
        schedule: a schedule, or a function of `epoch` or of `(epoch, lr)` as in Keras, called once an epoch; or a
            list of schedules and `Assign`s (or a dictionary of them by name), of which the last that fits counts.
        verbose: 1 prints what Keras prints: a line at the begin of each epoch for a schedule of time, and a line for
            each decision of one that follows a metric; 0 nothing. Default 0.
        style: `"keras2"` for `Epoch 00004: ...` (the default), `"keras3"` for `Epoch 4: ...`.
        measure: quantities to measure at the begin of each epoch, by the name under which the schedule can
            monitor them (they are logged, too): functions of (trainer, module), e.g. a
            `lr_plugins.callbacks.FullPass`. Default: none.
        on_resume: what to do where a run goes on (from a checkpoint, or in another fit) under another schedule, run
            length or optimizer's own learning rate, so that the learning rate would jump: `"error"` (the default)
            refuses and shows what differs; `"config"` takes the new configuration at the same position;
            `"checkpoint"` keeps the plan of the checkpoint; `"rescale"` stretches what is left of it to the new
            length.
        on_conflict: what to do where something else writes what the schedule drives (a scheduler that the module
            returns as well, StochasticWeightAveraging, code of yours): `"ours"` (the default) uses the schedule's
            value and tells of each source once; `"theirs"` gives way to them, from the first such value on, and only
            records; `"error"` stops. `audit` keeps count.
        advice: say, as information and once, when the fit starts, where the learning rate is not as the rule of thumb
            has it: a start from 0.001 to 0.01 in a network without normalization, and a fall of 100-fold or more.
            True (the default) says it in Lightning's log, each line once in a program; a function is given the lines of
            every fit; False leaves them out.

    Raises:
        InvalidArgument: an argument of the wrong kind; at the begin of the fit, an assignment for something that the
            module or its optimizers do not have.
        TrainingError: during training, when the next learning rate cannot be known or is no finite number.

    Source: keras.callbacks.LearningRateScheduler.

    Example:
        >>> from lr_plugins import LearningRateScheduler, StepDecay
        >>> callback = LearningRateScheduler(StepDecay(0.1, drop=0.5, every="10ep"), verbose=1)
        >>> callback = LearningRateScheduler(lambda epoch: 0.002 if epoch < 3 else 0.001, verbose=1)
        >>> from lr_plugins import Assign, CycleThrough, OneCycle
        >>> callback = LearningRateScheduler([OneCycle(0.1), Assign(CycleThrough(0.95, 0.85, 0.95), to="momentum")])
    """

    state_format = FORMAT

    def __init__(
        self,
        schedule: Schedules,
        verbose: int = 0,
        *,
        style: str = "keras2",
        measure: Mapping[str, Measure] | None = None,
        on_resume: str = "error",
        on_conflict: str = "ours",
        advice: bool | Callable[[str], object] = True,
    ) -> None:
        self.assignments = Assignments.of(schedule)
        if not isinstance(verbose, int):
            raise InvalidArgument("LearningRateScheduler.verbose", verbose, "0 (silent) or 1 (Keras' messages)")
        self.verbose, self.style = verbose, choice("LearningRateScheduler.style", style, MESSAGES)
        self.measure = _measures(measure or {})
        self.on_resume = choice("LearningRateScheduler.on_resume", on_resume, POLICIES)
        self.on_conflict = choice("LearningRateScheduler.on_conflict", on_conflict, CHOICES)
        self.advice = advice if callable(advice) else flag("LearningRateScheduler.advice", advice)
        self.audit = Audit()
        self.trace = Trace()
        self.run_length = RunLength()
        self._progress = Progress()
        self._restored: Progress | None = None  # a checkpoint's, until training begins
        self._loaded: list[SavedOptimizer] | None = None  # the same of its optimizers
        self._writers: list[Writer] = []  # while training
        self._trainer: Trainer | None = None  # while training
        self._observers: list[Observer] = []  # of each writer, while training
        self._bar: ShownInBar | None = None  # while training
        self._names: Names = {}  # while training
        self._changes: OptimizerChanges | None = None  # while training
        self._unseen: list[UnseenSteps] = []  # of each writer, while training
        self._told_unseen: set[str] = set()  # while training
        self._retired_steps = 0  # of optimizers that are there no more
        self._ahead = 0  # epochs by which the coming step is ahead of Lightning's count
        self._counted: CountedSteps | None = None  # while training
        self._epochs = EpochStarts()
        self._batches: float = -1  # of the epoch under way
        self._agreement = Agreement()
        self._length_unchanged = True  # as far as is known, the run is as long as it was to be
        self._observed_until = -1  # epochs whose metrics have been observed
        self._of_coming_epoch: list[tuple[DrivenGroups, Change]] = []  # decisions to be told at its start
        self._previous_fit: tuple[weakref.ref[Trainer], int] | None = (
            None  # the last Trainer, and its count of steps at the end
        )

    @property
    def learning_rate(self) -> float:
        """What the schedule says for the coming step of the first optimizer; NaN outside of training."""
        return self._writers[0].learning_rate if self._writers else math.nan

    # --- the run: begin, epochs, end --------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second writer, and take a place among the callbacks."""
        if stage != "fit":
            return
        self._restored, self._loaded = None, None  # that of a checkpoint only tested; the fit's own comes after this
        schedulers = [one for one in trainer.callbacks if isinstance(one, LearningRateScheduler)]  # type: ignore[attr-defined]
        if len(schedulers) > 1:
            raise InvalidArgument("Trainer.callbacks", schedulers, "a list with only one LearningRateScheduler")
        put_in_order(trainer, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the base learning rates: the optimizers are built, and no checkpoint has changed them yet."""
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):  # Lightning's stand-in has none
            raise InvalidArgument("configure_optimizers()", None, "a method that returns an optimizer to drive")
        self.audit = Audit(self.on_conflict, functools.partial(_source, trainer))
        self._names = parameter_names(pl_module)
        self._writers = self._make_writers(stepping_optimizers(trainer))
        self._check_groups()
        if trainer.lr_scheduler_configs:
            self._handle_lr_scheduler_conflict(
                trainer,
                f"{type(pl_module).__name__}.configure_optimizers() returns {_lr_scheduler_names(trainer)} as well",
            )

    def _check_groups(self) -> None:
        """Refuse a checkpoint whose groups are others: torch would give parameters the state of each other."""
        saved = self._restored.groups if self._restored is not None else []
        now = self._groups()
        if not saved and any(one.splits for one in self.assignments):
            # A checkpoint of a run without these assignments; of its groups the sizes are known.
            saved = [[[""] * size for size in one.sizes] for one in self._loaded or ()]
            now = [[[""] * len(known.group["params"]) for known in writer.groups] for writer in self._writers]
        for index, (before, after) in enumerate(zip(saved, now, strict=False)):
            if before != after:
                told = [f"{len(groups)} ({', '.join(str(len(one)) for one in groups)})" for groups in (before, after)]
                raise InvalidArgument(
                    f"the param groups of {type(self._writers[index].optimizer).__name__}",
                    f"{told[1]} parameters",
                    f"those of the checkpoint, {told[0]} parameters, each with the same ones",
                    "The params and layers of the assignments have to be those of the run that is resumed.",
                )

    def _groups(self) -> list[list[list[str]]]:
        splits = any(one.splits for one in self.assignments)
        return [writer.layout.parameters() for writer in self._writers] if splits or self._restored else []

    def _handle_lr_scheduler_conflict(self, trainer: Trainer, what: str) -> None:
        """Go by the choice where Lightning runs schedulers of torch, too."""
        choices = "Choose on_conflict='ours' or 'theirs'. Or return the optimizer alone, or leave one of the two out."
        if self.on_conflict == "error":
            raise TrainingError(f"{what}, and LearningRateScheduler has on_conflict='error'. {choices}")
        if self.on_conflict == "theirs":
            rank_zero_warn(f"{what}. LearningRateScheduler gives way to it, and only records. {choices}")
            for writer in self._writers:
                writer.give_way()
        else:
            rank_zero_warn(f"{what}. LearningRateScheduler overrides it at every step. {choices}")

    def _check_new_lr_schedulers(self, trainer: Trainer) -> None:
        """Give way to schedulers that Lightning runs from now on; they come at the begin of an epoch."""
        if self.on_conflict == "theirs" and trainer.lr_scheduler_configs and self._writers[0].active:
            self._handle_lr_scheduler_conflict(
                trainer, f"{_lr_scheduler_names(trainer)} has come in epoch {trainer.current_epoch}"
            )

    def _make_writers(self, optimizers: Sequence[Optimizer]) -> list[Writer]:
        mine = optimizers_of(list(self.assignments), optimizers)
        suffixes = series_suffixes(optimizers)
        writers = [
            Writer(optimizer, assignments, self._position, self._names, suffix, self.audit)
            for optimizer, assignments, suffix in zip(optimizers, mine, suffixes, strict=True)
        ]
        check_chosen(list(self.assignments), writers, self._names)
        return writers

    # --- optimizers that are replaced -------------------------------------------------------------------------

    def _replace_writers(self, trainer: Trainer, optimizers: list[Optimizer]) -> None:
        """DrivenGroups these optimizers from now on; a new one continues at the position of the one it replaces."""
        for unseen in self._unseen:
            unseen.end_epoch()
        before = dict(zip(self._writers, self._observers, strict=True))
        mine, suffixes = optimizers_of(list(self.assignments), optimizers), series_suffixes(optimizers)
        after: dict[Writer, Observer] = {}
        replaced: list[Writer] = []
        for index, (optimizer, assignments, suffix) in enumerate(zip(optimizers, mine, suffixes, strict=True)):
            same = next((writer for writer in before if writer.optimizer is optimizer), None)
            if same is not None:
                after[same] = before[same]
                continue
            at_index = list(before)[index : index + 1]
            old = next((one for one in at_index if not any(one.optimizer is other for other in optimizers)), None)
            new = self._writer_instead_of(trainer, old, optimizer, assignments, suffix)
            after[new] = before[old] if old else Observer(trainer, _watched(new), self.measure, new.step)
            replaced += [old] if old else []
        for writer in before:
            if writer not in after:
                writer.detach()
                self._retired_steps += 0 if writer in replaced else writer.step
        self._writers[:], self._observers = list(after), list(after.values())
        for writer in after:
            if not writer.is_written:
                writer.refresh()
        self._follow_unseen(trainer)

    def _writer_instead_of(
        self, trainer: Trainer, old: Writer | None, optimizer: Optimizer, assignments: dict[int, Assign], suffix: str
    ) -> Writer:
        if old is not None:
            old.detach()
        new = Writer(optimizer, assignments, self._position, self._names, suffix, self.audit, instead_of=old)
        new.total_steps = self.run_length.steps
        new.attach(self.trace, new.step, is_detached(self, trainer))
        states = {(drive.assignment, drive.number): drive for drive in (old.drives if old is not None else ())}
        for drive in new.drives:
            known = states.get((drive.assignment, drive.number))
            if known is not None:
                drive.schedule, drive.state = known.schedule, known.state
        return new

    def _follow_unseen(self, trainer: Trainer) -> None:
        before, writers, told = [unseen.counts for unseen in self._unseen], self._writers, self._told_unseen
        self._unseen = [
            UnseenSteps(trainer, writer, writers, told, before[index] if index < len(before) else False)
            for index, writer in enumerate(writers)
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the position in the run."""
        self._trainer = trainer
        self.run_length = run_length(trainer)
        self._take_position(trainer)
        check_lengths(trainer, self.run_length, [drive.schedule for _, drive in self._drives()])
        for writer, step in zip(self._writers, self._progress.steps, strict=True):
            writer.total_steps = self.run_length.steps
            writer.attach(self.trace, step, is_detached(self, trainer))
        self._changes = OptimizerChanges(trainer, self._writers, functools.partial(self._replace_writers, trainer))
        self._told_unseen, self._retired_steps = set(), 0
        self._follow_unseen(trainer)
        self._counted = CountedSteps(trainer, sum(self._progress.steps))
        self._bar = ShownInBar(trainer, self._writers)
        self._agreement, self._observed_until, self._length_unchanged = Agreement(), -1, True
        for monitor in self._monitors():
            if monitor.when == VALIDATION and not trainer.enable_validation:
                raise TrainingError(
                    f"a schedule observes {monitor.metric!r} after each validation run, and this fit has none: give it "
                    'validation data, or observe at when="epoch"'
                )
        if self._progress.sums:
            self._finish_epoch(trainer, pl_module)

    def _monitors(self) -> list[Monitor]:
        schedules = [drive.schedule for _, drive in self._drives()] or [one.schedule for one in self.assignments]
        return [monitor for schedule in schedules for monitor in schedule.monitors]

    def _logged_monitors(self) -> list[str]:
        """What is observed of whole epochs or validations, and is not measured here."""
        names = {monitor.metric for monitor in self._monitors() if monitor.when in (EPOCH, VALIDATION)}
        return sorted(names - set(self.measure))

    def _take_position(self, trainer: Trainer) -> None:
        """Go on where a checkpoint or the last fit of this Trainer stands; begin anew otherwise."""
        restored, self._restored = self._restored, None
        loaded, self._loaded = self._loaded, None
        count, policy = len(self._writers), self.on_resume
        goes_on = restored is None and self._continues_fit(trainer) and len(self._progress.steps) == count
        if goes_on:
            restored = self._progress
        # A new Trainer, or one whose checkpoint was written without this callback, tells the position by itself.
        known = restored is not None and len(restored.steps) == count
        steps = None
        if restored is not None and known:
            steps = check_counts(self.on_resume, trainer, restored.counts, restored.steps)
            restored = dataclasses.replace(restored, steps=steps) if steps is not None else Progress([0] * count)
            loaded = loaded if steps is not None else None
        else:
            restored = None
        self._progress = restored or Progress(steps_of_each(policy, trainer, self._writers, loaded))
        if not goes_on or steps is None:
            self.trace = Trace()
        self._epochs = EpochStarts(self._progress.begins)
        self._take_length(trainer)
        for writer, series, begun in zip(self._writers, self._progress.series, self._progress.begun, strict=False):
            writer.restore_groups(series, begun)
        for key, drive in self._drives():
            saved = self._progress.schedules.get(key)
            if saved is not None and saved.kind == drive.schedule.kind:
                drive.state = saved.state
        # Where the last batch of an epoch is done, the coming step is one of the next.
        self._ahead = int(is_at_last_batch(trainer))
        self._settle()
        self._give_way_as_before()
        if loaded is not None:
            check_rates(policy, self._unknown_drives(), self._progress.steps, loaded)
        self._ahead = 0
        self._observers = [
            Observer(trainer, _watched(writer), self.measure, step)
            for writer, step in zip(self._writers, self._progress.steps, strict=True)
        ]
        for observer, waiting in zip(self._observers, self._progress.waiting, strict=False):
            observer.load(waiting)

    def _unknown_drives(self) -> list[tuple[int, Writer, DrivenGroups]]:
        """Those of which a checkpoint holds no plan."""
        known = {id(drive) for key, drive in self._drives() if key in self._progress.schedules}
        gave_way = {index for index, active in enumerate(self._progress.active) if not active}
        return [
            (index, writer, drive)
            for index, writer in enumerate(self._writers)
            for drive in writer.drives
            if writer.active and (id(drive) not in known or index in gave_way)
        ]

    def _give_way_as_before(self) -> None:
        """Go on recording only, where the run that is resumed had given way."""
        if self.on_conflict != "theirs":
            return
        for writer, active in zip(self._writers, self._progress.active, strict=False):
            if writer.active and not active:
                kind = type(writer.optimizer).__name__
                rank_zero_warn(
                    f"LearningRateScheduler: the run had given way to other code that drives {kind}; it goes on "
                    "recording only (on_conflict=theirs)."
                )
                writer.give_way()

    def _begin_anew_if_set_back(self, trainer: Trainer) -> None:
        """Begin the plan anew where a callback has set Lightning's epochs back since training began."""
        counted = self._counted
        if counted is None or trainer.current_epoch >= counted.epoch or self._steps > counted.steps:
            return
        count = len(self._writers)
        then = Counts(counted.epoch, counted.global_step)
        if trainer.current_epoch:
            check_counts(self.on_resume, trainer, then, self._progress.steps)
            return
        report_set_back(trainer, then, self._progress.steps)
        self._progress, self._epochs = Progress([0] * count), EpochStarts()
        self._counted = CountedSteps(trainer, 0)
        for writer in self._writers:
            writer.step = 0
            for drive in writer.drives:
                drive.state = drive.schedule.start()
        self._observers = [Observer(trainer, _watched(writer), self.measure) for writer in self._writers]
        self._take_size(trainer, 0)
        for writer in self._writers:
            writer.refresh()

    def _take_length(self, trainer: Trainer) -> None:
        """Take up how long the run is, and when its epochs began."""
        saved = next(iter(self._progress.schedules.values()), None)
        if self._epochs.begins and saved is not None:
            # Epochs of different sizes: that of the one under way tells nothing of the plan.
            steps = trainer.max_steps if trainer.max_steps >= 0 else None
            planned, now = saved.length.steps_per_epoch, self.run_length
            self.run_length = RunLength.of(planned, now.epochs, steps, now.batch_size)
        within = is_within_epoch(trainer) or is_at_last_batch(trainer)
        self._take_size(trainer, None if within else self._progress.steps[0])

    def _take_size(self, trainer: Trainer, step: int | None) -> None:
        """Take up how long the epoch under way is, and that it begins at a step, if it does."""
        self._batches = trainer.num_training_batches
        planned, size = self.run_length.steps_per_epoch, run_length(trainer).steps_per_epoch
        if planned is None or size is None or len(self._writers) > 1:
            return
        self._epochs.begin(trainer.current_epoch, step, planned)
        self.run_length = self.run_length._replace(clock=self._epochs.clock(size, planned))

    def _finish_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the sums of an epoch; of one whose last batch was done, see to what was to follow.

        Lightning takes such an epoch for ended: it neither validates nor says what the epoch comes to. What the
        module logs by itself at an epoch's end remains unknown.
        """
        sums, unended = self._progress.sums, self._progress.unended
        mine = sums[trainer.global_rank] if len(sums) == trainer.world_size else []
        if unended is None:
            restore_epoch_sums(trainer, mine)
            return
        for observer in self._observers:
            observer.add(EPOCH, epoch_means(mine))
        self._note(EPOCH)
        if unended and trainer.enable_validation:
            validate(trainer)
        if trainer.fit_loop.restarted_mid_epoch:  # it does not announce the next epoch either
            self._start_epoch(trainer, pl_module)

    def _settle(self) -> None:
        """Go by the new plan or by the old one, where they differ."""
        drives = dict(self._drives())
        for index, step in enumerate(self._progress.steps):
            mine = {key: drive for key, drive in drives.items() if key.startswith(f"{index}/")}
            said = apply_resume_policy(self.on_resume, mine, self._progress.schedules, self.run_length, step)
            if said:
                rank_zero_info(said)

    def _drives(self) -> Iterator[tuple[str, DrivenGroups]]:
        """All drives, by what tells them apart in a checkpoint."""
        for index, writer in enumerate(self._writers):
            for drive in writer.drives:
                yield f"{index}/{self.assignments.assignments[drive.assignment].scope}/{drive.number}", drive

    @property
    def _steps(self) -> int:
        """Steps that all optimizers have taken."""
        return self._retired_steps + sum(writer.step for writer in self._writers)

    def _continues_fit(self, trainer: Trainer) -> bool:
        return (
            self._previous_fit is not None
            and self._previous_fit[0]() is trainer
            and self._previous_fit[1] == trainer.global_step
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the first value where training resumes within an epoch, whose begin is then not announced.

        And look who else drives, and which optimizers and param groups are there: they may have been replaced.
        """
        self._check_new_lr_schedulers(trainer)
        if self._changes is not None:
            self._changes.check()
        if not self._writers[0].seen_steps:
            self._begin_anew_if_set_back(trainer)
        if trainer.num_training_batches != self._batches:  # the loader of an epoch whose begin was not announced
            self._take_size(trainer, None)
        for writer, unseen in zip(self._writers, self._unseen, strict=True):
            writer.new_batch()
            if not writer.is_written:
                writer.refresh()
            unseen.new_batch()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe what the epoch before has shown, set the learning rate, and say so."""
        self._begin_anew_if_set_back(trainer)
        self._start_epoch(trainer, pl_module)

    def _start_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_new_lr_schedulers(trainer)
        if self._changes is not None:
            self._changes.check()
        now = run_length(trainer)
        self._compare_length(now, self._what_differs(trainer, now))
        self._take_size(trainer, self._writers[0].step)
        for unseen in self._unseen:
            unseen.end_epoch()
        self.observe_epoch(trainer, pl_module)
        self._observe(BEGIN, {})
        for writer in self._writers:
            writer.refresh()
        if self.advice and not self._steps and self._writers[0].active:
            for _, drive in self._drives():
                advise(pl_module, drive, self.run_length.steps, self._say_advice)
        of_time = [drive for _, drive in self._drives() if not isinstance(drive.schedule, MetricDriven)]
        of_this_epoch, self._of_coming_epoch = self._of_coming_epoch, []
        self._say(trainer.current_epoch + 1, of_this_epoch)
        self._say(trainer.current_epoch + 1, [(drive, drive.schedule.announcement(drive.state)) for drive in of_time])

    def _what_differs(self, trainer: Trainer, now: RunLength) -> str:
        """In which way the run is of another length than when it began."""
        planned = self.run_length
        if now.steps_per_epoch != planned.steps_per_epoch:
            return f"epoch {trainer.current_epoch} has {now.steps_per_epoch} steps, unlike the first one"
        if now.epochs != planned.epochs:
            return f"max_epochs is {now.epochs} now; it was {planned.epochs} when the run began"
        return f"the run is to have {now.steps} steps now (max_steps={trainer.max_steps})"

    def _compare_length(self, now: RunLength, what: str, tell: Callable[[str], None] = rank_zero_warn) -> None:
        """Tell, once, if the run turns out to be of another length than the schedules have reckoned with."""
        total = self.run_length.steps
        if not self._length_unchanged or total is None or now.steps in (None, total):
            return
        steps = sampled_steps(0, total - 1)
        if any(drive.schedule.is_pure and drive.depends_on(now, steps) for _, drive in self._drives()):
            self._length_unchanged = False
            tell(
                f"LearningRateScheduler: {what}; lengths in percent stay those of {total:g} steps, as the run was to "
                "have when it began. Lengths in epochs or steps do not depend on it."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Observe where so many optimizer steps have been taken."""
        for unseen in self._unseen:
            unseen.count()
        for writer, observer in zip(self._writers, self._observers, strict=True):
            observer.add_loss(outputs)
            for when in observer.due(writer.step):
                self._say(trainer.current_epoch + 1, self._apply_observation(writer, observer.observation(when, {})))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe what the validation has shown."""
        if self._trainer is not None and not trainer.sanity_checking:
            self._note(VALIDATION)
            self._say(trainer.current_epoch + 1, self._observe(VALIDATION, {}))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there has been an epoch. Its metrics are complete when the next one begins."""
        self._note(EPOCH)

    def _note(self, occasion: str) -> None:
        for observer in self._observers:
            observer.over.add(occasion)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe what the last epoch has shown: the message is due, and another fit would go on from there."""
        self._agreement.check(trainer, self.trace)
        if self._counted is not None:
            self._counted.compare(self._steps, at_the_end=True)
        ended = self.run_length._replace(steps=trainer.global_step)  # with those that a gradient scaler has skipped
        # Whoever stops a run knows that it is not over.
        tell = rank_zero_info if trainer.should_stop else rank_zero_warn
        self._compare_length(ended, f"the run has ended after {trainer.global_step} steps", tell)
        try:
            self.observe_epoch(trainer, pl_module, last=True)
        except TrainingError as error:  # there is nothing left to be decided
            rank_zero_warn(f"LearningRateScheduler: {error}")
        known = set().union(*(observer.known for observer in self._observers))
        for name in sorted({monitor.metric for monitor in self._monitors()} - known):
            logged = ", ".join(sorted(known)) or "none"
            rank_zero_warn(
                f"LearningRateScheduler: {name!r}, which a schedule observes, was never logged; logged are: {logged}"
            )

    def observe_epoch(self, trainer: Trainer, pl_module: LightningModule, last: bool = False) -> None:
        """Observe what the epoch before has shown, once, at the begin of an epoch or after the `last` one."""
        if self._observed_until >= trainer.current_epoch:
            return
        self._observed_until = trainer.current_epoch
        self._agreement.check(trainer, self.trace)
        measured = {} if last else {name: measure(trainer, pl_module) for name, measure in self.measure.items()}
        for name, value in measured.items():
            pl_module.log(name, value, on_step=False, on_epoch=True, batch_size=1)
        # A quantity measured now is the coming epoch's; a logged metric is that of the epoch before.
        changes = self._observe(EPOCH, measured)
        names = [{monitor.metric for monitor in drive.schedule.monitors} for drive, _ in changes]
        of_coming = [observed <= {*measured} for observed in names]
        self._say(trainer.current_epoch, [one for one, coming in zip(changes, of_coming, strict=True) if not coming])
        # It belongs below the coming epoch's title, which may not have been printed yet.
        self._of_coming_epoch = [one for one, coming in zip(changes, of_coming, strict=True) if coming]

    def _observe(self, when: str, measured: Mapping[str, SupportsFloat]) -> list[tuple[DrivenGroups, Change]]:
        """Let the schedules observe on an occasion; their decisions."""
        changes = []
        for writer, observer in zip(self._writers, self._observers, strict=True):
            changes += self._apply_observation(writer, observer.observation(when, measured))
        return changes

    def _apply_observation(self, writer: Writer, observation: Observation) -> list[tuple[DrivenGroups, Change]]:
        before = [drive.state for drive in writer.drives]
        for drive in writer.drives:
            if drive.state is not None:
                place = drive.place(writer.step, drive.base)
                drive.state = drive.schedule.observe(drive.state, place, observation)
        after = [drive.state for drive in writer.drives]
        if before != after:
            writer.refresh()
        states = zip(writer.drives, before, after, strict=True)
        return [(drive, change) for drive, old, new in states for change in drive.schedule.changes(old, new)]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers: Lightning does not tear callbacks down after an error."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers and the Trainer."""
        if stage == "fit" and self._restored is not None:  # the checkpoint was that of a finished run
            self._progress, self.trace = self._restored, Trace()
            self._previous_fit = weakref.ref(trainer), trainer.global_step
        self._restored, self._loaded = None, None
        self._release()
        audit = dataclasses.replace(self.audit, source=unknown)
        bring_back(trainer, self, {"trace": self.trace, "audit": audit, "run_length": self.run_length})

    def _release(self) -> None:
        if self._trainer is not None:
            self._progress = self._current()
            self._previous_fit = weakref.ref(self._trainer), self._trainer.global_step
        for writer in self._writers:
            writer.detach()
        if self._changes is not None:
            self._changes.stop()
        if self._bar is not None:
            self._bar.end()
        self._writers, self._observers, self._trainer, self._bar = [], [], None, None
        self._changes, self._unseen, self._counted, self._names = None, [], None, {}

    # --- the value --------------------------------------------------------------------------------------

    def _position(self, step: Count, base: float) -> Position:
        assert self._trainer is not None
        return Position(step, self._trainer.current_epoch + self._ahead, self.run_length, base)

    @rank_zero_only
    def _say_advice(self, line: str) -> None:
        (self.advice if callable(self.advice) else log_once)(line)

    @rank_zero_only
    def _say(self, epoch: int, changes: Sequence[tuple[DrivenGroups, Change]]) -> None:
        if not changes or not self._writers[0].active:
            return
        for _, change in changes if self.verbose <= 0 else ():
            if change.warning and not change.asked:
                rank_zero_warn(f"{change.who}, epoch {epoch}: {change.why}")
        changes = [(drive, change) for drive, change in changes if self.verbose > 0 or change.asked]
        if not changes:
            return
        what = describe_targets(self._writers)  # one hyper-parameter after the other
        changes = sorted(changes, key=lambda one: list(what).index(one[0]))
        lines = [
            MESSAGES[self.style].format(
                epoch=epoch,
                who=change.who,
                verb=change.verb,
                what=what[drive],
                value=format_rate(drive.value if change.value is None else change.value, self.style),
                why="".join(f" ({why})" for why in (change.why, drive.span) if why),
            )
            for drive, change in changes
        ]
        for line in dict.fromkeys(lines):
            print(line, flush=True)

    # --- the checkpoint ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the steps of each optimizer, what the schedules remember, what they will look at next."""
        return (self._restored or self._current()).state()  # a checkpoint's, where training has not begun

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what an epoch under way has summed up: Lightning's checkpoints do not keep it."""
        mine: dict[str, Any] = checkpoint["callbacks"][self.state_key]
        if self._counted is not None and not is_detached(self, trainer)():
            self._counted.compare(self._steps)
        if self._trainer is not None and self._logged_monitors():
            last = is_at_last_batch(trainer)
            kept = last or is_within_epoch(trainer)
            mine["sums"] = of_all_processes(trainer, epoch_sums(trainer)) if kept else []
            mine["unended"] = validation_follows(trainer) if last else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training begins.

        While it goes on there is nothing to be taken up: a search for a learning rate or a batch size puts back what
        it has found, and its steps were not counted.
        """
        if self._trainer is not None:
            return
        self._restored = Progress.of(self.check_state_dict(state_dict))

    def check_state_dict(self, state_dict: Any) -> dict[str, Any]:
        """The fields of a state, which fit each other and the schedules."""
        schedules = {one.scope: one.schedule for one in self.assignments.assignments}
        return FORMAT.read(state_dict, lambda state: check_fields(state, schedules))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what a checkpoint tells of its optimizers: it may have been written without this callback."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self._trainer is None:
            self._loaded = saved_optimizers(checkpoint)

    def _current(self) -> Progress:
        """Where the schedules stand now."""
        if self._trainer is None or not self._observers:
            return self._progress
        schedules = {key: Saved.of(drive, self.run_length) for key, drive in self._drives()}
        waiting = [observer.state() for observer in self._observers]
        return Progress(
            [writer.step for writer in self._writers],
            schedules,
            self._groups(),
            waiting,
            counts=Counts(self._trainer.current_epoch, self._trainer.global_step),
            begins=self._epochs.begins if self.run_length.clock is not None else [],
            series=[[known.series or "" for known in writer.groups] for writer in self._writers],
            begun=[[list(known.begun) for known in writer.groups] for writer in self._writers],
            active=[writer.active for writer in self._writers],
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a fit: the Trainer, and the module behind Lightning's `log` and `log_dict`."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        kept["audit"] = dataclasses.replace(self.audit, source=unknown)
        fit: dict[str, Any] = {"_writers": [], "_observers": [], "_unseen": [], "_names": {}}
        return {**kept, **fit, **dict.fromkeys(("_trainer", "_bar", "_previous_fit", "_changes", "_counted"))}


def _lr_scheduler_names(trainer: Trainer) -> str:
    """The names of the schedulers that Lightning runs."""
    return ", ".join(type(one.scheduler).__name__ for one in trainer.lr_scheduler_configs)


def _source(trainer: Trainer, found: float) -> str:
    """Who has written a value: a scheduler that Lightning runs, if it is one of its values."""
    for config in trainer.lr_scheduler_configs:
        if any(math.isclose(found, float(rate)) for rate in getattr(config.scheduler, "_last_lr", ())):
            return type(config.scheduler).__name__
    return "other code"


def _watched(writer: Writer) -> dict[str, set[str]]:
    """What the schedules of an optimizer monitor, by occasion."""
    watched: dict[str, set[str]] = {BEGIN: set(), EPOCH: set(), VALIDATION: set()}
    for drive in writer.drives:
        for monitor in drive.schedule.monitors:
            watched.setdefault(monitor.when, set()).add(monitor.metric)
    return watched


def _measures(measure: Mapping[str, Measure]) -> dict[str, Measure]:
    for name, function in measure.items():
        if not callable(function):
            raise InvalidArgument(
                f"LearningRateScheduler.measure[{name!r}]", function, "a function of (trainer, module), e.g. FullPass()"
            )
    return dict(measure)
