"""A Lightning logger that keeps every point, in MLflow's own default place."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock  # torch brings it

from lr_plugins._lightning import Logger, rank_zero_only, rank_zero_warn
from lr_plugins.errors import InvalidArgument

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000  # metrics MLflow takes in one call
PARAMS_BATCH = 100  # params MLflow takes in one call
PARAM_LENGTH = 6000  # characters MLflow takes in the value of a param
FLUSH_SECONDS = 2.0  # how far the page may lag behind the training
_REFUSED_IN_NAMES = re.compile(r"[^\w\-./ :]")


class MLflowLogger(Logger):
    """Log a Lightning run to MLflow: every value in float64 at its exact step, sent in batches.

    Without `tracking_uri` it goes where MLflow itself would go: what `MLFLOW_TRACKING_URI` names, or else
    `mlflow.db` in the current folder, which is where `mlflow ui` without flags looks. The run is created when the
    fit begins, and ends FINISHED, FAILED or, when it was interrupted, KILLED.

    `continue_run` makes it go on with a run that was interrupted. What that run has of a metric at a step is not logged
    again. Where it is another value, the first one stays (MLflow cannot delete points), and a warning tells so.

    Args:
        experiment_name: the MLflow experiment; created if there is none. Default `"lr_plugins"`.
        run_name: the run's name. Default None: MLflow makes one up.
        tracking_uri: where to log. Default None: MLflow's own default.
        tags: tags of the run.

    Raises:
        InvalidArgument: mlflow is not installed.

    Example:
        >>> logger = MLflowLogger(experiment_name="digits", tags={"schedule": "step_decay"})
        >>> logger.run_id is None
        True
    """

    def __init__(
        self,
        experiment_name: str = "lr_plugins",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if find_spec("mlflow") is None:
            raise InvalidArgument("MLflowLogger", "no mlflow", "used with mlflow installed", "pip install mlflow")
        self.experiment_name, self.run_name, self.tracking_uri = experiment_name, run_name, tracking_uri
        self.tags = {name: str(value) for name, value in (tags or {}).items()}
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self._client: MlflowClient | None = None
        self._waiting: list[Any] = []
        self._flushed_at = 0.0
        self._ended = False
        self._continued: str | None = None  # the id of a run to go on with
        self._known_params: dict[str, str] = {}  # those that the run had before
        self._known_points: dict[str, dict[int, float]] | None = None  # the same, by name and step; None: a new run
        self._differing = 0  # points that were another value before

    # --- Lightning's logger interface --------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment_name

    @property
    def version(self) -> str | None:
        """The run's id, None before the fit begins."""
        return self.run_id

    @property
    def experiment(self) -> MlflowClient | None:
        """MLflow's client, with the run created; None on other ranks than 0."""
        return self._running() if getattr(rank_zero_only, "rank", 0) == 0 else None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics to be sent with the next batch."""
        from mlflow.entities import Metric

        self._running()
        now = time.time()
        for name, value in metrics.items():
            if not self._is_known(_name(name), float(value), step or 0):
                self._waiting.append(Metric(_name(name), float(value), int(now * 1000), step or 0))
        if len(self._waiting) >= BATCH or now - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Log parameters, nested ones under dotted names."""
        from mlflow.entities import Param

        flat = list(_flat(vars(params) if isinstance(params, Namespace) else params))
        client = self._running()
        entries = [Param(_name(name), str(value)[:PARAM_LENGTH]) for name, value in flat]
        entries = [entry for entry in entries if entry.key not in self._known_params]  # MLflow refuses other values
        for start in range(0, len(entries), PARAMS_BATCH):
            client.log_batch(self.run_id, params=entries[start : start + PARAMS_BATCH])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is waiting and end the run."""
        if self.run_id is None:
            return
        self.flush()
        if self._differing:
            rank_zero_warn(
                f"{self._differing} points of MLflow run {self.run_id} have another value now than before the run was "
                "resumed; the first value stays. With new_run=true, a resumed training gets a run of its own."
            )
            self._differing = 0
        self._running().set_terminated(self.run_id, _run_status(status))
        self._ended = True

    # --- beyond it ---------------------------------------------------------------------------------------

    def continue_run(self, run_id: str) -> bool:
        """Go on with a run instead of creating one, when it begins; whether the store has that run.

        Args:
            run_id: its id.
        """
        from mlflow.exceptions import MlflowException

        with self._lock():
            client = self._connect()
        try:
            run = client.get_run(run_id)
        except MlflowException:
            return False
        if run.info.lifecycle_stage != "active":
            return False
        self._continued, self.run_name = run_id, run.info.run_name
        return True

    @property
    def times_continued(self) -> int:
        """How often the run has been resumed so far, this time included."""
        client = self._running()
        return int(client.get_run(self.run_id).data.tags.get("resumed", 0))

    @rank_zero_only
    def set_tag(self, name: str, value: object) -> None:
        """Tag the run."""
        self._running().set_tag(self.run_id, name, str(value))

    @property
    def page(self) -> str | None:
        """Where to see the run's curves: the address of its page, with how to serve it where that is local."""
        if self._client is None or self.run_id is None:
            return None
        server: str = self._client.tracking_uri
        local = not server.startswith("http")
        # Without the workflow in the address MLflow shows its pages for chatbots.
        path = f"#/experiments/{self.experiment_id}/runs/{self.run_id}/model-metrics?workflowType=machine_learning"
        return f"mlflow ui, then http://127.0.0.1:5000/{path}" if local else f"{server.rstrip('/')}/{path}"

    @rank_zero_only
    def flush(self) -> None:
        """Send what is waiting."""
        client = self._running()
        while self._waiting:
            client.log_batch(self.run_id, metrics=self._waiting[:BATCH])
            del self._waiting[:BATCH]
        self._flushed_at = time.time()

    @rank_zero_only
    def log_artifact(self, path: str | Path) -> None:
        """Store a file with the run."""
        self._running().log_artifact(self.run_id, str(path))

    @rank_zero_only
    def log_text(self, text: str, name: str) -> None:
        """Store a text with the run, as a file of that name."""
        self._running().log_text(self.run_id, text, name)

    def _running(self) -> MlflowClient:
        if self._client is None:
            # Two runs that begin at once in a new folder would both make the tables, and one of them fail.
            with self._lock():
                self._client = self._connect()
                if self._continued is None:
                    self._create_run(self._client)
                else:
                    self._take_up(self._client, self._continued)
        elif self._ended:  # another fit goes on in the same run
            self._client.update_run(self.run_id, status="RUNNING")
        self._ended = False
        return self._client

    def _lock(self) -> FileLock:
        return FileLock(Path(tempfile.gettempdir()) / f"lr_plugins-{_digest(self.tracking_uri)}.lock")

    def _connect(self) -> MlflowClient:
        from mlflow import MlflowClient

        # Announcing each table of a new database helps nobody who only wants to train.
        for talkative in ("mlflow.store.db.utils", "alembic.runtime.migration", "mlflow.tracking.fluent"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        return MlflowClient(self.tracking_uri)

    def _create_run(self, client: MlflowClient) -> None:
        from mlflow.tracking.context.registry import resolve_tags

        experiment = client.get_experiment_by_name(self.experiment_name)
        if experiment is not None:
            self.experiment_id = experiment.experiment_id
        else:
            self.experiment_id = client.create_experiment(self.experiment_name)
        run = client.create_run(self.experiment_id, tags=resolve_tags(self.tags), run_name=self.run_name)
        self.run_id, self.run_name = run.info.run_id, run.info.run_name

    def _take_up(self, client: MlflowClient, run_id: str) -> None:
        run = client.get_run(run_id)
        self.run_id, self.run_name, self.experiment_id = run_id, run.info.run_name, run.info.experiment_id
        self._known_params, self._known_points = dict(run.data.params), {}
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "resumed", str(int(run.data.tags.get("resumed", 0)) + 1))

    def _is_known(self, name: str, value: float, step: int) -> bool:
        """Whether a continued run has a point of this metric at this step."""
        if self._known_points is None or self._client is None:
            return False
        if name not in self._known_points:
            history = self._client.get_metric_history(self.run_id, name)
            self._known_points[name] = {point.step: point.value for point in history}
        before = self._known_points[name].get(step)
        if before is None:
            return False
        self._differing += not _same(before, value)
        return True


def _same(stored: float, value: float) -> bool:
    """Whether the database has this value; it holds infinity as the largest number that it can."""
    if math.isinf(value):
        return abs(stored) > 1e300 and (stored > 0) == (value > 0)
    return stored == value or (math.isnan(stored) and math.isnan(value))


def _digest(tracking_uri: str | None) -> str:
    """A short name of a database, the same for every process that uses it from here."""
    place = f"{Path.cwd()} {tracking_uri or os.environ.get('MLFLOW_TRACKING_URI')}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _run_status(status: str) -> str:
    if status in ("success", "finished"):
        return "FINISHED"
    # Lightning says "failed" whatever happened, from within the handler of the exception.
    interruption = isinstance(sys.exc_info()[1], (KeyboardInterrupt, SystemExit))
    return "KILLED" if interruption else "FAILED"


def _name(name: str) -> str:
    return _REFUSED_IN_NAMES.sub("_", name)


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
