"""What Lightning's LearningRateMonitor calls the learning rates that a trace has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lr_plugins.callbacks.recorder import Recorder

NAMES = ("plain", "monitor")


class MonitorNames:
    """The names by series: `lr-SGD`, with several groups `lr-SGD/pg1`, of a second SGD `lr-SGD-1`.

    A group's own name stands in the place of `pg1`; the name of a scheduler of the module, where that has one, in the
    place of `lr-SGD`; and other hyper-parameters are `lr-SGD-momentum`. What is known stays: groups may go.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, series: str) -> str:
        """The name of a series; its own, if it is none of an optimizer that was seen."""
        return self._known.get(series, series)

    def see(self, recorders: Sequence[Recorder], configs: Sequence[Any] = ()) -> None:
        """Take note of the optimizers.

        Args:
            recorders: those that record them.
            configs: the module's schedulers, as the Trainer has them.
        """
        named = {id(one.scheduler.optimizer): one.name for one in configs if one.name is not None}
        seen: list[type] = []
        for recorder in recorders:
            kind = type(recorder.optimizer)
            name = named.get(id(recorder.optimizer))
            if name is None:
                seen.append(kind)
                name = f"lr-{kind.__name__}" + (f"-{seen.count(kind) - 1}" if seen.count(kind) > 1 else "")
            for ours, suffix in _groups(recorder):
                for hyper_parameter in recorder.recorded:
                    tail = "" if hyper_parameter == "lr" else f"-{hyper_parameter}"
                    self._known[f"{hyper_parameter}{recorder.suffix}{ours}"] = f"{name}{suffix}{tail}"


def _groups(recorder: Recorder) -> Iterator[tuple[str, str]]:
    """What the names of each group end with: in the trace, and in LearningRateMonitor."""
    for index, known in enumerate(recorder.groups):
        own = known.group.get("name")
        if own is None and len(recorder.groups) > 1:
            own = f"pg{index + 1}"
        if known.series is not None:
            yield known.series, "" if own is None else f"/{own}"
