"""What a schedule will do, before anything is trained: a chart, a table of milestones, and likely mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import ImpossibleValueError, InvalidArgumentError, TrainingError
from lr_plugins.plotting.learning_rate import plot_learning_rate
from lr_plugins.schedules.assign import Assign, Assignments
from lr_plugins.schedules.observation import VALIDATION
from lr_plugins.schedules.position import RunLength
from lr_plugins.simulation.lines import Event, Line
from lr_plugins.simulation.metric_courses import Course, Validations, describe_course
from lr_plugins.simulation.page import page
from lr_plugins.simulation.plan import Plan, plan
from lr_plugins.simulation.segments import Planned
from lr_plugins.simulation.warnings import plan_warnings
from lr_plugins.validation import number

_MOST_STEPS = 2**53  # that a float counts one by one
_TITLE = "Learning rate, before training"


class Preview:
    """What the schedules of a run will do; printed, it is a page with a chart.

    Args:
        run: how long the run will be.
        lines: what each schedule will do.
        warnings: likely mistakes, a line each.
        notes: what was assumed, and where the numbers of the run come from, a line each.
    """

    def __init__(self, run: RunLength, lines: Sequence[Line], warnings: Sequence[str], notes: Sequence[str]) -> None:
        self.run, self.lines = run, tuple(lines)
        self.warnings, self.notes = tuple(warnings), tuple(notes)

    def __getitem__(self, name: str) -> Line:
        """The line of a name."""
        return {line.name: line for line in self.lines}[name]

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The learning rates of the first line, shape (n,)."""
        return self.lines[0].values

    @property
    def last(self) -> float:
        """The learning rate of the last step, of the first line."""
        return self.lines[0].last

    @property
    def events(self) -> tuple[Event, ...]:
        """What happens when, on the first line."""
        return self.lines[0].events

    def page(self, width: int | None = None, log: bool = False, ascii: bool | None = None) -> str:
        """The page: chart, table, sums and warnings.

        Args:
            width: characters, >= 40. Default None: the terminal's, or 80 where the output is none.
            log: a logarithmic axis. Default False: only where most of the curve would lie flat otherwise.
            ascii: only characters of ASCII. Default None: where the output's encoding has no others.
        """
        return page(self, width, log, ascii)

    def __str__(self) -> str:
        return self.page()

    def __repr__(self) -> str:
        return f"Preview({', '.join(line.name for line in self.lines)} over {self.run.steps} steps)"

    def plot(self, path: str | Path) -> Path:
        """Save a picture; the file extension (`.png`, `.svg`, `.pdf`) selects the format. Needs matplotlib."""
        per_epoch = self.run.steps_per_epoch
        begins = range(0, int(self.run.steps or 0), int(per_epoch)) if per_epoch else ()
        return plot_learning_rate({line.name: line for line in self.lines}, path, title=_TITLE, epochs=begins)


def plot_all(previews: Mapping[str, Preview], path: str | Path) -> Path:
    """Draw the first lines of several previews as one picture (see `Preview.plot`)."""
    lines = {f"lr/{name}": each.lines[0] for name, each in previews.items()}
    return plot_learning_rate(lines, path, title=_TITLE)


def preview(
    schedule: Any,
    *,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    base_learning_rate: float | None = None,
    metrics: Mapping[str, Course] | None = None,
    defaults: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
) -> Preview:
    """What a schedule, or several assigned ones, will do in a run: without data, model or torch.

    Args:
        schedule: whatever `LearningRateScheduler` takes: a schedule, a function of `epoch` or of `(epoch, lr)`, an
            `Assign`, or several of them.
        steps_per_epoch: optimizer steps in one epoch, >= 1: batches divided by the batches of a step, rounded up.
        epochs: epochs of the run, >= 1.
        steps: optimizer steps of the run, >= 1; if `epochs` is given as well, the smaller length applies.
        base_learning_rate: the optimizer's own, >= 0, for a schedule that names no initial one.
        metrics: the course to assume for each metric that a schedule follows: a number; several, at equal distances
            from the start of the run to its end, with lines between; or a function of the share of the run. Those
            whose name begins with `val` are logged by a validation after each epoch.
        defaults: the optimizer's other hyper-parameters, e.g. `optimizer.defaults`, for those that are assigned.
        batch_size: samples of one optimizer step, >= 1, for lengths in samples: those of a batch, times the batches of
            a step and the processes.

    Raises:
        InvalidArgumentError: the length of the run is unknown, or a metric has no course.
        TrainingError: a value of the schedule is not a finite number >= 0, or depends on something unknown.

    Example:
        >>> from lr_plugins import CosineDecay
        >>> seen = preview(CosineDecay(0.1).with_warmup("10%"), steps_per_epoch=10, epochs=10)
        >>> [(event.step, event.what) for event in seen.events]
        [(0, 'start'), (10, 'warm-up ends; peak'), (99, 'last step')]
        >>> print(seen.lines[0].peak, seen.warnings)
        0.1 ()
    """
    run = _run(steps_per_epoch, epochs, steps, batch_size)
    validations = None if steps_per_epoch is None else Validations((steps_per_epoch,))
    planned = Planned(run, metrics or {}, validations)
    if defaults is not None and not isinstance(defaults, Mapping):
        raise InvalidArgumentError("defaults", defaults, "a dictionary of hyper-parameters, e.g. optimizer.defaults")
    given = {**(defaults or {}), **({} if base_learning_rate is None else {"lr": base_learning_rate})}
    return preview_of(Assignments.of(schedule), planned, given)


