"""The one writer: puts the schedules' values into an optimizer just before each of its steps."""

from __future__ import annotations

import functools
import math
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from lr_plugins.callbacks.audit import Audit
from lr_plugins.callbacks.drive import Drive, Place
from lr_plugins.callbacks.hyper_parameter import LEARNING_RATE, HyperParameter, hyper_parameter
from lr_plugins.callbacks.param_groups import Layout, Names
from lr_plugins.callbacks.trace import Series, Trace
from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules.assign import Assign


class _Driven(NamedTuple):
    base: float
    owns: list[float]
    written: list[float]


_DRIVEN: weakref.WeakKeyDictionary[Optimizer, dict[HyperParameter, _Driven]] = weakref.WeakKeyDictionary()


class _Column(NamedTuple):
    read: Callable[[], float]
    note: Callable[[float], None]


class Recorder:
    """Hooks on one optimizer that count its real steps and record the learning rate each of them uses.

    An optimizer's step hooks run when a step really happens, whoever asks for it: under gradient accumulation,
    manual optimization and with a scaler that skips steps, the count stays that of steps taken.

    Args:
        optimizer: the optimizer to follow.
        suffix: what the names of its series have after the hyper-parameter's: `""`, or `"/SGD-0"`.
    """

    def __init__(self, optimizer: Optimizer, suffix: str = "") -> None:
        self.optimizer = optimizer
        self.step = 0  # steps taken
        self._trace, self.suffix = Trace(), suffix
        self._recorded = [LEARNING_RATE]
        self._columns: list[_Column] = []
        self._columns_of = -1  # so many groups
        self._handles: list[Any] = []
        self._used: list[float] | None = None  # by the step under way
        self._away: Callable[[], bool] | None = None

    def attach(self, trace: Trace, step: int = 0, away: Callable[[], bool] | None = None) -> None:
        """Begin to follow the optimizer, `step` steps of which were taken before, and to record in `trace`.

        Steps that are taken while `away` says yes are not those of the run.
        """
        self._trace, self.step, self._columns_of, self._away = trace, step, -1, away
        # A compiled `step` would be compiled together with its hooks, and anew for what they count.
        uncompiled: Callable[[Any], Any] = torch.compiler.disable
        self._handles = [
            self.optimizer.register_step_pre_hook(uncompiled(self._before_step)),
            self.optimizer.register_step_post_hook(uncompiled(self._after_step)),
        ]

    def detach(self) -> None:
        """Stop following it."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def learning_rates(self) -> Iterator[tuple[str, Series]]:
        """What has been recorded of the learning rates of the groups that there are now, by name."""
        for name in series_names(LEARNING_RATE.name + self.suffix, self.optimizer.param_groups):
            if name in self._trace:
                yield name, self._trace[name]

    def _before_step(self, _: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any] | None:
        self._used = None
        # A step that is captured for a CUDA graph does not happen; what is written in it, each replay would write.
        if _captures() or (self._away is not None and self._away()):
            return None
        self._begin_step()
        return self._after_closure(args, given)

    def _after_closure(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any] | None:
        """A step's arguments with a closure after which the step begins: a module may write in it, unseen before."""
        closure = given.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            return None

        @functools.wraps(closure)
        def then_begin() -> Any:
            loss = closure()
            if self._used is not None:
                self._begin_step()
            return loss

        if "closure" in given:
            return args, {**given, "closure": then_begin}
        return (args[0], then_begin, *args[2:]), given

    def _begin_step(self) -> None:
        if len(self.optimizer.param_groups) != self._columns_of:
            self._columns, self._columns_of = list(self._open()), len(self.optimizer.param_groups)
        self._used = [read() for read, _ in self._columns]

    def _open(self) -> Iterator[_Column]:
        """What is to be read before each step, and where it is recorded."""
        for hyper in self._recorded:
            for at, name in enumerate(series_names(hyper.name + self.suffix, self.optimizer.param_groups)):
                yield self._column_of(hyper, at, name)

    def _column_of(self, hyper: HyperParameter, at: int, name: str) -> _Column:
        optimizer, series = self.optimizer, self._trace.series(name, self.step)
        series.part()  # from whatever a schedule has driven before
        return _Column(lambda: hyper.read(optimizer.param_groups[at]), series.append)

    def _after_step(self, *_: Any) -> None:
        # Recorded now that the step has happened. A step that calls its parent class's runs the hooks twice, and
        # is over at the first time.
        if self._used is None:
            return
        if _skipped(self.optimizer):
            self._used = None
            return
        for column, value in zip(self._columns, self._used, strict=True):
            column.note(value)
        self.step, self._used = self.step + 1, None
        self._stepped()

    def _stepped(self) -> None:
        """What is to be done once a step has been taken."""


