"""What is logged, put into MLflow."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lr_plugins.tracking.answers import Missing, NotMLflow, Refused, asked
from lr_plugins.tracking.entries import BY_SPOOL, Point
from lr_plugins.tracking.names import LENGTH, path_problem, sanitize_name
from lr_plugins.tracking.private_files import NotOurs, check_folder, files_below, make_private_folder
from lr_plugins.tracking.secrets import connectable, has_secret, masked
from lr_plugins.tracking.spool import FILES, addresses, own_lock, remove
from lr_plugins.tracking.state import State

BATCH = 1000  # metrics MLflow takes in one call
PARAMS_BATCH = 100  # params MLflow takes in one call
PARAM_LENGTH = 6000  # characters MLflow takes in the value of a param
_TAG_LENGTH = 5000  # characters that every version of MLflow takes in the value of a tag
_SPOOL_TAG = "lr_plugins.spool"  # finds a run whose id was never received
_LOST_TAG = "lost_points"
_VERSIONS = ("lr-plugins", "torch", "pytorch-lightning", "mlflow")  # that are noted


class RunGone(Exception):
    """The run has been deleted; it may be restored."""


class Store:
    """One run in MLflow.

    Args:
        folder: the spool's.
        state: is kept up to date.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self.state = folder, state
        self._client: Any = None
        self._address: str | None = None  # as MLflow's client has it
        self._system: Any = None  # MLflow's monitor of the machine
        self._known_points: dict[str, dict[int, float]] = {}  # of a run that is resumed, by name and step
        self._does: dict[str, Callable[[dict[str, Any]], None]] = {
            "run": self._begin,
            "params": self._add_params,
            "tags": self._set_tags,
            "file": self._add_file,
            "dataset": self._add_dataset,
            "end": self._end,
        }

    def do(self, entry: dict[str, Any]) -> None:
        """Carry out an entry other than points.

        Raises:
            Refused: MLflow does not take it.
        """
        if entry["do"] != "run" and self.state.run_id is None:
            raise Refused("it stands before the entry of its run")
        self._does[entry["do"]](entry)

    def kill(self, time: int) -> None:
        """Note that the run's process has gone without a word; a run that has ended stays as it is."""
        if self._ask(lambda: self._connected.get_run(self.state.run_id)).info.status == "RUNNING":
            self._end({"status": "KILLED", "time": time})

    def note_lost(self, points: int) -> None:
        """Note with the run that so many of its points are lost."""
        self._set_tags({"values": {_LOST_TAG: str(points)}})

    def takes_anything(self) -> bool:
        """Whether MLflow takes what changes nothing: then it is the entry that it does not take."""
        try:
            self._set_tag(_SPOOL_TAG, self._origin())
        except Exception:
            return False
        return True

    def _origin(self) -> str:
        tags = self._connected.get_run(self.state.run_id).data.tags
        return str(tags.get(_SPOOL_TAG, self._folder.name))

    # --- asking -------------------------------------------------------------------------------------------

    def _ask(self, call: Callable[[], Any]) -> Any:
        """The result of a call; while it lasts, the state tells since when."""
        if not self._is_remote:
            return asked(call)
        self._note_asked(time.time())
        try:
            found = asked(call)
        except BaseException:
            self._note_asked(0.0)
            raise
        self.state.asked_at = 0.0  # which is kept with what has been sent
        return found

    def _note_asked(self, at: float) -> None:
        self.state.asked_at = at
        with contextlib.suppress(OSError):
            self.state.write(self._folder)

    def _write(self, call: Callable[[], Any], is_there: Callable[[Any], bool] = lambda run: True) -> None:
        """Have something written to the run, and see that it is there: a proxy may answer in MLflow's place.

        Args:
            call: writes it.
            is_there: whether a run has it.

        Raises:
            Refused: MLflow does not take it.
            RunGone: there is no such run any more.
            NotMLflow: something answers that is not MLflow.
        """
        try:
            self._ask(call)
        except Refused:
            self._run()  # if that is gone, the entry is not to blame
            raise
        if self._is_remote and not is_there(self._run()):
            raise NotMLflow(f"{self.state.tracking_uri} answers, but does not keep what it is given")

    def _run(self) -> Any:
        run_id = self.state.run_id
        try:
            run = self._ask(lambda: self._connected.get_run(run_id))
        except Missing:
            raise RunGone(f"run {run_id} is not there any more") from None
        if run.info.run_id != run_id:
            raise NotMLflow(f"{self.state.tracking_uri} answers, but not as MLflow does")
        if run.info.lifecycle_stage != "active":
            raise RunGone(f"run {run_id} has been deleted; mlflow runs restore --run-id {run_id} brings it back")
        return run

    @property
    def _is_remote(self) -> bool:
        return (self._address or self.state.tracking_uri or "").startswith("http")

    # --- the run ------------------------------------------------------------------------------------------

    def _begin(self, entry: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.chdir(entry["folder"])  # MLflow's default place and relative ones are below it
        # Two runs that begin at once in a new folder would both make the tables, and one of them fail.
        with _one_at_a_time(entry["uri"]):
            self._connect(entry["uri"])
            known = self.state.run_id or entry["run_id"]
            by_name = known is None or known.startswith(BY_SPOOL)
            if by_name:  # the run may be there, and the answer have been lost
                known = self._begun_in((known or entry["spool"]).removeprefix(BY_SPOOL), entry["experiment"])
            if known or entry["run_id"] is not None:
                self._take_up(known or "", entry, reopens=entry["resumes"] or entry["run_id"] is not None)
            else:
                self._create(entry)
            if entry["joins"] and not self.state.missing:
                self.state.joined = True
                self._set_tags({"values": {**dict(_versions()), **entry["tags"]}})
        if entry["system_metrics"] and not self.state.missing:
            self._watch_system()

    def _watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._system is None:
            self._system = SystemMetricsMonitor(
                self.state.run_id, resume_logging=bool(self.state.resumed), tracking_uri=self._address
            )
            self._system.start()

    def _begun_in(self, spool: str, experiment_name: str) -> str:
        """The id of the run that was started in a spool; empty if there is none."""
        experiment = self._experiment(experiment_name) if spool else None
        if experiment is None:
            return ""
        query = f"tags.`{_SPOOL_TAG}` = '{spool}'"
        found = self._ask(lambda: self._client.search_runs([experiment.experiment_id], query, max_results=1))
        return found[0].info.run_id if found else ""

    def _experiment(self, name: str) -> Any:
        """An experiment; None if there is none of that name."""
        try:
            found = self._ask(lambda: self._client.get_experiment_by_name(name))
        except Missing:
            return None
        if found is not None and not found.experiment_id:
            raise NotMLflow(f"{self.state.tracking_uri} answers, but not as MLflow does")
        return found

    def _connect(self, shown: str | None) -> None:
        """Connect to an address of which the log has the part that may be shown."""
        from mlflow import MlflowClient

        # Announcing each table of a new database helps nobody who only wants to train.
        for talkative in ("mlflow.store.db.utils", "alembic.runtime.migration", "mlflow.tracking.fluent"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        address = self._whole(shown or os.environ.get("MLFLOW_TRACKING_URI"))
        self._client = MlflowClient(None if address is None else connectable(address))
        self._address = self._client.tracking_uri
        self.state.tracking_uri = masked(self._client.tracking_uri)

    def _whole(self, shown: str | None) -> str | None:
        """An address with its password: that of the environment, if it is the same, or that of the spool."""
        told = os.environ.get("MLFLOW_TRACKING_URI", "")
        if shown is None or (has_secret(told) and masked(told) == shown):
            return told if shown is not None else None
        return addresses(self._folder).get(shown, shown)

    def _create(self, entry: dict[str, Any]) -> None:
        from mlflow.tracking.context.registry import resolve_tags

        name = entry["experiment"]
        experiment = self._experiment(name)
        if experiment is not None:
            self.state.experiment_id = experiment.experiment_id
        else:
            place = self._whole(entry["artifact_location"])
            self.state.experiment_id = self._ask(lambda: self._client.create_experiment(name, place))
        sys.argv[0] = entry["program"]  # whose name and version MLflow notes
        tags = {name: masked(text) for name, text in resolve_tags({**dict(_versions()), **entry["tags"]}).items()}
        tags[_SPOOL_TAG] = entry["spool"]
        run = self._ask(
            lambda: self._client.create_run(self.state.experiment_id, entry["time"], tags, entry["name"] or None)
        )
        if not run.info.run_id or not self.state.experiment_id:
            raise NotMLflow(f"{self.state.tracking_uri} answers, but not as MLflow does")
        self.state.run_id, self.state.run_name = run.info.run_id, run.info.run_name

    def _take_up(self, run_id: str, entry: dict[str, Any], reopens: bool) -> None:
        """Go on with a run.

        Args:
            run_id: its id.
            entry: what it is resumed by.
            reopens: whether it runs again from now on, also if it has ended.
        """
        self.state.missing = False
        try:
            run = self._ask(lambda: self._client.get_run(run_id)) if run_id else None
        except Refused:
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            self.state.missing = True
            return
        if run.info.run_id != run_id:
            raise NotMLflow(f"{self.state.tracking_uri} answers, but not as MLflow does")
        resumed = entry["resumes"]
        self.state.run_id, self.state.run_name = run_id, run.info.run_name
        self.state.experiment_id = run.info.experiment_id
        self.state.known_before = dict(run.data.params) if resumed else {}
        self.state.checks, self._known_points = resumed or entry["checks"], {}
        if resumed:
            self.state.resumed = int(run.data.tags.get("resumed", 0)) + 1
            self.state.status_before = run.info.status
        if reopens:
            self._ask(lambda: self._client.update_run(run_id, status="RUNNING"))

    def _end(self, entry: dict[str, Any]) -> None:
        if self._system is not None:
            self._system.finish()
            self._system = None
        if self.state.joined and entry["status"] != "KILLED":
            return  # the code that started it ends it
        # Of a run that something kept from resuming, nothing has changed.
        before, client = self.state.status_before, self._connected
        status = before if before not in ("", "RUNNING") else entry["status"]
        self._write(
            lambda: client.set_terminated(self.state.run_id, status, end_time=entry["time"]),
            lambda run: run.info.status == status,
        )

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
            self._write(
                lambda: client.log_batch(self.state.run_id, metrics=new),
                lambda run: _has_points(run, points),
            )

    def _count_resume(self) -> None:
        """Count the resume, now that the resumed run adds something."""
        if self.state.status_before:
            self.state.status_before = ""
            self._set_tag("resumed", str(self.state.resumed))

    def _is_known(self, point: Point) -> bool:
        """Whether a continued run has a point of this metric at this step."""
        name, value, _, step = point
        if not self.state.checks:
            return False
        if name not in self._known_points:
            history = self._ask(lambda: self._connected.get_metric_history(self.state.run_id, name))
            self._known_points[name] = {point.step: point.value for point in history}
        before = self._known_points[name].get(step)
        if before is None:
            return False
        self.state.differing += not _same(before, value)
        return True

    def _add_params(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Param

        values = {sanitize_name(name): text for name, text in entry["values"].items()}
        values = {name: text for name, text in values.items() if name not in self.state.known_before}
        params = [Param(name, self._fitting(name, text)) for name, text in values.items()]
        for start in range(0, len(params), PARAMS_BATCH):
            self._log_params(params[start : start + PARAMS_BATCH])

    def _log_params(self, params: list[Any]) -> None:
        try:
            self._write(
                lambda: self._connected.log_batch(self.state.run_id, params=params),
                lambda run: all(param.key in run.data.params for param in params),
            )
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
        if path_problem(place):
            place = f"params/{hashlib.sha256(name.encode()).hexdigest()[:16]}.txt"
        self._write(lambda: self._connected.log_text(self.state.run_id, text, place))
        note = f"... ({len(text)} characters, whole in {place})"
        return text[: PARAM_LENGTH - len(note)] + note

    def _set_tags(self, entry: dict[str, Any]) -> None:
        self._count_resume()
        refused = []
        for name, text in entry["values"].items():
            try:
                self._set_tag(sanitize_name(name) if len(name) <= LENGTH else name, text)
            except Refused as error:
                refused.append(str(error))
        if refused:
            raise Refused("; ".join(refused))

    def _set_tag(self, name: str, text: str) -> None:
        # Long values are cut.
        self._write(
            lambda: self._connected.set_tag(self.state.run_id, name, text),
            lambda run: run.data.tags.get(name, "")[:_TAG_LENGTH] == text[:_TAG_LENGTH],
        )

    def _add_file(self, entry: dict[str, Any]) -> None:
        place = self._folder / FILES / entry["kept"]
        try:
            check_folder(place.parent)
            if not any(files_below(place)) and not any(place.iterdir()):
                raise Refused("its copy in the spool is empty")
        except (NotOurs, FileNotFoundError, NotADirectoryError) as error:
            raise Refused(str(error)) from error
        for path in place.iterdir():
            # A folder's contents go below its name, as with a file.
            to = entry["to"] if path.is_file() else "/".join(part for part in (entry["to"], path.name) if part)
            send = self._connected.log_artifact if path.is_file() else self._connected.log_artifacts
            self._write(
                lambda path=path, to=to, send=send: send(self.state.run_id, str(path), to),  # type: ignore[misc]
                lambda run, path=path: self._has_file(run, entry["to"], path),  # type: ignore[misc]
            )

    def _has_file(self, run: Any, to: str | None, path: Path) -> bool:
        """Whether a run has a file or folder, where the server itself keeps them; other places may not be listed."""
        if not run.info.artifact_uri.startswith("mlflow-artifacts:") or (path.is_dir() and not any(files_below(path))):
            return True
        listed = self._ask(lambda: self._connected.list_artifacts(run.info.run_id, to))
        return any(one.path == "/".join(part for part in (to, path.name) if part) for one in listed)

    def discard(self, entry: dict[str, Any]) -> None:
        """Throw away the copy of a file that MLflow has."""
        if entry["do"] == "file":
            remove(self._folder / FILES / entry["kept"])

    def _add_dataset(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = DatasetInput(Dataset(**entry["dataset"]), [InputTag("mlflow.data.context", entry["context"])])
        self._write(
            lambda: self._connected.log_inputs(self.state.run_id, [data]),
            lambda run: any(one.dataset.digest == data.dataset.digest for one in run.inputs.dataset_inputs),
        )


def _has_points(run: Any, points: Sequence[Point]) -> bool:
    """Whether a run has got so far with each metric; an earlier step of it tells nothing."""
    latest = {one.key: one.step for one in run.data.to_proto().metrics}
    return all(name in latest and latest[name] >= step for name, _, _, step in points)


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


def _one_at_a_time(tracking_uri: str | None) -> contextlib.AbstractContextManager[Any]:
    """A lock on the database for this user; none, if no lock file can be made."""
    place = f"{Path.cwd()} {tracking_uri or os.environ.get('MLFLOW_TRACKING_URI')}"
    user = os.geteuid() if hasattr(os, "geteuid") else "locks"
    folder = Path(tempfile.gettempdir()) / f"lr_plugins-{user}"
    try:
        make_private_folder(folder)
        return own_lock(folder / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.lock").acquire()
    except (OSError, NotOurs):
        return contextlib.nullcontext()
