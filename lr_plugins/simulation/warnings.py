"""What is usually a mistake in a plan: one line each, with the numbers and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lr_plugins.schedules.milestones import END, FLOOR, MILESTONE, PERIOD, POINT, WARMUP, Milestone
from lr_plugins.schedules.position import RunLength
from lr_plugins.schedules.rules_of_thumb import fall_line
from lr_plugins.simulation.plan import Plan

TINY = 1e-8
"""A learning rate below which a network no longer learns."""

_LONG = 0.05  # a share of the run that is worth a word


def plan_warnings(plan: Plan, run: RunLength, follows_metrics: bool) -> Iterator[str]:
    """The warnings about the plan of a learning rate.

    Args:
        plan: the plan.
        run: how long the run will be.
        follows_metrics: whether it depends on the course assumed for a metric: then its fall means nothing.
    """
    by_argument: dict[str, str] = {}
    for moment in plan.moments:
        if moment.argument and moment.share is not None and (line := _CHECKS[moment.kind](moment, moment.share, run)):
            by_argument.setdefault(moment.argument, line)
    yield from by_argument.values()
    early = [
        moment for moment in plan.moments if moment.kind == END and moment.argument in by_argument and moment.at.size
    ]
    if not early:
        yield from _tiny(plan, run)
    # Where it should start depends on the network, which a preview does not know; a fit warns of it.
    if not follows_metrics and (line := fall_line(float(plan.values.max()), plan.end)):
        yield line


def _past(moment: Milestone, share: float, run: RunLength) -> str | None:
    if share < 1:
        return None
    return f"{moment.argument} is never reached: {_whose(moment, run)} has {length(moment.run)}; {_instead(moment)}"


def _point(moment: Milestone, share: float, run: RunLength) -> str | None:
    if share <= 1:
        return None
    return (
        f"{moment.argument} is past the end: {_whose(moment, run)} has {length(moment.run)} and covers "
        f"only {100 / share:.3g} % of the curve; 100% is the whole run"
    )


def _end(moment: Milestone, share: float, run: RunLength) -> str | None:
    if share > 1 or not moment.stays or share > 1 - _LONG:
        return _point(moment, share, run)
    return (
        f"{moment.argument} ends after {100 * share:.3g} % of {_whose(moment, run)} ({length(moment.run)}), and "
        "nothing changes after it; 100% lasts to the end"
    )


def _warmup(moment: Milestone, share: float, run: RunLength) -> str | None:
    if share < 1:
        return None
    return (
        f"{moment.argument} is as long as {_whose(moment, run)} ({length(moment.run)}) or longer: it never ends, and "
        "what follows never begins; 5% is usual"
    )


def _period(moment: Milestone, share: float, run: RunLength) -> str | None:
    if share < 1:
        return None
    return (
        f"{moment.argument} has not passed when {_whose(moment, run)} ends ({length(moment.run)}): what comes after "
        f"it is never seen; {_instead(moment)}"
    )


def _floor(moment: Milestone, share: float, run: RunLength) -> str | None:
    if share < 1:
        return None
    return (
        f"{moment.argument} is higher than every value of the schedule in {_whose(moment, run)} "
        f"({length(moment.run)}), so lr stays constant; lower the floor or start higher"
    )


def _instead(moment: Milestone) -> str:
    return "keep it below 100%" if moment.argument.endswith("%") else "give it in percent"


_CHECKS: dict[str, Callable[[Milestone, float, RunLength], str | None]] = {
    MILESTONE: _past,
    POINT: _point,
    END: _end,
    WARMUP: _warmup,
    PERIOD: _period,
    FLOOR: _floor,
}


def _tiny(plan: Plan, run: RunLength) -> Iterator[str]:
    large = np.flatnonzero(plan.values >= TINY)
    first = int(large[-1]) + 1 if large.size else 0
    if first >= plan.steps.size or not run.steps:
        return
    left = (run.steps - int(plan.steps[first])) / run.steps
    if left > _LONG:
        yield (
            f"lr is below {TINY:g} from step {plan.steps[first]} on, for the last {100 * left:.3g} % of the run, in "
            "which nothing is learnt; let it fall more slowly, or give it a floor (at_least)"
        )


def _whose(moment: Milestone, run: RunLength) -> str:
    return "the run" if (moment.run.steps, moment.run.epochs) == (run.steps, run.epochs) else "its part of the run"


def length(run: RunLength) -> str:
    """How long a run is, in words.

    Example:
        >>> length(RunLength.of(steps_per_epoch=45, epochs=10))
        '10 epochs, 450 steps'
    """
    counts = ((run.epochs, "epoch"), (run.steps, "step"))
    return ", ".join(f"{count:g} {unit}{'' if count == 1 else 's'}" for count, unit in counts if count is not None)
