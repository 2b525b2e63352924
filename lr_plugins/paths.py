"""The directory that relative paths refer to, also in Hydra jobs that change the working directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def start_folder() -> Path:
    """The working directory; in a Hydra job with `chdir=true`, the one in which the program was started."""
    here = Path.cwd()
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is None or not hydra.HydraConfig.initialized():
        return here
    runtime = hydra.HydraConfig.get().runtime
    job = runtime.get("output_dir")  # there is none outside a job
    return Path(runtime.cwd) if job is not None and here == Path(job).resolve() else here


def from_start(path: str | os.PathLike[str]) -> Path:
    """An absolute path, relative to `start_folder`; `~` is the user's home.

    Example:
        >>> from_start("/data/runs"), from_start("runs").is_absolute()
        (PosixPath('/data/runs'), True)
    """
    return start_folder() / Path(path).expanduser()
