"""The folder that relative places are relative to: taken once, whatever folder the program goes to later."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def start_folder() -> Path:
    """The current folder; where Hydra has changed to that of a job, the one that the program was started in."""
    here = Path.cwd()
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is None or not hydra.HydraConfig.initialized():
        return here
    runtime = hydra.HydraConfig.get().runtime
    job = runtime.get("output_dir")  # there is none outside a job
    return Path(runtime.cwd) if job is not None and here == Path(job).resolve() else here


def from_start(path: str | os.PathLike[str]) -> Path:
    """A path that stays the same when the program goes to another folder; `~` is the user's home.

    Example:
        >>> from_start("/data/runs"), from_start("runs").is_absolute()
        (PosixPath('/data/runs'), True)
    """
    return start_folder() / Path(path).expanduser()
