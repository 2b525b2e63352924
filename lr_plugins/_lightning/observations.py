"""Passes the metrics of a Trainer to the schedules of each optimizer, once they are complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins._lightning.epoch_results import epoch_means, epoch_sums, restore_epoch_sums, validate
from lr_plugins._lightning.metrics import MetricCollector
from lr_plugins.engine.driven_groups import DrivenGroups
from lr_plugins.engine.driven_optimizers import DrivenOptimizers
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules.observation import BEGIN, EPOCH, VALIDATION, Change, Observation

Measure = Callable[[Trainer, LightningModule], float]
"""A quantity to measure at the start of each epoch."""

Changes = Sequence[tuple[DrivenGroups, Change]]
"""Decisions of schedules, each with the param groups it changes."""


class Observations:
    """Lets the schedules of each optimizer observe what a Trainer logs, and writes their new values.

    Args:
        trainer: the Trainer of the run.
        driven: its optimizers and their schedules.
        measure: the quantities measured for an epoch, by the names under which schedules monitor them.
        steps: the number of steps that each optimizer has taken.

    Attributes:
        by_writer: the metrics for each optimizer's schedules; used directly at every batch.
    """

    def __init__(
        self, trainer: Trainer, driven: DrivenOptimizers, measure: Mapping[str, Measure], steps: Sequence[int]
    ) -> None:
        self._trainer, self._driven, self._measure = trainer, driven, measure
        self._observed_until = -1  # epochs whose metrics have been observed
        self._is_partial: bool | None = None  # whether the first epoch resumes without the sums of its first batches
        # The plan may be that of a checkpoint, and the param groups of an assignment may be added during the run.
        schedules = [driven_groups.schedule for _, driven_groups in driven.driven_groups()]
        schedules += [assignment.schedule for assignment in driven.assignments]
        self._listens = any(schedule.monitors or schedule.start() is not None for schedule in schedules)
        self.by_writer: dict[Writer, MetricCollector] = {}
        self.restart(steps)

    def check_validation(self) -> None:
        """Refuse a schedule that observes a validation if the fit has none.

        Raises:
            TrainingError: a schedule observes after each validation, and this fit has none.
        """
        for monitor in self._driven.monitors():
            if monitor.when == VALIDATION and not self._trainer.enable_validation:
                raise TrainingError(
                    f"a schedule observes {monitor.metric!r} after each validation run, and this fit has none: give it "
                    'validation data, or observe at when="epoch"'
                )

    def restart(self, steps: Iterable[int]) -> None:
        """Discard what was logged so far."""
        self.by_writer = {
            writer: self._collector(writer, step) for writer, step in zip(self._driven.writers, steps, strict=True)
        }

    def _collector(self, writer: Writer, step: int) -> MetricCollector:
        return MetricCollector(self._trainer, _watched(writer), self._measure, step)

    def follow(self, continued: Mapping[Writer, Writer | None]) -> None:
        """Follow replaced optimizers: the schedules of a new one observe what those of the old one would have.

        Args:
            continued: each current writer, with the writer whose run it continues.
        """
        self.by_writer = {
            writer: self._collector(writer, writer.step) if before is None else self.by_writer[before]
            for writer, before in continued.items()
        }

    @property
    def known(self) -> set[str]:
        """The names of all metrics logged so far."""
        return set().union(*(collector.known for collector in self.by_writer.values()))

    @property
    def never_logged(self) -> list[str]:
        """The metrics that a schedule observes, but that were never logged."""
        return sorted({monitor.metric for monitor in self._driven.monitors()} - self.known)

    @property
    def needs_epoch_sums(self) -> bool:
        """Whether a schedule observes a metric that is logged for an epoch or a validation, not measured here."""
        names = {monitor.metric for monitor in self._driven.monitors() if monitor.when in (EPOCH, VALIDATION)}
        return bool(names - set(self._measure))

    # --- occasions --------------------------------------------------------------------------------------------

    def note_first_batch(self) -> None:
        """Note, at the first batch of a fit, whether what its epoch logged before a checkpoint is known."""
        if self._is_partial is None:
            batches: Any = self._trainer.fit_loop.epoch_loop.batch_progress.current
            self._is_partial = batches.ready > 1 and not epoch_sums(self._trainer)

    def _warn_of_partial_epoch(self) -> None:
        """Warn if a schedule is about to observe the mean of an epoch whose first batches are missing in it."""
        logged = {entry["name"] for entry in epoch_sums(self._trainer)}
        names = [monitor.metric for monitor in self._driven.monitors() if monitor.when == EPOCH]
        for name in dict.fromkeys(name for name in names if name in logged):
            rank_zero_warn(
                f"LearningRateScheduler: {name!r} of epoch {self._trainer.current_epoch} is the mean of the batches "
                "after the resume only, because the checkpoint was saved without the sums of the epoch (as after an "
                "error). LastCheckpoint saves them."
            )

    def note(self, occasion: str) -> None:
        """Note that an epoch or a validation is over. Its metrics are not complete yet."""
        if occasion == EPOCH:
            if self._is_partial:
                self._warn_of_partial_epoch()
            self._is_partial = False
        for collector in self.by_writer.values():
            collector.over.add(occasion)

    def observe(self, when: str, measured: Mapping[str, SupportsFloat] | None = None) -> Changes:
        """Let all schedules observe.

        Args:
            when: the occasion, such as `"epoch"`.
            measured: the quantities that were measured for it. Default: none.
        """
        changes: list[tuple[DrivenGroups, Change]] = []
        for writer, collector in self.by_writer.items() if self._listens else ():
            changes += apply_observation(writer, collector.observation(when, measured or {}))
        return changes

    def is_epoch_due(self, trainer: Trainer) -> bool:
        """Whether the previous epoch is still to be observed; true only once per epoch."""
        if self._observed_until >= trainer.current_epoch:
            return False
        self._observed_until = trainer.current_epoch
        return True

    def observe_epoch(self, trainer: Trainer, module: LightningModule, last: bool) -> tuple[Changes, Changes]:
        """Measure, and let the schedules observe what the previous epoch has logged.

        Args:
            trainer: the Trainer of the run.
            module: the module being trained.
            last: whether it was the last epoch; if so, nothing is measured for the next.

        Returns:
            The decisions based on the previous epoch, and those based only on what was measured now, which belong to
            the coming epoch.
        """
        measured = {} if last else {name: measure(trainer, module) for name, measure in self._measure.items()}
        for name, value in measured.items():
            module.log(name, value, on_step=False, on_epoch=True, batch_size=1)
        changes = self.observe(EPOCH, measured)
        is_measured = [{monitor.metric for monitor in driven.schedule.monitors} <= {*measured} for driven, _ in changes]
        of_before = [change for change, coming in zip(changes, is_measured, strict=True) if not coming]
        of_coming = [change for change, coming in zip(changes, is_measured, strict=True) if coming]
        return of_before, of_coming

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state(self) -> list[dict[str, Any]]:
        """For each optimizer, what is logged and not observed yet. A collective call."""
        return [collector.state() for collector in self.by_writer.values()]

    def restore(self, waiting: Sequence[Mapping[str, Any]]) -> None:
        """Continue from a state."""
        for collector, state in zip(self.by_writer.values(), waiting, strict=False):
            collector.load(state)

    def resume_epoch(self, sums_by_rank: Sequence[list[dict[str, Any]]], validates: bool | None) -> None:
        """Continue an epoch that was interrupted; complete it if its last batch was done.

        Lightning considers such an epoch over: it neither validates nor logs its means. What the module itself logs at
        the end of an epoch remains unknown.

        Args:
            sums_by_rank: the sums of each process.
            validates: whether a validation was to follow the last batch; None if not all batches were done.
        """
        trainer = self._trainer
        sums = sums_by_rank[trainer.global_rank] if len(sums_by_rank) == trainer.world_size else []
        if validates is None:
            restore_epoch_sums(trainer, sums)
            return
        for collector in self.by_writer.values():
            collector.add(EPOCH, epoch_means(sums))
        self.note(EPOCH)
        if validates and trainer.enable_validation:
            validate(trainer)


def apply_observation(writer: Writer, observation: Observation) -> list[tuple[DrivenGroups, Change]]:
    """Let the schedules of one optimizer observe; write and return their decisions."""
    before = [driven.state for driven in writer.driven_groups]
    for driven in writer.driven_groups:
        if driven.state is not None:
            position = driven.position_at(writer.step, driven.base_value)
            driven.state = driven.schedule.observe(driven.state, position, observation)
    after = [driven.state for driven in writer.driven_groups]
    if before != after:
        writer.refresh()
    states: Iterator[tuple[DrivenGroups, Any, Any]] = zip(writer.driven_groups, before, after, strict=True)
    return [(driven, change) for driven, old, new in states for change in driven.schedule.changes(old, new)]


def _watched(writer: Writer) -> dict[str, set[str]]:
    """The metrics that the schedules of an optimizer monitor, by occasion."""
    watched: dict[str, set[str]] = {BEGIN: set(), EPOCH: set(), VALIDATION: set()}
    for driven in writer.driven_groups:
        for monitor in driven.schedule.monitors:
            watched.setdefault(monitor.when, set()).add(monitor.metric)
    return watched


def check_measures(field: str, measure: Mapping[str, Measure]) -> dict[str, Measure]:
    """The quantities to measure, by name; each must be a function."""
    for name, function in measure.items():
        if not callable(function):
            raise InvalidArgumentError(
                f"{field}[{name!r}]", function, "a function of (trainer, module), e.g. FullPass()"
            )
    return dict(measure)
