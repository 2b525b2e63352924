"""The one writer: has the schedules' values in place before each step of an optimizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch.optim import Optimizer

from lr_plugins.engine.audit import Audit
from lr_plugins.engine.driven_groups import DrivenGroups, PositionAt
from lr_plugins.engine.hyperparameter import LEARNING_RATE, HyperParameter, check_hyper_parameter
from lr_plugins.engine.known_groups import (
    Group,
    KnownGroup,
    name_series,
)
from lr_plugins.engine.own_values import base_value, own_value, share_of
from lr_plugins.engine.param_groups import Layout, Names
from lr_plugins.engine.recorder import Column, Recorder
from lr_plugins.engine.trace import Trace
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.assign import Assign


class Writer(Recorder):
    """A recorder that first writes what the schedules say.

    The post-step hook writes the value of the coming step, so code that reads `param_groups` between steps sees it; the
    pre-step hook ensures that it is still in place, so nothing written in between is used. A group's value is the
    schedule's times the group's share (see `Assign`).

    Its attributes are many, because what a step needs is computed once, when the groups change, and kept: the update
    of a step is then a few operations (see `benchmarks/update.py`).

    Args:
        optimizer: the optimizer to write to, as it was built: its own values are read here, and groups are split
            where an assignment is for some of their parameters only.
        assignments: those for this optimizer, by their index among all.
        position_at: the position of a step of this optimizer in the run.
        names: the names of the module's parameters.
        suffix: follows the hyper-parameter in the names of this optimizer's series.
        audit: counts the writes of other code. Default None: one of its own.
        instead_of: the writer of an optimizer that this one replaces during the run. Default None.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        assignments: Mapping[int, Assign],
        position_at: PositionAt,
        names: Names | None = None,
        suffix: str = "",
        audit: Audit | None = None,
        instead_of: Writer | None = None,
    ) -> None:
        super().__init__(optimizer, suffix, instead_of)
        self.active = True  # false: it only records
        self._audit = Audit() if audit is None else audit
        self.drives: list[DrivenGroups] = []
        self.total_steps: float | None = None  # of the run, where they are known
        self._assignments, self._position_at = assignments, position_at
        self._recorded = list(dict.fromkeys([LEARNING_RATE.name, *(one.to for one in assignments.values())]))
        self._bases: dict[HyperParameter, float] = {}
        self._written = False  # the values of the coming step
        self._found: list[tuple[HyperParameter, KnownGroup, float]] = []  # in the groups, before the first were written
        self._alone: DrivenGroups | None = None  # the only one, where it is for all groups alike
        self._begun = instead_of is not None  # groups that come now have not been there before
        self.advance: Callable[[], object] = self.refresh  # writes the values of the step after the last one written
        if instead_of is not None:
            self.active, self.total_steps = instead_of.active, instead_of.total_steps
        self.layout = Layout(optimizer, assignments, names or {})
        if instead_of is not None:
            self.layout.came = dict(instead_of.layout.came)
        self._take_groups()
        self._note_found()

    @property
    def learning_rate(self) -> float:
        """The value of the first schedule of a learning rate for the coming step; NaN before `refresh`."""
        return next((drive.value for drive in self.drives if drive.hyper == LEARNING_RATE), math.nan)

    @property
    def is_written(self) -> bool:
        """Whether the values of the coming step have been written, if they are to be."""
        return (not self.active or self._written) and self.has_groups

    def stop_writing(self) -> None:
        """Write nothing from now on, and record what others write."""
        self.active, self._columns = False, None

    # --- param groups and their own values --------------------------------------------------------------------

    def _take_groups(self) -> None:
        """Take the groups as they are, and drive those that are new."""
        self._note_written()
        self.layout.arrange(self._here())
        self.groups = self.layout.groups
        there = set(self.groups)
        for drive in self.drives:
            drive.shares = {known: share for known, share in drive.shares.items() if known in there}
        self._bind()
        if self._written:
            self._detect_foreign_writes(replaced=True)  # what was put in the place of a group may have another value
        driven = {known for drive in self.drives for known in drive.shares}
        new = [known for known in self.groups if known not in driven]
        if new:
            for what in dict.fromkeys(one.to for one in self._assignments.values()):
                self._drive_hyper_parameter(what, new)
            self._bind()

    def _here(self) -> tuple[int, int]:
        """The optimizer step and the epoch that come now."""
        if not self._begun:
            return 0, 0
        epoch = self._position_at(self.step, 0.0).epoch
        return self.step, 0 if epoch is None else int(epoch)

    def _bind(self) -> None:
        super()._bind()
        for drive in self.drives:
            drive.bind(self.optimizer)
        # Usually one schedule drives all groups, with no optimizer within: then one pass over the values is enough.
        alone = len(self.drives) == len(self._bound) == 1 and self.drives[0].is_plain
        self._alone = self.drives[0] if alone and len(self.drives[0].shares) == len(self.groups) else None

    def _forget_groups(self) -> None:
        super()._forget_groups()
        self._alone = None

    def _is_as_written(self) -> bool:
        """Whether all current groups hold what was written; False where that takes `_detect_foreign_writes`."""
        drive = self._alone
        if drive is None:
            return False
        key, value, groups = drive.hyper.key, drive.value, self.optimizer.param_groups
        try:
            for group in groups:
                if group[key] is not value:
                    return False
        except KeyError:  # a group without such a number
            return False
        return len(groups) == len(self.groups)

    def _drive_hyper_parameter(self, what: str, groups: Sequence[KnownGroup]) -> None:
        """Drive one of the hyper-parameters of new groups."""
        meant = {}
        for known in groups:
            fitting = [
                index for index, one in self._assignments.items() if one.to == what and self.layout.fits(one, known)
            ]
            if fitting and what in known.group and known.group[what] is None:
                check_hyper_parameter(what, self.optimizer, [known.group])
            hyper = HyperParameter.of(what, known.group)
            if fitting and hyper is not None:
                meant[known] = hyper, fitting[-1]
        for hyper in dict.fromkeys(hyper for hyper, _ in meant.values()):
            self._read_own_values(hyper)
        for known, (hyper, index) in meant.items():
            self._drive(index, hyper, known)

    def _drive(self, index: int, hyper: HyperParameter, known: KnownGroup) -> None:
        base, share = self._bases[hyper], self.layout.share(index, known)
        if self._assignments[index].chooses:
            base = known.owns[hyper]
        else:
            share *= share_of(known.owns[hyper], base, hyper, self.optimizer, self.groups.index(known))
        if not math.isfinite(share):
            allowed = "such that each param group's share of the schedule's value is a finite number"
            raise InvalidArgumentError("Assign.layer_decay and the groups' own values", share, allowed)
        self._drive_of(index, hyper, base, known.begun).shares[known] = share

    def _drive_of(self, index: int, hyper: HyperParameter, base: float, begun: tuple[int, int]) -> DrivenGroups:
        assignment = self._assignments[index]
        begun = begun if assignment.since == "group" else (0, 0)
        mine = [drive for drive in self.drives if drive.assignment == index]
        for drive in mine:
            if (drive.hyper, drive.base, drive.begun) == (hyper, base, begun):
                return drive
        drive = DrivenGroups(index, len(mine), assignment.schedule, hyper, base, self._position_at, begun)
        self.drives.append(drive)
        return drive

    def _read_own_values(self, hyper: HyperParameter) -> None:
        """What the groups were built with, and the optimizer's own value that a schedule starts from."""
        able = [known for known in self.groups if HyperParameter.of(hyper.name, known.group) == hyper]
        for known in able:
            if hyper in known.owns and (hyper in self._bases or known.holds(hyper)):
                continue  # what the group holds is ours, not its own
            known.owns[hyper] = own_value(hyper, known.group, self.optimizer)
            known.bases.pop(hyper, None)
        if hyper in self._bases:
            return
        bases = {known.bases.get(hyper) for known in able}
        if len(bases) == 1 and None not in bases:
            self._bases[hyper] = bases.pop()  # type: ignore[assignment]
        else:
            self._bases[hyper] = base_value([known.owns[hyper] for known in able], hyper.default(self.optimizer))
        for known in able:
            known.bases[hyper] = self._bases[hyper]

    def attach(self, trace: Trace, step: int = 0, away: Callable[[], bool] | None = None) -> None:
        """Start to follow, as a recorder does; groups that appear from now on appear during the run."""
        super().attach(trace, step, away)
        self._begun = True
        if step or not self.has_groups:  # a checkpoint has changed what the groups hold
            self._take_groups()
            self._note_found()

    def _note_found(self) -> None:
        """Note what the groups hold before anything is written, to detect writes before the first step."""
        self._found = [
            (drive.hyper, known, drive.hyper.read(known.group)) for drive in self.drives for known in drive.shares
        ]

    def detach(self) -> None:
        """Stop following, and remember what was written for another fit with the same optimizer."""
        super().detach()
        self._note_written()

    def known_groups(self) -> list[KnownGroup]:
        """What is known of the groups, for another optimizer that comes in the place of this one."""
        self._note_written()
        return super().known_groups()

    def _note_written(self) -> None:
        for drive in self.drives:
            for known, share in drive.shares.items() if not math.isnan(drive.value) else ():
                known.written[drive.hyper] = drive.value * share

    def chosen_by(self, index: int) -> list[KnownGroup]:
        """The groups that an assignment chooses."""
        one = self._assignments.get(index)
        return [known for known in self.groups if one is not None and self.layout.fits(one, known)]

    def restore_groups(self, series: Sequence[str], begun: Sequence[Sequence[int]]) -> None:
        """Restore what a checkpoint knows of the groups: the names of their series, and when they came."""
        if not len(series) == len(begun) == len(self.groups):
            return
        for known, name in zip(self.groups, series, strict=True):
            known.series = name
        self.layout.restore_begun([(when[0], when[1]) for when in begun])
        if any(one.since == "group" for one in self._assignments.values()):
            self.drives = []
            self._take_groups()

    # --- writing ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Write the values of the coming step, computed anew.

        Raises:
            TrainingError: a schedule's value is not one that the hyper-parameter can have.
        """
        if not self.active:
            if not self.has_groups:
                self._take_groups()
            return
        if not self.has_groups:
            self._take_groups()
        elif self._written:
            self._detect_foreign_writes()
        if self._found:
            self._detect_early_writes()
        if self.active:  # it has not given way to what was found
            self._write()

    def _write(self) -> None:
        updates = [drive.write(self.step, self.total_steps) for drive in self.drives]
        # A call in between would cost half as much as the writing itself.
        self.advance = updates[0] if len(updates) == 1 else lambda: [update() for update in updates]
        self._written = True

    def _open(self) -> Iterator[Column]:
        """A driven value is read from its schedule, and recorded once for all groups of that schedule."""
        name_series(self.groups)
        for what in self._recorded:
            driven: set[KnownGroup] = set()
            for drive in self.drives if self.active else ():
                if drive.hyper.name != what:
                    continue
                mine = {self._name(drive.hyper, known): share for known, share in drive.shares.items()}
                column = self._trace.column(mine, self.step) if mine else None
                if column is not None:
                    driven |= set(drive.shares)
                    yield Column(self._as_used(drive.hyper, functools.partial(getattr, drive, "value")), column.append)
            for known in self.groups:
                hyper = HyperParameter.of(what, known.group)
                if known not in driven and hyper is not None:
                    yield self._column_of(hyper, known)

    def _detect_foreign_writes(self, during: bool = False, replaced: bool = False) -> bool:
        """Note who has written since; returns whether anyone has."""
        found = [(drive, moved) for drive in self.drives if (moved := drive.moved())]
        if not found:
            return False
        foreign = [self._note(drive, *moved, during, replaced) for drive, moved in found]
        return any(foreign)

    def _detect_early_writes(self) -> None:
        """Note who has written between the start of the fit and our first value."""
        found, self._found = self._found, []
        drives = {(drive.hyper, known): drive for drive in self.drives for known in drive.shares}
        for hyper, known, value in found:
            drive = drives.get((hyper, known))
            now = value if drive is None else hyper.read(known.group)
            if drive is not None and not math.isclose(now, value, rel_tol=1e-6):
                self._note(drive, known.group, math.nan, now)

    def _last_used(self, drive: DrivenGroups, known: KnownGroup) -> float | None:
        name = self._name(drive.hyper, known)
        return self._trace[name].last() if name in self._trace else None

    def _note(
        self,
        drive: DrivenGroups,
        group: Group,
        expected: float,
        value: float,
        during: bool = False,
        replaced: bool = False,
    ) -> bool:
        """Note that a group has another value than was written to it, unless that is the plan's value all the same."""
        known = next(one for one in self.groups if any(group is each for each in (one.group, *one.copies)))
        if not during:  # another epoch may have begun since, or a metric have been observed
            expected = drive.value_at(self.step) * drive.shares[known]
            if math.isclose(value, expected, rel_tol=1e-6):
                return False
        name_series(self.groups)
        if replaced and value == self._last_used(drive, known):
            return False  # a copy of what was there at the last step
        self._audit.note(self.step, self._name(drive.hyper, known), expected, value, during)
        if self._audit.choice == "theirs":
            self.stop_writing()
        return True

    def _begin_step(self) -> None:
        if self.active:
            if self._written and self._is_as_written():
                pass
            elif not self._written or not self.has_groups:
                self.refresh()
            elif self._detect_foreign_writes() and self.active:
                self._bind()  # whatever has been put in the place of a number is to be taken
                self._write()
            self._read()
        else:
            super()._begin_step()

    def _end_step(self) -> None:
        self._record()
        followed = self.active and (self._is_as_written() or not self._detect_foreign_writes(during=True))
        self._audit.count(followed and not self._doubtful)
        self.step += 1
        self._stepped()

    def _stepped(self) -> None:
        # Past the end no value is needed, and a schedule may have none.
        self._written = self.active and (self.total_steps is None or self.step < self.total_steps)
        if self._written:
            self.advance()
