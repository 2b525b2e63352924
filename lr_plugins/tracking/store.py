"""What is logged, put into MLflow."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from struct import iter_unpack
from typing import Any

from filelock import FileLock

from lr_plugins.tracking.spool import BY_SPOOL, FILES, State, remove

BATCH = 1000  # metrics MLflow takes in one call
PARAMS_BATCH = 100  # params MLflow takes in one call
PARAM_LENGTH = 6000  # characters MLflow takes in the value of a param
_REFUSED_IN_NAMES = re.compile(r"[^\w\-./ :]")
_SPOOL_TAG = "lr_plugins.spool"  # by which a run is found again whose id nobody was told
_VERSIONS = ("lr-plugins", "torch", "pytorch-lightning", "mlflow")  # that are noted
# What no other attempt will mend.
_FINAL = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
}
Point = tuple[str, float, int, int]
"""Name, value, time in ms, step."""


class Refused(Exception):
    """MLflow does not take an entry, and never will."""


class Store:
    """One run in MLflow.

    Args:
        folder: the spool's.
        state: is kept up to date.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self.state = folder, state
        self._client: Any = None
        self._system: Any = None  # MLflow's monitor of the machine
        self._known_points: dict[str, dict[int, float]] = {}  # of a run that is gone on with, by name and step
        self._does: dict[str, Callable[[dict[str, Any]], None]] = {
            "run": self._begin,
            "params": self._add_params,
            "tags": self._set_tags,
            "file": self._add_file,
            "dataset": self._add_dataset,
            "end": self._end,
        }

    def do(self, entry: dict[str, Any]) -> None:
        """Carry out an entry that is none of points.

        Raises:
            Refused: MLflow does not take it.
        """
        self._does[entry["do"]](entry)

    def kill(self, time: int) -> None:
        """Note that the run's process has gone without a word."""
        self._end({"status": "KILLED", "time": time})

    # --- the run ------------------------------------------------------------------------------------------

    def _begin(self, entry: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.chdir(entry["folder"])  # MLflow's default place and relative ones are below it
        # Two runs that begin at once in a new folder would both make the tables, and one of them fail.
        with FileLock(Path(tempfile.gettempdir()) / f"lr_plugins-{_digest(entry['uri'])}.lock"):
            self._connect(entry["uri"])
            known = self.state.run_id or entry["run_id"]
            if known is None and self.state.attempted:  # the run may be there, and the answer have been lost
                known = self._begun_in(entry["spool"], entry["experiment"]) or None
            if known is not None and known.startswith(BY_SPOOL):
                known = self._begun_in(known.removeprefix(BY_SPOOL), entry["experiment"])
            if known is not None:
                self._take_up(known, resumed=entry["resumes"])
                if entry["joins"] and not self.state.missing:
                    self.state.joined = True
                    self._set_tags({"values": {**dict(_versions()), **entry["tags"]}})
            else:
                self._create(entry)
        if entry["system_metrics"] and not self.state.missing:
            self._watch_system()

    def _watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._system is None:
            self._system = SystemMetricsMonitor(
                self.state.run_id, resume_logging=bool(self.state.resumed), tracking_uri=self.state.tracking_uri
            )
            self._system.start()

    def _begun_in(self, spool: str, experiment_name: str) -> str:
        """The run that was begun in a spool; nothing if there is none."""
        experiment = self._client.get_experiment_by_name(experiment_name)
        if experiment is None:
            return ""
        found = self._client.search_runs([experiment.experiment_id], f"tags.`{_SPOOL_TAG}` = '{spool}'", max_results=1)
        return found[0].info.run_id if found else ""

    def _connect(self, uri: str | None) -> None:
        from mlflow import MlflowClient

        # Announcing each table of a new database helps nobody who only wants to train.
        for talkative in ("mlflow.store.db.utils", "alembic.runtime.migration", "mlflow.tracking.fluent"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        self._client = MlflowClient(uri)
        self.state.tracking_uri = self._client.tracking_uri

    def _create(self, entry: dict[str, Any]) -> None:
        self.state.attempted = True
        self.state.write(self._folder)
        _final(lambda: self._create_run(entry))

    def _create_run(self, entry: dict[str, Any]) -> None:
        from mlflow.tracking.context.registry import resolve_tags

        name = entry["experiment"]
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            self.state.experiment_id = experiment.experiment_id
        else:
            self.state.experiment_id = self._client.create_experiment(name, entry["artifact_location"])
        sys.argv[0] = entry["program"]  # whose name and version MLflow notes
        tags = resolve_tags({**dict(_versions()), **entry["tags"], _SPOOL_TAG: entry["spool"]})
        run = self._client.create_run(self.state.experiment_id, entry["time"], tags, entry["name"])
        self.state.run_id, self.state.run_name = run.info.run_id, run.info.run_name

    def _take_up(self, run_id: str, resumed: bool) -> None:
        self.state.missing = False
        try:
            run = _final(lambda: self._client.get_run(run_id))
        except Refused:
            self.state.missing = True
            return
        if run.info.lifecycle_stage != "active":
            self.state.missing = True
            return
        self.state.run_id, self.state.run_name = run_id, run.info.run_name
        self.state.experiment_id = run.info.experiment_id
        self.state.known_before = dict(run.data.params) if resumed else {}
        self.state.checks, self._known_points = resumed, {}
        if resumed:
            self.state.resumed = int(run.data.tags.get("resumed", 0)) + 1
            self.state.status_before = run.info.status
        self._client.update_run(run_id, status="RUNNING")

    def _end(self, entry: dict[str, Any]) -> None:
        if self._system is not None:
            self._system.finish()
            self._system = None
        if self.state.joined and entry["status"] != "KILLED":
            return  # whoever began it ends it
        # Of a run that something kept from going on, nothing has changed.
        status = self.state.status_before if self.state.status_before not in ("", "RUNNING") else entry["status"]
        self._connected.set_terminated(self.state.run_id, status, end_time=entry["time"])

    @property
    def _connected(self) -> Any:
        if self._client is None:  # a sender before this one began the run
            self._connect(self.state.tracking_uri)
        return self._client

    # --- what it holds ------------------------------------------------------------------------------------

    def add_points(self, points: Sequence[Point]) -> None:
        """Add at most `BATCH` points of metrics.

        Raises:
            Refused: MLflow does not take one of them.
        """
        from mlflow.entities import Metric

        client = self._connected
        new = [Metric(*point) for point in points if not self._is_known(point)]
        self._count_resume()
        if new:
            _final(lambda: client.log_batch(self.state.run_id, metrics=new))

    def _count_resume(self) -> None:
        """Note that a run which is gone on with has really begun to."""
        if self.state.status_before:
            self.state.status_before = ""
            self._connected.set_tag(self.state.run_id, "resumed", str(self.state.resumed))

    def _is_known(self, point: Point) -> bool:
        """Whether a continued run has a point of this metric at this step."""
        name, value, _, step = point
        if not self.state.checks:
            return False
        if name not in self._known_points:
            history = self._connected.get_metric_history(self.state.run_id, name)
            self._known_points[name] = {point.step: point.value for point in history}
        before = self._known_points[name].get(step)
        if before is None:
            return False
        self.state.differing += not _same(before, value)
        return True

    def _add_params(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Param

        values = {mended(name): text for name, text in entry["values"].items()}
        values = {name: text for name, text in values.items() if name not in self.state.known_before}
        params = [Param(name, self._fitting(name, text)) for name, text in values.items()]
        for start in range(0, len(params), PARAMS_BATCH):
            self._log_params(params[start : start + PARAMS_BATCH])

    def _log_params(self, params: list[Any]) -> None:
        try:
            _final(lambda: self._connected.log_batch(self.state.run_id, params=params))
        except Refused:
            if len(params) == 1:
                raise
            refused = []
            for one in params:
                try:
                    self._log_params([one])
                except Refused as error:
                    refused.append(str(error))
            raise Refused("; ".join(refused)) from None

    def _fitting(self, name: str, text: str) -> str:
        """A text as long as MLflow takes it; one that is longer is stored whole as a file beside, and says where."""
        if len(text) <= PARAM_LENGTH:
            return text
        place = f"params/{name.replace('/', '.')}.txt"
        self._connected.log_text(self.state.run_id, text, place)
        note = f"... ({len(text)} characters, whole in {place})"
        return text[: PARAM_LENGTH - len(note)] + note

    def _set_tags(self, entry: dict[str, Any]) -> None:
        self._count_resume()
        for name, text in entry["values"].items():
            _final(lambda name=name, text=text: self._connected.set_tag(self.state.run_id, name, text))  # type: ignore[misc]

    def _add_file(self, entry: dict[str, Any]) -> None:
        place = self._folder / FILES / entry["kept"]
        for path in place.iterdir() if place.is_dir() else ():
            # A folder's contents go below its name, as with a file.
            to = entry["to"] if path.is_file() else "/".join(part for part in (entry["to"], path.name) if part)
            send = self._connected.log_artifact if path.is_file() else self._connected.log_artifacts
            _final(lambda path=path, to=to, send=send: send(self.state.run_id, str(path), to))  # type: ignore[misc]
        remove(place)

    def _add_dataset(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = DatasetInput(Dataset(**entry["dataset"]), [InputTag("mlflow.data.context", entry["context"])])
        _final(lambda: self._connected.log_inputs(self.state.run_id, [data]))


def points_of(entry: dict[str, Any]) -> Iterator[Point]:
    """The points of an entry; none of one that has none."""
    if entry["do"] == "points":
        for name, value in entry["values"].items():
            yield mended(name), value, entry["time"], entry["step"]
    elif entry["do"] == "series":
        name, time = mended(entry["name"]), entry["time"]
        for step, (value,) in enumerate(iter_unpack("<d", b64decode(entry["values"])), entry["step"]):
            yield name, value, time, step


def mended(name: str) -> str:
    """A name without what MLflow does not take in one."""
    return _REFUSED_IN_NAMES.sub("_", name)


def _final(call: Callable[[], Any]) -> Any:
    """The result of a call; what no other attempt would mend as `Refused`."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code in _FINAL:
            raise Refused(_first_line(error)) from error
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _versions() -> Iterator[tuple[str, str]]:
    yield "version.python", sys.version.split()[0]
    for package in _VERSIONS:
        try:
            yield f"version.{package}", version(package)
        except PackageNotFoundError:  # run from a folder, not installed
            continue


def _same(stored: float, value: float) -> bool:
    """Whether the database has this value; it holds infinity as the largest number that it can."""
    if math.isinf(value):
        return abs(stored) > 1e300 and (stored > 0) == (value > 0)
    return stored == value or (math.isnan(stored) and math.isnan(value))


def _digest(tracking_uri: str | None) -> str:
    """A short name of a database, the same for every process that uses it from here."""
    place = f"{Path.cwd()} {tracking_uri or os.environ.get('MLFLOW_TRACKING_URI')}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]
