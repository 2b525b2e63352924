"""The optimizers of a run, and the schedules that drive them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch.optim import Optimizer

from lr_plugins.engine.audit import Audit
from lr_plugins.engine.driven_groups import DrivenGroups, PositionAt
from lr_plugins.engine.hyperparameter import check_hyper_parameter, has_hyper_parameter
from lr_plugins.engine.known_groups import KnownGroup
from lr_plugins.engine.naming import name_series, series_suffixes
from lr_plugins.engine.param_groups import Names
from lr_plugins.engine.resume_policy import OnResume, Saved, apply_resume_policy
from lr_plugins.engine.trace import Trace
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules import RunLength
from lr_plugins.schedules.assign import Assign, Assignments
from lr_plugins.schedules.observation import Monitor


class DrivenOptimizers:
    """A `Writer` for each optimizer, replaced when its optimizer is replaced.

    Args:
        optimizers: the optimizers, as they were built.
        assignments: which schedule drives which hyper-parameters.
        position_at: the position of a step in the run.
        names: the names of the module's parameters. Default: unknown.
        audit: counts the writes of other code. Default: a new one.

    Raises:
        InvalidArgumentError: an assignment selects something that neither the optimizers nor the module have.

    Example:
        >>> import torch
        >>> from lr_plugins import RunLength, StepDecay
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> run = RunLength.of(steps_per_epoch=2, epochs=2)
        >>> driven = DrivenOptimizers([optimizer], Assignments.of(StepDecay(0.1, drop=0.5, every="1ep")), run.position)
        >>> driven.attach(Trace(), [0])
        >>> driven.refresh()
        >>> for _ in range(4): optimizer.step()
        >>> driven.detach()
        >>> driven.trace["lr"].values.tolist()
        [0.1, 0.1, 0.05, 0.05]
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        assignments: Assignments,
        position_at: PositionAt,
        names: Names | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.assignments = assignments
        self._position_at, self._names = position_at, names or {}
        self._audit = Audit() if audit is None else audit
        self.writers: list[Writer] = [  # changed in place, because OptimizerChanges shares the list
            Writer(optimizer, chosen, position_at, self._names, suffix, self._audit)
            for optimizer, chosen, suffix in self._chosen(optimizers)
        ]
        check_chosen(list(assignments), self.writers, self._names)
        self.trace = Trace()
        self._total_steps: float | None = None
        self._is_detached: Callable[[], bool] | None = None
        self._retired_steps = 0  # of optimizers removed without a replacement

    def _chosen(self, optimizers: Sequence[Optimizer]) -> Iterator[tuple[Optimizer, dict[int, Assign], str]]:
        """Each optimizer with its assignments and the suffix of its series."""
        assignments, suffixes = optimizers_of(list(self.assignments), optimizers), series_suffixes(optimizers)
        return zip(optimizers, assignments, suffixes, strict=True)

    # --- what is driven ---------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the first optimizer is written to; false once its writer has stopped because of other code."""
        return self.writers[0].active

    @property
    def steps_taken(self) -> int:
        """The steps of all optimizers, including removed ones."""
        return self._retired_steps + sum(writer.step for writer in self.writers)

    @property
    def splits(self) -> bool:
        """Whether an assignment may split param groups."""
        return any(assignment.splits for assignment in self.assignments)

    def driven_groups(self) -> Iterator[tuple[str, DrivenGroups]]:
        """All driven groups, by their key in a checkpoint: optimizer/scope/number."""
        for index, writer in enumerate(self.writers):
            for driven in writer.driven_groups:
                scope = self.assignments.assignments[driven.assignment].scope
                yield f"{index}/{scope}/{driven.number}", driven

    def monitors(self) -> list[Monitor]:
        """The metrics that the schedules observe."""
        schedules = [driven.schedule for _, driven in self.driven_groups()]
        schedules = schedules or [assignment.schedule for assignment in self.assignments]
        return [monitor for schedule in schedules for monitor in schedule.monitors]

    def depends_on(self, run: RunLength, steps: Sequence[int]) -> bool:
        """Whether a schedule's value at one of the steps would differ with this length of the run."""
        return any(driven.schedule.is_pure and driven.depends_on(run, steps) for _, driven in self.driven_groups())

    # --- resuming ---------------------------------------------------------------------------------------------

    def parameters(self) -> list[list[list[str]]]:
        """The parameter names of each group, by optimizer, for a checkpoint; empty if no group can be split."""
        return [writer.layout.parameters() for writer in self.writers] if self.splits else []

    def check_groups(self, saved: Sequence[Sequence[Sequence[str]]], sizes: Sequence[Sequence[int]]) -> None:
        """Refuse a checkpoint with other param groups: torch would assign optimizer state to the wrong parameters.

        Args:
            saved: the parameter names of each group, by optimizer; empty if the checkpoint has none.
            sizes: the number of parameters in each group, which every checkpoint has.

        Raises:
            InvalidArgumentError: the groups differ.
        """
        before: Sequence[Sequence[Sequence[str]]] = saved
        now = [writer.layout.parameters() for writer in self.writers]
        if not saved and self.splits:  # saved without these assignments: only sizes can be compared
            before = [[[""] * size for size in of_optimizer] for of_optimizer in sizes]
            now = [[[""] * len(known.group["params"]) for known in writer.groups] for writer in self.writers]
        for writer, old, new in zip(self.writers, before, now, strict=False):
            if list(old) != new:
                shown = [f"{len(groups)} ({', '.join(str(len(group)) for group in groups)})" for groups in (old, new)]
                raise InvalidArgumentError(
                    f"the param groups of {type(writer.optimizer).__name__}",
                    f"{shown[1]} parameters",
                    f"those of the checkpoint, {shown[0]} parameters, each with the same ones",
                    "The params and layers of the assignments must be those of the resumed run.",
                )

    def restore(
        self,
        saved: Mapping[str, Saved],
        series: Sequence[Sequence[str]],
        added_at: Sequence[Sequence[Sequence[int]]],
    ) -> None:
        """Restore the states of the schedules, and the history of the groups.

        Args:
            saved: the schedules of the checkpoint, by key.
            series: the names of each group's series, by optimizer.
            added_at: the step and epoch at which each group was added.
        """
        for writer, names, when in zip(self.writers, series, added_at, strict=False):
            writer.restore_groups(names, when)
        for key, driven in self.driven_groups():
            saved_schedule = saved.get(key)
            if saved_schedule is not None and saved_schedule.kind == driven.schedule.kind:
                driven.state = saved_schedule.state

    def apply_resume_policy(
        self, policy: OnResume, saved: Mapping[str, Saved], run: RunLength, steps: Sequence[int]
    ) -> Iterator[str]:
        """Decide, for each optimizer, between the plan of the checkpoint and the new one; yield what to report.

        Raises:
            TrainingError: the policy is `"error"` and the learning rate would jump; or it cannot be followed.
        """
        by_key = dict(self.driven_groups())
        for index, step in enumerate(steps):
            of_optimizer = {key: driven for key, driven in by_key.items() if key.startswith(f"{index}/")}
            report = apply_resume_policy(policy, of_optimizer, saved, run, step)
            if report:
                yield report

    def without_plan(
        self, saved: Mapping[str, Saved], active: Sequence[bool]
    ) -> list[tuple[int, Writer, DrivenGroups]]:
        """The driven groups for which a checkpoint has no plan, with the index and the writer of their optimizer.

        Args:
            saved: the schedules of the checkpoint, by key.
            active: whether each optimizer was being written to.
        """
        known = {id(driven) for key, driven in self.driven_groups() if key in saved}
        gave_way = {index for index, was_active in enumerate(active) if not was_active}
        return [
            (index, writer, driven)
            for index, writer in enumerate(self.writers)
            for driven in writer.driven_groups
            if writer.active and (id(driven) not in known or index in gave_way)
        ]

    def saved(self, run: RunLength) -> dict[str, Saved]:
        """Each schedule and its state, for a checkpoint."""
        return {key: Saved.of(driven, run) for key, driven in self.driven_groups()}

    # --- the run ----------------------------------------------------------------------------------------------

    def attach(
        self,
        trace: Trace,
        steps: Sequence[int],
        total_steps: float | None = None,
        is_detached: Callable[[], bool] | None = None,
    ) -> None:
        """Start to follow the optimizers and to record in `trace`.

        Args:
            trace: the record.
            steps: the number of steps that each optimizer has taken.
            total_steps: the length of the run. Default None: unknown.
            is_detached: steps taken while it returns true are not part of the run. Default None: all are.
        """
        self.trace, self._total_steps, self._is_detached = trace, total_steps, is_detached
        self._retired_steps = 0
        for writer, step in zip(self.writers, steps, strict=True):
            writer.total_steps = total_steps
            writer.attach(trace, step, is_detached)

    def refresh(self) -> None:
        """Recompute and write the values of the coming step."""
        for writer in self.writers:
            writer.refresh()

    def refresh_unwritten(self) -> None:
        """The same for the optimizers that have no value of the coming step yet."""
        for writer in self.writers:
            if not writer.is_written:
                writer.refresh()

    def stop_writing(self) -> None:
        """Stop writing, and record what other code writes."""
        for writer in self.writers:
            writer.stop_writing()

    def restart(self) -> None:
        """Return to step 0, and reset the states of the schedules."""
        for writer in self.writers:
            writer.step = 0
            for driven in writer.driven_groups:
                driven.state = driven.schedule.start()

    def detach(self) -> None:
        """Stop following the optimizers."""
        for writer in self.writers:
            writer.detach()

    def replace(self, optimizers: Sequence[Optimizer]) -> dict[Writer, Writer | None]:
        """Drive these optimizers from now on; a new one continues at the position of the optimizer it replaces.

        Returns:
            Each writer with the writer whose run it continues: itself, that of a replaced optimizer, or None.
        """
        before = list(self.writers)
        continued: dict[Writer, Writer | None] = {}
        for index, (optimizer, assignments, suffix) in enumerate(self._chosen(optimizers)):
            same = next((writer for writer in before if writer.optimizer is optimizer), None)
            if same is not None:
                continued[same] = same
                continue
            at_index = before[index : index + 1]
            old = next(
                (writer for writer in at_index if not any(writer.optimizer is other for other in optimizers)), None
            )
            continued[self._writer_instead_of(old, optimizer, assignments, suffix)] = old
        for writer in before:
            if writer not in continued:
                writer.detach()
                self._retired_steps += 0 if writer in continued.values() else writer.step
        self.writers[:] = continued
        return continued

    def _writer_instead_of(
        self, old: Writer | None, optimizer: Optimizer, assignments: dict[int, Assign], suffix: str
    ) -> Writer:
        if old is not None:
            old.detach()
        new = Writer(optimizer, assignments, self._position_at, self._names, suffix, self._audit, replaces=old)
        new.total_steps = self._total_steps
        new.attach(self.trace, new.step, self._is_detached)
        old_groups = old.driven_groups if old is not None else []
        before = {(driven.assignment, driven.number): driven for driven in old_groups}
        for driven in new.driven_groups:
            previous = before.get((driven.assignment, driven.number))
            if previous is not None:
                driven.schedule, driven.state = previous.schedule, previous.state
        return new


