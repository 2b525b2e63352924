"""`run.json` in a run's folder: the run's settings and curves, for comparisons without a server."""

from __future__ import annotations

import json
import math
import sys
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lr_plugins._lightning.compat import Logger
from lr_plugins.comparison.run_files import RUN_FILE
from lr_plugins.rank_zero import rank_zero_only
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.entries import BY_SPOOL
from lr_plugins.tracking.run_status import run_status

_WRITE_EVERY = 10.0  # seconds, so that a killed run leaves its curves
_SHARE = 50  # the pause after a write, as a multiple of its duration
_MOST_POINTS = 4000  # of a series: a picture shows no more


class RunFile(Logger):
    """A logger that writes a run's settings and curves to `run.json`.

    The file has every value of the metrics. A series with a value at each step, such as a learning rate, is thinned to
    about 4,000 points, including the first and the last.

    Args:
        folder: the run's folder.
        about: the run's settings as strings: `schedule`, `model`, `data`, `seed`, `name`, `overrides`, `sweep`.
        recorded: the logger whose run ID is included. Default None: no run ID.
    """

    def __init__(self, folder: Path, about: Mapping[str, str], recorded: Logger | None = None) -> None:
        super().__init__()
        self.path, self.about, self._recorded = folder / RUN_FILE, dict(about), recorded
        self.begun = time.time()
        self._curves: dict[str, tuple[array[int], array[float]]] = {}
        self._series: set[str] = set()  # curves with a value at each step
        self._next_write = 0.0

    @property
    def name(self) -> str:
        """Empty: checkpoints need no folder below the run's."""
        return ""

    @property
    def version(self) -> str:
        """The same."""
        return ""

    @property
    def experiment(self) -> None:
        """None: there is no underlying object."""
        return

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the settings are known."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep values at a step."""
        for name, value in metrics.items():
            steps, values = self._curve(name, step or 0)
            steps.append(step or 0)
            values.append(float(value))

    @rank_zero_only
    def log_series(self, name: str, first_step: int, values: array[float]) -> None:
        """Keep values at consecutive steps."""
        self._series.add(name)
        steps, kept = self._curve(name, first_step)
        steps.extend(range(first_step, first_step + len(values)))
        kept.extend(values)

    def _curve(self, name: str, step: int) -> tuple[array[int], array[float]]:
        """A curve up to a step: a resumed run logs again what was logged after the checkpoint it resumes from."""
        steps, values = self._curves.setdefault(name, (array("q"), array("d")))
        while steps and steps[-1] >= step:
            steps.pop()
            values.pop()
        return steps, values

    @rank_zero_only
    def resume(self) -> None:
        """Start from the curves that the run left in its folder."""
        try:
            left = json.loads(self.path.read_text(encoding="utf-8"))
            self.begun -= float(left["seconds"])
            for name, (steps, values) in left["curves"].items():
                self._curves[str(name)] = array("q", steps), array("d", map(float, values))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError):
            self._curves = {}  # unreadable: start with empty curves

    @rank_zero_only
    def save(self) -> None:
        """Write the file at most every ten seconds, and for at most 2 % of the time."""
        started = time.monotonic()
        if started >= self._next_write:
            self.write("RUNNING")
            self._next_write = time.monotonic() + max(_WRITE_EVERY, _SHARE * (time.monotonic() - started))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file with the run's final status."""
        self.write(run_status(status))

    def write(self, status: str) -> None:
        """Write the file atomically; failing to do so does not stop the training."""
        known = self._recorded.reference if isinstance(self._recorded, MLflowLogger) else None
        whole = {
            **self.about,
            "run_id": known if known is not None and not known.startswith(BY_SPOOL) else "",
            "status": status,
            "begun": self.begun,
            "seconds": time.time() - self.begun,
            "curves": {
                name: _written(*curve, _MOST_POINTS if name in self._series else len(curve[0]))
                for name, curve in self._curves.items()
            },
        }
        part = self.path.with_name(f"{RUN_FILE}.part")
        try:
            part.unlink(missing_ok=True)  # a link would be followed
            part.write_text(json.dumps(whole), encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            print(f"{self.path} cannot be written ({error}); comparisons will lack this run.", file=sys.stderr)


def _written(steps: array[int], values: array[float], most: int) -> tuple[list[int], list[float | str]]:
    """A curve for the file, thinned to about `most` points: values as numbers, NaN and infinity as strings."""
    kept = [*range(0, len(steps), max(math.ceil(len(steps) / max(most, 1)), 1))]
    if kept and kept[-1] != len(steps) - 1:
        kept.append(len(steps) - 1)
    return [steps[at] for at in kept], [values[at] if math.isfinite(values[at]) else str(values[at]) for at in kept]