class Writer(Recorder):
    """A recorder that first writes what the schedules say.

    The value of the coming step is written as soon as the step before it is done, so that whoever looks in
    between sees it; and again just before the step, so that nothing written in between is used. A group's
    value is the schedule's times the group's share (see `Assign`).

    Args:
        optimizer: the optimizer to write to. It must be as it was built: its own values are read here, and its
            groups are split where an assignment is for some of their parameters only.
        assignments: those for this optimizer, by their index among all.
        place: where a step of this optimizer is in the run.
        names: the names of the module's parameters.
        suffix: what the names of this optimizer's series have after the hyper-parameter's.
        audit: where it is noted who else writes. Default None: nowhere.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        assignments: Mapping[int, Assign],
        place: Place,
        names: Names | None = None,
        suffix: str = "",
        audit: Audit | None = None,
    ) -> None:
        super().__init__(optimizer, suffix)
        self.active = True  # false: it only records
        self._audit = Audit() if audit is None else audit
        self.drives: list[Drive] = []
        self.total_steps: float | None = None  # of the run, where they are known
        self._assignments, self._place = assignments, place
        self._hypers = {index: hyper_parameter(one.to, optimizer) for index, one in assignments.items()}
        self._recorded = list(dict.fromkeys([LEARNING_RATE, *self._hypers.values()]))
        self.layout = Layout(optimizer, assignments, names or {})
        self._owns: dict[HyperParameter, list[float]] = {}
        self._bases: dict[HyperParameter, float] = {}
        self._groups: list[dict[str, Any]] = []  # as they were when they were bound
        self._count = 0  # groups that are looked after
        self._written = False  # the values of the coming step
        self.advance: Callable[[], object] = self.refresh  # writes the values of the step after the last one written
        self._take_groups()

    @property
    def learning_rate(self) -> float:
        """What the first schedule of a learning rate says for the coming step; NaN before `refresh`."""
        return next((drive.value for drive in self.drives if drive.hyper == LEARNING_RATE), math.nan)

    @property
    def is_written(self) -> bool:
        """Whether the values of the coming step have been written, if they are to be."""
        return self._written or not self.active

    def give_way(self) -> None:
        """Write nothing from now on, and record what others write."""
        self.active, self._columns_of = False, -1

    # --- param groups and their own values --------------------------------------------------------------------

    def _take_groups(self) -> None:
        """Take the groups as they are: more may have come, and loading a state replaces them all."""
        if len(self.optimizer.param_groups) != self._count:
            self._look_after_new_groups()
        for drive in self.drives:
            drive.bind(self.optimizer)
        self._groups = self.optimizer.param_groups

    @property
    def has_groups(self) -> bool:
        """Whether the optimizer's groups are still those that are written to."""
        return self.optimizer.param_groups is self._groups and len(self._groups) == self._count

    def _look_after_new_groups(self) -> None:
        self.layout.arrange()
        total = len(self.optimizer.param_groups)
        for hyper in dict.fromkeys(self._hypers.values()):
            self._read_own_values(hyper)
            for at in range(self._count, total):
                fitting = [index for index, one in self._assignments_of(hyper) if self.layout.fits(one, at)]
                if fitting:
                    self._drive(fitting[-1], hyper, at)
        self._count = total

    def _assignments_of(self, hyper: HyperParameter) -> list[tuple[int, Assign]]:
        return [(index, one) for index, one in self._assignments.items() if self._hypers[index] == hyper]

    def _drive(self, index: int, hyper: HyperParameter, at: int) -> None:
        base, share = self._bases[hyper], self.layout.share(index, at)
        if self._assignments[index].chooses:
            base = self._owns[hyper][at]
        else:
            share *= self._ratio(hyper, at)
        self._drive_of(index, hyper, base).shares[at] = share

    def _drive_of(self, index: int, hyper: HyperParameter, base: float) -> Drive:
        mine = [drive for drive in self.drives if drive.assignment == index]
        for drive in mine:
            if drive.base == base:
                return drive
        drive = Drive(index, len(mine), self._assignments[index].schedule, hyper, base, self._place)
        self.drives.append(drive)
        return drive

    def _read_own_values(self, hyper: HyperParameter) -> None:
        """What the groups were built with, and the optimizer's own value that a schedule starts from."""
        groups = self.optimizer.param_groups
        if hyper in self._owns:
            self._owns[hyper] += [hyper.read(group) for group in groups[len(self._owns[hyper]) :]]
            return
        if not all(hyper.key in group for group in groups):
            raise InvalidArgument(
                "Assign.to", hyper.name, f"a number that all param groups of {type(self.optimizer).__name__} have"
            )
        now = [hyper.read(group) for group in groups]
        known = _DRIVEN.get(self.optimizer, {}).get(hyper)
        if known is not None and known.written == now:
            # Driven before, and untouched since: what the groups hold is ours, not theirs.
            self._bases[hyper], self._owns[hyper] = known.base, list(known.owns)
            return
        # A torch scheduler has moved the groups already where there is an initial_lr.
        moved = hyper == LEARNING_RATE and "initial_lr" in groups[0]
        owns = [float(group.get("initial_lr", group["lr"])) for group in groups] if moved else now
        default, alike = hyper.default(self.optimizer), len(set(owns)) == 1
        self._bases[hyper] = owns[0] if default is None or (alike and not moved) else default
        self._owns[hyper] = [self._bases[hyper]] * len(owns) if alike else owns

    def _ratio(self, hyper: HyperParameter, at: int) -> float:
        own, base = self._owns[hyper][at], self._bases[hyper]
        if own == base:
            return 1.0
        if base > 0:
            return own / base
        raise InvalidArgument(
            f"the default {hyper.name} of {type(self.optimizer).__name__}",
            base,
            "greater than 0 where param groups have values of their own",
            f"Group {at} has {hyper.name} {own:g}, and groups keep their ratio to the default.",
        )

    def detach(self) -> None:
        """Stop following, and remember what was read for another fit with the same optimizer."""
        super().detach()
        groups = self.optimizer.param_groups
        if len(groups) == self._count:
            _DRIVEN[self.optimizer] = {
                hyper: _Driven(self._bases[hyper], list(owns), [hyper.read(group) for group in groups])
                for hyper, owns in self._owns.items()
            }

    def chosen_by(self, index: int) -> bool:
        """Whether an assignment chooses any of the groups."""
        one = self._assignments.get(index)
        return one is not None and any(self.layout.fits(one, at) for at in range(self._count))

    # --- writing ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Write the values of the coming step, computed anew.

        Raises:
            TrainingError: a schedule's value is none that the hyper-parameter can have.
        """
        if not self.active:
            return
        if not self.has_groups:
            self._take_groups()
        elif self._written:
            self._look()
        updates = [drive.write(self.step, self.total_steps) for drive in self.drives]
        # A call in between would cost half as much as the writing itself.
        self.advance = updates[0] if len(updates) == 1 else lambda: [update() for update in updates]
        self._written = True

    def _open(self) -> Iterator[_Column]:
        """What a schedule drives is what it has written, and recorded once for all its groups."""
        for hyper in self._recorded:
            names, driven = series_names(hyper.name + self.suffix, self.optimizer.param_groups), set()
            for drive in self.drives if self.active else ():
                mine = {names[at]: share for at, share in drive.shares.items()} if drive.hyper == hyper else {}
                column = self._trace.column(mine, self.step) if mine else None
                if column is not None:
                    driven |= set(mine)
                    yield _Column(functools.partial(getattr, drive, "value"), column.append)
            for at, name in enumerate(names):
                if name not in driven:
                    yield self._column_of(hyper, at, name)

    def _look(self, during: bool = False) -> bool:
        """Note who has written since; whether somebody has."""
        found = [(drive, moved) for drive in self.drives if (moved := drive.moved())]
        for drive, (group, expected, value) in found:
            groups = self.optimizer.param_groups
            at = next(index for index, one in enumerate(groups) if one is group)
            name = series_names(drive.hyper.name + self.suffix, groups)[at]
            self._audit.note(self.step, name, expected, value, during)
        return bool(found)

    def _begin_step(self) -> None:
        if self.active and self._written and self.has_groups:
            if self._look():
                self._groups = []  # whatever has been put in the place of ours is to be taken
                self.refresh()
        else:
            self.refresh()
        super()._begin_step()

    def _after_step(self, *_: Any) -> None:
        if self._used is not None and not _skipped(self.optimizer):
            self._audit.count(self.active and not (self.has_groups and self._look(during=True)))
        super()._after_step()

    def _stepped(self) -> None:
        # Past the end nobody needs a value, and a schedule may have none.
        self._written = self.active and (self.total_steps is None or self.step < self.total_steps)
        if self._written:
            self.advance()


def _captures() -> bool:
    """Whether a CUDA graph is being captured."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer has skipped the step under way, in its kernel, because a gradient was not finite.

    A gradient scaler leaves it the flag; only then is it looked at, for that waits for the device.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def optimizers_of(assignments: Sequence[Assign], optimizers: Sequence[Optimizer]) -> list[dict[int, Assign]]:
    """For each optimizer its assignments, by their index among all.

    Raises:
        InvalidArgument: an assignment is for an optimizer, or for a hyper-parameter, that there is not.
    """
    found: list[dict[int, Assign]] = [{} for _ in optimizers]
    for index, assignment in enumerate(assignments):
        chosen = [at for at, optimizer in enumerate(optimizers) if _means(assignment, at, optimizer)]
        if not chosen:
            names = ", ".join(f"{at}: {type(one).__name__}" for at, one in enumerate(optimizers))
            raise InvalidArgument("Assign.optimizer", assignment.optimizer, f"one of the optimizers ({names})")
        able = [at for at in chosen if HyperParameter.of(assignment.to, optimizers[at])]
        if not able:
            hyper_parameter(assignment.to, optimizers[chosen[0]])  # says what there is
        for at in able:
            found[at][index] = assignment
    return found


