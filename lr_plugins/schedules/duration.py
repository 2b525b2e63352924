"""Lengths of time with a unit: `10`, `"10ep"`, `"500st"`, `"5%"`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import SET_LENGTH, InvalidArgument, TrainingError
from lr_plugins.schedules.ops import nearly_whole
from lr_plugins.schedules.position import Position, RunLength, Span, Value

_TEXT = re.compile(r"\s*(?P<value>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*(?P<unit>st|ep|sp|%)?\s*", re.IGNORECASE)
_NAMES = {"st": "optimizer step", "ep": "epoch", "sp": "sample"}
_ALLOWED = '{}, or a text like "10ep" (epochs), "500st" (optimizer steps), "5%" (of the run) or "50000sp" (samples)'

_UNKNOWN = {
    "%": "the duration {} is a share of the run, and the length of the run is unknown; "
    f"{SET_LENGTH}, or give the duration in steps or epochs",
    "sp": "the duration {} is in samples, and the samples of an optimizer step are unknown; give their number as the "
    "batch_size of the run, or the duration in steps or epochs",
}

# What others call the units: a text with one of these words is refused, and told how it is written here.
_WORDS = {
    "ep": "e epoch epochs eps",
    "st": "step steps it its iter iters iteration iterations update updates ba batch batches",
    "%": "pct percent",
    "sp": "sa sample samples example examples",
    "dur": "",  # Composer's share of the run
}
_UNIT_OF = {word: unit for unit, words in _WORDS.items() for word in (unit, *words.split())}
_OTHERS = re.compile(
    r"\s*(?P<value>[1-9]\d{0,2}(?:,\d{3})+|\d[\d_]*\.?\d*|\.\d+)\s*(?P<times>[kKM])?\s*(?P<unit>[a-zA-Z]*|%)\s*"
)
_TIMES = {None: 1, "k": 1_000, "K": 1_000, "M": 1_000_000}


class Duration:
    """A length of time: a value and the unit it is counted in.

    Args:
        value: how many, >= 0.
        unit: `"st"` optimizer steps, `"ep"` epochs, `"%"` percent of the run, `"sp"` samples.

    Epochs count whole: a schedule whose length is in epochs holds its value within an epoch, as Keras' callback does
    (`Schedule.smooth` makes it move). The others move at every optimizer step. Within a part of a sequence,
    percent are of that part. In a text, case and blanks do not matter: `"10 EP"` is `"10ep"`.

    A fraction of an optimizer step is refused, and so is a fraction without a unit: `0.05` may be meant as `"5%"`. Half
    an epoch is `"0.5ep"`.

    Example:
        >>> Duration.of("10ep"), Duration.of(500, unit="st"), Duration.of("5%")
        (10ep, 500st, 5%)
        >>> Duration.of("10 EP"), Duration.of("0.5 ep"), Duration.of("5 %")
        (10ep, 0.5ep, 5%)
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
            InvalidArgument: it is not a length, not greater than 0, or a fraction of a step or of an unnamed unit.
        """
        duration, least, hint = cls._read(length, unit), "greater than 0: a number", ""
        if duration is None:
            hint = advice(length, unit)
        elif fraction := _fraction(duration, isinstance(length, Duration) or _has_unit(length)):
            least, hint = f"at least one {_NAMES[unit]}", fraction
        elif 0 < duration.value < math.inf or (allow_zero and duration.value == 0):
            return duration
        raise InvalidArgument(field, length, ("0 or " if allow_zero else "") + _ALLOWED.format(least), hint)

    @classmethod
    def _read(cls, length: object, unit: str) -> Duration | None:
        if isinstance(length, Duration):
            return length
        if isinstance(length, str) and (match := _TEXT.fullmatch(length)):
            return cls(_tidy(float(match["value"])), (match["unit"] or unit).lower())
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
        if self.unit == "sp" and position.run.batch_size is not None:
            # Counted in samples: 600 of 24 a step are six times 100, and 25 steps are less than six times 100 / 24.
            return nearly_whole(position.elapsed("st") * position.run.batch_size), self.value
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


def advice(length: object, unit: str = "st") -> str:
    """How to write a text that others would read as a length; empty for what nobody would.

    Example:
        >>> advice("10 epochs"), advice("5 pct"), advice("1k", "st"), advice("soon")
        ('Did you mean "10ep"?', 'Did you mean "5%"?', 'Did you mean "1000st"?', '')
    """
    match = _OTHERS.fullmatch(length) if isinstance(length, str) else None
    word = match["unit"].lower() if match else ""
    meant = _UNIT_OF.get(word or unit)
    if match is None or meant is None:
        return ""
    value = float(re.sub("[_,]", "", match["value"])) * _TIMES[match["times"]]
    found = _percent(value) if meant == "dur" else Duration(_tidy(value), meant)
    if found.value == 0:
        return ""
    steps = " (optimizer steps)" if word.startswith("ba") else ""
    return _fraction(found, has_unit=bool(word)) or f'Did you mean "{found}"{steps}?'


def _fraction(duration: Duration, has_unit: bool) -> str:
    """What to say of a fraction where a length is meant; empty where it is a length."""
    value, unit = duration.value, duration.unit
    if not 0 < value < 1 or unit == "%" or (unit == "ep" and has_unit):
        return ""
    or_epochs = f' (of the run), or "{duration}"' if unit == "ep" else ""
    return f'{value} is less than one {_NAMES[unit]}; did you mean "{_percent(value)}"{or_epochs}?'


def _percent(share: float) -> Duration:
    return Duration(_tidy(float(f"{100 * share:.12g}")), "%")


def _has_unit(length: object) -> bool:
    match = _TEXT.fullmatch(length) if isinstance(length, str) else None
    return match is not None and match["unit"] is not None


def _tidy(value: float) -> float:
    """10 for 10.0: whole numbers print, compare and count as the user wrote them."""
    return int(value) if value.is_integer() else value
