"""Sweeps: a comparison of their runs, and a parent run in MLflow."""

from __future__ import annotations

import atexit
import os
import uuid
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lr_plugins.tracking.destination import NOTE
from lr_plugins.tracking.names import LENGTH
from lr_plugins.tracking.spool import DEFAULT, is_left, spools
from lr_plugins.training.credentials import revealed_text
from lr_plugins.training.entry_point import records_in_mlflow

COMPARISON = "comparison"
PARENT_RUN = "LR_PLUGINS_PARENT_RUN"  # in the environment, which the processes of a launcher inherit
SWEEP = "LR_PLUGINS_SWEEP"  # the sweep's ID, likewise
interrupted = False
"""Whether Ctrl-C has ended the program."""


class Sweep(Callback):  # type: ignore[misc]
    """A Hydra callback that compares the runs of a sweep, whichever logger they use.

    When the sweep ends, it writes `comparison.csv`, `comparison.md` and pictures of the learning rates and metrics to
    `comparison` in the sweep's folder. If the runs log to MLflow, they are children of a parent run, which gets the
    same files.
    """

    def __init__(self) -> None:
        self._logger: Any = None
        self._folder: Path | None = None
        self._id = uuid.uuid4().hex

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Start the parent run, if the runs log to MLflow."""
        self._folder = Path(str(config.hydra.sweep.dir)).absolute()
        os.environ[SWEEP] = self._id
        try:
            if records_in_mlflow(config):
                self._start_parent(config)
        finally:
            # Hydra does not call on_multirun_end after an error or Ctrl-C. Registered last, this handler runs before
            # the logger's own, which would end the run as finished.
            atexit.register(self._end, "failed")

    def _start_parent(self, config: DictConfig) -> None:
        from lr_plugins.tracking import MLflowLogger

        overrides = list(OmegaConf.to_container(config.hydra.overrides.task))  # type: ignore[arg-type]
        # One by one, because other fields of the logger can only be resolved in a job.
        known = {name: config.logger.get(name) for name in ("experiment_name", "tracking_uri", "spool_dir")}
        known = {name: value for name, value in known.items() if value}
        if "tracking_uri" in known:
            known["tracking_uri"] = revealed_text(known["tracking_uri"])
        self._logger = MLflowLogger(**known, run_name=("sweep " + " ".join(overrides))[:LENGTH], tags={"kind": "sweep"})
        self._logger.log_hyperparams({"overrides": " ".join(overrides)})
        os.environ[PARENT_RUN] = self._logger.run_id or ""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Compare the runs, and end the parent run."""
        self._end("success")

    def _end(self, status: str) -> None:
        os.environ.pop(PARENT_RUN, None)
        os.environ.pop(SWEEP, None)
        (logger, folder), self._logger, self._folder = (self._logger, self._folder), None, None
        if folder is None:
            return
        try:
            self._compare(folder, logger)
        except Exception as error:  # the runs are recorded, and can be compared later
            status = "failed"
            print(f"The runs could not be compared: {error}", flush=True)
        if logger is None:
            return
        logger.finalize("interrupted" if interrupted else status)
        left = [place for place in spools(logger.spool_folder) if is_left(place)]
        if left:
            place = "" if logger.spool_dir == DEFAULT else f" {logger.spool_dir}"
            print(f"MLflow does not have everything of {len(left)} runs yet; send it with: lr-plugins send{place}")

    def _compare(self, folder: Path, logger: Any) -> None:
        from lr_plugins.comparison.report import PAGE, RUNS, compare
        from lr_plugins.comparison.run_files import find_run_files

        runs = find_run_files(folder, self._id)
        if not runs:
            print(
                f"There is nothing to compare: the runs of the sweep have left no run.json below {folder}", flush=True
            )
            return
        files = compare(runs, folder / COMPARISON)
        page = next(file for file in files if file.name == PAGE).read_text(encoding="utf-8")
        print(f"\n{page.partition(RUNS)[0]}\ncompared in     {folder / COMPARISON}", flush=True)
        if logger is not None:
            for file in files:
                logger.log_artifact(file, COMPARISON)
            logger.set_tag(NOTE, page)  # MLflow shows it as the run's description
            if logger.address("overview") is not None:
                print(f"to browse       {logger.address('overview')}", flush=True)