# --- which assignment is for which optimizer --------------------------------------------------------------------


def optimizers_of(assignments: Sequence[Assign], optimizers: Sequence[Optimizer]) -> list[dict[int, Assign]]:
    """The assignments for each optimizer, by their index among all.

    Raises:
        InvalidArgumentError: an assignment names an optimizer or a hyper-parameter that does not exist.
    """
    by_optimizer: list[dict[int, Assign]] = [{} for _ in optimizers]
    for index, assignment in enumerate(assignments):
        chosen = [at for at, optimizer in enumerate(optimizers) if _is_for(assignment, at, optimizer)]
        if not chosen:
            names = ", ".join(f"{at}: {type(optimizer).__name__}" for at, optimizer in enumerate(optimizers))
            raise InvalidArgumentError("Assign.optimizer", assignment.optimizer, f"one of the optimizers ({names})")
        for at in chosen:
            groups = optimizers[at].param_groups
            if any(assignment.to in group and group[assignment.to] is None for group in groups):
                check_hyper_parameter(
                    assignment.to, optimizers[at], [{assignment.to: None}]
                )  # raises an error that says what to do
        able = [at for at in chosen if has_hyper_parameter(assignment.to, optimizers[at])]
        if not able:
            first = optimizers[chosen[0]]
            check_hyper_parameter(
                assignment.to, first, first.param_groups
            )  # raises an error that lists the existing ones
        for at in able:
            by_optimizer[at][index] = assignment
    return by_optimizer


