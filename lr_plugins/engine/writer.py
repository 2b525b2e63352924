"""Writes the values of schedules before each step of an optimizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch.optim import Optimizer

from lr_plugins.engine.audit import Audit
from lr_plugins.engine.driven_groups import DrivenGroups, PositionAt
from lr_plugins.engine.hyperparameter import LEARNING_RATE, HyperParameter, check_hyper_parameter
from lr_plugins.engine.initial_values import base_value, initial_value, scale_of
from lr_plugins.engine.known_groups import (
    Group,
    KnownGroup,
)
from lr_plugins.engine.naming import name_series
from lr_plugins.engine.param_groups import Layout, Names
from lr_plugins.engine.recorder import Column, Recorder
from lr_plugins.engine.trace import Trace
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.assign import Assign


class Writer(Recorder):
    """A recorder that also writes the values of schedules.

    The post-step hook writes the value of the coming step, so code that reads `param_groups` between steps sees it. The
    pre-step hook ensures that it is still in place, so a value written in between is not used. A group's value is the
    schedule's times the group's scale (see `Assign`).

    It has many attributes, because everything that a step needs is computed when the groups change, and kept: an update
    is then a few operations (see `benchmarks/update.py`).

    Args:
        optimizer: the optimizer to write to, as it was built: its initial values are read here, and groups are split if
            an assignment selects only some of their parameters.
        assignments: the assignments for this optimizer, by their index among all.
        position_at: the position of a step of this optimizer in the run.
        names: the names of the module's parameters.
        suffix: what follows the hyper-parameter in the names of this optimizer's series.
        audit: counts the writes of other code. Default None: a new one.
        replaces: the writer of an optimizer that this one replaces during the run. Default None.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        assignments: Mapping[int, Assign],
        position_at: PositionAt,
        names: Names | None = None,
        suffix: str = "",
        audit: Audit | None = None,
        replaces: Writer | None = None,
    ) -> None:
        super().__init__(optimizer, suffix, replaces)
        self.active = True  # if false, it only records
        self._audit = Audit() if audit is None else audit
        self.driven_groups: list[DrivenGroups] = []
        self.total_steps: float | None = None  # of the run, if known
        self._assignments, self._position_at = assignments, position_at
        self._recorded = list(
            dict.fromkeys([LEARNING_RATE.name, *(assignment.to for assignment in assignments.values())])
        )
        self._base_values: dict[HyperParameter, float] = {}
        self._written = False  # whether the values of the coming step are written
        # What the groups held before the first value was written.
        self._values_before: list[tuple[HyperParameter, KnownGroup, float]] = []
        self._only: DrivenGroups | None = None  # set while active, if a single schedule drives all groups
        self._is_running = replaces is not None  # groups that appear now were added during the run
        self.advance: Callable[[], object] = self.refresh  # writes the values of the next step
        if replaces is not None:
            self.active, self.total_steps = replaces.active, replaces.total_steps
        self.layout = Layout(optimizer, assignments, names or {})
        if replaces is not None:
            self.layout.added_at = dict(replaces.layout.added_at)
        self._take_groups()
        self._note_values_before()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first schedule for the coming step; NaN before `refresh`."""
        return next(
            (driven.value for driven in self.driven_groups if driven.hyper == LEARNING_RATE),
            math.nan,
        )

    def is_settled(self) -> bool:
        """Whether nothing has changed since its last step: a quick check, for every batch.

        No step is under way, the next values are written, and the bound groups are the optimizer's, with as many
        parameters as before. `is_written` and `new_batch` check the same, and act on it.
        """
        if self._under_way or not self.seen_steps or not (self._written or not self.active):
            return False
        for at, (optimizer, groups) in enumerate(self._bound):
            now, sizes = optimizer.param_groups, self._sizes[at]
            if len(now) != len(groups):
                return False
            for index, group in enumerate(now):
                if group is not groups[index] or len(group["params"]) != sizes[index]:
                    return False
        return bool(self._bound)

    @property
    def is_written(self) -> bool:
        """Whether the values of the coming step are written, or need not be."""
        return (not self.active or self._written) and self.has_groups

    def stop_writing(self) -> None:
        """Stop writing, and record what other code writes."""
        self.active, self._columns, self._only = False, None, None

    # --- param groups and their own values --------------------------------------------------------------------

    def _take_groups(self) -> None:
        """Bind to the current groups, and drive the new ones."""
        self._note_written()
        self.layout.arrange(self._now())
        self.groups = self.layout.groups
        present = set(self.groups)
        for driven in self.driven_groups:
            driven.scales = {known: scale for known, scale in driven.scales.items() if known in present}
        self._bind()
        if self._written:
            self._detect_foreign_writes(replaced=True)  # a replaced group may have another value
        covered = {known for driven in self.driven_groups for known in driven.scales}
        new = [known for known in self.groups if known not in covered]
        if new:
            for name in dict.fromkeys(assignment.to for assignment in self._assignments.values()):
                self._drive_hyper_parameter(name, new)
            self._bind()

    def _now(self) -> tuple[int, int]:
        """The coming optimizer step and its epoch."""
        if not self._is_running:
            return 0, 0
        epoch = self._position_at(self.step, 0.0).epoch
        return self.step, 0 if epoch is None else int(epoch)

    def _bind(self) -> None:
        super()._bind()
        for driven in self.driven_groups:
            driven.bind(self.optimizer)
        # Usually one schedule drives all groups and there is no inner optimizer: one pass over the values is enough.
        self._only = None
        if self.active and len(self.driven_groups) == len(self._bound) == 1:
            [driven] = self.driven_groups
            self._only = driven if driven.is_plain and len(driven.scales) == len(self.groups) else None

    def _unbind_groups(self) -> None:
        super()._unbind_groups()
        self._only = None

    def _is_as_written(self) -> bool:
        """Whether all groups hold what was written. A quick check: False only means that the full one is needed."""
        driven = self._only
        if driven is None:
            return False
        key, value, groups = driven.hyper.key, driven.value, self._strong_reference.param_groups
        for group in groups:
            if group.get(key) is not value:
                return False
        return len(groups) == len(self.groups)

    def _drive_hyper_parameter(self, name: str, groups: Sequence[KnownGroup]) -> None:
        """Drive a hyper-parameter of new groups."""
        chosen = {}
        for known in groups:
            matching = [
                index
                for index, assignment in self._assignments.items()
                if assignment.to == name and self.layout.fits(assignment, known)
            ]
            if matching and name in known.group and known.group[name] is None:
                check_hyper_parameter(name, self.optimizer, [known.group])
            hyper = HyperParameter.of(name, known.group)
            if matching and hyper is not None:
                chosen[known] = hyper, matching[-1]
        for hyper in dict.fromkeys(hyper for hyper, _ in chosen.values()):
            self._read_initial_values(hyper)
        for known, (hyper, index) in chosen.items():
            self._drive_group(index, hyper, known)

    def _drive_group(self, index: int, hyper: HyperParameter, known: KnownGroup) -> None:
        base_value, scale = self._base_values[hyper], self.layout.layer_scale(index, known)
        if self._assignments[index].chooses:
            base_value = known.initial_values[hyper]
        else:
            scale *= scale_of(known.initial_values[hyper], base_value, hyper, self.optimizer, self.groups.index(known))
        if not math.isfinite(scale):
            allowed = "such that each param group's share of the schedule's value is a finite number"
            raise InvalidArgumentError("Assign.layer_decay and the groups' own values", scale, allowed)
        self._driven_groups_for(index, hyper, base_value, known.added_at).scales[known] = scale

    def _driven_groups_for(
        self, index: int, hyper: HyperParameter, base_value: float, start: tuple[int, int]
    ) -> DrivenGroups:
        assignment = self._assignments[index]
        start = start if assignment.since == "group" else (0, 0)
        existing = [driven for driven in self.driven_groups if driven.assignment == index]
        for driven in existing:
            if (driven.hyper, driven.base_value, driven.start) == (hyper, base_value, start):
                return driven
        driven = DrivenGroups(index, len(existing), assignment.schedule, hyper, base_value, self._position_at, start)
        self.driven_groups.append(driven)
        return driven

    def _read_initial_values(self, hyper: HyperParameter) -> None:
        """Read the values that the groups were built with, and the optimizer's own value."""
        holders = [known for known in self.groups if HyperParameter.of(hyper.name, known.group) == hyper]
        for known in holders:
            if hyper in known.initial_values and (hyper in self._base_values or known.holds(hyper)):
                continue  # the group holds a value written here, not its own
            known.initial_values[hyper] = initial_value(hyper, known.group, self.optimizer)
            known.base_values.pop(hyper, None)
        if hyper in self._base_values:
            return
        base_values = {known.base_values.get(hyper) for known in holders}
        if len(base_values) == 1 and None not in base_values:
            self._base_values[hyper] = base_values.pop()  # type: ignore[assignment]
        else:
            self._base_values[hyper] = base_value(
                [known.initial_values[hyper] for known in holders], hyper.default(self.optimizer)
            )
        for known in holders:
            known.base_values[hyper] = self._base_values[hyper]

    def attach(self, trace: Trace, step: int = 0, is_detached: Callable[[], bool] | None = None) -> None:
        """Start to follow the optimizer; groups that appear from now on count as added during the run."""
        super().attach(trace, step, is_detached)
        self._is_running = True
        if step or not self.has_groups:  # a checkpoint has changed the groups
            self._take_groups()
            self._note_values_before()

    def _note_values_before(self) -> None:
        """Note what the groups hold before the first write, to detect foreign writes before the first step."""
        self._values_before = [
            (driven.hyper, known, driven.hyper.read(known.group))
            for driven in self.driven_groups
            for known in driven.scales
        ]

    def detach(self) -> None:
        """Stop following; keep the written values for another fit with the same optimizer."""
        super().detach()
        self._note_written()

    def known_groups(self) -> list[KnownGroup]:
        """The known groups, for an optimizer that replaces this one."""
        self._note_written()
        return super().known_groups()

    def _note_written(self) -> None:
        for driven in self.driven_groups:
            for known, scale in driven.scales.items() if not math.isnan(driven.value) else ():
                known.written[driven.hyper] = driven.value * scale

    def chosen_by(self, index: int) -> list[KnownGroup]:
        """The groups that an assignment selects."""
        assignment = self._assignments.get(index)
        return [known for known in self.groups if assignment is not None and self.layout.fits(assignment, known)]

    def restore_groups(self, series: Sequence[str], added_at: Sequence[Sequence[int]]) -> None:
        """Restore the names of the groups' series, and when the groups were added, from a checkpoint."""
        if not len(series) == len(added_at) == len(self.groups):
            return
        for known, name in zip(self.groups, series, strict=True):
            known.series = name
        self.layout.restore_added_at([(when[0], when[1]) for when in added_at])
        if any(assignment.since == "group" for assignment in self._assignments.values()):
            self.driven_groups = []
            self._take_groups()

    # --- writing ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Recompute and write the values of the coming step.

        Raises:
            TrainingError: the hyper-parameter cannot have the schedule's value.
        """
        if not self.active:
            if not self.has_groups:
                self._take_groups()
            return
        if not self.has_groups:
            self._take_groups()
        elif self._written:
            self._detect_foreign_writes()
        if self._values_before:
            self._detect_early_writes()
        if self.active:  # unless a foreign write has just stopped it
            self._write()

    def _write(self) -> None:
        updates = [driven.write(self.step, self.total_steps) for driven in self.driven_groups]
        # With a single update, an extra call would cost half as much as the writing itself.
        self.advance = updates[0] if len(updates) == 1 else lambda: [update() for update in updates]
        self._written = True

    def _open(self) -> Iterator[Column]:
        """Read a driven value from its schedule, and record it once for all groups of the schedule."""
        name_series(self.groups)
        for name in self._recorded:
            covered: set[KnownGroup] = set()
            for driven in self.driven_groups if self.active else ():
                if driven.hyper.name != name:
                    continue
                scales = {self._name(driven.hyper, known): scale for known, scale in driven.scales.items()}
                column = self._trace.column(scales, self.step) if scales else None
                if column is not None:
                    covered |= set(driven.scales)
                    read = functools.partial(getattr, driven, "value")
                    yield Column(self._as_used(driven.hyper, read), column.append)
            for known in self.groups:
                hyper = HyperParameter.of(name, known.group)
                if known not in covered and hyper is not None:
                    yield self._column_of(hyper, known)

    def _detect_foreign_writes(self, during: bool = False, replaced: bool = False) -> bool:
        """Note foreign writes since the last write; return whether there are any."""
        moved_groups = [(driven, moved) for driven in self.driven_groups if (moved := driven.moved())]
        if not moved_groups:
            return False
        foreign = [self._note(driven, *moved, during, replaced) for driven, moved in moved_groups]
        return any(foreign)

    def _detect_early_writes(self) -> None:
        """Note foreign writes between the start of the fit and our first write."""
        values_before, self._values_before = self._values_before, []
        by_group = {(driven.hyper, known): driven for driven in self.driven_groups for known in driven.scales}
        for hyper, known, value in values_before:
            driven = by_group.get((hyper, known))
            now = value if driven is None else hyper.read(known.group)
            if driven is not None and not math.isclose(now, value, rel_tol=1e-6):
                self._note(driven, known.group, math.nan, now)

    def _last_used(self, driven: DrivenGroups, known: KnownGroup) -> float | None:
        name = self._name(driven.hyper, known)
        return self._trace[name].last() if name in self._trace else None

    def _note(
        self,
        driven: DrivenGroups,
        group: Group,
        expected: float,
        value: float,
        during: bool = False,
        replaced: bool = False,
    ) -> bool:
        """Note that a group does not hold what was written, unless it holds the plan's value anyway."""
        known = next(
            known for known in self.groups if any(group is dictionary for dictionary in (known.group, *known.copies))
        )
        if not during:  # an epoch may have started or a metric been observed since
            expected = driven.value_at(self.step) * driven.scales[known]
            if math.isclose(value, expected, rel_tol=1e-6):
                return False
        name_series(self.groups)
        if replaced and value == self._last_used(driven, known):
            return False  # a copy of the value at the last step
        self._audit.note(self.step, self._name(driven.hyper, known), expected, value, during)
        if self._audit.choice == "theirs":
            self.stop_writing()
        return True

    # It runs before every step and again after its closure. Calls of `_is_as_written` and `_read`, which it repeats,
    # would add 6 us to a step of `benchmarks/callback_cost.py`, where the whole callback takes about 22.

    def _begin_step(self) -> None:
        only, columns = self._only, self._columns
        if only is not None and columns is not None and self._written:
            key, value, groups = only.hyper.key, only.value, self._strong_reference.param_groups
            for group in groups:
                if group.get(key) is not value:
                    break
            else:
                if len(groups) == len(self.groups):
                    self._used = used = []
                    for read, _ in columns:
                        used.append(read())
                    return
        self._begin_changed_step()

    def _begin_changed_step(self) -> None:
        if not self.active:
            super()._begin_step()
            return
        if not self._written or not self.has_groups:
            self.refresh()
        elif not self._is_as_written() and self._detect_foreign_writes() and self.active:
            self._bind()  # a tensor may have replaced a number, or vice versa
            self._write()
        self._read()

    def _end_step(self) -> None:
        for (_, note), value in zip(self._columns or (), self._used, strict=True):
            note(value)
        followed = self.active and (self._is_as_written() or not self._detect_foreign_writes(during=True))
        self._audit.count(followed and not self._has_untracked_steps)
        self.step += 1
        # After the last step no value is needed, and the schedule may have none.
        self._written = self.active and (self.total_steps is None or self.step < self.total_steps)
        if self._written:
            self.advance()