def preview_of(
    assignments: Assignments, planned: Planned, defaults: Mapping[str, Any], notes: Sequence[str] = ()
) -> Preview:
    """As `preview`, of assignments in a run of which everything is known.

    Args:
        assignments: which schedule drives what.
        planned: the run.
        defaults: the optimizer's hyper-parameters.
        notes: lines to begin the notes with.
    """
    _check_metrics(assignments, planned)
    lines, warnings, notes = [], [], list(notes)
    for name, assign in named(assignments):
        try:
            planned_values = plan(assign.schedule, planned, own_value(defaults, assign.to))
        except ImpossibleValueError as error:
            raise error.meant_for(named_in_words(assign.to), "a finite number >= 0") from error
        lines.append(Line(name, planned_values, tuple(_events(planned_values, planned.run)), planned.run))
        if assign.to == "lr":
            several = f"{name}: " if len(assignments) > 1 else ""
            follows = bool(assign.schedule.monitors)
            warnings += [several + line for line in plan_warnings(planned_values, planned.run, follows)]
        if assign.layer_decay != 1.0:
            notes.append(
                f"{name} is that of the highest layer; each layer below has {assign.layer_decay:g} times as much"
            )
    followed = dict.fromkeys(monitor.metric for assign in assignments for monitor in assign.schedule.monitors)
    notes += [f"assumed: {describe_course(name, planned.metrics[name])}" for name in followed]
    return Preview(planned.run, lines, warnings, notes)


def named(assignments: Assignments) -> Iterator[tuple[str, Assign]]:
    """Those that count, with names as the trace has them.

    Example:
        >>> from lr_plugins import Constant
        >>> [name for name, _ in named(Assignments([Constant(0.1), Assign(Constant(0.01), params="^head")]))]
        ['lr/others', 'lr/head']
    """
    for to in dict.fromkeys(assign.to for assign in assignments):
        same = [assign for assign in assignments if assign.to == to]
        # Of several that fit, the last one counts: one that applies to all leaves nothing to those before it.
        last = max((at for at, assign in enumerate(same) if not assign.chooses and assign.optimizer is None), default=0)
        for assign in same[last:]:
            chosen = assign.name or re.sub(r"\W+", "-", assign.params or str(assign.group or "")).strip("-")
            yield (to if len(same[last:]) == 1 else f"{to}/{chosen if assign.chooses else 'others'}"), assign


def named_in_words(to: str) -> str:
    """What a hyper-parameter is called in a sentence."""
    return "learning rate" if to == "lr" else to.replace("_", " ")


def own_value(defaults: Mapping[str, Any], to: str) -> float | None:
    """The optimizer's own value of a hyper-parameter; None if unknown."""
    betas = defaults.get("betas") or (None, None)
    value = defaults.get(to, {"momentum": betas[0], "beta1": betas[0], "beta2": betas[1]}.get(to))
    return None if value is None else number(f"the optimizer's {to}", value, "a finite number >= 0", at_least=0.0)


def _run(steps_per_epoch: int | None, epochs: int | None, steps: int | None, batch_size: int | None) -> RunLength:
    given = {"steps_per_epoch": steps_per_epoch, "epochs": epochs, "steps": steps, "batch_size": batch_size}
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise InvalidArgumentError(name, value, "an integer >= 1")
    run = RunLength.of(steps_per_epoch, epochs, steps, batch_size)
    if run.steps is not None and run.steps > _MOST_STEPS:
        raise InvalidArgumentError("the length of the run", run.steps, "at most 2**53 optimizer steps")
    if run.steps is None:
        allowed = "given: steps, or epochs together with steps_per_epoch"
        raise InvalidArgumentError("the length of the run", None, allowed)
    return run


def _check_metrics(assignments: Assignments, planned: Planned) -> None:
    for assign in assignments:
        for monitor in assign.schedule.monitors:
            if monitor.metric not in planned.metrics:
                raise InvalidArgumentError(
                    f"the course of {monitor.metric}",
                    None,
                    "given, because the schedule follows it and only a training knows it",
                    f"For a straight line over the run: --metric {monitor.metric}=2.3:0.1"
                    f', in Python metrics={{"{monitor.metric}": (2.3, 0.1)}}.',
                )
            if monitor.when == VALIDATION and planned.validations is None:
                raise TrainingError(
                    f"a schedule observes {monitor.metric!r} after each validation run, and this run has none"
                )


# --- what happens when --------------------------------------------------------------------------------------


def _events(plan: Plan, run: RunLength) -> Iterator[Event]:
    what: dict[int, list[str]] = {}

    def note(step: int, text: str) -> None:
        if text not in what.setdefault(step, []):
            what[step].append(text)

    note(int(plan.steps[0]), "start")
    for moment in plan.moments:
        for at in moment.at.tolist():
            note(int(plan.steps[at]), moment.what)
    for step, text in plan.decisions:
        note(step, text)
    for at in plan.changes:
        note(int(plan.steps[at]), "changes")
    if plan.values.min() < plan.values.max():
        note(int(plan.steps[plan.values.argmax()]), "peak")
    note(int(plan.steps[-1]), "last step")
    for step, texts in sorted(what.items()):
        value = float(plan.values[np.searchsorted(plan.steps, step)])
        yield Event(step, step / run.steps_per_epoch if run.steps_per_epoch else None, value, "; ".join(texts))
