"""The run that a logger asks for, and the entry that starts it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.tracking.destination import RUN_NAME, Destination, destination
from lr_plugins.tracking.distinct_names import RunNames
from lr_plugins.tracking.names import LENGTH, encodable
from lr_plugins.tracking.state import State
from lr_plugins.tracking.values import text_of

_EXPERIMENT_LENGTH = 500  # characters MLflow accepts in the name of an experiment


class RunRequest:
    """What a logger was asked to record its run as.

    Args:
        experiment: the experiment's name; None if not given.
        name: the run's name; None if not given.
        uri: the tracking URI; None if not given.
        tags: the run's tags; `mlflow.runName` is equivalent to `name`, which takes precedence.
        names: makes the names of the tags acceptable to MLflow.
        start: the folder that relative paths refer to.
        run_id: a run to resume; None for a new one.
        artifact_location: where the artifacts of a new experiment go; None for MLflow's default.

    Raises:
        InvalidArgumentError: a name that MLflow does not accept.
    """

    def __init__(
        self,
        experiment: str | None,
        name: str | None,
        uri: str | os.PathLike[str] | None,
        tags: Mapping[str, Any],
        names: RunNames,
        start: Path,
        run_id: str | None,
        artifact_location: str | None,
    ) -> None:
        if experiment is not None:
            _check_name("MLflowLogger.experiment_name", experiment, _EXPERIMENT_LENGTH)
        if name is not None:
            _check_name("MLflowLogger.run_name", name, LENGTH)
        for tag in tags:
            _check_name("a name in MLflowLogger.tags", tag, LENGTH)
        alias = tags.get(RUN_NAME)
        self.experiment, self.artifact_location = experiment, artifact_location
        self.name = name if name is not None or alias is None else str(alias)
        self.uri = None if uri is None else os.fspath(uri)
        self.tags = {names.tag(tag): text_of(value) for tag, value in tags.items() if tag != RUN_NAME}
        self.run_id = run_id
        self._start = start
        self._adds = run_id is not None  # whether name and tags are added to the run that is resumed
        self._destination: Destination | None = None

    @property
    def destination(self) -> Destination:
        """Where the run is recorded, decided at the first use: later fits continue the same run."""
        if self._destination is None:
            self._destination = destination(
                self.uri, self.experiment, self.name, self.tags, self._start, run_id=self.run_id
            )
        return self._destination

    @property
    def joins(self) -> bool:
        """Whether the run is one that other code has started and will end."""
        return self._destination is not None and self._destination.joins

    def resume(self, run_id: str | None) -> None:
        """Resume a run as it is, without adding a name or tags; None: start a new one after all."""
        self.run_id, self._destination, self._adds = run_id, None, False

    def entry(self, state: State, resumes: bool, system_metrics: bool) -> dict[str, Any]:
        """The entry that starts the run, or continues it in another fit.

        Args:
            state: what is known of the run.
            resumes: whether an earlier program started it.
            system_metrics: whether to log the use of the machine.
        """
        there = self.destination
        return {
            "do": "run",
            "time": now(),
            "experiment": there.experiment,
            "experiment_id": there.experiment_id,
            "name": self.name,
            "tags": self.tags,
            "uri": there.uri,
            "artifact_location": self.artifact_location,
            "run_id": state.run_id or there.run_id,
            "resumes": resumes or (self.run_id is not None and state.run_id is None),
            "checks": False,
            "joins": there.joins,
            "adds": state.run_id is None and (self._adds or self.run_id is None),
            "system_metrics": system_metrics,
            "program": sys.argv[0],
        }


def now() -> int:
    """The time in ms since 1970, as MLflow has it."""
    return int(time.time() * 1000)


def _check_name(field: str, name: object, longest: int) -> None:
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= len(name) <= longest or encodable(name) != name:
        raise InvalidArgumentError(field, name, f"a string of 1 to {longest} characters")
