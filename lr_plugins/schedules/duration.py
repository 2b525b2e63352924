"""Lengths of time with a unit: `10`, `"10ep"`, `"500st"`, `"5%"`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import SET_LENGTH, InvalidArgument, TrainingError
from lr_plugins.schedules.position import Position, RunLength, Span, Value

_TEXT = re.compile(r"\s*(?P<value>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(?P<unit>st|ep|sp|%)?\s*")
_ALLOWED = (
    'greater than 0: a number, or a text like "10ep" (epochs), "500st" (optimizer steps), "5%" (of the run) '
    'or "50000sp" (samples)'
)

_UNKNOWN = {
    "%": "the duration {} is a share of the run, and the length of the run is unknown; "
    f"{SET_LENGTH}, or give the duration in steps or epochs",
    "sp": "the duration {} is in samples, and the samples per optimizer step are unknown; give it in steps or epochs",
}


class Duration:
    """A length of time: a value and the unit it is counted in.

    Args:
        value: how many, >= 0.
        unit: `"st"` optimizer steps, `"ep"` epochs, `"%"` percent of the run, `"sp"` samples.

    Epochs count whole: a schedule whose length is in epochs holds its value within an epoch, as Keras' callback does
    (`Schedule.smooth` makes it move). The others move at every optimizer step. Within a part of a sequence,
    percent are of that part.

    Example:
        >>> Duration.of("10ep"), Duration.of(500, unit="st"), Duration.of("5%")
        (10ep, 500st, 5%)
    """

    __slots__ = ("unit", "value")

    def __init__(self, value: float, unit: str) -> None:
        self.value, self.unit = value, unit

    @classmethod
    def of(
        cls, length: DurationLike, *, unit: str = "st", field: str = "duration", allow_zero: bool = False
    ) -> Duration:
        """Read a length greater than 0; a plain number counts in `unit`.

        Args:
            length: the number, the text, or a Duration.
            unit: the unit of a plain number.
            field: the name used in the error message.
            allow_zero: whether 0 will do.

        Raises:
            InvalidArgument: it is not a length, or not greater than 0.
        """
        duration = cls._read(length, unit)
        if duration is None or not (0 < duration.value < math.inf or (allow_zero and duration.value == 0)):
            raise InvalidArgument(field, length, f"{'0 or ' if allow_zero else ''}{_ALLOWED}")
        return duration

    @classmethod
    def _read(cls, length: object, unit: str) -> Duration | None:
        if isinstance(length, Duration):
            return length
        if isinstance(length, str) and (match := _TEXT.fullmatch(length)):
            return cls(_tidy(float(match["value"])), match["unit"] or unit)
        if isinstance(length, (int, float, np.integer, np.floating)) and not isinstance(length, bool):
            try:
                return cls(_tidy(float(length)), unit)
            except OverflowError:
                return None
        return None

    def measure(self, position: Position) -> tuple[Value, float]:
        """(how much has passed, this length), both in one clock.

        Raises:
            TrainingError: it is a share of a run whose length is unknown, or samples of steps of unknown size.
        """
        if self.unit == "ep":
            return position.elapsed("ep"), self.value
        span = self.span(position.run)
        if span.steps is not None:
            return position.elapsed("st"), span.steps
        if self.unit == "%" and span.epochs is not None:
            return position.elapsed("ep"), span.epochs
        raise TrainingError(_UNKNOWN[self.unit].format(self))

    def span(self, run: RunLength) -> Span:
        """This length in optimizer steps and in epochs of a run, as far as they are known."""
        per_epoch = run.steps_per_epoch
        if self.unit == "ep":
            if per_epoch is None:
                return Span(None, self.value, "ep")
            # What ends within an epoch ends at a step.
            return Span(run.steps_at(self.value), self.value, "ep" if self.value % 1 == 0 else "st")
        if self.unit == "%":
            # 32.7 % of 1000 steps is 327 and not 327.00000000000006: a boundary would come a step late.
            steps = None if run.steps is None else round(self.value * run.steps / 100, 9)
            epochs = None if run.epochs is None else self.value * run.epochs / 100
            return Span(steps, epochs, "st" if steps is not None else "ep")
        steps = self.value if self.unit == "st" else None
        if self.unit == "sp" and run.batch_size is not None:
            steps = self.value / run.batch_size
        return Span(steps, run.epochs_at(steps), "st")

    def known(self, run: RunLength) -> Span:
        """As `span`, for those who cannot do without it.

        Raises:
            TrainingError: it is a share of a run whose length is unknown, or samples of steps of unknown size.
        """
        if not self.value:
            return Span()
        span = self.span(run)
        if span.exact is None:
            raise TrainingError(_UNKNOWN[self.unit].format(self))
        return span

    def ratio(self, position: Position) -> Value:
        """How many times this duration has passed at a position."""
        passed, length = self.measure(position)
        return passed / length

    def passed(self, position: Position) -> bool | npt.NDArray[np.bool_]:
        """Whether this duration has passed since the start: true from its last step or epoch on."""
        passed, length = self.measure(position)
        return passed >= length

    def __str__(self) -> str:
        return f"{self.value}{self.unit}"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and (self.value, self.unit) == (other.value, other.unit)

    def __hash__(self) -> int:
        return hash((self.value, self.unit))

    def __reduce__(self) -> tuple[type[Duration], tuple[float, str]]:
        """As a call of the class: torch's unpickler for weights, of 2.4 at least, sets no slots."""
        return type(self), (_tidy(float(self.value)), self.unit)


DurationLike = Duration | str | int | float


def measure_all(durations: Sequence[Duration], position: Position) -> tuple[Value, list[float]]:
    """(how much has passed, each of these lengths), all in one clock: epochs if they all count them, or else steps.

    Raises:
        TrainingError: one of them cannot be told in the clock of the others.
    """
    units = {duration.unit for duration in durations if duration.value}
    if len(units) == 1:
        (unit,) = units
        if unit in ("st", "ep"):
            return position.elapsed(unit), [duration.value for duration in durations]
        passed: Value = 0.0
        lengths = [0.0] * len(durations)
        for index, duration in enumerate(durations):
            if duration.value:
                passed, lengths[index] = duration.measure(position)
        return passed, lengths
    spans = [duration.known(position.run) for duration in durations if duration.value]
    for clock in ("st", "ep"):
        both = (span.steps if clock == "st" else span.epochs for span in spans)
        told = [length for length in both if length is not None]
        if len(told) == len(spans):
            rest = iter(told)
            return position.elapsed(clock), [next(rest) if duration.value else 0.0 for duration in durations]
    raise TrainingError(
        f"{', '.join(map(str, durations))} are to be seen in one clock, and the steps per epoch are unknown; "
        "give them all in steps, or all in epochs"
    )


def _tidy(value: float) -> float:
    """10 for 10.0: whole numbers print, compare and count as the user wrote them."""
    return int(value) if value.is_integer() else value
