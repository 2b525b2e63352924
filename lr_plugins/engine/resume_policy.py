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
"""What each choice of `OnResume` does, as the table of an error says it."""


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
"""What a `Saved` is in a checkpoint."""


@dataclass
class Saved:
    """One schedule as a checkpoint keeps it, in plain values.

    Args:
        schedule: its configuration; functions in it by their names.
        base: the optimizer's own value.
        run: the length of the run, as in `RunLength`; its batch size only where the schedule counts samples.
        kind: what sort of schedule it is: the state of one kind does not fit another.
        state: what it remembers.
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
        """Check that the remembered state fits the schedule.

        Args:
            schedule: the schedule that the run has in its place now, if any.
            where: its name in the message.

        Raises:
            WrongStateError: it does not.
        """
        plan = None
        if schedule is not None and _nameless(self.schedule) == _nameless(to_config(schedule, functions_by_name=True)):
            plan = schedule
        else:
            with contextlib.suppress(InvalidArgumentError):  # it holds functions, or is of another version
                plan = from_config(self.schedule)
        if plan is not None and plan.kind != self.kind:
            raise WrongStateError(f"{where}.kind", self.kind, f"{plan.kind}, as its configuration says")
        for one in (plan, schedule):
            if one is not None and one.kind == self.kind:
                one.check_state(self.state, f"{where}.state")

    @classmethod
    def restored(cls, fields: Mapping[str, Any]) -> Saved:
        """What a checkpoint holds, also one of an earlier version."""
        schedule, state = with_current_names(fields["schedule"]), state_with_current_names(fields["state"])
        return cls(**{**fields, "schedule": schedule, "state": state})

    @classmethod
    def of(cls, drive: DrivenGroups, run: RunLength) -> Saved:
        """A drive's, in a run."""
        config = to_config(drive.schedule, functions_by_name=True)
        kept = list(relevant_run(drive.schedule, run)[:4])
        return cls(config, drive.base_value, kept, drive.schedule.kind, drive.state)


@dataclass
class _ChangedPlan:
    """A schedule whose plan has changed."""

    drive: DrivenGroups
    saved: Saved
    plan: Schedule | None  # the saved one, where it can be built
    now: float  # the values at this step, by the new plan and by the saved one
    then: float | None

    @property
    def jumps(self) -> bool:
        return self.then is None or not math.isclose(self.now, self.then, rel_tol=1e-12)


def apply_resume_policy(
    policy: OnResume, drives: Mapping[str, DrivenGroups], saved: Mapping[str, Saved], run: RunLength, step: int
) -> str:
    """Decide between the plan of the checkpoint and the new one; returns what to report, or an empty text.

    Args:
        policy: what to do where the plans differ.
        drives: the schedules of the resumed run, by key, with the restored states.
        saved: the schedules of the checkpoint, by key.
        run: the length of the run.
        step: the coming step.

    Raises:
        TrainingError: the policy is `"error"` and the learning rate would jump; or it cannot be followed.
    """
    others = [other for key, drive in drives.items() if (other := _compare(drive, saved.get(key), run, step))]
    if not others:
        return ""
    stretched = {id(other): _stretched(other, run, step) for other in others}
    table = "\n".join(_table(others, stretched, run, step))
    jumps = any(other.jumps for other in others)
    if policy == "error" and jumps:
        raise TrainingError(
            f"resuming at step {step:g} with another plan would make the learning rate jump.\n{table}\n"
            'To allow it: LearningRateScheduler(..., on_resume="config"), or on the command line '
            "callbacks.scheduler.on_resume=config"
        )
    if policy in ("error", "config"):
        return f"At step {step:g} the plan changes{'' if jumps else ', without a jump'} (on_resume={policy}).\n{table}"
    for other in others:
        plan = other.plan if policy == "checkpoint" else stretched[id(other)]
        if plan is None:
            raise TrainingError(f"on_resume={policy} cannot be applied: {_why_not(other, run, step)}.\n{table}")
        other.drive.schedule, other.drive.base_value, other.drive.state = plan, other.saved.base, other.saved.state
    return f"Resuming at step {step:g} with the plan of the checkpoint (on_resume={policy}).\n{table}"


def _compare(drive: DrivenGroups, saved: Saved | None, run: RunLength, step: int) -> _ChangedPlan | None:
    new = Saved.of(drive, run)
    if saved is None or (saved.schedule, saved.base, saved.run) == (new.schedule, new.base, new.run):
        return None
    same = _nameless(saved.schedule) == _nameless(new.schedule)
    if same and saved.base == new.base and not _depends_on_length(drive, saved.length, run, step):
        return None
    plan = _plan(drive, saved, same)
    now = _value(drive.schedule, drive.position_at(step, drive.base_value), drive.state)
    then = None if plan is None else _value(plan, drive.position_at(step, saved.base), saved.state)
    return _ChangedPlan(drive, saved, plan, now, then)


