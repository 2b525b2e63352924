"""What `on_resume` does when a run continues under another plan than it started with."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lr_plugins.checkpoint_state import WrongStateError, finite, list_of, mapping, optional, plain, record, text
from lr_plugins.engine.driven_groups import DrivenGroups, sampled_steps
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.renamed import state_with_current_names, with_current_names
from lr_plugins.schedules import Position, RunLength, Schedule
from lr_plugins.schedules.combinators.replanned import Replanned
from lr_plugins.schedules.lengths import relevant_run
from lr_plugins.schedules.schedule import State
from lr_plugins.schedules.serialization import from_config, to_config

OnResume = Literal["error", "config", "checkpoint", "rescale"]
"""What to do when a resumed run has another plan, so that the learning rate would jump."""

POLICIES: dict[OnResume, str] = {
    "error": "raise an error if the learning rate would jump",
    "config": "use the new configuration",
    "checkpoint": "keep the checkpoint's plan",
    "rescale": "keep it, with the remainder stretched to the new length",
}
"""What each choice of `OnResume` does, in the words of the table of an error."""


def _config(value: Any, where: str) -> None:
    mapping(value, where)
    plain(value, where)


def _length_of_run(value: Any, where: str) -> None:
    finite(value, where)
    if not 1e-9 <= value <= 2**53:
        raise WrongStateError(where, value, "the length of a run")


SAVED = record(
    {"schedule": _config, "base": finite, "run": list_of(optional(_length_of_run), 4), "kind": text, "state": plain}
)
"""The form of a `Saved` in a checkpoint."""


@dataclass
class Saved:
    """A schedule in a checkpoint, as plain values.

    Args:
        schedule: its configuration; functions are given by name.
        base: the optimizer's own value.
        run: the fields of `RunLength`; the batch size only if the schedule counts samples.
        kind: the kind of schedule: a state fits all schedules of one kind.
        state: its state.
    """

    schedule: dict[str, Any] = field(default_factory=dict)
    base: float = math.nan
    run: list[float | None] = field(default_factory=list)
    kind: str = ""
    state: State = None

    @property
    def length(self) -> RunLength:
        """The length of the run."""
        steps_per_epoch, epochs, steps, batch_size = self.run
        return RunLength(steps_per_epoch, epochs, steps, batch_size)

    def check(self, schedule: Schedule | None, where: str) -> None:
        """Check that the saved state fits the schedule.

        Args:
            schedule: the current schedule in its place, if any.
            where: its name in the message.

        Raises:
            WrongStateError: the state does not fit.
        """
        plan = None
        if schedule is not None and _nameless(self.schedule) == _nameless(to_config(schedule, functions_by_name=True)):
            plan = schedule
        else:
            with contextlib.suppress(InvalidArgumentError):  # it contains functions, or another version wrote it
                plan = from_config(self.schedule)
        if plan is not None and plan.kind != self.kind:
            raise WrongStateError(f"{where}.kind", self.kind, f"{plan.kind}, as its configuration says")
        for candidate in (plan, schedule):
            if candidate is not None and candidate.kind == self.kind:
                candidate.check_state(self.state, f"{where}.state")

    @classmethod
    def restored(cls, fields: Mapping[str, Any]) -> Saved:
        """From the fields in a checkpoint, which an earlier version may have written."""
        schedule, state = with_current_names(fields["schedule"]), state_with_current_names(fields["state"])
        return cls(**{**fields, "schedule": schedule, "state": state})

    @classmethod
    def of(cls, driven: DrivenGroups, run: RunLength) -> Saved:
        """A driven's, in a run."""
        config = to_config(driven.schedule, functions_by_name=True)
        kept = list(relevant_run(driven.schedule, run)[:4])
        return cls(config, driven.base_value, kept, driven.schedule.kind, driven.state)


@dataclass
class _ChangedPlan:
    """A schedule whose plan has changed."""

    driven: DrivenGroups
    saved: Saved
    plan: Schedule | None  # the saved one, if it can be built
    now: float  # the value at this step by the new plan
    then: float | None  # the value at this step by the saved plan

    @property
    def jumps(self) -> bool:
        return self.then is None or not math.isclose(self.now, self.then, rel_tol=1e-12)


