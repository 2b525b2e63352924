"""Where a run is recorded: what the logger was told comes first, and then what MLflow itself would look at."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"  # MLflow's own tags: a parent run, a description,
RUN_NAME = "mlflow.runName"  # and the name
DEFAULT_EXPERIMENT = "lr_plugins"
RUN_ID, EXPERIMENT_NAME, EXPERIMENT_ID = "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
TRACKING_URI, SYSTEM_METRICS = "MLFLOW_TRACKING_URI", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_RELATIVE_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|file:|:memory:|[A-Za-z]:[/\\])(.+)")


@dataclass(frozen=True)
class Destination:
    """Where a run is recorded.

    Args:
        uri: MLflow's address; None for its own default in the folder of the start.
        experiment: the experiment's name; None where it is known by its id, or is that of a parent run.
        experiment_id: the experiment's id; None where it is known by its name.
        run_id: a run that exists; None for a new one.
        joins: whether other code has begun that run, and ends it. Default False.
    """

    uri: str | None
    experiment: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    joins: bool = False


def destination(
    uri: str | None,
    experiment: str | None,
    run_name: str | None,
    tags: Mapping[str, str],
    start: Path,
    run_id: str | None = None,
) -> Destination:
    """Where a run is recorded, by what a logger was told and its surroundings.

    `MLFLOW_RUN_ID` names a run that exists, for the first run of a program, as in MLflow itself: it is removed from the
    environment. It has to be one of the experiment that the logger was told, if it was told one. The active run of
    `mlflow.start_run` is joined by a logger that names neither a run nor another place.

    Args:
        uri: as the logger was told; None where it was not.
        experiment: the same.
        run_name: the same.
        tags: those of the logger; one of them may name a parent run.
        start: the folder that relative addresses are relative to.
        run_id: as the logger was told. Default None: it was not.
    """
    fluent = sys.modules.get("mlflow")
    ambient = absolute(_ambient_uri(fluent), start)
    there = Destination(ambient if uri is None else absolute(uri, start))
    if run_id is not None:
        return replace(there, run_id=run_id)
    if PARENT not in tags:
        given = os.environ.get(RUN_ID)
        if given and there.uri == ambient:
            del os.environ[RUN_ID]  # another run is one of its own
            return replace(there, run_id=given, experiment=experiment)
        active = _active_run(fluent, experiment, there.uri if uri is not None else None) if run_name is None else None
        if active is not None:
            found = absolute(fluent.get_tracking_uri(), Path.cwd())  # type: ignore[union-attr]
            return Destination(found, experiment_id=active.info.experiment_id, run_id=active.info.run_id, joins=True)
    if experiment is not None:
        return replace(there, experiment=experiment)
    if PARENT in tags:  # in its experiment
        return there
    return _in_ambient_experiment(there, fluent, knows_ids=there.uri == ambient)


def wants_system_metrics(told: bool | None) -> bool:
    """Whether the machine is watched: as told, or else as the environment says."""
    return told if told is not None else os.environ.get(SYSTEM_METRICS, "").strip().lower() in ("true", "1")


def absolute(uri: str | None, start: Path) -> str | None:
    """An address that means the same in every folder.

    Args:
        uri: an address as MLflow takes it; None for its default.
        start: the folder that a relative one is relative to.

    Example:
        >>> absolute("sqlite:///runs.db", Path("/data")), absolute("./mlruns", Path("/data"))
        ('sqlite:////data/runs.db', '/data/mlruns')
        >>> absolute("http://127.0.0.1:5000", Path("/data")), absolute(None, Path("/data"))
        ('http://127.0.0.1:5000', None)
    """
    if uri is None:
        return None
    database = _RELATIVE_SQLITE.fullmatch(uri)
    if database:
        path, mark, options = database[2].partition("?")
        # MLflow takes %20 in such an address for a space, so the folder has to be quoted as well.
        return f"{database[1]}{os.path.normpath(Path(quote(str(start))) / path)}{mark}{options}"
    if re.match("https?://.", uri):
        return uri.rstrip("/")
    if re.match(r"file:(?!/).", uri):
        return (start / uri.removeprefix("file:")).resolve().as_uri()
    if not uri or address_problem(uri) or re.match(r"[A-Za-z][\w+.-]*:", uri) or uri in _DATABRICKS:
        return uri
    return os.path.normpath(start / uri)


def address_problem(uri: str) -> str:
    """Why an address can never be one of MLflow; empty if it may be.

    Example:
        >>> address_problem("localhost:5000")
        'an address begins with http:// or https://, as in http://localhost:5000'
        >>> address_problem("https://mlflow.example.org"), address_problem("sqlite:///mlflow.db")
        ('', '')
    """
    if re.match(r"(?![A-Za-z]:[/\\])[\w.-]+:\d+(/|$)", uri):
        return f"an address begins with http:// or https://, as in http://{uri}"
    if re.match("https?:", uri) and not re.match("https?://[^/?#]", uri):
        return "its address has no name of a server"
    if re.fullmatch(r"sqlite(\+\w+)?:/{0,3}(:memory:.*)?", uri) or "mode=memory" in uri:
        return "a database in memory is gone with the process that sends to it"
    return ""


def _ambient_uri(fluent: Any) -> str | None:
    if fluent is not None and fluent.is_tracking_uri_set():
        return str(fluent.get_tracking_uri())
    return os.environ.get(TRACKING_URI) or None


def _active_run(fluent: Any, experiment: str | None, uri: str | None) -> Any:
    """The active run; None if there is none, or it is in another place than the logger was told."""
    active = fluent.active_run() if fluent is not None else None
    if active is None:
        return None
    if uri is not None and uri != absolute(fluent.get_tracking_uri(), Path.cwd()):
        return None
    if experiment is not None and fluent.get_experiment(active.info.experiment_id).name != experiment:
        return None
    return active


def _in_ambient_experiment(there: Destination, fluent: Any, knows_ids: bool) -> Destination:
    """The experiment that MLflow would take by its surroundings; ids are those of the surroundings' own place."""
    chosen = getattr(getattr(getattr(fluent, "tracking", None), "fluent", None), "_active_experiment_id", None)
    if chosen and knows_ids:  # by mlflow.set_experiment
        return replace(there, experiment_id=str(chosen))
    if os.environ.get(EXPERIMENT_NAME):
        return replace(there, experiment=os.environ[EXPERIMENT_NAME])
    if os.environ.get(EXPERIMENT_ID) and knows_ids:
        return replace(there, experiment_id=os.environ[EXPERIMENT_ID])
    return replace(there, experiment=DEFAULT_EXPERIMENT)
