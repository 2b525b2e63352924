"""A sweep in MLflow: a parent run, the runs below it, and their comparison when the sweep ends."""

from __future__ import annotations

import atexit
import os
import tempfile
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lr_plugins.tracking.names import LENGTH
from lr_plugins.tracking.spool import DEFAULT, is_left, spools
from lr_plugins.training.credentials import revealed_text

PARENT_RUN = "LR_PLUGINS_PARENT_RUN"  # in the environment, for the processes of a launcher inherit it
interrupted = False
"""Whether Ctrl-C has ended the program."""
_MLFLOW = "lr_plugins.tracking.MLflowLogger"


class Sweep(Callback):  # type: ignore[misc]
    """Hydra's callback that makes one run of a sweep, with the sweep's runs as its children.

    When the last of them has ended, the parent gets the comparison: `comparison.csv`, `comparison.md`, the learning
    rates together, and the metrics with their spread over seeds. With another logger than MLflow's it does nothing.
    """

    def __init__(self) -> None:
        self._logger: Any = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Begin the parent run."""
        node = config.logger
        if node.get("_target_") != _MLFLOW:
            return
        from lr_plugins.tracking import MLflowLogger

        overrides = list(OmegaConf.to_container(config.hydra.overrides.task))  # type: ignore[arg-type]
        plain = OmegaConf.to_container(node, resolve=False)
        assert isinstance(plain, dict)
        known = {name: plain[name] for name in ("experiment_name", "tracking_uri", "spool_dir") if plain.get(name)}
        if "tracking_uri" in known:
            known["tracking_uri"] = revealed_text(known["tracking_uri"])
        self._logger = MLflowLogger(**known, run_name=("sweep " + " ".join(overrides))[:LENGTH], tags={"kind": "sweep"})
        self._logger.log_hyperparams({"overrides": " ".join(overrides)})
        os.environ[PARENT_RUN] = self._logger.run_id or ""
        # Hydra does not tell of the end of a sweep that an error or Ctrl-C breaks off.
        atexit.register(self._end, "failed")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Compare the runs, and end the parent."""
        self._end("success")

    def _end(self, status: str) -> None:
        os.environ.pop(PARENT_RUN, None)
        logger, self._logger = self._logger, None
        if logger is None:
            return
        try:
            self._compare(logger)
        except Exception as error:  # the runs are recorded; they can be compared again
            status = "failed"
            print(f"The runs could not be compared: {error}", flush=True)
        logger.finalize("interrupted" if interrupted else status)
        left = [folder for folder in spools(logger.spool_dir) if is_left(folder)]
        if left:
            place = "" if logger.spool_dir == DEFAULT else f" {logger.spool_dir}"
            print(f"Of {len(left)} runs, MLflow lacks something; send it with: python -m lr_plugins.tracking{place}")

    def _compare(self, logger: Any) -> None:
        from mlflow import MlflowClient

        from lr_plugins.report.compare import PAGE, RUNS, compare
        from lr_plugins.report.runs import find_runs

        runs = find_runs(MlflowClient(logger.tracking_uri), parent=logger.run_id) if logger.run_id else []
        if not runs:
            return
        with tempfile.TemporaryDirectory() as folder:
            for file in compare(runs, folder):
                logger.log_artifact(file, "comparison")
                if file.name == PAGE:
                    page = file.read_text(encoding="utf-8")
        logger.set_tag("mlflow.note.content", page)  # MLflow shows it as the run's description
        print(f"\n{page.partition(RUNS)[0]}\ncompared in     {logger.address('overview')}", flush=True)
