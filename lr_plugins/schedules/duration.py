"""Lengths of time with a unit: `10`, `"10ep"`, `"500st"`, `"5%"`."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import SET_LENGTH, InvalidArgumentError, TrainingError
from lr_plugins.renamed import method_arguments
from lr_plugins.schedules.ahead import Ahead
from lr_plugins.schedules.numerics import maximum, nearly_whole
from lr_plugins.schedules.position import Length, Position, RunLength, Value
from lr_plugins.validation import as_float, tidy

_TEXT = re.compile(
    r"\s*(?P<value>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*(?P<unit>st|ep|sp|%)?\s*", re.IGNORECASE | re.ASCII
)
_NAMES = {"st": "optimizer step", "sp": "sample"}  # the units that are counted whole
_LEAST, _MOST = 1e-12, 1e300
"""The shortest and the longest length but 0, in whatever unit: far beyond both ends of what a run can have."""

_ALLOWED = '{}, or a text like "10ep" (epochs), "500st" (optimizer steps), "5%" (of the run) or "50000sp" (samples)'

_UNKNOWN = {
    "%": "the duration {} is relative to the length of the run, which is unknown; "
    f"{SET_LENGTH}, or use steps or epochs",
    "sp": "the duration {} is in samples, and the samples of an optimizer step are unknown; give their number as the "
    "batch_size of the run, or use steps or epochs",
}

# Other names of the units. A text with one of them is refused with a hint how it is written here.
_WORDS = {
    "ep": "e epoch epochs eps",
    "st": "step steps it its iter iters iteration iterations update updates ba batch batches",
    "%": "pct percent",
    "sp": "sa sample samples example examples",
    "dur": "",  # Composer's share of the run
}
_UNIT_OF = {word: unit for unit, words in _WORDS.items() for word in (unit, *words.split())}
_OTHERS = re.compile(
    r"\s*(?P<value>[1-9]\d{0,2}(?:,\d{3})+|\d[\d_]*\.?\d*|\.\d+)\s*(?P<times>[kKM])?\s*(?P<unit>[a-zA-Z]*|%)\s*",
    re.ASCII,
)
_TIMES = {None: 1, "k": 1_000, "K": 1_000, "M": 1_000_000}


Unit = Literal["st", "ep", "%", "sp"]
"""Optimizer steps, epochs, percent of the run, samples."""

_UNITS: tuple[Unit, ...] = get_args(Unit)
_ALLOWED_UNITS = '"st" (optimizer steps), "ep" (epochs), "%" (percent of the run) or "sp" (samples)'


class Duration:
    """A length of time: a value and the unit it is counted in.

    Args:
        value: how many, 0 or from 1e-12 to 1e300.
        unit: `"st"` optimizer steps, `"ep"` epochs, `"%"` percent of the run, `"sp"` samples.

    Raises:
        InvalidArgumentError: the value is not such a number, or the unit is none of these.

    Lengths in epochs advance once per epoch, as in Keras' callback (`Schedule.smooth` makes them move within an epoch);
    all others advance at every optimizer step. Within a part of a sequence,
    percent are of that part. In a text, case and blanks do not matter: `"10 EP"` is `"10ep"`.

    A fraction of an optimizer step or of a sample is refused: `0.05` is probably meant as `"5%"`. Half an epoch is
    `"0.5ep"`.

    Example:
        >>> Duration.of("10ep"), Duration.of(500), Duration.of("5%")
        (10ep, 500st, 5%)
        >>> Duration.of("10 EP"), Duration.of("0.5 ep"), Duration.of("5 %")
        (10ep, 0.5ep, 5%)
    """

    __slots__ = ("unit", "value")

    def __init__(self, value: float, unit: Unit) -> None:
        self.unit, number = _unit("Duration.unit", unit), as_float(value)
        if number is None or not _is_length(number):
            raise InvalidArgumentError("Duration.value", value, f"0, or a number from {_LEAST:g} to {_MOST:g}")
        self.value = tidy(number)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        Ahead.changes += 1

    @classmethod
    @method_arguments(unit='a part of the length, such as "10ep"')
    def of(cls, length: DurationLike, *, field: str = "duration", allow_zero: bool = False) -> Duration:
        """Read a length greater than 0; a plain number counts optimizer steps.

        Args:
            length: the number, the text, or a Duration.
            field: the name used in the error message.
            allow_zero: whether 0 will do.

        Raises:
            InvalidArgumentError: it is not a length, not greater than 0, or a fraction of a step.
        """
        value, counted_in = cls._read(length)
        least, hint = "a number >= 0" if allow_zero else "a number > 0", ""
        if value is None:
            hint = advice(length)
        elif fraction := _fraction(value, counted_in):
            least, hint = f"{'0 or ' if allow_zero else ''}at least one {_NAMES[counted_in]}", fraction
        elif not _is_length(value):
            hint = f"A length is from {_LEAST:g} to {_MOST:g}." if 0 < value < math.inf else ""
        elif value or allow_zero:
            return length if isinstance(length, Duration) else cls(value, counted_in)
        raise InvalidArgumentError(field, length, _ALLOWED.format(least), hint)

    @staticmethod
    def _read(length: object) -> tuple[float | None, Unit]:
        """(the number in a length, its unit); the number is None if the text is not a length."""
        if isinstance(length, Duration):
            return length.value, length.unit
        if isinstance(length, str) and (match := _TEXT.fullmatch(length)):
            return float(match["value"]), _unit("unit", (match["unit"] or "st").lower())
        return as_float(length) if isinstance(length, (int, float, np.integer, np.floating)) else None, "st"

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

    def span(self, run: RunLength) -> Length:
        """This length in optimizer steps and in epochs of a run, as far as they are known."""
        per_epoch = run.steps_per_epoch
        if self.unit == "ep":
            if per_epoch is None:
                return Length(None, self.value, "ep")
            # What ends within an epoch ends at a step.
            return Length(run.steps_at(self.value), self.value, "ep" if self.value % 1 == 0 else "st")
        if self.unit == "%":
            # 32.7 % of 1000 steps is 327 and not 327.00000000000006: a boundary would come a step late.
            exact = None if run.steps is None else self.value * run.steps / 100
            steps = exact and (round(exact, 9) or exact)  # a length is never 0
            epochs = None if run.epochs is None else self.value * run.epochs / 100
            return Length(steps, epochs, "st" if steps is not None else "ep")
        steps = self.value if self.unit == "st" else None
        if self.unit == "sp" and run.batch_size is not None:
            steps = self.value / run.batch_size
        return Length(steps, run.epochs_at(steps), "st")

    def known(self, run: RunLength) -> Length:
        """As `span`, for those who cannot do without it.

        Raises:
            TrainingError: it is a share of a run whose length is unknown, or samples of steps of unknown size.
        """
        if not self.value:
            return Length()
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
        return type(self), (self.value, self.unit)


DurationLike = Duration | str | int | float


def measure_all(durations: Sequence[Duration], position: Position) -> tuple[Value, list[float]]:
    """(how much has passed, each of these lengths), all in one clock: epochs if they all count them, or else steps.

    Raises:
        TrainingError: the steps per epoch are unknown, and the lengths are in different units.
    """
    clock, lengths = _in_one_clock(durations, position)
    return _passed(clock, position), lengths


class Lengths:
    """Lengths that are measured in one clock, as by `measure_all`, at one position of a run after another.

    Args:
        durations: the lengths; they stay the same.
    """

    def __init__(self, durations: Sequence[Duration]) -> None:
        self._durations = durations
        self._measured: tuple[RunLength, Duration | str, list[float]] | None = None

    def measure(self, position: Position) -> tuple[Value, list[float], bool]:
        """As `measure_all`; and whether the lengths were measured anew, for this run.

        Raises:
            TrainingError: the steps per epoch are unknown, and the lengths are in different units.
        """
        known = self._measured
        if known is not None and known[0] == position.run:
            return _passed(known[1], position), known[2], False
        clock, lengths = _in_one_clock(self._durations, position)
        self._measured = position.run, clock, lengths
        return _passed(clock, position), lengths, True

    def forget(self) -> None:
        """Measure the lengths anew at the next position."""
        self._measured = None

    def __reduce__(self) -> tuple[type[Lengths], tuple[Sequence[Duration]]]:
        """Without what has been measured."""
        return type(self), (self._durations,)


class Boundaries:
    """Lengths of any units, and how many of each unit have passed: by bisection, however many there are.

    Args:
        durations: the lengths, in any order; they stay the same.

    Example:
        >>> boundaries = Boundaries([Duration.of("3ep"), Duration.of("20st"), Duration.of("1ep")])
        >>> boundaries.passed(RunLength.of(steps_per_epoch=10).position(25))
        [([2, 0], 1), ([1], 1)]
    """

    def __init__(self, durations: Sequence[Duration]) -> None:
        self._durations = durations
        by_unit: dict[str, list[int]] = {}
        for index, duration in enumerate(durations):
            by_unit.setdefault(duration.unit, []).append(index)
        # Of one unit, the order is the same in every run.
        self._orders = [sorted(order, key=lambda index: durations[index].value) for order in by_unit.values()]
        self._measured: tuple[RunLength, list[tuple[list[int], Duration, list[float]]]] | None = None

    def passed(self, position: Position) -> list[tuple[list[int], Value]]:
        """Of each unit (the indices of its lengths, the shortest first; how many of them have passed).

        Raises:
            TrainingError: a length depends on something that is unknown in this run.
        """
        return [(order, _count(lengths, first.measure(position)[0])) for order, first, lengths in self._in(position)]

    def last(self, position: Position) -> Value:
        """The number, from 1, of the last of all the lengths that has passed, where they increase; 0 if none has.

        Raises:
            TrainingError: a length depends on something that is unknown in this run.
        """
        units = self._in(position)
        if len(units) == 1:
            _, first, lengths = units[0]
            return _count(lengths, first.measure(position)[0])
        last: Value = 0
        for order, first, lengths in units:
            last = maximum(last, _numbered(order, _count(lengths, first.measure(position)[0])))
        return last

    def _in(self, position: Position) -> list[tuple[list[int], Duration, list[float]]]:
        """Of each unit the order of its lengths, the first of them, and all of them as the run has them."""
        known = self._measured
        if known is not None and (known[0] is position.run or known[0] == position.run):
            return known[1]
        units = []
        for order in self._orders:
            lengths = [self._durations[index].measure(position)[1] for index in order]
            units.append((order, self._durations[order[0]], lengths))
        self._measured = position.run, units
        return units

    def __reduce__(self) -> tuple[type[Boundaries], tuple[Sequence[Duration]]]:
        """Without what has been measured."""
        return type(self), (self._durations,)


def _count(lengths: list[float], passed: Value) -> Value:
    """How many of some lengths, the shortest first, have passed."""
    if isinstance(passed, np.ndarray):
        return np.searchsorted(np.asarray(lengths, dtype=np.float64), passed, side="right")
    return bisect.bisect_right(lengths, passed)


def _numbered(order: list[int], count: Value) -> Value:
    """The number, from 1, of the last that has passed of the lengths of a unit; 0 where none has."""
    if not isinstance(count, np.ndarray):
        return order[int(count) - 1] + 1 if count else 0
    numbers: Value = np.array([0, *(index + 1 for index in order)])[count]
    return numbers


def _passed(clock: Duration | str, position: Position) -> Value:
    return position.elapsed(clock) if isinstance(clock, str) else clock.measure(position)[0]


def _in_one_clock(durations: Sequence[Duration], position: Position) -> tuple[Duration | str, list[float]]:
    """(the unit that is counted in, or a length that is measured in their clock; each of the lengths)."""
    units = {duration.unit for duration in durations if duration.value}
    if len(units) == 1:
        (unit,) = units
        if unit in ("st", "ep"):
            return unit, [duration.value for duration in durations]
        one = next(duration for duration in durations if duration.value)
        return one, [duration.measure(position)[1] if duration.value else 0.0 for duration in durations]
    spans = [duration.known(position.run) for duration in durations if duration.value]
    for clock in ("st", "ep"):
        both = (span.steps if clock == "st" else span.epochs for span in spans)
        known = [length for length in both if length is not None]
        if len(known) == len(spans):
            rest = iter(known)
            return clock, [next(rest) if duration.value else 0.0 for duration in durations]
    raise TrainingError(
        f"{', '.join(map(str, durations))} cannot be compared, because the steps per epoch are unknown; "
        "give them all in steps, or all in epochs"
    )


def advice(length: object) -> str:
    """How to write a text that others would read as a length; empty for what nobody would.

    Example:
        >>> advice("10 epochs"), advice("5 pct"), advice("1k"), advice("soon")
        ('Did you mean "10ep"?', 'Did you mean "5%"?', 'Did you mean "1000st"?', '')
    """
    match = _OTHERS.fullmatch(length) if isinstance(length, str) else None
    word = match["unit"].lower() if match else ""
    meant = _UNIT_OF.get(word or "st")
    if match is None or meant is None:
        return ""
    value = float(re.sub("[_,]", "", match["value"])) * _TIMES[match["times"]]
    if not value or not _is_length(100 * value):
        return ""
    text = _percent(value) if meant == "dur" else f"{tidy(value)}{meant}"
    steps = " (optimizer steps)" if word.startswith("ba") else ""
    return (_fraction(value, meant) if meant in _UNITS else "") or f'Did you mean "{text}"{steps}?'


def _fraction(value: float, unit: str) -> str:
    """The hint for a fraction of a step or sample, which is no length; empty for anything else."""
    if not 0 < value < 1 or unit not in _NAMES:
        return ""
    return f'{value} is less than one {_NAMES[unit]}; did you mean "{_percent(value)}"?'


def _percent(share: float) -> str:
    return f"{tidy(float(f'{100 * share:.12g}'))}%"


def _unit(field: str, unit: object) -> Unit:
    """One of the units, as a text of Python's own."""
    if isinstance(unit, str) and unit in _UNITS:
        return _UNITS[_UNITS.index(unit)]
    meant = _UNIT_OF.get(unit.strip().lower()) if isinstance(unit, str) else None
    raise InvalidArgumentError(field, unit, _ALLOWED_UNITS, f'Did you mean "{meant}"?' if meant in _UNITS else "")


def _is_length(value: float) -> bool:
    """Whether a number is a length, or 0; nothing that a formula makes of one is too large or too small."""
    return value == 0 or _LEAST <= value <= _MOST
