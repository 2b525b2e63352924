"""The one record: the learning rate really used at each optimizer step, for every param group."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt


class Series:
    """One param group's learning rates at consecutive optimizer steps, 8 bytes a step.

    Args:
        first_step: the optimizer step (from 0) that the first value belongs to.
    """

    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        self._values = array("d")

    def append(self, value: float) -> None:
        """Record the learning rate of the next step."""
        self._values.append(value)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def next_step(self) -> int:
        """The optimizer step that the next value will belong to."""
        return self.first_step + len(self._values)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The optimizer steps, shape (n,)."""
        return np.arange(self.first_step, self.next_step, dtype=np.int64)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The learning rates, shape (n,); a copy."""
        return np.array(self._values, dtype=np.float64)

    def since(self, step: int) -> Iterator[tuple[int, float]]:
        """(step, learning rate) from an optimizer step on."""
        start = max(step, self.first_step)
        return zip(range(start, self.next_step), self._values[start - self.first_step :], strict=True)

    def last(self) -> float | None:
        """The learning rate used last, or None before the first step."""
        return self._values[-1] if self._values else None


class Trace(Mapping[str, Series]):
    """The learning rate used at each optimizer step, by name: `lr`, or `lr/<group>` where there are several.

    Example:
        >>> trace = Trace()
        >>> trace.series("lr").append(0.1)
        >>> trace["lr"].steps.tolist(), trace["lr"].values.tolist(), trace.last()
        ([0], [0.1], 0.1)
    """

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}

    def series(self, name: str, first_step: int = 0) -> Series:
        """The series of a name, begun at `first_step` if there is none yet."""
        return self._series.setdefault(name, Series(first_step))

    def __getitem__(self, name: str) -> Series:
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def first(self) -> float | None:
        """The first learning rate of the first group, or None before the first step."""
        return next((series._values[0] for series in self.values() if len(series)), None)

    def last(self) -> float | None:
        """The learning rate of the first group at the most recent optimizer step, or None before the first."""
        return next((series.last() for series in self.values() if len(series)), None)

    def to_csv(self, path: str | Path) -> Path:
        """Write one line per optimizer step: `step`, then a column per name; empty where a group did not exist."""
        columns = {name: dict(series.since(0)) for name, series in self.items()}
        path = Path(path)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *columns])
            for step in sorted(set().union(*columns.values())):
                writer.writerow([step, *(repr(column[step]) if step in column else "" for column in columns.values())])
        return path
