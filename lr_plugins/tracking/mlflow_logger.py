"""A Lightning logger that keeps every point, in MLflow's own default place, and never waits for it."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lr_plugins._lightning.compat import Logger
from lr_plugins.errors import InvalidArgument, require, shown
from lr_plugins.paths import start_folder
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.tracking.client import RunClient, SilentClient, nothing
from lr_plugins.tracking.delivery import Delivery, MissingRun
from lr_plugins.tracking.destination import RUN_NAME, Destination, destination, wants_system_metrics
from lr_plugins.tracking.distinct_names import RunNames
from lr_plugins.tracking.entries import BY_SPOOL, line_of, line_of_points, line_of_series
from lr_plugins.tracking.model_files import ModelFiles
from lr_plugins.tracking.names import LENGTH, NAMES_TAG, encodable, path_problem
from lr_plugins.tracking.run_status import run_status
from lr_plugins.tracking.secrets import has_secret, without_user
from lr_plugins.tracking.shortfalls import shortfalls
from lr_plugins.tracking.spool import DEFAULT, Spool
from lr_plugins.tracking.values import text_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTLE_SECONDS = 10.0  # how long the start of a run waits for a server that does not answer
_AWAY_SECONDS = 3.0  # how long the end of a run waits for a server that is away, or does not answer
_EXPERIMENT_LENGTH = 500  # characters MLflow takes in the name of an experiment
_UNSENT = "unsent"  # instead of the experiment's ID while that is unknown
_STEPS = 1 << 63  # below which MLflow takes steps


class MLflowLogger(Logger):
    """Log a Lightning run to MLflow: every value in float64 at its exact step, and without holding up the training.

    What is logged is written to a spool, a file below `spool_dir`, at once, and a process of its own sends it from
    there. A server that is away costs nothing but a warning: the points wait, and arrive when it is back; what still
    waits when the training has ended is sent by `lr-plugins send`. A training that is killed loses no
    point, and its run is marked KILLED.

    Explicit arguments take precedence; otherwise the logger follows the same settings as MLflow. Without
    `tracking_uri` these are `mlflow.set_tracking_uri` and `MLFLOW_TRACKING_URI`, and finally `mlflow.db` in the working
    directory, where `mlflow ui` finds it. `MLFLOW_RUN_ID`, which `mlflow run` sets, applies to the first logger without
    run ID and parent tag. A logger without run name, run ID and parent tag joins the active run of `mlflow.start_run`,
    unless it specifies another experiment or server. Relative paths refer to the working directory in which the logger
    is created, and in a Hydra job to the one in which the program was started.

    The run is created when the fit starts; if MLflow refuses it permanently, an error is raised before the first step.
    It ends FINISHED, FAILED or, if interrupted, KILLED. Testing after the fit does not change FAILED or KILLED.

    `continue_run` or `run_id` resumes an interrupted run. Points that the run already has are not logged again. If a
    value differs, MLflow keeps the first one and a warning says so. A param's new value becomes a tag, e.g.
    `resumed-1.lr`.

    Args:
        experiment_name: the MLflow experiment, which is created if necessary. Default None: that of the parent run, or
            the one selected by `mlflow.set_experiment`, `MLFLOW_EXPERIMENT_NAME` or `MLFLOW_EXPERIMENT_ID`, or else
            `lr_plugins`.
        run_name: the run's name. Default None: MLflow makes one up.
        tracking_uri: where to log. Default None: MLflow's own default.
        tags: tags of the run; `mlflow.parentRunId` makes it a child of that run. The versions of the libraries and, in
            a repository, the commit are added.
        spool_dir: folder for data that MLflow does not have yet. Default `.lr_plugins/spool`.
        run_id: a run to resume. Default None: a new one.
        artifact_location: where the artifacts of a new experiment go. Default None: MLflow's own default.
        prefix: what the names of metrics begin with, before a `-`. Default `""`: nothing.
        log_model: True stores the checkpoints that ModelCheckpoint has kept at the end, and the module as an MLflow
            model with its signature (its input is the module's `example_input_array`); `"all"` stores each checkpoint
            when it is written, as well. Default False.
        checkpoint_path_prefix: folder within the run for the checkpoints. Default `"checkpoints"`.
        log_system_metrics: whether to log the use of processor, memory, disk, network and GPU every 10 s; needs psutil.
            Default None: as `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` specifies.

    Raises:
        MissingExtra: mlflow is not installed, or psutil where system metrics are wanted.
        TrackingError: when the run starts: MLflow refuses it permanently (no such database, a missing run, a deleted
            experiment). An unreachable server is not an error.

    Example:
        >>> logger = MLflowLogger(experiment_name="digits", tags={"schedule": "step_decay"})
        >>> logger.run_id is None
        True
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | os.PathLike[str] | None = None,
        tags: Mapping[str, Any] | None = None,
        spool_dir: str | Path = DEFAULT,
        run_id: str | None = None,
        artifact_location: str | None = None,
        prefix: str = "",
        log_model: bool | Literal["all"] = False,
        checkpoint_path_prefix: str = "checkpoints",
        log_system_metrics: bool | None = None,
    ) -> None:
        super().__init__()
        require("mlflow", "mlflow", "MLflowLogger")
        if log_model not in (True, False, "all"):
            raise InvalidArgument("MLflowLogger.log_model", log_model, 'true, false or "all"')
        if experiment_name is not None:
            _check_name("experiment_name", experiment_name, _EXPERIMENT_LENGTH)
        if run_name is not None:
            _check_name("run_name", run_name, LENGTH)
        for name in tags or {}:
            _check_name("tags", name, LENGTH)
        self.log_system_metrics = wants_system_metrics(log_system_metrics)
        if self.log_system_metrics:
            require("psutil", "mlflow", "MLflowLogger.log_system_metrics")
        self.experiment_name = experiment_name
        self._asked_uri = None if tracking_uri is None else os.fspath(tracking_uri)
        self._run_names = RunNames()
        tags = dict(tags or {})
        named = tags.pop(RUN_NAME, None)  # equivalent to run_name, which takes precedence
        self._asked_name = run_name if run_name is not None or named is None else str(named)
        self.tags = {self._run_names.tag(name): text_of(value) for name, value in (tags or {}).items()}
        self._start = start_folder()
        self.spool_dir, self.artifact_location, self.prefix = Path(spool_dir), artifact_location, prefix
        self._model_files = ModelFiles(self, log_model, checkpoint_path_prefix)
        self._continued, self._renames = run_id, run_id is not None
        self._destination: Destination | None = None
        self._delivery = Delivery(self.spool_dir, self._start)
        self._stage = ""  # what a Trainer does: fit, validate, test, predict
        self._client: MlflowClient | None = None
        self._last: dict[str, tuple[int, float]] = {}  # step and value of each metric
        self._names: dict[str, str] = {}  # of metrics, as they stand in the spool
        self._knows_names = False  # those of a run that others have begun
        self._addressed: str | None = None  # where it logs, with a password if there is one
        self._artifacts: dict[str, Path] = {}  # their sources, by place
        self._left_out: set[str] = set()  # what has been warned of

    # --- Lightning's logger interface --------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The experiment's ID, because ModelCheckpoint uses it as a folder name; None before the fit starts."""
        known = self.experiment_id
        return known if known is not None or not self._delivery.is_open else _UNSENT

    @property
    def version(self) -> str | None:
        """The run's ID, or that of its spool until the server has assigned one; None before the fit starts."""
        reference = self.run_id or self._delivery.reference
        return reference.removeprefix(BY_SPOOL) if reference is not None else None

    @property
    def run_id(self) -> str | None:
        """The run's id; None before the fit begins, and while a server is away that has yet to give it."""
        if self._delivery.is_open:
            self._delivery.await_run()
        return self._delivery.state.run_id

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None before the fit begins."""
        return self._delivery.state.experiment_id if self.run_id is not None else None

    @property
    def run_name(self) -> str | None:
        """The run's name; None before MLflow has made one up."""
        return self._delivery.state.run_name or self._asked_name

    @property
    def tracking_uri(self) -> str | None:
        """Where it logs; None for MLflow's own default, before the fit begins."""
        known = self._delivery.state.tracking_uri
        if known is not None and not (self._addressed and has_secret(self._addressed)):
            return known
        return self._addressed or self._asked_uri

    @property
    def experiment(self) -> RunClient | SilentClient:
        """MLflow's client, which is made when it is first used; on other ranks than 0 one that does nothing."""
        if getattr(rank_zero_only, "rank", 0) != 0:
            return SilentClient()
        self._begin()
        if self._continued is not None:
            self._delivery.await_run()
        return RunClient(self)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step."""
        values, step = {}, self._step(step)
        if step is None:
            return
        self._ensure_run()
        for name, value in metrics.items():
            try:
                point = step, float(value)
            except (TypeError, ValueError, OverflowError):
                self._leave_out(f"the metric {name!r}: {shown(value)} is no number, or too large for a double")
                continue
            if self._last.get(name) != point:  # Lightning gives the epoch with training's metrics and validation's
                self._last[name] = point
                values[self._run_names.metric(self._prefixed(name))] = point[1]
        if values:
            self._delivery.write(line_of_points(_now(), step, values, self._names))

    @rank_zero_only
    def log_series(self, name: str, first_step: int, values: array[float]) -> None:
        """Log the values of a metric at consecutive steps.

        Args:
            name: the metric's.
            first_step: the step of the first value.
            values: the values, an array of doubles.
        """
        if sys.byteorder == "big":
            values = array("d", values)
            values.byteswap()
        self._ensure_run()
        name = self._run_names.metric(self._prefixed(name))
        self._delivery.write(line_of_series(_now(), first_step, name, values.tobytes()))

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace | None, *_: Any, **__: Any) -> None:
        """Log parameters, nested ones under dotted names."""
        values = {}
        self._know_names()
        for path, value in _flat(vars(params) if isinstance(params, Namespace) else params or {}):
            text = text_of(value)
            values[self._run_names.param(path, text)] = text
        self._write({"do": "params", "values": values})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, and wait until MLflow has all of it; not for long where a server is away."""
        if not self._delivery.is_open:
            return
        if status == "success":
            self._model_files.store()
        delivery = self._delivery
        only_looks, self._stage = self._stage not in ("", "fit"), ""
        delivery.end({"do": "end", "time": _now(), "status": run_status(status), "only_looks": only_looks})
        complete = delivery.await_sent(_AWAY_SECONDS)
        for shortfall in shortfalls(delivery, complete, is_default=self.spool_dir == DEFAULT):
            rank_zero_warn(shortfall)

    @property
    def lost_points(self) -> int:
        """Points of the last run that are lost, for no disk had room for them until its end."""
        return self._delivery.lost

    @property
    def spool_folder(self) -> Path:
        """The folder that the spools are in: `spool_dir`, as an absolute path."""
        return self._delivery.parent

    @property
    def differing_params(self) -> list[str]:
        """Params of the last run whose recorded value differs from the one logged last."""
        return self._delivery.differing_params

    @property
    def error(self) -> str:
        """Why MLflow has permanently refused the last run; empty if it has not."""
        return self._delivery.trouble_in_words if self._delivery.error else ""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Note the checkpoints that ModelCheckpoint keeps, and store them if each is to be."""
        self._model_files.note_checkpoints(checkpoint_callback)

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Take note of the module, which Lightning hands to its loggers when a fit begins."""
        trainer = getattr(model, "_trainer", None)
        fn = getattr(getattr(trainer, "state", None), "fn", None)
        self._stage = str(getattr(fn, "value", ""))
        self._model_files.module = model
        self._ensure_run()
        joins = self._destination is not None and self._destination.joins
        for callback in trainer.callbacks if trainer is not None and joins else ():
            if type(callback).__name__ == "__MlflowPLCallback":
                # That of mlflow.pytorch.autolog(): its run is joined, and what it logs of metrics is logged here.
                callback._log_metrics = nothing

    # --- beyond it ---------------------------------------------------------------------------------------

    @property
    def reference(self) -> str | None:
        """What `continue_run` finds the run by, without waiting for its id; None before the fit begins."""
        return self._continued or self._delivery.reference

    def continue_run(self, run_id: str) -> bool:
        """Go on with a run instead of creating one; whether the store has that run.

        Args:
            run_id: its id, or a `reference`.

        Raises:
            TrackingError: the store cannot be used.
        """
        if getattr(rank_zero_only, "rank", 0) != 0:
            return True
        self._continued, self._renames, self._destination = run_id, False, None
        try:
            self._begin(resumes=True)
            self._delivery.await_run()
        except MissingRun:
            self._continued = self._destination = None
            return False
        return True

    @property
    def times_continued(self) -> int:
        """How often the run has been resumed so far, this time included."""
        return self._delivery.state.resumed if self.run_id is not None else 0

    def _know_names(self) -> None:
        """Adopt the names of a run that already exists, before the first one is chosen here."""
        if self._knows_names:
            return
        self._knows_names = True
        self._begin()
        if self._destination is not None and self._destination.run_id is not None:
            self._delivery.await_run(_SETTLE_SECONDS)
            self._run_names.take(self._delivery.state.there, self._delivery.state.names)
        self._run_names.on_new = lambda told: self._write({"do": "tags", "values": {NAMES_TAG: told}})

    @rank_zero_only
    def set_tag(self, name: str, value: object) -> None:
        """Tag the run."""
        self._know_names()
        self._write({"do": "tags", "values": {self._run_names.tag(name): text_of(value)}})

    @rank_zero_only
    def log_dataset(
        self, name: str, digest: str, source: str, context: str = "training", profile: Mapping[str, Any] | None = None
    ) -> None:
        """Note a dataset as an input of the run.

        Args:
            name: its name.
            digest: what tells its contents apart from others, at most 36 characters.
            source: where it is from.
            context: what it is for. Default `"training"`.
            profile: numbers that describe it, e.g. of samples. Default None.
        """
        dataset = {
            "name": name,
            "digest": digest[:36],
            "source_type": "code",
            "source": json.dumps({"tags": {"mlflow.source.name": source}}),
            "profile": json.dumps(dict(profile or {})),
        }
        self._write({"do": "dataset", "dataset": dataset, "context": context})

    @property
    def page(self) -> str | None:
        """Where to see the run's curves: the address of its page, with how to serve it where that is local."""
        return self.address("model-metrics")

    def address(self, part: str) -> str | None:
        """The address of a part of the run's page: `"model-metrics"`, `"artifacts"`, `"overview"`."""
        state = self._delivery.state
        if state.tracking_uri is None or state.run_id is None:
            return None
        (server, *_), run_id = without_user(state.tracking_uri), state.run_id
        local = not server.startswith("http")
        # Without the workflow in the address MLflow shows its pages for chatbots.
        path = f"#/experiments/{state.experiment_id}/runs/{run_id}/{part}?workflowType=machine_learning"
        return f"mlflow ui, then http://127.0.0.1:5000/{path}" if local else f"{server.rstrip('/')}/{path}"

    @rank_zero_only
    def flush(self) -> None:
        """Wait until MLflow has what has been logged; not for long where a server is away."""
        if self._delivery.is_open:
            self._delivery.await_sent(_AWAY_SECONDS)

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Store a file with the run, as it is now; or a folder.

        What cannot be stored is left out, with a warning: a training does not end for it.

        Args:
            path: the file or folder.
            artifact_path: folder within the run. Default None: the topmost.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """
        path, to = Path(path), artifact_path or None
        name = encodable(path.name or path.resolve().name)
        before = self._artifacts.setdefault(f"{to}/{name}", path.resolve())
        if before != path.resolve():
            rank_zero_warn(f"{path} replaces {before} in the MLflow run: both have the same artifact path.")
            self._artifacts[f"{to}/{name}"] = path.resolve()
        self._keep(f"{to}/{name}" if to else name, to, lambda spool: spool.keep(path), str(path))

    @rank_zero_only
    def log_text(self, text: str, name: str) -> None:
        """Store a text with the run, as a file of that name.

        What cannot be stored is left out, with a warning: a training does not end for it.
        """
        folder, _, file_name = name.rpartition("/")
        self._keep(name, folder or None, lambda spool: spool.keep_text(text, file_name), name)

    def _keep(self, place: str, to: str | None, keep: Callable[[Spool], str], what: str) -> None:
        problem = path_problem(place)
        if problem:
            self._leave_out(f"the artifact {shown(place)}: its place in a run must be {problem}")
            return
        self._begin()
        kept = self._delivery.keep(keep)
        if kept is None:
            self._leave_out(f"the artifact {shown(what)}: no disk has room for it")
        else:
            self._write({"do": "file", "kept": kept, "to": to})

    def _step(self, step: Any) -> int | None:
        """The step as an integer that MLflow accepts; None, with a warning, if there is none."""
        try:
            found = int(step or 0)
        except (TypeError, ValueError, OverflowError):
            found = _STEPS
        if -_STEPS <= found < _STEPS:
            return found
        self._leave_out(f"metrics at step {shown(step)}: a step is a whole number below 2**63")
        return None

    def _leave_out(self, what: str) -> None:
        """Warn, once, of something that cannot be recorded."""
        if what not in self._left_out:
            self._left_out.add(what)
            rank_zero_warn(f"MLflowLogger leaves out {what}.")

    def _prefixed(self, name: str) -> str:
        return f"{self.prefix}-{name}" if self.prefix else name

    # --- the run -----------------------------------------------------------------------------------------------

    def _ensure_run(self) -> None:
        """Start the run unless it has started, and wait, before its first value, until MLflow has accepted it."""
        self._begin()
        self._know_names()
        self._delivery.settle(_SETTLE_SECONDS)

    def _write(self, entry: dict[str, Any]) -> None:
        self._begin()
        self._delivery.write(line_of(entry))

    def _begin(self, resumes: bool = False) -> None:
        """Start the run, or continue it in another fit."""
        if self._delivery.is_open:
            return
        state = self._delivery.state
        if self._destination is None:  # decided once: later fits continue the same run
            told = self._asked_uri, self.experiment_name, self._asked_name
            self._destination = destination(*told, self.tags, self._start, self._continued)
        there = self._destination
        self._addressed = there.uri
        entry = {
            "do": "run",
            "time": _now(),
            "experiment": there.experiment,
            "experiment_id": there.experiment_id,
            "name": self._asked_name,
            "tags": self.tags,
            "uri": there.uri,
            "artifact_location": self.artifact_location,
            "run_id": state.run_id or there.run_id,
            "resumes": resumes or (self._continued is not None and state.run_id is None),
            "checks": False,
            "joins": there.joins,
            "adds": state.run_id is None and (self._renames or self._continued is None),
            "system_metrics": self.log_system_metrics,
            "program": sys.argv[0],
        }
        self._delivery.open(entry, self._continued)


def _check_name(field: str, name: object, longest: int) -> None:
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= len(name) <= longest or encodable(name) != name:
        field = "a name in MLflowLogger.tags" if field == "tags" else f"MLflowLogger.{field}"
        raise InvalidArgument(field, name, f"a text of 1 to {longest} characters")


def _now() -> int:
    return int(time.time() * 1000)


def _flat(params: Mapping[str, Any], *above: object) -> Iterator[tuple[tuple[object, ...], Any]]:
    """The values of nested params, each with the names that lead to it."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, *above, name)
        else:
            yield (*above, name), value
