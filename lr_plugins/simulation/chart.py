"""A chart of learning rates in plain characters, for a terminal.

Written here, because the libraries for it (plotext, uniplot) draw lines between points, where a learning rate makes
stairs, and keep the state of a figure for the whole process.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

import numpy as np
import numpy.typing as npt

from lr_plugins.plotting.learning_rate import Curve, spans_decades

Dots = npt.NDArray[np.bool_]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille character, by row and column
_BRAILLE = 0x2800
_FRAMES = {False: ("┤", "│", "└", "─"), True: ("+", "|", "+", "-")}  # tick, side, corner, floor
_LEAST, _LABEL = 40, 9  # characters: of the chart, and of the numbers at its side


def terminal_width(stream: TextIO | None = None) -> int:
    """The width of the terminal in characters; 80 where the output is not a terminal."""
    stream = sys.stdout if stream is None else stream
    try:
        return max(shutil.get_terminal_size((80, 24)).columns if stream.isatty() else 80, _LEAST)
    except (AttributeError, ValueError):  # something in the place of a stream, or one that is closed
        return 80


def only_ascii(stream: TextIO | None = None) -> bool:
    """Whether the encoding of the output lacks the characters of a chart."""
    encoding = getattr(sys.stdout if stream is None else stream, "encoding", None) or "ascii"
    try:
        "┤⣿".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def chart(
    curves: Mapping[str, Curve],
    steps: int,
    steps_per_epoch: float | None = None,
    width: int = 80,
    height: int = 13,
    log: bool = False,
    ascii: bool = False,
) -> str:
    """Learning rates over optimizer steps as text: one curve in fine dots, several with a letter each.

    Args:
        curves: by name, steps and values.
        steps: optimizer steps of the run.
        steps_per_epoch: of it, for the numbers of epochs below those of steps. Default None: unknown.
        width: characters, >= 40. Default 80.
        height: lines of the drawing itself. Default 13.
        log: a logarithmic axis; it is one anyway where a third of the steps would lie flat at the bottom otherwise.
        ascii: only characters of ASCII.
    """
    axis = _Axis.of(curves, log)
    columns = max(width, _LEAST) - _LABEL - 2
    if len(curves) == 1 and not ascii:
        (curve,) = curves.values()
        rows = _braille(_dots(curve, steps, axis, 2 * columns, 4 * height))
    else:
        rows = _lettered(list(curves.values()), steps, axis, columns, height)
    lines = [*_framed(rows, axis, ascii), *_feet(steps, steps_per_epoch, columns, ascii)]
    if len(curves) > 1:
        lines += ["", *(f"{'':{_LABEL}}  {_LETTERS[at % 26]}  {name}" for at, name in enumerate(curves))]
    return "\n".join(line.rstrip() for line in lines)


class _Axis:
    """Where on the side of the chart a value is, from 0 to 1."""

    def __init__(self, least: float, most: float, log: bool) -> None:
        self.least, self.most, self.log = least, most, log

    @classmethod
    def of(cls, curves: Mapping[str, Curve], log: bool) -> _Axis:
        values = np.concatenate([curve.values for curve in curves.values()])
        most = float(values.max())
        if (log or spans_decades(curves)) and most > 0:
            least = float(values[values > 0].min())
            return cls(least if least < most else most / 10, most, True)
        away = float(values.min()) > 0.5 * most and most > float(values.min())  # such as a momentum
        return cls(float(values.min()) if away else 0.0, most or 1.0, False)

    def place(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where values are; what is too low for a logarithm lies at the bottom."""
        if self.log:
            logs = np.log10(np.maximum(values, self.least))
            return np.asarray((logs - math.log10(self.least)) / (math.log10(self.most) - math.log10(self.least)))
        return (values - self.least) / (self.most - self.least)

    def value(self, share: float) -> float:
        """The value at a place."""
        if self.log:
            return float(self.least * (self.most / self.least) ** share)
        return self.least + (self.most - self.least) * share


def _dots(curve: Curve, steps: int, axis: _Axis, columns: int, rows: int) -> Dots:
    """Which dots of a grid are set: in each column from the lowest to the highest value of its steps."""
    level = np.rint(axis.place(curve.values) * (rows - 1)).astype(np.int64)
    edges = np.arange(columns + 1) * steps / columns
    # The last step looked at that is not after the first of the column holds there: with it, a jump is a line.
    first = np.maximum(np.searchsorted(curve.steps, np.floor(edges[:-1]), "right") - 1, 0)
    end = np.maximum(np.searchsorted(curve.steps, np.ceil(edges[1:]), "left"), first + 1)
    dots = np.zeros((rows, columns), dtype=np.bool_)
    before = level[0]
    for column, (index, after) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
        levels = level[index:after]
        low, high = min(before, levels.min()), max(before, levels.max())
        # From the level before, which has a dot of its own already, but for this one.
        low, high = (low + (low == before < levels.min()), high - (high == before > levels.max()))
        dots[rows - 1 - high : rows - low, column] = True
        before = level[after - 1]
    return dots


def _braille(dots: Dots) -> list[str]:
    rows, columns = dots.shape
    cells = dots.reshape(rows // 4, 4, columns // 2, 2)
    codes = (cells * _BITS[None, :, None, :]).sum(axis=(1, 3))
    return ["".join(chr(_BRAILLE + code) if code else " " for code in row) for row in codes.tolist()]


def _lettered(curves: Sequence[Curve], steps: int, axis: _Axis, columns: int, height: int) -> list[str]:
    cells = np.full((height, columns), " ")
    for at, curve in enumerate(curves):
        cells[_dots(curve, steps, axis, columns, height)] = "*" if len(curves) == 1 else _LETTERS[at % 26]
    return ["".join(row) for row in cells.tolist()]


def _framed(rows: Sequence[str], axis: _Axis, ascii: bool) -> list[str]:
    """The rows with numbers at some of them."""
    tick, side, _, _ = _FRAMES[ascii]
    every = max((len(rows) - 1) // 3, 1)
    lines = []
    for at, row in enumerate(rows):
        numbered = at % every == 0
        label = f"{axis.value(1 - at / (len(rows) - 1)):.3g}" if numbered else ""
        lines.append(f"{label:>{_LABEL}} {tick if numbered else side}{row}")
    return lines


def _feet(steps: int, steps_per_epoch: float | None, columns: int, ascii: bool) -> list[str]:
    """The floor, and below it steps and epochs."""
    _, _, corner, floor = _FRAMES[ascii]
    lines = [
        f"{'':{_LABEL}} {corner}{floor * columns}",
        _marks("step", lambda share: f"{round(share * steps):,}", columns),
    ]
    if steps_per_epoch:
        lines.append(_marks("epoch", lambda share: f"{share * steps / steps_per_epoch:.4g}", columns))
    return lines


def _marks(unit: str, number: Callable[[float], str], columns: int) -> str:
    """Numbers below the quarters of the floor."""
    line = [" "] * (columns + 1)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = number(share)
        start = min(max(round(share * columns) - len(text) // 2, 0), columns - len(text) + 1)
        line[start : start + len(text)] = text
    return f"{unit:>{_LABEL}} {''.join(line)}"
