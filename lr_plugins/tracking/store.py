"""What is logged, put into MLflow."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lr_plugins.tracking.answers import Missing, NotMLflow, Refused
from lr_plugins.tracking.connection import Connection, deleted
from lr_plugins.tracking.database import check_database, one_at_a_time
from lr_plugins.tracking.destination import (
    DEFAULT_EXPERIMENT,
    PARENT,
    RUN_NAME,
)
from lr_plugins.tracking.entries import BY_SPOOL, Point
from lr_plugins.tracking.names import NAMES_TAG, path_problem, sanitize_name
from lr_plugins.tracking.private_files import NotOurs, check_folder, files_below
from lr_plugins.tracking.secrets import masked
from lr_plugins.tracking.spool import FILES, remove
from lr_plugins.tracking.state import State

BATCH = 1000  # metrics MLflow takes in one call
PARAMS_BATCH = 100  # params MLflow takes in one call
PARAM_LENGTH = 6000  # characters MLflow takes in the value of a param
_TAG_LENGTH = 5000  # characters that every version of MLflow takes in the value of a tag
_SPOOL_TAG = "lr_plugins.spool"  # finds a run whose id was never received
_LOST_TAG = "lost_points"
_VERSIONS = ("lr-plugins", "torch", "pytorch-lightning", "mlflow")  # that are noted


class Store:
    """One run in MLflow.

    Args:
        folder: the spool's.
        state: is kept up to date.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self.state = folder, state
        self._mlflow = Connection(folder, state)
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
        if self._mlflow.ask(lambda client: client.get_run(self.state.run_id)).info.status == "RUNNING":
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
        tags = self._mlflow.client.get_run(self.state.run_id).data.tags
        return str(tags.get(_SPOOL_TAG, self._folder.name))

    # --- the run ------------------------------------------------------------------------------------------

    def _begin(self, entry: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.chdir(entry["folder"])  # MLflow's default place and relative ones are below it
        address = self._mlflow.address_of(self.state.instead or entry["uri"])
        # Two runs that begin at once with a new database would both make the tables, and one of them fail.
        with one_at_a_time(address):
            check_database(address)
            self._mlflow.connect(address)
            known = self.state.run_id or ("" if self.state.instead else entry["run_id"])
            by_name = not known or known.startswith(BY_SPOOL)
            if by_name:  # the run may be there, and the answer have been lost
                known = self._begun_in((known or entry["spool"]).removeprefix(BY_SPOOL), entry)
            if known or (entry["run_id"] is not None and not self.state.instead):
                self._take_up(known or "", entry, reopens=entry["resumes"] or entry["run_id"] is not None)
            else:
                self._create(entry)
        if entry["system_metrics"] and not entry["joins"] and not self.state.missing:
            self._watch_system()

    def _watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._system is None:
            self._system = SystemMetricsMonitor(
                self.state.run_id, resume_logging=bool(self.state.resumed), tracking_uri=self._mlflow.address
            )
            self._system.start()

    def _begun_in(self, spool: str, entry: dict[str, Any]) -> str:
        """The id of the run that was started in a spool; empty if there is none."""
        experiment = self._experiment(entry) if spool else None
        if experiment is None:
            return ""
        query = f"tags.`{_SPOOL_TAG}` = '{spool}'"
        found = self._mlflow.ask(lambda client: client.search_runs([experiment.experiment_id], query, max_results=1))
        return found[0].info.run_id if found else ""

    def _experiment(self, entry: dict[str, Any]) -> Any:
        """The experiment of an entry, by name, ID or parent run; None if it does not exist."""
        name, known, parent = entry["experiment"], entry["experiment_id"], entry["tags"].get(PARENT)
        if self.state.instead:  # IDs and the parent run belong to the original server
            name, known, parent = name or DEFAULT_EXPERIMENT, None, None
        if name is None and known is None and parent is not None:
            with contextlib.suppress(Missing):
                known = self._mlflow.ask(lambda client: client.get_run(parent)).info.experiment_id
        try:
            if name is None and known is not None:
                found = self._mlflow.ask(lambda client: client.get_experiment(known))
            else:
                found = self._mlflow.ask(lambda client: client.get_experiment_by_name(name or DEFAULT_EXPERIMENT))
        except Missing:
            if known is not None:
                raise Refused(f"there is no experiment with the id {known}") from None
            return None
        if found is not None and not found.experiment_id:
            raise NotMLflow(f"{self.state.tracking_uri} answers, but not as MLflow does")
        return found

    def _create(self, entry: dict[str, Any]) -> None:
        from mlflow.tracking.context.registry import resolve_tags

        self.state.experiment_id = self._experiment_of_new_run(entry)
        sys.argv[0] = entry["program"]  # whose name and version MLflow notes
        given = dict(entry["tags"])
        name = entry["name"] or given.pop(RUN_NAME, None)
        given.pop(RUN_NAME, None)
        tags = {name: masked(text) for name, text in resolve_tags({**dict(_versions()), **given}).items()}
        tags[_SPOOL_TAG] = entry["spool"]
        run = self._mlflow.ask(lambda client: client.create_run(self.state.experiment_id, entry["time"], tags, name))
        if not run.info.run_id or not self.state.experiment_id:
            raise NotMLflow(f"{self.state.tracking_uri} answers, but not as MLflow does")
        self.state.run_id, self.state.run_name = run.info.run_id, run.info.run_name

    def _experiment_of_new_run(self, entry: dict[str, Any]) -> str:
        """The ID of the run's experiment, which is created if necessary."""
        found = self._experiment(entry)
        if found is None:
            name, place = entry["experiment"] or DEFAULT_EXPERIMENT, self._mlflow.whole(entry["artifact_location"])
            try:
                return str(self._mlflow.ask(lambda client: client.create_experiment(name, place)))
            except Refused:
                found = self._experiment(entry)  # another run has just created it
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise Refused(
                f"the experiment {found.name!r} has been deleted; use another one, or restore it with: mlflow "
                f"experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _take_up(self, run_id: str, entry: dict[str, Any], reopens: bool) -> None:
        """Go on with a run.

        Args:
            run_id: its id.
            entry: what it is resumed by.
            reopens: whether it runs again from now on, also if it has ended.
        """
        self.state.missing = ""
        try:
            run = self._mlflow.ask(lambda client: client.get_run(run_id)) if run_id else None
        except Refused:
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            self.state.missing = f"run {run_id} is not there" if run is None else deleted(run_id)
            return
        if run.info.run_id != run_id:
            raise NotMLflow(f"{self.state.tracking_uri} answers, but not as MLflow does")
        resumed = entry["resumes"]
        if entry["adds"] and not resumed and entry["experiment"] is not None:
            home = self._mlflow.ask(lambda client: client.get_experiment(run.info.experiment_id)).name
            if home != entry["experiment"]:
                raise Refused(f"run {run_id} belongs to the experiment {home!r}, not to {entry['experiment']!r}")
        self.state.run_id, self.state.run_name = run_id, run.info.run_name
        self.state.experiment_id = run.info.experiment_id
        self.state.known_before = dict(run.data.params) if resumed else {}
        self.state.checks, self._known_points = resumed or entry["checks"], {}
        if resumed:
            self.state.resumed = int(run.data.tags.get("resumed", 0)) + 1
            self.state.status_before = run.info.status
        self.state.joined, self.state.ended_as = entry["joins"], run.info.status
        self.state.names = run.data.tags.get(NAMES_TAG, "")
        self.state.there = {"metric": [*run.data.metrics], "param": [*run.data.params], "tag": [*run.data.tags]}
        if reopens:
            name = entry["name"] if entry["adds"] else None
            self._mlflow.ask(lambda client: client.update_run(run_id, status="RUNNING", name=name))
            self.state.run_name = name or self.state.run_name
        if entry["adds"]:
            self._set_tags({"values": {**dict(_versions()), **entry["tags"]}})

    def _end(self, entry: dict[str, Any]) -> None:
        if self._system is not None:
            self._system.finish()
            self._system = None
        if self.state.joined and entry["status"] != "KILLED":
            return  # the code that started it ends it
        # Of a run that something kept from resuming, nothing has changed.
        before = self.state.status_before
        if entry.get("only_looks") and self.state.ended_as in ("FAILED", "KILLED"):
            before = self.state.ended_as  # testing does not complete a failed training
        status = before if before not in ("", "RUNNING") else entry["status"]
        self._mlflow.write(
            lambda client: client.set_terminated(self.state.run_id, status, end_time=entry["time"]),
            lambda run: run.info.status == status,
        )

    # --- what it holds ------------------------------------------------------------------------------------

    def add_points(self, points: Sequence[Point]) -> None:
        """Add at most `BATCH` points of metrics.

        Raises:
            Refused: MLflow does not take one of them.
        """
        from mlflow.entities import Metric

        new = [Metric(*point) for point in points if not self._is_known(point)]
        self._count_resume()
        if new:
            self._mlflow.write(
                lambda client: client.log_batch(self.state.run_id, metrics=new),
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
            history = self._mlflow.ask(lambda client: client.get_metric_history(self.state.run_id, name))
            self._known_points[name] = {point.step: point.value for point in history}
        before = self._known_points[name].get(step)
        if before is None:
            return False
        self.state.differing += not _same(before, value)
        return True

    def _add_params(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Param

        values = {sanitize_name(name): text for name, text in entry["values"].items()}
        params = []
        for name, text in values.items():
            fitting = self._fitting(name, text)
            if name not in self.state.known_before:
                params.append(Param(name, fitting))
            elif self.state.known_before[name] != fitting:
                self._note_differing(name, fitting)
        for start in range(0, len(params), PARAMS_BATCH):
            self._log_params(params[start : start + PARAMS_BATCH])

    def _log_params(self, params: list[Any]) -> None:
        try:
            self._mlflow.write(
                lambda client: client.log_batch(self.state.run_id, params=params),
                lambda run: all(param.key in run.data.params for param in params),
            )
        except Refused:
            if len(params) == 1:
                [param] = params
                if param.key not in self._mlflow.run().data.params:
                    raise
                self._note_differing(param.key, param.value)
                return
            refused = []
            for one in params:
                try:
                    self._log_params([one])
                except Refused as error:
                    refused.append(str(error))
            _raise_if(refused)

    def _note_differing(self, name: str, text: str) -> None:
        """Record a param's new value as a tag, because MLflow does not change params."""
        mark, before = f"{self.state.mark_of_params}{name}", self.state.differing_params.count(name)
        self._set_tags({"values": {f"{mark}-{before + 1}" if before else mark: text}})
        self.state.differing_params.append(name)

    def _fitting(self, name: str, text: str) -> str:
        """A text as long as MLflow takes it; one that is longer is stored whole as a file beside, and says where."""
        if len(text) <= PARAM_LENGTH:
            return text
        place = f"params/{name}.txt"
        if "/" in name or path_problem(place):
            place = f"params/{hashlib.sha256(name.encode()).hexdigest()[:16]}.txt"
        self._mlflow.write(lambda client: client.log_text(self.state.run_id, text, place))
        note = f"... ({len(text)} characters, whole in {place})"
        return text[: PARAM_LENGTH - len(note)] + note

    def _set_tags(self, entry: dict[str, Any]) -> None:
        self._count_resume()
        refused = []
        for name, text in entry["values"].items():
            try:
                self._set_tag(sanitize_name(name), text)
            except Refused as error:
                refused.append(str(error))
        _raise_if(refused)

    def _set_tag(self, name: str, text: str) -> None:
        # Long values are cut.
        self._mlflow.write(
            lambda client: client.set_tag(self.state.run_id, name, text),
            lambda run: run.data.tags.get(name, "")[:_TAG_LENGTH] == text[:_TAG_LENGTH],
        )

    def _add_file(self, entry: dict[str, Any]) -> None:
        place = self._folder / FILES / entry["kept"]
        if self.state.instead and not place.exists():
            self.state.left_files += 1  # the run on the original server has it
            return
        try:
            check_folder(place.parent)
            if not any(files_below(place)) and not any(place.iterdir()):
                raise Refused("its copy in the spool is empty")
        except (NotOurs, FileNotFoundError, NotADirectoryError) as error:
            raise Refused(str(error)) from error
        for path in place.iterdir():
            # A folder's contents go below its name, as with a file.
            to = entry["to"] if path.is_file() else "/".join(part for part in (entry["to"], path.name) if part)
            self._mlflow.write(
                functools.partial(_send_file, self.state.run_id, path, to),
                functools.partial(self._has_file, entry["to"], path),
            )

    def _has_file(self, to: str | None, path: Path, run: Any) -> bool:
        """Whether a run has a file or folder, where the server itself keeps them; other places may not be listed."""
        if not run.info.artifact_uri.startswith("mlflow-artifacts:") or (path.is_dir() and not any(files_below(path))):
            return True
        listed = self._mlflow.ask(lambda client: client.list_artifacts(run.info.run_id, to))
        return any(one.path == "/".join(part for part in (to, path.name) if part) for one in listed)

    def discard(self, entry: dict[str, Any]) -> None:
        """Throw away the copy of a file that MLflow has."""
        if entry["do"] == "file":
            remove(self._folder / FILES / entry["kept"])

    def _add_dataset(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = DatasetInput(Dataset(**entry["dataset"]), [InputTag("mlflow.data.context", entry["context"])])
        self._mlflow.write(
            lambda client: client.log_inputs(self.state.run_id, [data]),
            lambda run: any(one.dataset.digest == data.dataset.digest for one in run.inputs.dataset_inputs),
        )


def _send_file(run_id: str | None, path: Path, to: str | None, client: Any) -> None:
    (client.log_artifact if path.is_file() else client.log_artifacts)(run_id, str(path), to)


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


def _raise_if(refused: Sequence[str]) -> None:
    """Raise for everything that MLflow has refused, if there is anything."""
    if refused:
        raise Refused("; ".join(refused))