def _is_for(assignment: Assign, at: int, optimizer: Optimizer) -> bool:
    return assignment.optimizer is None or assignment.optimizer in (at, type(optimizer).__name__)


def check_chosen(assignments: Sequence[Assign], writers: Sequence[Writer], names: Names) -> None:
    """Refuse an assignment that selects nothing.

    Parameters that are in no param group yet may join one later, when they are unfrozen.

    Raises:
        InvalidArgumentError: an assignment selects nothing; the message lists what could be selected.
    """
    for index, assignment in enumerate(assignments):
        pattern = assignment.params
        chosen = [(writer, writer.chosen_by(index)) for writer in writers if assignment.chooses]
        for writer, groups in chosen:
            if groups:
                check_hyper_parameter(assignment.to, writer.optimizer, [known.group for known in groups])
        if not assignment.chooses or any(groups for _, groups in chosen):
            continue
        if pattern is None:
            everything = [group for writer in writers for group in writer.optimizer.param_groups]
            existing = ", ".join(repr(group.get("name", at)) for at, group in enumerate(everything))
            raise InvalidArgumentError(
                "Assign.group", assignment.group, f"the name or index of a param group ({existing})"
            )
        if not any(re.search(pattern, name) for name in _parameters_to_come(writers, names)):
            some = ", ".join(list(names.values())[:8]) + (" ..." if len(names) > 8 else "")
            allowed = f"an expression found in the name of a parameter ({some}) in the selected groups"
            raise InvalidArgumentError("Assign.params", pattern, allowed)


