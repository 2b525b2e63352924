"""Lengths of time with a unit: `10`, `"10ep"`, `"500st"`, `"5%"`."""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.schedules.position import Count, Position, Value

UNITS = {"st": "optimizer steps", "ep": "epochs", "%": "percent of the run"}
_TEXT = re.compile(r"\s*(?P<value>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(?P<unit>st|ep|%)?\s*")
_ALLOWED = 'greater than 0: a number, or a text like "10ep" (epochs), "500st" (optimizer steps) or "5%" (of the run)'


class Duration:
    """A length of time: a value and the unit it is counted in.

    Args:
        value: how many, >= 0.
        unit: `"st"` optimizer steps, `"ep"` epochs, `"%"` percent of the run's optimizer steps.

    Epochs count whole: a schedule whose length is in epochs holds its value within an epoch, as Keras'
    callback does. Steps and percent move at every optimizer step.

    Example:
        >>> Duration.of("10ep"), Duration.of(500, unit="st"), Duration.of("5%")
        (10ep, 500st, 5%)
    """

    __slots__ = ("unit", "value")

    def __init__(self, value: float, unit: str) -> None:
        self.value, self.unit = value, unit

    @classmethod
    def of(cls, length: DurationLike, *, unit: str = "st", field: str = "duration") -> Duration:
        """Read a length greater than 0; a plain number counts in `unit`.

        Args:
            length: the number, the text, or a Duration.
            unit: the unit of a plain number.
            field: the name used in the error message.

        Raises:
            InvalidArgument: it is not a length, or not greater than 0.
        """
        duration = cls._read(length, unit)
        if duration is None or not 0 < duration.value < math.inf:
            raise InvalidArgument(field, length, _ALLOWED)
        return duration

    @classmethod
    def _read(cls, length: object, unit: str) -> Duration | None:
        if isinstance(length, Duration):
            return length
        if isinstance(length, str) and (match := _TEXT.fullmatch(length)):
            return cls(_tidy(float(match["value"])), match["unit"] or unit)
        if isinstance(length, (int, float, np.integer, np.floating)) and not isinstance(length, bool):
            return cls(_tidy(float(length)), unit)
        return None

    @property
    def clock(self) -> str:
        """The unit time is counted in to compare with this duration: percent are counted in steps."""
        return "ep" if self.unit == "ep" else "st"

    def length(self, position: Position) -> float:
        """This duration in the unit of its clock.

        Raises:
            TrainingError: it is a share of a run whose length is unknown.
        """
        if self.unit != "%":
            return self.value
        if position.run.steps is None:
            raise TrainingError(
                f"the duration {self} is a share of the run, and the length of the run is unknown; "
                "set max_steps on the Trainer, or give the duration in steps or epochs"
            )
        # 32.7 % of 1000 steps is 327 and not 327.00000000000006: the boundary would come a step late.
        return round(self.value * position.run.steps / 100, 9)

    def ratio(self, position: Position) -> Value:
        """How many times this duration has passed at a position."""
        return position.elapsed(self.clock) / self.length(position)

    def passed(self, position: Position) -> bool | npt.NDArray[np.bool_]:
        """Whether this duration has passed since the start: true from its last step or epoch on."""
        count: Count = position.elapsed(self.clock)
        return count >= self.length(position)

    def __str__(self) -> str:
        return f"{self.value}{self.unit}"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and (self.value, self.unit) == (other.value, other.unit)

    def __hash__(self) -> int:
        return hash((self.value, self.unit))


DurationLike = Duration | str | int | float


def _tidy(value: float) -> float:
    """10 for 10.0: whole numbers print, compare and count as the user wrote them."""
    return int(value) if value.is_integer() else value