def _depends_on_length(drive: DrivenGroups, before: RunLength, run: RunLength, step: int) -> bool:
    """Whether the changed length of the run makes a difference to a schedule from a step on."""
    if not drive.schedule.is_pure:
        # A function of the epoch does not know the length of the run, and is called only when its epoch comes.
        return drive.state is None
    now = relevant_run(drive.schedule, run)
    if (before.steps_per_epoch, before.batch_size) != (now.steps_per_epoch, now.batch_size):
        return True
    ends = [length for length in (before.steps, run.steps) if length is not None]
    try:
        return drive.depends_on(before, sampled_steps(step, max([*ends, step + 1])))
    except TrainingError:
        return True


def _nameless(config: Any) -> Any:
    """A configuration without the names of functions, which do not say what they compute."""
    if isinstance(config, Mapping):
        return {key: key if key == "_function_" else _nameless(value) for key, value in config.items()}
    return [_nameless(one) for one in config] if isinstance(config, list) else config


def _plan(drive: DrivenGroups, saved: Saved, same: bool) -> Schedule | None:
    """The saved schedule with the run length it was saved for; None if it contains functions and differs."""
    try:
        schedule = drive.schedule if same else from_config(saved.schedule)
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
    except TrainingError:  # a plan may have no value there, past its end
        return math.nan


def _stretched(other: _ChangedPlan, run: RunLength, step: float) -> Schedule | None:
    """The saved plan with what is left of it stretched to the new length."""
    before, now = other.saved.length.steps, run.steps
    if other.plan is None or before is None or now is None or step >= before or step >= now:
        return None
    assert isinstance(other.plan, Replanned)
    ratio = (now - step) / (before - step)
    return _in_run(other.plan.schedule, other.saved.length, step, ratio)


def _why_not(other: _ChangedPlan, run: RunLength, step: float) -> str:
    if other.plan is None:
        return "the checkpoint's schedule is a function, which a checkpoint cannot hold"
    before = other.saved.length.steps
    if before is None or run.steps is None:
        return "the length of the run in optimizer steps is unknown"
    return f"the checkpoint's plan ends at step {before:g}, and nothing of it is left to be stretched"


# --- the table ------------------------------------------------------------------------------------------------


def _table(
    others: Sequence[_ChangedPlan],
    stretched: Mapping[int, Schedule | None],
    run: RunLength,
    step: int,
) -> Iterator[str]:
    for other in others:
        rows = [("", "checkpoint", "now"), *_differences(other, run)]
        yield from _aligned(rows)
        new = stretched[id(other)]
        rescaled = (
            None if new is None else _value(new, other.drive.position_at(step, other.saved.base), other.saved.state)
        )
        values: dict[OnResume, float | None] = {"config": other.now, "checkpoint": other.then, "rescale": rescaled}
        rows = [("on_resume", f"{other.drive.hyper.label} at this step", "")]
        rows += [(name, "-" if value is None else f"{value:.6g}", POLICIES[name]) for name, value in values.items()]
        yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    first, second = (max(len(row[at]) for row in rows) for at in (0, 1))
    for row in rows:
        yield f"  {row[0]:<{first}}  {row[1]:<{second}}  {row[2]}".rstrip()


def _differences(other: _ChangedPlan, run: RunLength) -> Iterator[tuple[str, str, str]]:
    old = {**_flat(other.saved.schedule), **_length(other.saved.length), _own(other): other.saved.base}
    new_schedule = to_config(other.drive.schedule, functions_by_name=True)
    new = {
        **_flat(new_schedule),
        **_length(relevant_run(other.drive.schedule, run)),
        _own(other): other.drive.base_value,
    }
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield name, _told(old, name), _told(new, name)


def _own(other: _ChangedPlan) -> str:
    return f"the optimizer's {other.drive.hyper.label}"


def _told(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "-")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _length(run: RunLength) -> dict[str, Any]:
    told = {"epochs": run.epochs, "optimizer steps": run.steps, "steps per epoch": run.steps_per_epoch}
    return told if run.batch_size is None else {**told, "samples per step": run.batch_size}


def _flat(config: Any, name: str = "schedule") -> dict[str, Any]:
    """Nested configuration as dotted names."""
    if isinstance(config, Mapping):
        pairs = [(f"{name}.{key}" if key != "_target_" else name, value) for key, value in config.items()]
    elif isinstance(config, (list, tuple)):
        pairs = [(f"{name}[{index}]", value) for index, value in enumerate(config)]
    else:
        return {name: config.rpartition(".")[2] if isinstance(config, str) and name.endswith("schedule") else config}
    found: dict[str, Any] = {}
    for key, value in pairs:
        found |= _flat(value, key)
    return found
