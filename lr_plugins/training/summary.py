"""The summary at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lr_plugins.comparison.numbers import rounded
from lr_plugins.engine.trace import Trace
from lr_plugins.metric_direction import better, higher_is_better


def summary(metrics: Mapping[str, Mapping[int, float]], trace: Trace, places: Mapping[str, str]) -> str:
    """Best validation metrics, first and last learning rate, and where everything is.

    Args:
        metrics: each metric's values by epoch, from 0. Its name decides whether higher or lower is better
            (`metric_direction`); without validation metrics, those of training are shown.
        trace: the learning rates used.
        places: further lines by label, e.g. where the run is.

    Example:
        >>> trace = Trace(); trace.series("lr").append(0.1)
        >>> print(summary({"val_acc": {0: 0.5, 1: 0.9}}, trace, {"run": "here"}))
        <BLANKLINE>
        best val_acc   0.9000  (epoch 2)
        learning rate  0.1 at the first step, 0.1 at the last of 1
        run            here
    """
    shown = [name for name in metrics if name.startswith("val_")] or list(metrics)
    lines = [(f"{'best' if better(name) else 'lowest'} {name}", _best(name, metrics[name])) for name in shown]
    known = [(name, series) for name, series in trace.items() if len(series)]
    for name, series in known if len(known) <= 6 else (known[0], known[-1]):
        if len(series):
            label = "learning rate" + name[2:] if name.startswith("lr") else name
            first, last = float(series.values[0]), series.last()
            lines.append((label, f"{first!r} at the first step, {last!r} at the last of {len(series)}"))
    lines += places.items()
    width = max((len(label) for label, _ in lines), default=0)
    return "\n".join(["", *(f"{label:<{width}}  {text}" for label, text in lines)])


def _best(name: str, values: Mapping[int, float]) -> str:
    numbers = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
    last = values[max(values)]
    if not numbers:
        return f"{_infinite(values)} in every epoch: training has diverged"
    epoch = (max if higher_is_better(name) else min)(numbers, key=numbers.__getitem__)
    diverged = "" if math.isfinite(last) else f"; {last} at the end: training has diverged"
    return f"{rounded(numbers[epoch])}  (epoch {epoch + 1}){diverged}"


def _infinite(values: Mapping[int, float]) -> str:
    """The names of values none of which is finite."""
    return " or ".join(dict.fromkeys(str(values[epoch]) for epoch in sorted(values)))
