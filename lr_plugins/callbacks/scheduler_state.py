"""The progress of the schedules in a run, in the form stored in a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lr_plugins._lightning.epoch_results import SUMS
from lr_plugins._lightning.metrics import WAITING
from lr_plugins._lightning.observations import Observations
from lr_plugins._lightning.resume_steps import Counts
from lr_plugins._lightning.run_clock import RunClock
from lr_plugins.checkpoint_state import (
    StateFormat,
    WrongStateError,
    count,
    dict_of,
    flag,
    list_of,
    optional,
    row,
    same_lengths,
    text,
)
from lr_plugins.engine.driven_optimizers import DrivenOptimizers
from lr_plugins.engine.resume_policy import SAVED, Saved
from lr_plugins.schedules import Schedule

FORMAT = StateFormat(
    "LearningRateScheduler",
    {
        "steps": list_of(count),
        "schedules": dict_of(SAVED),
        "groups": list_of(list_of(list_of(text))),
        "waiting": list_of(WAITING),
    },
    {
        "sums": list_of(SUMS),
        "unended": optional(flag),
        "counts": optional(row(count, count)),
        "begins": list_of(count),
        "series": list_of(list_of(text)),
        "begun": list_of(list_of(row(count, count))),
        "active": list_of(flag),
    },
)


@dataclass
class SchedulerProgress:
    """The progress of the schedules in a run.

    Args:
        steps: the steps taken by each optimizer.
        schedules: each schedule with its state, by key.
        groups: the parameter names in each param group, by optimizer; empty if no group can be split.
        waiting: for each optimizer, what is logged and not observed yet: Lightning's checkpoints contain no metrics.
        sums: the sums of the current epoch in each process, if a schedule observes them.
        pending_epoch_end: set if the last batch of an epoch was done, but not its end: whether a validation was to
            follow as well. Otherwise None.
        counts: Lightning's own counts of epochs and optimizer steps.
        begins: the steps at which the epochs started, if these have different sizes.
        series: the suffix in the names of each param group's series, by optimizer.
        begun: the step and epoch at which each of the groups was added.
        active: which optimizers are still written to.
    """

    steps: list[int] = field(default_factory=list)
    schedules: dict[str, Saved] = field(default_factory=dict)
    groups: list[list[list[str]]] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    sums: list[list[dict[str, Any]]] = field(default_factory=list)
    pending_epoch_end: bool | None = None
    counts: Counts | None = None
    begins: list[int] = field(default_factory=list)
    series: list[list[str]] = field(default_factory=list)
    begun: list[list[list[int]]] = field(default_factory=list)
    active: list[bool] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """The state as plain values, without `sums` and `pending_epoch_end`, which only a checkpoint has."""
        return FORMAT.stamped(
            {
                "steps": list(self.steps),
                "schedules": {key: dataclasses.asdict(saved) for key, saved in self.schedules.items()},
                "groups": self.groups,
                "waiting": self.waiting,
                "counts": None if self.counts is None else list(self.counts),
                "begins": self.begins,
                "series": self.series,
                "begun": self.begun,
                "active": self.active,
            }
        )

    @classmethod
    def now(
        cls, driven: DrivenOptimizers, observations: Observations, clock: RunClock, counts: Counts
    ) -> SchedulerProgress:
        """The current progress of a run."""
        writers = driven.writers
        return cls(
            [writer.step for writer in writers],
            driven.saved(clock.run_length),
            driven.parameters(),
            observations.state(),
            counts=counts,
            begins=clock.epoch_starts,
            series=[[known.series or "" for known in writer.groups] for writer in writers],
            begun=[[list(known.added_at) for known in writer.groups] for writer in writers],
            active=[writer.active for writer in writers],
        )

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> SchedulerProgress:
        """The progress in the fields of a checked state."""
        counts = state.get("counts")
        return cls(
            list(state["steps"]),
            {key: Saved.restored(saved) for key, saved in state["schedules"].items()},
            list(state["groups"]),
            list(state["waiting"]),
            list(state.get("sums", ())),
            state.get("unended"),
            None if counts is None else Counts(*counts),
            list(state.get("begins", ())),
            list(state.get("series", ())),
            list(state.get("begun", ())),
            list(state.get("active", ())),
        )


def check_fields(state: Mapping[str, Any], schedules: Mapping[str, Schedule]) -> None:
    """Check that the fields of a state are consistent with each other and with the schedules.

    Args:
        state: its fields.
        schedules: the current schedules, by scope.

    Raises:
        WrongStateError: they do not.
    """
    same_lengths(state, ("groups", "waiting", "series", "begun", "active"), len(state["steps"]))
    series, begun, begins = (state.get(name, []) for name in ("series", "begun", "begins"))
    if [len(names) for names in series] != [len(each) for each in begun]:
        raise WrongStateError("begun", begun, "lists of the same lengths as in series")
    if list(begins) != sorted(begins):
        raise WrongStateError("begins", begins, "a list in ascending order")
    for key, saved in state["schedules"].items():
        index, _, rest = key.partition("/")
        scope, slash, _ = rest.rpartition("/")
        if not slash or index not in map(str, range(len(state["steps"]))):
            raise WrongStateError("a key of schedules", key, "of the form 0/lr/0")
        Saved.restored(saved).check(schedules.get(scope), f"schedules[{key!r}]")