def _parameters_to_come(writers: Sequence[Writer], names: Names) -> list[str]:
    """The parameters that are in no param group yet."""
    groups = [group for writer in writers for group in writer.optimizer.param_groups]
    in_groups = {id(parameter) for group in groups for parameter in group["params"]}
    return [name for identity, name in names.items() if identity not in in_groups]


def describe_targets(writers: Sequence[Writer]) -> dict[DrivenGroups, str]:
    """What each schedule sets, as a text: with the optimizer and the param groups if their values differ."""
    described = {}
    for writer in writers:
        name_series(writer.groups)
    pairs = [(writer, driven) for writer in writers for driven in writer.driven_groups]
    names = [driven.hyper.name for _, driven in pairs]
    for writer, driven in sorted(pairs, key=lambda pair: names.index(pair[1].hyper.name)):
        same_hyper = [(owner, other) for owner, other in pairs if other.hyper.name == driven.hyper.name]
        agree = len({other.value for _, other in same_hyper}) == 1
        alone = [owner for owner, _ in same_hyper].count(writer) == 1
        groups = "" if agree or alone else ", ".join(_title(known) for known in driven.scales)
        parts = ("" if agree else writer.suffix.lstrip("/"), groups, driven.hyper.label)
        described[driven] = " ".join(part for part in parts if part)
    return described


def _title(known: KnownGroup) -> str:
    """The name of a group in a message."""
    return (known.series or "").lstrip("/") or str(known.group.get("name", known.at))
