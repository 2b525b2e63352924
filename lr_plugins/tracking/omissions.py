"""Warnings about what MLflow cannot record, each given once."""

from __future__ import annotations

from typing import Any

from lr_plugins.errors import shown
from lr_plugins.rank_zero import rank_zero_warn

_STEPS = 1 << 63  # MLflow's steps are below this


class Omissions:
    """Remembers what has been left out, so that nobody is warned twice."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def warn(self, what: str) -> None:
        """Warn of something that is left out, unless that has been done."""
        if what not in self._warned:
            self._warned.add(what)
            rank_zero_warn(f"MLflowLogger leaves out {what}.")

    def step(self, step: Any) -> int | None:
        """A step as an integer that MLflow accepts; None, with a warning, if it is not one."""
        try:
            whole = int(step or 0)
        except (TypeError, ValueError, OverflowError):
            whole = _STEPS
        if -_STEPS <= whole < _STEPS:
            return whole
        self.warn(f"metrics at step {shown(step)}: a step is an integer below 2**63")
        return None

    def value(self, name: str, value: Any) -> float | None:
        """A metric's value as a float; None, with a warning, if it is not a number."""
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            self.warn(f"the metric {name!r}: {shown(value)} is not a number, or too large for a double")
            return None
