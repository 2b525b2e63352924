"""Where a run is recorded: explicit arguments first, then the settings that MLflow itself follows."""

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
        uri: the tracking URI; None for MLflow's default in the start folder.
        experiment: the experiment's name; None if its ID is given, or if the parent run determines it.
        experiment_id: the experiment's ID; None if its name is given.
        run_id: an existing run; None for a new one.
        joins: whether other code started that run and will end it. Default False.
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
    """Decide where a run is recorded.

    As in MLflow, `MLFLOW_RUN_ID` applies to the first run of a program and is then removed from the environment; if an
    experiment is given, the run must belong to it. A logger without run name, run ID and parent tag joins the active
    run of `mlflow.start_run`, unless it specifies another experiment or server.

    Args:
        uri: the logger's tracking URI; None if not given.
        experiment: the logger's experiment name; None if not given.
        run_name: the logger's run name; None if not given.
        tags: the logger's tags; `mlflow.parentRunId` among them makes the run a child.
        start: the folder that a relative tracking URI refers to.
        run_id: the logger's run ID. Default None: not given.
    """
    fluent = sys.modules.get("mlflow")
    ambient = absolute(_ambient_uri(fluent), start)
    there = Destination(ambient if uri is None else absolute(uri, start))
    if run_id is not None:
        return replace(there, run_id=run_id)
    if PARENT not in tags:
        given = os.environ.get(RUN_ID)
        if given and there.uri == ambient:
            del os.environ[RUN_ID]  # the next run is a new one
            return replace(there, run_id=given, experiment=experiment)
        active = _active_run(fluent, experiment, there.uri if uri is not None else None) if run_name is None else None
        if active is not None:
            server = absolute(fluent.get_tracking_uri(), Path.cwd())  # type: ignore[union-attr]
            return Destination(server, experiment_id=active.info.experiment_id, run_id=active.info.run_id, joins=True)
    if experiment is not None:
        return replace(there, experiment=experiment)
    if PARENT in tags:  # the parent's experiment
        return there
    return _in_ambient_experiment(there, fluent, knows_ids=there.uri == ambient)


def wants_system_metrics(argument: bool | None) -> bool:
    """Whether to log system metrics: the argument, or else the environment variable."""
    return argument if argument is not None else os.environ.get(SYSTEM_METRICS, "").strip().lower() in ("true", "1")


def absolute(uri: str | None, start: Path) -> str | None:
    """A tracking URI that does not depend on the working directory.

    Args:
        uri: a tracking URI; None for MLflow's default.
        start: the folder that a relative URI refers to.

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
        # MLflow decodes percent escapes in the path, so the folder has to be escaped.
        return f"{database[1]}{os.path.normpath(Path(quote(str(start))) / path)}{mark}{options}"
    if re.match("https?://.", uri):
        return uri.rstrip("/")
    if re.match(r"file:(?!/).", uri):
        return (start / uri.removeprefix("file:")).resolve().as_uri()
    if not uri or address_problem(uri) or re.match(r"[A-Za-z][\w+.-]*:", uri) or uri in _DATABRICKS:
        return uri
    return os.path.normpath(start / uri)


def address_problem(uri: str) -> str:
    """Why a tracking URI can never work; empty if it may.

    Example:
        >>> address_problem("localhost:5000")
        'the scheme is missing; did you mean http://localhost:5000?'
        >>> address_problem("https://mlflow.example.org"), address_problem("sqlite:///mlflow.db")
        ('', '')
    """
    if re.match(r"(?![A-Za-z]:[/\\])[\w.-]+:\d+(/|$)", uri):
        return f"the scheme is missing; did you mean http://{uri}?"
    if re.match("https?:", uri) and not re.match("https?://[^/?#]", uri):
        return "the host name is missing"
    if re.fullmatch(r"sqlite(\+\w+)?:/{0,3}(:memory:.*)?", uri) or "mode=memory" in uri:
        return "an in-memory database would be lost with the process that sends to it"
    return ""


def _ambient_uri(fluent: Any) -> str | None:
    if fluent is not None and fluent.is_tracking_uri_set():
        return str(fluent.get_tracking_uri())
    return os.environ.get(TRACKING_URI) or None


def _active_run(fluent: Any, experiment: str | None, uri: str | None) -> Any:
    """The active run; None without one, or if the logger specifies another server or experiment."""
    active = fluent.active_run() if fluent is not None else None
    if active is None:
        return None
    if uri is not None and uri != absolute(fluent.get_tracking_uri(), Path.cwd()):
        return None
    if experiment is not None and fluent.get_experiment(active.info.experiment_id).name != experiment:
        return None
    return active


def _in_ambient_experiment(there: Destination, fluent: Any, knows_ids: bool) -> Destination:
    """Use the experiment that MLflow would use; IDs are valid only for the server that the environment names."""
    chosen = getattr(getattr(getattr(fluent, "tracking", None), "fluent", None), "_active_experiment_id", None)
    if chosen and knows_ids:  # by mlflow.set_experiment
        return replace(there, experiment_id=str(chosen))
    if os.environ.get(EXPERIMENT_NAME):
        return replace(there, experiment=os.environ[EXPERIMENT_NAME])
    if os.environ.get(EXPERIMENT_ID) and knows_ids:
        return replace(there, experiment_id=os.environ[EXPERIMENT_ID])
    return replace(there, experiment=DEFAULT_EXPERIMENT)
