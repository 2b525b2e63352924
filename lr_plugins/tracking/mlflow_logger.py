"""A Lightning logger that records every point in MLflow and never makes the training wait for it."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lr_plugins._lightning.compat import Logger
from lr_plugins.errors import InvalidArgumentError, require, shown
from lr_plugins.paths import start_folder
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.tracking.client import RunClient, SilentClient, nothing
from lr_plugins.tracking.delivery import Delivery, MissingRunError
from lr_plugins.tracking.destination import wants_system_metrics
from lr_plugins.tracking.distinct_names import RunNames
from lr_plugins.tracking.entries import BY_SPOOL, dataset_entry, line_of, line_of_points, line_of_series
from lr_plugins.tracking.model_files import ModelFiles
from lr_plugins.tracking.names import NAMES_TAG, encodable, path_problem
from lr_plugins.tracking.omissions import Omissions
from lr_plugins.tracking.run_page import run_address
from lr_plugins.tracking.run_request import RunRequest, now
from lr_plugins.tracking.run_status import run_status
from lr_plugins.tracking.secrets import has_secret
from lr_plugins.tracking.shortfalls import shortfalls
from lr_plugins.tracking.spool import DEFAULT, Spool
from lr_plugins.tracking.values import flattened, text_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTLE_SECONDS = 10.0  # how long the start of a run waits for a server that does not answer
_AWAY_SECONDS = 3.0  # how long the end of a run waits for a server that is away, or does not answer
_UNSENT = "unsent"  # instead of the experiment's ID while that is unknown


class MLflowLogger(Logger):
    """Log a Lightning run to MLflow: every value in float64 at its exact step, without holding up the training.

    Whatever is logged is written at once to a spool, a file below `spool_dir`; a separate process sends it from there.
    An unreachable server costs nothing but a warning: the points wait and arrive when it is back. `lr-plugins send`
    sends what still waits when the training has ended. A training that is killed loses no point, and its run is marked
    KILLED.

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
        MissingExtraError: mlflow is not installed, or psutil where system metrics are wanted.
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
            raise InvalidArgumentError("MLflowLogger.log_model", log_model, 'true, false or "all"')
        self.log_system_metrics = wants_system_metrics(log_system_metrics)
        if self.log_system_metrics:
            require("psutil", "mlflow", "MLflowLogger.log_system_metrics")
        start, self._run_names = start_folder(), RunNames()
        self._request = RunRequest(
            experiment_name, run_name, tracking_uri, tags or {}, self._run_names, start, run_id, artifact_location
        )
        self.spool_dir, self.prefix = Path(spool_dir), prefix
        self._delivery = Delivery(self.spool_dir, start)
        self._model_files = ModelFiles(self.log_artifact, log_model, checkpoint_path_prefix)
        self._omissions = Omissions()
        self._stage = ""  # what the Trainer does: fit, validate, test, predict
        self._client: MlflowClient | None = None
        self._last: dict[str, tuple[int, float]] = {}  # step and value of each metric
        self._encoded: dict[str, str] = {}  # metric names in JSON
        self._address: str | None = None  # where it logs, with a password if there is one
        self._artifacts: dict[str, Path] = {}  # their sources, by artifact path

    # --- Lightning's logger interface --------------------------------------------------------------------

    @property
    def tags(self) -> dict[str, str]:
        """The tags that the run starts with."""
        return self._request.tags

    @tags.setter
    def tags(self, tags: dict[str, str]) -> None:
        self._request.tags = tags

    @property
    def experiment_name(self) -> str | None:
        """The experiment's name as it was given; None if it was not."""
        return self._request.experiment

    @property
    def artifact_location(self) -> str | None:
        """Where the artifacts of a new experiment go, as it was given; None if it was not."""
        return self._request.artifact_location

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
        """The run's ID; None before the fit starts, and while the server that would assign it is unreachable."""
        if self._delivery.is_open:
            self._delivery.await_run()
        return self._delivery.state.run_id

    @property
    def experiment_id(self) -> str | None:
        """The experiment's ID; None before the fit starts."""
        return self._delivery.state.experiment_id if self.run_id is not None else None

    @property
    def run_name(self) -> str | None:
        """The run's name; None before MLflow has made one up."""
        return self._delivery.state.run_name or self._request.name

    @property
    def tracking_uri(self) -> str | None:
        """Where it logs; None for MLflow's own default before the fit starts."""
        known = self._delivery.state.tracking_uri
        if known is not None and not (self._address and has_secret(self._address)):
            return known
        return self._address or self._request.uri

    @property
    def experiment(self) -> RunClient | SilentClient:
        """MLflow's client, made when it is first used; on ranks other than 0, one that does nothing."""
        if getattr(rank_zero_only, "rank", 0) != 0:
            return SilentClient()
        self._open()
        if self._request.run_id is not None:
            self._delivery.await_run()
        return RunClient(self._connect)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step."""
        step = self._omissions.step(step)
        if step is None:
            return
        self._ensure_run()
        values = {}
        for name, given in metrics.items():
            value = self._omissions.value(name, given)
            # Lightning logs `epoch` with the metrics of training and again with those of validation.
            if value is not None and self._last.get(name) != (step, value):
                self._last[name] = step, value
                values[self._run_names.metric(self._prefixed(name))] = value
        if values:
            self._delivery.write(line_of_points(now(), step, values, self._encoded))

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
        self._delivery.write(line_of_series(now(), first_step, name, values.tobytes()))

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace | None, *_: Any, **__: Any) -> None:
        """Log parameters, nested ones under dotted names."""
        values = {}
        self._adopt_names()
        for path, value in flattened(vars(params) if isinstance(params, Namespace) else params or {}):
            text = text_of(value)
            values[self._run_names.param(path, text)] = text
        self._write({"do": "params", "values": values})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, and wait until MLflow has all of it; only briefly if the server is unreachable."""
        if not self._delivery.is_open:
            return
        if status == "success":
            self._model_files.store()
        delivery = self._delivery
        only_looks, self._stage = self._stage not in ("", "fit"), ""
        delivery.end({"do": "end", "time": now(), "status": run_status(status), "only_looks": only_looks})
        complete = delivery.await_sent(_AWAY_SECONDS)
        for shortfall in shortfalls(delivery, complete, is_default=self.spool_dir == DEFAULT):
            rank_zero_warn(shortfall)

    @property
    def lost_points(self) -> int:
        """Points of the last run that are lost, because no disk had room for them before it ended."""
        return self._delivery.overflow.lost_points

    @property
    def spool_folder(self) -> Path:
        """The folder that the spools are in: `spool_dir` as an absolute path."""
        return self._delivery.parent

    @property
    def differing_params(self) -> list[str]:
        """Params of the last run whose recorded value differs from the one logged last."""
        return self._delivery.parts.differing_params

    @property
    def error(self) -> str:
        """Why MLflow has permanently refused the last run; empty if it has not."""
        return self._delivery.describe_trouble() if self._delivery.parts.error else ""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Note the checkpoints that ModelCheckpoint keeps, and store them with `log_model="all"`."""
        self._model_files.note_checkpoints(checkpoint_callback)

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Keep the module, which Lightning passes to its loggers when a fit starts."""
        trainer = getattr(model, "_trainer", None)
        fn = getattr(getattr(trainer, "state", None), "fn", None)
        self._stage = str(getattr(fn, "value", ""))
        self._model_files.module = model
        self._ensure_run()
        for callback in trainer.callbacks if trainer is not None and self._request.joins else ():
            if type(callback).__name__ == "__MlflowPLCallback":
                # That of mlflow.pytorch.autolog(): its run is joined, and this logger logs the metrics.
                callback._log_metrics = nothing

    # --- beyond Lightning's interface --------------------------------------------------------------------

    @property
    def reference(self) -> str | None:
        """A name by which `continue_run` finds the run, without waiting for its ID; None before the fit starts."""
        return self._request.run_id or self._delivery.reference

    def continue_run(self, run_id: str) -> bool:
        """Continue a run instead of creating one; whether MLflow has that run.

        Args:
            run_id: its ID, or a `reference`.

        Raises:
            TrackingError: MLflow cannot be used.
        """
        if getattr(rank_zero_only, "rank", 0) != 0:
            return True
        self._request.resume(run_id)
        try:
            self._open(resumes=True)
            self._delivery.await_run()
        except MissingRunError:
            self._request.resume(None)
            return False
        return True

    @property
    def times_continued(self) -> int:
        """How often the run has been resumed so far, this time included."""
        return self._delivery.state.resumed if self.run_id is not None else 0

    @rank_zero_only
    def set_tag(self, name: str, value: object) -> None:
        """Tag the run."""
        self._adopt_names()
        self._write({"do": "tags", "values": {self._run_names.tag(name): text_of(value)}})

    @rank_zero_only
    def log_dataset(
        self, name: str, digest: str, source: str, context: str = "training", profile: Mapping[str, Any] | None = None
    ) -> None:
        """Record a dataset as an input of the run.

        Args:
            name: its name.
            digest: identifies its contents, at most 36 characters.
            source: where it is from.
            context: what it is used for. Default `"training"`.
            profile: numbers that describe it, e.g. of samples. Default None.
        """
        self._write(dataset_entry(name, digest, source, context, profile or {}))

    @property
    def page(self) -> str | None:
        """Where to see the run's curves: the address of its page, with the command that serves a local database."""
        return self.address("model-metrics")

    def address(self, part: Literal["model-metrics", "artifacts", "overview"]) -> str | None:
        """The address of a part of the run's page; None before the run exists."""
        return run_address(self._delivery.state, part)

    @rank_zero_only
    def flush(self) -> None:
        """Wait until MLflow has what has been logged; only briefly if the server is unreachable."""
        if self._delivery.is_open:
            self._delivery.await_sent(_AWAY_SECONDS)

    def release(self) -> None:
        """Have the process that sends stand by for the next logger, once the run has ended and MLflow has all of it.

        That saves the next run the seconds in which MLflow is imported. Without it, the process waits until this
        program ends, because more may be logged.
        """
        self._delivery.release()

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Store a file or a folder with the run, as it is now.

        What cannot be stored is left out with a warning; the training continues.

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

        What cannot be stored is left out with a warning; the training continues.
        """
        folder, _, file_name = name.rpartition("/")
        self._keep(name, folder or None, lambda spool: spool.keep_text(text, file_name), name)

    def _keep(self, place: str, to: str | None, keep: Callable[[Spool], str], what: str) -> None:
        problem = path_problem(place)
        if problem:
            self._omissions.warn(f"the artifact {shown(place)}: its path within a run must be {problem}")
            return
        self._open()
        kept = self._delivery.keep(keep)
        if kept is None:
            self._omissions.warn(f"the artifact {shown(what)}: no disk has room for it")
        else:
            self._write({"do": "file", "kept": kept, "to": to})

    def _prefixed(self, name: str) -> str:
        return f"{self.prefix}-{name}" if self.prefix else name

    # --- the run -----------------------------------------------------------------------------------------------

    def _ensure_run(self) -> None:
        """Start the run unless it has started, and wait, before its first value, until MLflow has accepted it."""
        self._open()
        self._adopt_names()
        self._delivery.settle(_SETTLE_SECONDS)

    def _open(self, resumes: bool = False) -> None:
        """Start the run, or continue it in another fit."""
        if not self._delivery.is_open:
            self._address = self._request.destination.uri
            entry = self._request.entry(self._delivery.state, resumes, self.log_system_metrics)
            self._delivery.open(entry, self._request.run_id)

    def _adopt_names(self) -> None:
        """Adopt the names of a run that already exists, before the first one is chosen here."""
        if self._run_names.on_new is not None:
            return
        self._run_names.on_new = lambda chosen: self._write({"do": "tags", "values": {NAMES_TAG: chosen}})
        self._open()
        if self._request.destination.run_id is not None:
            self._delivery.await_run(_SETTLE_SECONDS)
            self._run_names.take(self._delivery.state.there, self._delivery.state.names)

    def _write(self, entry: dict[str, Any]) -> None:
        self._open()
        self._delivery.write(line_of(entry))

    def _connect(self) -> MlflowClient:
        from mlflow import MlflowClient

        if self._client is None:
            _ = self.run_id  # so that the run exists, and the address is known
            self._client = MlflowClient(self.tracking_uri)
        return self._client
