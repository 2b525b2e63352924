"""The progress of an epoch or an evaluation: counts and times the batches, and draws the bar."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from lr_plugins.callbacks.keras_progress.units import Units
from lr_plugins.console.keras_styles import Style
from lr_plugins.console.keras_text import EpochProgress, draw
from lr_plugins.console.line import ConsoleLine

REFRESH_INTERVAL = 0.05
"""The least time between two refreshes of a progress bar, in seconds: Keras' own."""


class Progress:
    """Counts and times the batches of an epoch or an evaluation, and draws its bar.

    Args:
        units: what the bar counts.
        style: `"keras2"` or `"keras3"`.
    """

    def __init__(self, units: Units, style: Style) -> None:
        self.units, self._style = units, style
        self.batches = 0
        """Batches counted here."""
        self.position = 0
        """Batches done, including those before an interruption."""
        self._started = perf_counter()
        self._first_batch = 0.0  # seconds until the first batch was done
        self._line, self._refreshed = ConsoleLine(), float("-inf")

    def count(self, position: int) -> bool:
        """Count a batch.

        Args:
            position: batches done, including this one and those before an interruption.

        Returns:
            Whether the bar is due for a refresh.
        """
        now = perf_counter()
        self.batches, self.position = self.batches + 1, position
        if self.batches == 1:
            self._first_batch = now - self._started
        # Keras 2 draws the last batch at the end of the epoch only.
        is_last = self.units.target == self.units.done(position)
        return now - self._refreshed >= REFRESH_INTERVAL and not (self._style == "keras2" and is_last)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    def refresh(self, logs: Mapping[str, float]) -> None:
        """Draw the bar of the batches so far."""
        self._refreshed = perf_counter()
        self._draw(self.elapsed, logs, final=False)

    def finish(self, elapsed: float, logs: Mapping[str, float]) -> None:
        """Draw the final bar."""
        self._draw(elapsed, logs, final=True)

    def abort(self) -> None:
        """End the line of a bar that stays unfinished, after an error."""
        self._line.end()

    def _draw(self, elapsed: float, logs: Mapping[str, float], final: bool) -> None:
        shown = self._shown(elapsed, logs, final)
        self._line.show(lambda columns: draw(self._style, shown, columns), final)

    def _shown(self, elapsed: float, logs: Mapping[str, float], final: bool) -> EpochProgress:
        done, target = self.units.done(self.position), self.units.target
        done_here = done - self.units.done(self.position - self.batches)
        if self._style == "keras3" and self.batches > 1:  # Keras 3 excludes the first step, which takes longer
            unit_time = (elapsed - self._first_batch) / (self.batches - 1)
        else:
            unit_time = elapsed / done_here if done_here else 0.0
        if target is None or done > target:  # the length of a stream is known only at its end
            target = done if final else None
        return EpochProgress(done, target, elapsed, unit_time, logs, final)
