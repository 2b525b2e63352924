"""The metric names that Lightning's LearningRateMonitor gives to learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from lr_plugins.engine.recorder import Recorder

Names = Literal["plain", "monitor"]


class MonitorNames:
    """Maps each series of a trace to its name in LearningRateMonitor.

    The name is `lr-SGD`; with several param groups `lr-SGD/pg1`; for a second SGD `lr-SGD-1`. A param group's `name`
    replaces `pg1`, and a scheduler's configured name replaces `lr-SGD`. Other hyper-parameters get a suffix, as in
    `lr-SGD-momentum`. A series keeps its name when its group is removed.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, series: str) -> str:
        """The monitor's name for a series; the series' own name if its optimizer is unknown."""
        return self._known.get(series, series)

    def register(self, recorders: Sequence[Recorder], configs: Sequence[Any] = ()) -> None:
        """Register the optimizers.

        Args:
            recorders: their recorders.
            configs: the configured schedulers, `trainer.lr_scheduler_configs`.
        """
        named = {id(config.scheduler.optimizer): config.name for config in configs if config.name is not None}
        kinds: list[type] = []
        for recorder in recorders:
            kind = type(recorder.optimizer)
            name = named.get(id(recorder.optimizer))
            if name is None:
                kinds.append(kind)
                name = f"lr-{kind.__name__}" + (f"-{kinds.count(kind) - 1}" if kinds.count(kind) > 1 else "")
            for series, suffix in _groups(recorder):
                for hyper_parameter in recorder.recorded:
                    tail = "" if hyper_parameter == "lr" else f"-{hyper_parameter}"
                    self._known[f"{hyper_parameter}{recorder.suffix}{series}"] = f"{name}{suffix}{tail}"


def _groups(recorder: Recorder) -> Iterator[tuple[str, str]]:
    """The suffix of each param group in the trace, and in LearningRateMonitor."""
    for index, known in enumerate(recorder.groups):
        own = known.group.get("name")
        if own is None and len(recorder.groups) > 1:
            own = f"pg{index + 1}"
        if known.series is not None:
            yield known.series, "" if own is None else f"/{own}"
