"""Reading runs from the `run.json` in their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lr_plugins.comparison.histories import Points
from lr_plugins.comparison.runs import OVERRIDES, Run, distinguished

RUN_FILE = "run.json"


def find_run_files(folder: str | Path, sweep: str | None = None) -> list[Run]:
    """The runs below a folder, in the order in which they started; unreadable files are skipped.

    Args:
        folder: e.g. that of a sweep.
        sweep: the ID of a sweep, to select only its runs. Default None: all runs.
    """
    runs = []
    for file in sorted(Path(folder).rglob(RUN_FILE)):
        try:
            whole = json.loads(file.read_text(encoding="utf-8"))
            if sweep is not None and whole["sweep"] != sweep:
                continue
            runs.append((float(whole["begun"]), _run(whole, file.parent.relative_to(folder).as_posix())))
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            continue
    return distinguished([run for _, run in sorted(runs, key=lambda timed: timed[0])])


def _run(whole: dict[str, Any], place: str) -> Run:
    tags = {name: str(whole[name]) for name in ("model", "data", OVERRIDES) if name in whole}
    curves = {
        str(name): Points(np.array(steps, np.int64), np.array([float(value) for value in values], np.float64))
        for name, (steps, values) in sorted(whole["curves"].items())
        if name != "epoch"
    }
    return Run(
        run_id=str(whole.get("run_id") or place),
        name=str(whole.get("name") or place),
        schedule=str(whole["schedule"]),
        seed=str(whole.get("seed", "")),
        status=str(whole["status"]),
        seconds=float(whole["seconds"]),
        curves=curves,
        tags=tags,
    )
