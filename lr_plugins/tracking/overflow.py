"""Entries that no disk has room for."""

from __future__ import annotations

import time

from lr_plugins.tracking.entries import number_of_points

_TRY_EVERY = 0.5  # seconds between attempts to find room


class Overflow:
    """Entries held in memory, in order, until a disk has room for them."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.points = 0
        self.lost_points = self.lost_entries = 0  # what was still held when the run ended
        self.has_warned = False
        self._tried_at = 0.0

    def __bool__(self) -> bool:
        return bool(self.lines)

    def add(self, line: bytes) -> None:
        """Hold one more entry."""
        self.lines.append(line)
        self.points += number_of_points(line)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look for room again."""
        return time.monotonic() - self._tried_at > _TRY_EVERY

    def take(self) -> list[bytes]:
        """Hand over what is held, to be written, or to be added again."""
        lines, self.lines, self.points, self._tried_at = self.lines, [], 0, time.monotonic()
        return lines

    def give_up(self) -> None:
        """Count what is still held as lost: the run has ended."""
        self.lost_points, self.lost_entries = self.points, len(self.lines)
        self.points, self.lines = 0, []
