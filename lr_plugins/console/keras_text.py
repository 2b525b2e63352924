"""Keras' console output as text: numbers, times, lines and progress bars of Keras 2.2.4 and Keras 3.

Nothing here depends on Lightning, a clock or a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# --- numbers and times ----------------------------------------------------------------------------------------


def format_value(value: float) -> str:
    """A metric in the line of an epoch: four decimals, or an exponent if it is small.

    Example:
        >>> [format_value(v) for v in (0.43541, 0.001, -0.5, 0.0)]
        ['0.4354', '1.0000e-03', '-5.0000e-01', '0.0000e+00']
    """
    # Keras compares the value, not its magnitude, so negative numbers always get an exponent.
    return f"{value:.4f}" if value > 1e-3 else f"{value:.4e}"


def format_bar_value(value: float) -> str:
    """A metric in a progress bar, where Keras compares its magnitude.

    Example:
        >>> [format_bar_value(v) for v in (0.43541, 0.001, -0.5, 0.0)]
        ['0.4354', '1.0000e-03', '-0.5000', '0.0000e+00']
    """
    return f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"


def format_rate(value: float | np.float32, style: str) -> str:
    """A learning rate in the message of a scheduler.

    A float32 has the digits of NumPy 1's `str` in Keras 2, and those of the equal Python float in Keras 3.

    Example:
        >>> [format_rate(value, "keras2") for value in (1e-4, np.float32(1e-4), np.float32(1 / 3))]
        ['0.0001', '1e-04', '0.33333334']
        >>> format_rate(np.float32(0.1), "keras3")
        '0.10000000149011612'
    """
    if not isinstance(value, np.float32):
        return repr(value)
    if style == "keras3":
        return repr(float(value))
    if value == 0 or 1e-4 <= abs(float(value)) < 1e16:
        return np.format_float_positional(value, trim="0")
    return np.format_float_scientific(value, trim="-", exp_digits=2)


def format_metrics(logs: Mapping[str, float]) -> str:
    """The metrics of a line, in the given order.

    Example:
        >>> format_metrics({"loss": 0.43541, "acc": 0.8625})
        ' - loss: 0.4354 - acc: 0.8625'
    """
    return "".join(f" - {name}: {format_value(value)}" for name, value in logs.items())


def format_step_time(seconds: float, zero: str = "0s") -> str:
    """The mean time of a step, in a suitable unit; `zero` is the text for exactly 0.

    Example:
        >>> [format_step_time(t) for t in (0, 2.4, 0.0234, 0.00014)]
        ['0s/step', '2s/step', '23ms/step', '140us/step']
    """
    if seconds == 0:
        return f"{zero}/step"
    if seconds >= 1:
        return f"{seconds:.0f}s/step"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.0f}ms/step"
    return f"{seconds * 1e6:.0f}us/step"


def format_eta(seconds: float) -> str:
    """The remaining time, with minutes and hours if there are any.

    Example:
        >>> [format_eta(t) for t in (9.9, 60, 467, 9990)]
        ['9s', '60s', '7:47', '2:46:30']
    """
    if seconds > 3600:
        return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
    if seconds > 60:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    return f"{int(seconds)}s"


def format_count(step: int, steps: int | None) -> str:
    """The current step and the number of steps, with a constant width; None if their number is unknown.

    Example:
        >>> format_count(7, 100), format_count(7, None)
        ('  7/100', '      7/Unknown')
    """
    return f"{step:7d}/Unknown" if steps is None else f"{step:{len(str(steps))}d}/{steps}"


# --- one line per epoch ---------------------------------------------------------------------------------------


def format_header(epoch: int, epochs: int | None) -> str:
    """The header of an epoch, counted from 0; `epochs` is None or negative if there is no limit.

    Example:
        >>> format_header(0, 10), format_header(0, -1)
        ('Epoch 1/10', 'Epoch 1')
    """
    return f"Epoch {epoch + 1}" if epochs is None or epochs < 0 else f"Epoch {epoch + 1}/{epochs}"


def keras2_line(logs: Mapping[str, float], elapsed: float) -> str:
    """The line at the end of an epoch in Keras 2.2.4.

    Example:
        >>> keras2_line({"loss": 0.43541, "acc": 0.8625}, elapsed=12.7)
        ' - 13s - loss: 0.4354 - acc: 0.8625'
    """
    return f" - {elapsed:.0f}s{format_metrics(logs)}"


def keras3_line(logs: Mapping[str, float], elapsed: float, step_time: float, step: int, steps: int) -> str:
    """The line at the end of an epoch in Keras 3.

    Example:
        >>> keras3_line({"loss": 0.99741}, elapsed=0.117, step_time=0.0234, step=5, steps=5)
        '5/5 - 0s - 23ms/step - loss: 0.9974'
    """
    return f"{format_count(step, steps)} - {elapsed:.0f}s - {format_step_time(step_time)}{format_metrics(logs)}"


# --- progress bars --------------------------------------------------------------------------------------------


class EpochProgress(NamedTuple):
    """What a progress bar shows.

    Args:
        current: steps (or samples) done.
        target: steps (or samples) of the whole epoch, >= 1; None if unknown.
        elapsed: seconds since the start of the epoch.
        unit_time: mean seconds per step (or sample).
        logs: metrics to show, in order.
        final: whether the epoch is over; until then the remaining time is shown.
    """

    current: int
    target: int | None
    elapsed: float
    unit_time: float
    logs: Mapping[str, float]
    final: bool = False

    @property
    def share(self) -> float:
        """The fraction of the epoch that is done, from 0 to 1."""
        return min(self.current / self.target, 1.0) if self.target else 0.0

    @property
    def eta(self) -> str | None:
        """The remaining time; None if it is unknown or the epoch is over."""
        if self.final or self.target is None:
            return None
        return format_eta(self.unit_time * max(self.target - self.current, 0))


class Piece(NamedTuple):
    """A part of a line, with the ANSI codes of its style on a terminal."""

    text: str
    codes: str = ""

    @property
    def styled(self) -> str:
        """The text with its ANSI codes."""
        return f"\x1b[{self.codes}m{self.text}\x1b[0m" if self.codes else self.text


class Bar(NamedTuple):
    """How a version of Keras draws its bar, given the progress and a width, and its usual width."""

    draw: Callable[[EpochProgress, int], list[Piece]]
    width: int


def keras2_bar(now: EpochProgress, width: int) -> list[Piece]:
    """Keras 2.2.4's bar.

    Example:
        >>> now = EpochProgress(current=128, target=600, elapsed=0.01, unit_time=1e-4, logs={"loss": 0.9984})
        >>> "".join(piece.text for piece in keras2_bar(now, width=30))
        '128/600 [=====>........................] - ETA: 0s - loss: 0.9984'
    """
    count = format_count(now.current, now.target)
    if now.target is not None:
        done = int(width * now.share)
        tip = ("=" if now.share == 1.0 else ">") if done else ""
        count += f" [{'=' * (done - 1)}{tip}{'.' * (width - done)}]"
    # Keras says "step" even if it counts samples.
    took = f"{now.elapsed:.0f}s {format_step_time(now.unit_time, '0us')}"
    time = f" - {took}" if now.eta is None else f" - ETA: {now.eta}"
    return [Piece(count), Piece(time), *_metrics(now.logs)]


def keras3_bar(now: EpochProgress, width: int) -> list[Piece]:
    """Keras 3's bar; the part that is done is green.

    Example:
        >>> now = EpochProgress(current=2, target=5, elapsed=0.1, unit_time=0.04, logs={"loss": 0.9984})
        >>> "".join(piece.text for piece in keras3_bar(now, width=20))
        '2/5 ━━━━━━━━━━━━━━━━━━━━ 0s 40ms/step - loss: 0.9984'
    """
    count = [Piece(format_count(now.current, now.target))]
    if now.target is not None:
        done = int(width * now.share)
        green = [Piece("━" * done, "32")] if done else []
        count = [Piece(count[0].text, "1"), Piece(" "), *green, Piece("━" * (width - done), "37")]
    time = Piece(f"{now.elapsed:.0f}s" if now.eta is None else now.eta, "1")
    return [*count, Piece(" "), time, Piece(f" {format_step_time(now.unit_time)}"), *_metrics(now.logs)]


def _metrics(logs: Mapping[str, float]) -> list[Piece]:
    return [Piece(f" - {name}: {format_bar_value(value)}") for name, value in logs.items()]


BARS = {"keras2": Bar(keras2_bar, 30), "keras3": Bar(keras3_bar, 20)}
SHORTEST = 5
"""The least width of a bar that is shortened to fit the terminal."""


def draw(style: str, now: EpochProgress, columns: int | None = None) -> list[Piece]:
    """A bar as Keras draws it; on a narrow terminal, a shorter bar, then fewer metrics.

    A line that wraps cannot be overwritten. The final bar of an epoch is not overwritten, so it stays complete.

    Args:
        style: `"keras2"` or `"keras3"`.
        now: the progress to show.
        columns: width of the terminal. Default None: no limit.

    Example:
        >>> now = EpochProgress(2, 5, 0.1, 0.04, {"loss": 0.5, "acc": 0.25})
        >>> ["".join(piece.text for piece in draw("keras2", now, columns)) for columns in (60, 40)]
        ['2/5 [====>.........] - ETA: 0s - loss: 0.5000 - acc: 0.2500', '2/5 [==>.....] - ETA: 0s - loss: 0.5000']
    """
    bar = BARS[style]
    pieces = bar.draw(now, bar.width)
    if columns is None or now.final:
        return pieces
    room, logs = max(columns - 1, 1), dict(now.logs)  # some terminals wrap at the last column
    while length(pieces) > room and logs and length(bar.draw(now._replace(logs=logs), SHORTEST)) > room:
        logs.popitem()
    spare = room - length(bar.draw(now._replace(logs=logs), SHORTEST))
    pieces = bar.draw(now._replace(logs=logs), min(SHORTEST + max(spare, 0), bar.width))
    while length(pieces) > room and len(pieces) > 1:
        pieces.pop()
    return [pieces[0]._replace(text=pieces[0].text[:room]), *pieces[1:]]


def length(pieces: list[Piece]) -> int:
    """The number of columns that the pieces take."""
    return sum(len(piece.text) for piece in pieces)