def apply_resume_policy(
    policy: OnResume, driven_by_key: Mapping[str, DrivenGroups], saved: Mapping[str, Saved], run: RunLength, step: int
) -> str:
    """Choose between the plan of the checkpoint and the new one.

    Args:
        policy: what to do if the plans differ.
        driven_by_key: the schedules of the resumed run, by key, with the restored states.
        saved: the schedules of the checkpoint, by key.
        run: the length of the run.
        step: the coming step.

    Returns:
        What to report; empty if the plans agree.

    Raises:
        TrainingError: the policy is `"error"` and the learning rate would jump, or the policy cannot be applied.
    """
    changed = [
        change for key, driven in driven_by_key.items() if (change := _compare(driven, saved.get(key), run, step))
    ]
    if not changed:
        return ""
    stretched = {id(change): _stretched(change, run, step) for change in changed}
    table = "\n".join(_table(changed, stretched, run, step))
    jumps = any(change.jumps for change in changed)
    if policy == "error" and jumps:
        raise TrainingError(
            f"resuming at step {step:g} with another plan would make the learning rate jump.\n{table}\n"
            'To allow it: LearningRateScheduler(..., on_resume="config"), or on the command line '
            "callbacks.scheduler.on_resume=config"
        )
    if policy in ("error", "config"):
        return f"At step {step:g} the plan changes{'' if jumps else ', without a jump'} (on_resume={policy}).\n{table}"
    for change in changed:
        plan = change.plan if policy == "checkpoint" else stretched[id(change)]
        if plan is None:
            raise TrainingError(f"on_resume={policy} cannot be applied: {_why_not(change, run, step)}.\n{table}")
        driven, saved_plan = change.driven, change.saved
        driven.schedule, driven.base_value, driven.state = plan, saved_plan.base, saved_plan.state
    return f"Resuming at step {step:g} with the plan of the checkpoint (on_resume={policy}).\n{table}"


def _compare(driven: DrivenGroups, saved: Saved | None, run: RunLength, step: int) -> _ChangedPlan | None:
    new = Saved.of(driven, run)
    if saved is None or (saved.schedule, saved.base, saved.run) == (new.schedule, new.base, new.run):
        return None
    same = _nameless(saved.schedule) == _nameless(new.schedule)
    if same and saved.base == new.base and not _depends_on_length(driven, saved.length, run, step):
        return None
    plan = _plan(driven, saved, same)
    now = _value(driven.schedule, driven.position_at(step, driven.base_value), driven.state)
    then = None if plan is None else _value(plan, driven.position_at(step, saved.base), saved.state)
    return _ChangedPlan(driven, saved, plan, now, then)


def _depends_on_length(driven: DrivenGroups, before: RunLength, run: RunLength, step: int) -> bool:
    """Whether the changed length of the run makes a difference to a schedule from a step on."""
    if not driven.schedule.is_pure:
        # A function of the epoch does not depend on the length of the run, and is called only in its epoch.
        return driven.state is None
    now = relevant_run(driven.schedule, run)
    if (before.steps_per_epoch, before.batch_size) != (now.steps_per_epoch, now.batch_size):
        return True
    ends = [length for length in (before.steps, run.steps) if length is not None]
    try:
        return driven.depends_on(before, sampled_steps(step, max([*ends, step + 1])))
    except TrainingError:
        return True


def _nameless(config: Any) -> Any:
    """A configuration without the names of functions, which do not identify what they compute."""
    if isinstance(config, Mapping):
        return {key: key if key == "_function_" else _nameless(value) for key, value in config.items()}
    return [_nameless(value) for value in config] if isinstance(config, list) else config


def _plan(driven: DrivenGroups, saved: Saved, same: bool) -> Schedule | None:
    """The saved schedule with the run length it was saved for; None if it contains functions and differs."""
    try:
        schedule = driven.schedule if same else from_config(saved.schedule)
    except InvalidArgumentError:
        return None
    return _in_run(schedule, saved.length)


