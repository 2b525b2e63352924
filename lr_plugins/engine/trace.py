"""The trace: the learning rate used at each optimizer step, for every param group."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import require

if TYPE_CHECKING:
    import pandas


class Series:
    """One param group's learning rates at consecutive optimizer steps, 8 bytes a step.

    Groups that one schedule drives share a column, each with its own factor: a step then costs one append and 8 bytes,
    regardless of the number of groups.

    Args:
        first_step: the optimizer step (from 0) that the first value belongs to.
        column: the values shared with other series. Default None: its own.
        share: the factor of the shared values. Default 1.

    Attributes:
        is_measured: true for a quantity that each process measures for itself, such as a gradient norm; false for a
            hyper-parameter, on which all ranks must agree.
    """

    def __init__(self, first_step: int = 0, column: array[float] | None = None, share: float = 1.0) -> None:
        self.first_step = first_step
        self.column = array("d") if column is None else column
        self.share = share
        self.is_measured = False

    def append(self, value: float) -> None:
        """Record the value of the next step; only for a series with a column of its own."""
        self.column.append(value)

    def part(self) -> None:
        """Copy the values so far into a column of its own."""
        self.column, self.share = array("d", self.values.tolist()), 1.0

    def __len__(self) -> int:
        return len(self.column)

    @property
    def next_step(self) -> int:
        """The optimizer step that the next value will belong to."""
        return self.first_step + len(self.column)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The optimizer steps, shape (n,)."""
        return np.arange(self.first_step, self.next_step, dtype=np.int64)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The learning rates, shape (n,); a copy."""
        return np.array(self.column, dtype=np.float64) * self.share

    def tail(self, step: int) -> array[float]:
        """The learning rates from an optimizer step on, not before the first; a copy."""
        values, share = self.column[max(step - self.first_step, 0) :], self.share
        return values if share == 1.0 else array("d", (value * share for value in values))

    def since(self, step: int) -> Iterator[tuple[int, float]]:
        """(step, learning rate) from an optimizer step on."""
        return enumerate(self.tail(step), max(step, self.first_step))

    def first(self) -> float | None:
        """The learning rate used first, or None before the first step."""
        return self.column[0] * self.share if self.column else None

    def last(self) -> float | None:
        """The learning rate used last, or None before the first step."""
        return self.column[-1] * self.share if self.column else None


class Trace(Mapping[str, Series]):
    """The learning rate used at each optimizer step, by name: `lr`, or `lr/<group>` where there are several.

    It also contains the other hyper-parameters that schedules drive, and the quantities that a `Recorder` measures. A
    group that is removed and added again has NaN in between.

    Example:
        >>> trace = Trace()
        >>> trace.series("lr").append(0.1)
        >>> trace["lr"].steps.tolist(), trace["lr"].values.tolist(), trace.last()
        ([0], [0.1], 0.1)
    """

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}

    @property
    def by_name(self) -> dict[str, Series]:
        """The series as a dictionary, which is faster than the mapping for code that runs at every step."""
        return self._series

    @property
    def hyperparameters(self) -> dict[str, Series]:
        """The series on which all ranks must agree."""
        return {name: series for name, series in self._series.items() if not series.is_measured}

    def series(self, name: str, first_step: int = 0, is_measured: bool = False) -> Series:
        """The series of a name, created at `first_step` if missing; a series that has ended continues after a gap.

        Args:
            name: its name.
            first_step: the optimizer step of the next value.
            is_measured: whether each process measures the quantity for itself. Default False: a hyper-parameter.
        """
        series = self._series.setdefault(name, Series(first_step))
        series.is_measured = series.is_measured or is_measured
        if series.next_step < first_step:
            series.part()
            series.column.extend(repeat(math.nan, first_step - series.next_step))
        return series

    def column(self, shares: Mapping[str, float], first_step: int) -> array[float] | None:
        """A column that several names share, each with a factor, starting at `first_step` if the names are new.

        None if their values so far are not shared, because a group has joined them: each then continues with its own.
        """
        for name, other in self._series.items():
            if name not in shares and any(other.column is self[each].column for each in shares if each in self):
                other.part()  # its group is gone, and the others continue the column
        if not any(name in self._series for name in shares):
            column = array("d")
            self._series |= {name: Series(first_step, column, share) for name, share in shares.items()}
            return column
        series = [self._series.get(name) for name in shares]
        column = series[0].column if series[0] is not None else array("d")
        common = all(
            existing is not None
            and existing.next_step == first_step
            and existing.column is column
            and existing.share == share
            for existing, share in zip(series, shares.values(), strict=True)
        )
        if common:
            return column
        for existing in series:
            if existing is not None:
                existing.part()
        return None

    def __getitem__(self, name: str) -> Series:
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def first(self) -> float | None:
        """The first learning rate of the first group, or None before the first step."""
        return next((series.first() for series in self.hyperparameters.values() if len(series)), None)

    def last(self) -> float | None:
        """The learning rate of the first group at the most recent optimizer step, or None before the first."""
        # A series may have ended, because groups are added and names change.
        known = [series for series in self._series.values() if len(series) and not series.is_measured]
        recent = max((series.next_step for series in known), default=0)
        return next((series.last() for series in known if series.next_step == recent), None)

    def to_csv(self, path: str | Path) -> Path:
        """Write one line per optimizer step: `step`, then a column per name; empty where a group did not exist."""
        path = Path(path)
        first, end = self._span
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["step", *self])
            columns = (_cells(series, first, end) for series in self.values())
            file.writelines(",".join(row) + "\r\n" for row in zip(map(str, range(first, end)), *columns, strict=True))
        return path

    def frame(self) -> pandas.DataFrame:
        """A pandas frame with a row per optimizer step and a column per name; NaN where a group did not exist.

        Raises:
            MissingExtraError: pandas is not installed.

        Example:
            >>> trace = Trace()
            >>> trace.series("lr").append(0.1)
            >>> trace.frame()["lr"].tolist()
            [0.1]
        """
        require("pandas", "plot", "Trace.frame")
        import pandas

        first, end = self._span
        columns = {name: np.full(end - first, np.nan) for name in self}
        for name, series in self._known:
            columns[name][series.first_step - first : series.next_step - first] = series.values
        return pandas.DataFrame(columns, index=pandas.RangeIndex(first, end, name="step"))

    @property
    def _span(self) -> tuple[int, int]:
        """The first optimizer step, and the step after the last."""
        known = [series for _, series in self._known]
        first = min((series.first_step for series in known), default=0)
        end = max((series.next_step for series in known), default=0)
        return first, end

    @property
    def _known(self) -> list[tuple[str, Series]]:
        """The series that have values, by name."""
        return [(name, series) for name, series in self.items() if len(series)]


def _cells(series: Series, first: int, end: int) -> Iterator[str]:
    """The values of the steps from `first` up to `end`, exclusive, as text; missing values are empty."""
    if not len(series):
        return repeat("", end - first)
    values = ("" if math.isnan(value) else repr(value) for value in series.values.tolist())
    return chain(repeat("", series.first_step - first), values, repeat("", end - series.next_step))
