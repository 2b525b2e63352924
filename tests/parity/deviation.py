"""The deviation of our schedules from the originals, asserted and recorded for the table of docs/parity.md."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np

from lr_plugins.schedules import Chain, Product, Schedule
from lr_plugins.schedules.combinators.annealed import Annealed
from lr_plugins.schedules.combinators.base import Wrapper
from lr_plugins.schedules.combinators.warmup import Warmup


class Comparison(NamedTuple):
    """The comparison with one original over all its traces."""

    tolerance: float
    against: str  # what the deviation is relative to
    traces: int
    largest: float


RECORDED: dict[tuple[str, str, str], Comparison] = {}
"""(our shape, library, the library's name and options) -> the comparison; filled as the tests run."""


def assert_agrees(
    schedule: Schedule,
    ours: Any,
    theirs: Any,
    *,
    original: str,
    relative: float = 1e-12,
    of_peak: float = 0.0,
    peak: float | None = None,
) -> None:
    """Assert `|ours - theirs| <= relative * |theirs| + of_peak * peak` at every step of a trace.

    Args:
        schedule: ours, for its name.
        ours: its trace; or several, as rows.
        theirs: the trace of the original.
        original: the library and its name for it: `"torch CosineAnnealingLR, with a floor"`.
        relative: the tolerance relative to the value.
        of_peak: what is added to it near 0, as a fraction of the peak.
        peak: the largest value there can be. Default: the largest of the trace.
    """
    ours, theirs = np.asarray(ours, np.float64), np.abs(np.asarray(theirs, np.float64))
    assert ours.shape[-1] == len(theirs) > 0
    peak = float(theirs.max()) if peak is None else peak
    share = of_peak / relative if relative else 1.0  # of the peak, in the scale
    scale = (theirs if relative else 0.0) + share * peak
    apart = np.abs(ours - theirs)
    largest = float(np.divide(apart, scale, out=np.where(apart > 0, np.inf, 0.0), where=scale > 0).max())
    tolerance = relative or of_peak
    against = f"value + {share:.2g} peak" if relative and share else "value" if relative else "peak"
    assert largest <= tolerance, f"{named(schedule)} and {original}: {largest:.2g} of {against} apart"
    library, _, name = original.partition(" ")
    _record((named(schedule), library, name), Comparison(tolerance, against, 1, largest))


def _record(row: tuple[str, str, str], new: Comparison) -> None:
    old = RECORDED.get(row, new._replace(traces=0))
    # Traces of different lengths may need different tolerances: the widest is reported.
    wider = max(old, new, key=lambda one: one.tolerance)
    RECORDED[row] = wider._replace(traces=old.traces + 1, largest=max(old.largest, new.largest))


def named(schedule: Schedule) -> str:
    """The classes that a schedule consists of, with the options that choose a formula."""
    kind = type(schedule)
    parts: list[Schedule] = []
    if isinstance(schedule, (Wrapper, Warmup, Annealed)):
        parts = [schedule.schedule]
    elif isinstance(schedule, (Chain, Product)):
        parts = schedule.schedules
    options = [
        f"{name}={value!r}"
        for name, value in schedule.config().items()
        if (isinstance(value, (str, bool)) or name in ("power", "t_mul", "m_mul", "k_decay"))
        and value != inspect.signature(kind).parameters[name].default
    ]
    inside = ", ".join([*map(named, parts), *options])
    name = f"keras.{kind.__name__}" if kind.__module__.startswith("lr_plugins.schedules.keras.") else kind.__name__
    return f"{name}({inside})" if inside else name