def _in_run(schedule: Schedule, run: RunLength, since: float = 0.0, ratio: float = 1.0) -> Replanned:
    return Replanned(
        schedule,
        steps_per_epoch=run.steps_per_epoch,
        epochs=run.epochs,
        steps=run.steps,
        batch_size=run.batch_size,
        since=since,
        ratio=ratio,
    )


def _value(schedule: Schedule, position: Position, state: State) -> float:
    try:
        return float(schedule(position, state))
    except TrainingError:  # a plan may have no value past its end
        return math.nan


def _stretched(change: _ChangedPlan, run: RunLength, step: float) -> Schedule | None:
    """The saved plan with its remainder stretched to the new length."""
    before, now = change.saved.length.steps, run.steps
    if change.plan is None or before is None or now is None or step >= before or step >= now:
        return None
    assert isinstance(change.plan, Replanned)
    ratio = (now - step) / (before - step)
    return _in_run(change.plan.schedule, change.saved.length, step, ratio)


def _why_not(change: _ChangedPlan, run: RunLength, step: float) -> str:
    if change.plan is None:
        return "the checkpoint's schedule is a function, which a checkpoint cannot hold"
    before = change.saved.length.steps
    if before is None or run.steps is None:
        return "the length of the run in optimizer steps is unknown"
    return f"the checkpoint's plan ends at step {before:g}, so there is no remainder to stretch"


# --- the table ------------------------------------------------------------------------------------------------


def _table(
    changed: Sequence[_ChangedPlan],
    stretched: Mapping[int, Schedule | None],
    run: RunLength,
    step: int,
) -> Iterator[str]:
    for change in changed:
        rows = [("", "checkpoint", "now"), *_differences(change, run)]
        yield from _aligned(rows)
        new = stretched[id(change)]
        rescaled = (
            None if new is None else _value(new, change.driven.position_at(step, change.saved.base), change.saved.state)
        )
        values: dict[OnResume, float | None] = {"config": change.now, "checkpoint": change.then, "rescale": rescaled}
        rows = [("on_resume", f"{change.driven.hyper.label} at this step", "")]
        rows += [(name, "-" if value is None else f"{value:.6g}", POLICIES[name]) for name, value in values.items()]
        yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    first, second = (max(len(row[at]) for row in rows) for at in (0, 1))
    for row in rows:
        yield f"  {row[0]:<{first}}  {row[1]:<{second}}  {row[2]}".rstrip()


def _differences(change: _ChangedPlan, run: RunLength) -> Iterator[tuple[str, str, str]]:
    old = {**_flat(change.saved.schedule), **_length(change.saved.length), _own_name(change): change.saved.base}
    new_schedule = to_config(change.driven.schedule, functions_by_name=True)
    new = {
        **_flat(new_schedule),
        **_length(relevant_run(change.driven.schedule, run)),
        _own_name(change): change.driven.base_value,
    }
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield name, _text(old, name), _text(new, name)


def _own_name(change: _ChangedPlan) -> str:
    return f"the optimizer's {change.driven.hyper.label}"


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "-")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _length(run: RunLength) -> dict[str, Any]:
    lengths = {"epochs": run.epochs, "optimizer steps": run.steps, "steps per epoch": run.steps_per_epoch}
    return lengths if run.batch_size is None else {**lengths, "samples per step": run.batch_size}


def _flat(config: Any, name: str = "schedule") -> dict[str, Any]:
    """Nested configuration as dotted names."""
    if isinstance(config, Mapping):
        pairs = [(f"{name}.{key}" if key != "_target_" else name, value) for key, value in config.items()]
    elif isinstance(config, (list, tuple)):
        pairs = [(f"{name}[{index}]", value) for index, value in enumerate(config)]
    else:
        return {name: config.rpartition(".")[2] if isinstance(config, str) and name.endswith("schedule") else config}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= _flat(value, key)
    return flat