def _means(assignment: Assign, at: int, optimizer: Optimizer) -> bool:
    return assignment.optimizer is None or assignment.optimizer in (at, type(optimizer).__name__)


def check_chosen(assignments: Sequence[Assign], writers: Sequence[Writer], names: Names) -> None:
    """Refuse an assignment that chooses nothing.

    Parameters of the module that are in no param group yet may get into one later (when they are unfrozen).

    Raises:
        InvalidArgument: there is one; the message lists what there is.
    """
    for index, one in enumerate(assignments):
        pattern = one.params
        if not one.chooses or any(writer.chosen_by(index) for writer in writers):
            continue
        if pattern is None:
            groups = [group for writer in writers for group in writer.optimizer.param_groups]
            there = ", ".join(repr(group.get("name", at)) for at, group in enumerate(groups))
            raise InvalidArgument("Assign.group", one.group, f"the name or index of a param group ({there})")
        if not any(re.search(pattern, name) for name in _still_to_come(writers, names)):
            some = ", ".join(list(names.values())[:8]) + (" ..." if len(names) > 8 else "")
            allowed = f"an expression found in the name of a parameter ({some}) that is in the groups meant"
            raise InvalidArgument("Assign.params", pattern, allowed)


def words(writers: Sequence[Writer]) -> dict[Drive, str]:
    """What each drive sets, in words: with optimizer and param groups where those of a hyper-parameter differ."""
    said = {}
    drives = [(writer, drive) for writer in writers for drive in writer.drives]
    names = [drive.hyper.name for _, drive in drives]
    for writer, drive in sorted(drives, key=lambda one: names.index(one[1].hyper.name)):
        mine = [(of, other) for of, other in drives if other.hyper.name == drive.hyper.name]
        agree = len({other.value for _, other in mine}) == 1
        alone = [of for of, _ in mine].count(writer) == 1
        of_groups = series_names("", writer.optimizer.param_groups)
        groups = "" if agree or alone else ", ".join(of_groups[at].lstrip("/") for at in drive.shares)
        parts = ("" if agree else writer.suffix.lstrip("/"), groups, drive.hyper.words)
        said[drive] = " ".join(part for part in parts if part)
    return said


def _still_to_come(writers: Sequence[Writer], names: Names) -> list[str]:
    """The parameters that are in no param group yet."""
    groups = [group for writer in writers for group in writer.optimizer.param_groups]
    there = {id(parameter) for group in groups for parameter in group["params"]}
    return [name for identity, name in names.items() if identity not in there]


def series_suffixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """Nothing for one optimizer; `/<class>-<index>` for each of several."""
    if len(optimizers) == 1:
        return [""]
    return [f"/{type(optimizer).__name__}-{index}" for index, optimizer in enumerate(optimizers)]


def series_names(prefix: str, groups: list[dict[str, Any]]) -> list[str]:
    """`lr` for one param group; `lr/<name>` for several, by their `name` or else their index."""
    if len(groups) == 1:
        return [prefix]
    names = [str(group.get("name", index)) for index, group in enumerate(groups)]
    return [
        f"{prefix}/{name}" if names.count(name) == 1 else f"{prefix}/{name}-{index}" for index, name in enumerate(names)
    ]
