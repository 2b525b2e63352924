"""A Lightning logger that keeps every point, in MLflow's own default place, and never waits for it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import weakref
from argparse import Namespace
from array import array
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr_plugins._lightning import Logger, rank_zero_only, rank_zero_warn
from lr_plugins.errors import InvalidArgument, TrackingError
from lr_plugins.tracking.spool import BY_SPOOL, DEFAULT, ERRORS, Spool, State, guarded, spools

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOOK_EVERY = 2.0  # seconds between looks at how the sending goes
_BEGIN_SECONDS = 120.0  # for MLflow to make its tables and the run, on a slow disk
_STARTS = 5  # of a sender, that ends by itself, before we give it up
_AWAY_SECONDS = 10.0  # how long the end of a run waits for a server that is away


class MLflowLogger(Logger):
    """Log a Lightning run to MLflow: every value in float64 at its exact step, and without holding up the training.

    What is logged is written to a spool, a file below `spool_dir`, at once, and a process of its own sends it from
    there. A server that is away costs nothing but a warning: the points wait, and arrive when it is back; what still
    waits when the training has ended is sent by `python -m lr_plugins.tracking`. A training that is killed loses no
    point, and its run is marked KILLED.

    Without `tracking_uri` it goes where MLflow itself would go: what `mlflow.set_tracking_uri` or
    `MLFLOW_TRACKING_URI` name, or else `mlflow.db` in the current folder, which is where `mlflow ui` without flags
    looks. The run is created when the fit begins, and ends FINISHED, FAILED or, when it was interrupted, KILLED.

    `continue_run`, or `run_id`, makes it go on with a run that was interrupted. What that run has of a metric at a step
    is not logged again. Where it is another value, the first one stays (MLflow cannot delete points), and a warning
    tells so.

    Args:
        experiment_name: the MLflow experiment; created if there is none. Default `"lr_plugins"`.
        run_name: the run's name. Default None: MLflow makes one up.
        tracking_uri: where to log. Default None: MLflow's own default.
        tags: tags of the run. The versions of the libraries and, in a repository, the commit are added.
        spool_dir: folder for what MLflow does not have yet. Default `.lr_plugins/spool` in the current folder.
        run_id: a run to go on with. Default None: a new one.
        artifact_location: where the artifacts of a new experiment go. Default None: MLflow's own default.
        prefix: what the names of metrics begin with, before a `-`. Default `""`: nothing.

    Raises:
        InvalidArgument: mlflow is not installed.
        TrackingError: when the run begins: MLflow cannot be used like this at all (no such database, a run that is not
            there). A server that is away is none.

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
        spool_dir: str | Path = DEFAULT,
        run_id: str | None = None,
        artifact_location: str | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        if find_spec("mlflow") is None:
            raise InvalidArgument("MLflowLogger", "no mlflow", "used with mlflow installed", "pip install mlflow")
        self.experiment_name, self._asked_name, self._asked_uri = experiment_name, run_name, tracking_uri
        self.tags = {name: str(value) for name, value in (tags or {}).items()}
        self.spool_dir, self.artifact_location, self.prefix = Path(spool_dir), artifact_location, prefix
        self._continued = run_id
        self._spool: Spool | None = None
        self._sender: subprocess.Popen[bytes] | None = None
        self._state = State()
        self._begun = self._announced = False
        self._starts = 0  # of senders for this spool
        self._looked_at = 0.0
        self._client: MlflowClient | None = None

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
    def run_id(self) -> str | None:
        """The run's id; None before the fit begins, and while a server is away that has yet to give it."""
        if self._begun and self._spool is not None and self._state.writer != self._spool.writer:
            self._await_run()
        return self._state.run_id

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None before the fit begins."""
        return self._state.experiment_id if self.run_id is not None else None

    @property
    def run_name(self) -> str | None:
        """The run's name; None before MLflow has made one up."""
        return self._state.run_name or self._asked_name

    @property
    def tracking_uri(self) -> str | None:
        """Where it logs; None for MLflow's own default, before the fit begins."""
        return self._state.tracking_uri or self._asked_uri

    @property
    def experiment(self) -> _Client | None:
        """MLflow's client, which is made when it is first used; None on other ranks than 0."""
        if getattr(rank_zero_only, "rank", 0) != 0:
            return None
        self._begin()
        return _Client(self)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step."""
        values = {self._prefixed(name): float(value) for name, value in metrics.items()}
        self._write({"do": "points", "time": _now(), "step": step or 0, "values": values})

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
        packed = b64encode(values.tobytes()).decode()
        self._write(
            {"do": "series", "time": _now(), "step": first_step, "name": self._prefixed(name), "values": packed}
        )

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Log parameters, nested ones under dotted names."""
        flat = _flat(vars(params) if isinstance(params, Namespace) else params)
        self._write({"do": "params", "values": {name: str(value) for name, value in flat}})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, and wait until MLflow has all of it; not for long where a server is away."""
        if not self._begun:
            return
        self._write({"do": "end", "time": _now(), "status": _run_status(status)})
        assert self._spool is not None
        self._begun = False
        complete = self._await_sent(_AWAY_SECONDS)
        if self._state.differing:
            rank_zero_warn(
                f"{self._state.differing} points of MLflow run {self._state.run_id} have another value now than before "
                "the run was resumed; the first value stays. With new_run=true, a resumed training gets a run of its "
                "own."
            )
        if self._state.refused:
            rank_zero_warn(
                f"MLflow did not take {self._state.refused} of the entries of run {self._state.run_id}, the last of "
                f"them because: {self._state.refusal}. They are kept in {self._spool.folder}."
            )
        if not complete:
            command = "python -m lr_plugins.tracking"
            if self.spool_dir != DEFAULT:
                command += f" {self.spool_dir}"
            rank_zero_warn(
                f"MLflow cannot be reached ({self._state.trouble or self._spool.trouble or 'no answer'}). What it does "
                f"not have yet waits in {self._spool.folder}; send it with: {command}"
            )

    # --- beyond it ---------------------------------------------------------------------------------------

    @property
    def reference(self) -> str | None:
        """What `continue_run` finds the run by, without waiting for its id; None before the fit begins."""
        if self._spool is None:
            return None
        self._look()
        return self._state.run_id or self._continued or f"{BY_SPOOL}{self._spool.folder.name}"

    def continue_run(self, run_id: str) -> bool:
        """Go on with a run instead of creating one; whether the store has that run.

        Args:
            run_id: its id, or a `reference`.

        Raises:
            TrackingError: the store cannot be used.
        """
        if getattr(rank_zero_only, "rank", 0) != 0:
            return True
        self._continued = run_id
        try:
            self._begin(resumes=True)
            self._await_run()
        except _Missing:
            self._abandon()
            return False
        return True

    @property
    def times_continued(self) -> int:
        """How often the run has been resumed so far, this time included."""
        return self._state.resumed if self.run_id is not None else 0

    @rank_zero_only
    def set_tag(self, name: str, value: object) -> None:
        """Tag the run."""
        self._write({"do": "tags", "values": {name: str(value)}})

    @property
    def page(self) -> str | None:
        """Where to see the run's curves: the address of its page, with how to serve it where that is local."""
        server, run_id = self._state.tracking_uri, self._state.run_id
        if server is None or run_id is None:
            return None
        local = not server.startswith("http")
        # Without the workflow in the address MLflow shows its pages for chatbots.
        path = f"#/experiments/{self._state.experiment_id}/runs/{run_id}/model-metrics?workflowType=machine_learning"
        return f"mlflow ui, then http://127.0.0.1:5000/{path}" if local else f"{server.rstrip('/')}/{path}"

    @rank_zero_only
    def flush(self) -> None:
        """Wait until MLflow has what has been logged; not for long where a server is away."""
        if self._begun:
            self._await_sent(_AWAY_SECONDS)

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Store a file with the run, as it is now; or a folder."""
        self._begin()
        assert self._spool is not None
        self._write({"do": "file", "kept": self._spool.keep(Path(path)), "to": artifact_path})

    @rank_zero_only
    def log_text(self, text: str, name: str) -> None:
        """Store a text with the run, as a file of that name."""
        self._begin()
        assert self._spool is not None
        folder, _, name = name.rpartition("/")
        self._write({"do": "file", "kept": self._spool.keep_text(text, name), "to": folder or None})

    def _prefixed(self, name: str) -> str:
        return f"{self.prefix}-{name}" if self.prefix else name

    # --- the spool and its sender -------------------------------------------------------------------------

    def _write(self, entry: dict[str, Any]) -> None:
        self._begin()
        assert self._spool is not None
        self._spool.write(entry)
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY:
            self._looked_at = now
            self._look()

    def _begin(self, resumes: bool = False) -> None:
        """Begin the run, or go on with it in another fit; at once, whatever MLflow does."""
        if self._begun:
            return
        try:
            with guarded(self.spool_dir):
                if self._spool is None or not self._spool.is_there:
                    self._spool, self._sender = self._take_up() or Spool.new(self.spool_dir), None
                self._spool.write(self._start(resumes or (self._continued is not None and self._state.run_id is None)))
        except OSError as error:
            raise TrackingError(f"MLflowLogger.spool_dir: {self.spool_dir} cannot be written to ({error})") from error
        self._begun, self._announced, self._starts = True, False, 0
        self._state = replace(self._state, done=0, trouble="", error="", differing=0)
        self._look()

    def _take_up(self) -> Spool | None:
        """The spool that the run to go on with has left, if it has not been sent."""
        for folder in spools(self.spool_dir) if self._continued is not None else ():
            if self._continued in (State.read(folder).run_id, f"{BY_SPOOL}{folder.name}"):
                return Spool(folder)
        return None

    def _start(self, resumes: bool) -> dict[str, Any]:
        uri = self._asked_uri
        if uri is None and "mlflow" in sys.modules:  # by mlflow.set_tracking_uri; otherwise the sender finds it out
            uri = sys.modules["mlflow"].get_tracking_uri()
        return {
            "do": "run",
            "time": _now(),
            "experiment": self.experiment_name,
            "name": self._asked_name,
            "tags": self.tags,
            "uri": uri,
            "artifact_location": self.artifact_location,
            "run_id": self._state.run_id or self._continued,
            "resumes": resumes,
            "program": sys.argv[0],
            "writer": self._spool.writer if self._spool is not None else "",
            "spool": self._spool.folder.name if self._spool is not None else "",
        }

    def _look(self) -> None:
        """See to it that somebody sends, and tell of trouble once."""
        assert self._spool is not None
        self._state = _newer(self._state, State.read(self._spool.folder))
        ended = self._sender is not None and self._sender.poll() is not None
        if (self._sender is None or ended) and not self._state.error:
            if self._starts == _STARTS:
                self._state.error = f"its process ends again and again; see {self._spool.folder / ERRORS}"
            else:
                self._start_sender(self._spool)
        trouble = self._state.error or self._state.trouble or self._spool.trouble
        if trouble and not self._announced:
            self._announced = True
            rank_zero_warn(
                f"MLflow cannot be reached ({trouble}). The training goes on; what it logs waits in "
                f"{self._spool.folder}."
            )

    def _start_sender(self, spool: Spool) -> None:
        command = [sys.executable, "-m", "lr_plugins.tracking.sender", str(spool.folder.absolute()), spool.writer]
        self._starts += 1
        with (spool.folder / ERRORS).open("ab") as errors:
            # In a session of its own: Ctrl-C is for the training.
            self._sender = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=errors, stderr=errors, start_new_session=True
            )
        weakref.finalize(self, _let_go, self._sender)

    def _await_run(self) -> None:
        """Wait until there is a run, or nobody to make one."""
        assert self._spool is not None
        deadline = time.monotonic() + _BEGIN_SECONDS
        while time.monotonic() < deadline:
            self._look()
            state = self._state
            if state.error:
                self._abandon()
                raise TrackingError(f"MLflow at {state.tracking_uri or 'its default place'}: {state.error}")
            if state.writer == self._spool.writer or state.trouble:
                if state.missing:
                    raise _Missing(f"MLflow run {self._continued} is not there")
                return
            self._poke()
            time.sleep(0.02)

    def _await_sent(self, patience: float) -> bool:
        """Wait until all is sent, as long as something arrives; whether it is."""
        assert self._spool is not None
        size, done, since = self._spool.size, -1, time.monotonic()
        while True:
            self._look()
            if self._state.done >= size:
                return True
            if self._state.done != done:
                done, since = self._state.done, time.monotonic()
            limit = patience if self._state.trouble or self._spool.trouble else _BEGIN_SECONDS
            if self._state.error or time.monotonic() - since > limit:
                return False
            self._poke()
            time.sleep(0.02)

    def _poke(self) -> None:
        assert self._sender is not None
        assert self._sender.stdin is not None
        with contextlib.suppress(OSError):  # it has ended; the next look starts another
            self._sender.stdin.write(b"\n")
            self._sender.stdin.flush()

    def _abandon(self) -> None:
        """Give up a run that cannot begin."""
        if self._sender is not None:
            _let_go(self._sender)
        self._spool, self._sender, self._begun, self._continued, self._state = None, None, False, None, State()

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process."""
        return {**self.__dict__, "_spool": None, "_sender": None, "_client": None, "_begun": False}


class _Missing(TrackingError):
    """The run to go on with is not there."""


class _Client:
    """MLflow's client of a logger's run, made when it is first used: to import MLflow takes a second or two."""

    def __init__(self, logger: MLflowLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        from mlflow import MlflowClient

        logger = self._logger
        if logger._client is None:
            _ = logger.run_id  # so that the run is there, and the place is known
            logger._client = MlflowClient(logger.tracking_uri)
        return getattr(logger._client, name)


def _newer(known: State, read: State) -> State:
    """What the sender has told last; its file is gone once everything is sent."""
    return read if read.done >= known.done else known


def _let_go(sender: subprocess.Popen[bytes]) -> None:
    """Tell a sender that nothing more will come."""
    if sender.stdin is not None:
        with contextlib.suppress(OSError):
            sender.stdin.close()


def _now() -> int:
    return int(time.time() * 1000)


def _run_status(status: str) -> str:
    if status in ("success", "finished"):
        return "FINISHED"
    # Lightning says "failed" whatever happened, from within the handler of the exception.
    interruption = isinstance(sys.exc_info()[1], (KeyboardInterrupt, SystemExit))
    return "KILLED" if interruption else "FAILED"


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
