"""A run in MLflow: started, resumed and ended as the entries of a spool say."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lr_plugins.tracking.answers import MissingError, NotMLflowError, RefusedError
from lr_plugins.tracking.connection import Connection, deleted
from lr_plugins.tracking.contents import Contents
from lr_plugins.tracking.database import check_database, one_at_a_time
from lr_plugins.tracking.destination import (
    DEFAULT_EXPERIMENT,
    PARENT,
    RUN_NAME,
)
from lr_plugins.tracking.entries import BY_SPOOL
from lr_plugins.tracking.names import NAMES_TAG
from lr_plugins.tracking.secrets import masked
from lr_plugins.tracking.state import State

_SPOOL_TAG = "lr_plugins.spool"  # finds a run whose ID was never received
_LOST_TAG = "lost_points"
_VERSIONS = ("lr-plugins", "torch", "pytorch-lightning", "mlflow")  # recorded as tags


class Store:
    """One run in MLflow.

    Args:
        folder: the spool's.
        state: updated in place.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self._folder, self.state = folder, state
        self._mlflow = Connection(folder, state)
        self.contents = Contents(folder, self._mlflow, state)
        self._system: Any = None  # MLflow's monitor of the machine
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "run": self._start,
            "params": self.contents.add_params,
            "tags": self.contents.set_tags,
            "file": self.contents.add_file,
            "dataset": self.contents.add_dataset,
            "end": self._end,
        }

    def do(self, entry: dict[str, Any]) -> None:
        """Carry out an entry other than points.

        Raises:
            RefusedError: MLflow does not accept it.
        """
        if entry["do"] != "run" and self.state.run_id is None:
            raise RefusedError("it comes before the entry that starts its run")
        self._handlers[entry["do"]](entry)

    def kill(self, time: int) -> None:
        """Record that the run's process has disappeared; a run that has ended stays as it is."""
        if self._mlflow.ask(lambda client: client.get_run(self.state.run_id)).info.status == "RUNNING":
            self._end({"status": "KILLED", "time": time})

    def note_lost(self, points: int) -> None:
        """Record with the run how many of its points are lost."""
        self.contents.set_tags({"values": {_LOST_TAG: str(points)}})

    def takes_anything(self) -> bool:
        """Whether MLflow accepts a write that changes nothing: if so, it is the entry that it does not accept."""
        try:
            self.contents.set_tag(_SPOOL_TAG, self._origin())
        except Exception:
            return False
        return True

    def _origin(self) -> str:
        tags = self._mlflow.client.get_run(self.state.run_id).data.tags
        return str(tags.get(_SPOOL_TAG, self._folder.name))

    # --- the run ------------------------------------------------------------------------------------------

    def _start(self, entry: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.chdir(entry["folder"])  # MLflow's default and relative paths are below it
        address = self._mlflow.address_of(self.state.instead or entry["uri"])
        # Two runs that start at once with a new database would both create the tables, and one of them would fail.
        with one_at_a_time(address):
            check_database(address)
            self._mlflow.connect(address)
            known = self.state.run_id or ("" if self.state.instead else entry["run_id"])
            by_name = not known or known.startswith(BY_SPOOL)
            if by_name:  # the run may exist although the answer was lost
                known = self._started_in((known or entry["spool"]).removeprefix(BY_SPOOL), entry)
            if known or (entry["run_id"] is not None and not self.state.instead):
                self._resume(known or "", entry, reopens=entry["resumes"] or entry["run_id"] is not None)
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

    def _started_in(self, spool: str, entry: dict[str, Any]) -> str:
        """The ID of the run that was started from a spool; empty if the spool started no run."""
        experiment = self._experiment(entry) if spool else None
        if experiment is None:
            return ""
        query = f"tags.`{_SPOOL_TAG}` = '{spool}'"
        runs = self._mlflow.ask(lambda client: client.search_runs([experiment.experiment_id], query, max_results=1))
        return runs[0].info.run_id if runs else ""

    def _experiment(self, entry: dict[str, Any]) -> Any:
        """The experiment of an entry, by name, ID or parent run; None if it does not exist."""
        name, known, parent = entry["experiment"], entry["experiment_id"], entry["tags"].get(PARENT)
        if self.state.instead:  # IDs and the parent run belong to the original server
            name, known, parent = name or DEFAULT_EXPERIMENT, None, None
        if name is None and known is None and parent is not None:
            with contextlib.suppress(MissingError):
                known = self._mlflow.ask(lambda client: client.get_run(parent)).info.experiment_id
        try:
            if name is None and known is not None:
                experiment = self._mlflow.ask(lambda client: client.get_experiment(known))
            else:
                experiment = self._mlflow.ask(lambda client: client.get_experiment_by_name(name or DEFAULT_EXPERIMENT))
        except MissingError:
            if known is not None:
                raise RefusedError(f"there is no experiment with the id {known}") from None
            return None
        if experiment is not None and not experiment.experiment_id:
            raise NotMLflowError(f"{self.state.tracking_uri} answers, but not as MLflow does")
        return experiment

    def _create(self, entry: dict[str, Any]) -> None:
        from mlflow.tracking.context.registry import resolve_tags

        self.state.experiment_id = self._experiment_of_new_run(entry)
        sys.argv[0] = entry["program"]  # whose name and version MLflow records
        given = dict(entry["tags"])
        name = entry["name"] or given.pop(RUN_NAME, None)
        given.pop(RUN_NAME, None)
        tags = {name: masked(text) for name, text in resolve_tags({**dict(_versions()), **given}).items()}
        tags[_SPOOL_TAG] = entry["spool"]
        run = self._mlflow.ask(lambda client: client.create_run(self.state.experiment_id, entry["time"], tags, name))
        if not run.info.run_id or not self.state.experiment_id:
            raise NotMLflowError(f"{self.state.tracking_uri} answers, but not as MLflow does")
        self.state.run_id, self.state.run_name = run.info.run_id, run.info.run_name

    def _experiment_of_new_run(self, entry: dict[str, Any]) -> str:
        """The ID of the run's experiment, which is created if necessary."""
        experiment = self._experiment(entry)
        if experiment is None:
            name, place = entry["experiment"] or DEFAULT_EXPERIMENT, self._mlflow.whole(entry["artifact_location"])
            try:
                return str(self._mlflow.ask(lambda client: client.create_experiment(name, place)))
            except RefusedError:
                experiment = self._experiment(entry)  # another run has just created it
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise RefusedError(
                f"the experiment {experiment.name!r} has been deleted; use another one, or restore it with: mlflow "
                f"experiments restore --experiment-id {experiment.experiment_id}"
            )
        return str(experiment.experiment_id)

    def _resume(self, run_id: str, entry: dict[str, Any], reopens: bool) -> None:
        """Continue a run.

        Args:
            run_id: its ID.
            entry: the entry that resumes it.
            reopens: whether its status becomes RUNNING again, even if it has ended.
        """
        self.state.missing = ""
        try:
            run = self._mlflow.ask(lambda client: client.get_run(run_id)) if run_id else None
        except RefusedError:
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            self.state.missing = f"run {run_id} does not exist" if run is None else deleted(run_id)
            return
        if run.info.run_id != run_id:
            raise NotMLflowError(f"{self.state.tracking_uri} answers, but not as MLflow does")
        resumed = entry["resumes"]
        if entry["adds"] and not resumed and entry["experiment"] is not None:
            home = self._mlflow.ask(lambda client: client.get_experiment(run.info.experiment_id)).name
            if home != entry["experiment"]:
                raise RefusedError(f"run {run_id} belongs to the experiment {home!r}, not to {entry['experiment']!r}")
        self.state.run_id, self.state.run_name = run_id, run.info.run_name
        self.state.experiment_id = run.info.experiment_id
        self.state.known_before = dict(run.data.params) if resumed else {}
        self.state.checks = resumed or entry["checks"]
        self.contents.forget_known()
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
            self.contents.set_tags({"values": {**dict(_versions()), **entry["tags"]}})

    def _end(self, entry: dict[str, Any]) -> None:
        if self._system is not None:
            self._system.finish()
            self._system = None
        if self.state.joined and entry["status"] != "KILLED":
            return  # the code that started the run ends it
        # Nothing has changed in a run that could not be resumed.
        before = self.state.status_before
        if entry.get("only_looks") and self.state.ended_as in ("FAILED", "KILLED"):
            before = self.state.ended_as  # testing does not complete a failed training
        status = before if before not in ("", "RUNNING") else entry["status"]
        self._mlflow.write(
            lambda client: client.set_terminated(self.state.run_id, status, end_time=entry["time"]),
            lambda run: run.info.status == status,
        )


def _versions() -> Iterator[tuple[str, str]]:
    yield "version.python", sys.version.split()[0]
    for package in _VERSIONS:
        try:
            yield f"version.{package}", version(package)
        except PackageNotFoundError:  # run from a folder, not installed
            continue
