"""What a run holds, put into MLflow: points, params, tags, files and datasets."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lr_plugins.tracking.answers import RefusedError
from lr_plugins.tracking.connection import Connection
from lr_plugins.tracking.entries import Point
from lr_plugins.tracking.names import path_problem, sanitize_name
from lr_plugins.tracking.private_files import ForeignFileError, check_folder, files_below
from lr_plugins.tracking.spool import FILES, remove
from lr_plugins.tracking.state import State

BATCH = 1000  # metrics MLflow accepts in one call
PARAMS_BATCH = 100  # params MLflow accepts in one call
PARAM_LENGTH = 6000  # characters MLflow accepts in the value of a param
_TAG_LENGTH = 5000  # characters that every version of MLflow accepts in the value of a tag


class Contents:
    """What one run holds.

    Args:
        folder: the spool's.
        mlflow: the connection.
        state: updated in place.
    """

    def __init__(self, folder: Path, mlflow: Connection, state: State) -> None:
        self._folder, self._mlflow, self.state = folder, mlflow, state
        self._known_points: dict[str, dict[int, float]] = {}  # of a run that is resumed, by name and step

    def forget_known(self) -> None:
        """Read the points of the run again when they are needed: another program may have added some."""
        self._known_points = {}

    def add_points(self, points: Sequence[Point]) -> None:
        """Add at most `BATCH` points of metrics.

        Raises:
            RefusedError: MLflow does not accept one of them.
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
            self.set_tag("resumed", str(self.state.resumed))

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

    def add_params(self, entry: dict[str, Any]) -> None:
        """Add the params of an entry; a new value of one that the run has becomes a tag."""
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
        except RefusedError:
            if len(params) == 1:
                [param] = params
                if param.key not in self._mlflow.run().data.params:
                    raise
                self._note_differing(param.key, param.value)
                return
            refused = []
            for param in params:
                try:
                    self._log_params([param])
                except RefusedError as error:
                    refused.append(str(error))
            _raise_if(refused)

    def _note_differing(self, name: str, text: str) -> None:
        """Record a param's new value as a tag, because MLflow does not change params."""
        mark, before = f"{self.state.mark_of_params}{name}", self.state.differing_params.count(name)
        self.set_tags({"values": {f"{mark}-{before + 1}" if before else mark: text}})
        self.state.differing_params.append(name)

    def _fitting(self, name: str, text: str) -> str:
        """A value that is short enough for MLflow; a longer one is stored as a file, and ends with its path."""
        if len(text) <= PARAM_LENGTH:
            return text
        place = f"params/{name}.txt"
        if "/" in name or path_problem(place):
            place = f"params/{hashlib.sha256(name.encode()).hexdigest()[:16]}.txt"
        self._mlflow.write(lambda client: client.log_text(self.state.run_id, text, place))
        note = f"... ({len(text)} characters, whole in {place})"
        return text[: PARAM_LENGTH - len(note)] + note

    def set_tags(self, entry: dict[str, Any]) -> None:
        """Set the tags of an entry."""
        self._count_resume()
        refused = []
        for name, text in entry["values"].items():
            try:
                self.set_tag(sanitize_name(name), text)
            except RefusedError as error:
                refused.append(str(error))
        _raise_if(refused)

    def set_tag(self, name: str, text: str) -> None:
        """Set a tag, of whose value MLflow may keep only the beginning."""
        self._mlflow.write(
            lambda client: client.set_tag(self.state.run_id, name, text),
            lambda run: run.data.tags.get(name, "")[:_TAG_LENGTH] == text[:_TAG_LENGTH],
        )

    def add_file(self, entry: dict[str, Any]) -> None:
        """Store the copy of a file or folder that the spool keeps."""
        place = self._folder / FILES / entry["kept"]
        if self.state.instead and not place.exists():
            self.state.left_files += 1  # the run on the original server has it
            return
        try:
            check_folder(place.parent)
            if not any(files_below(place)) and not any(place.iterdir()):
                raise RefusedError("its copy in the spool is empty")
        except (ForeignFileError, FileNotFoundError, NotADirectoryError) as error:
            raise RefusedError(str(error)) from error
        for path in place.iterdir():
            # A folder keeps its name, like a file.
            to = entry["to"] if path.is_file() else "/".join(part for part in (entry["to"], path.name) if part)
            self._mlflow.write(
                functools.partial(_send_file, self.state.run_id, path, to),
                functools.partial(self._has_file, entry["to"], path),
            )

    def _has_file(self, to: str | None, path: Path, run: Any) -> bool:
        """Whether a run has a file or folder, as far as the server stores them itself; others may not be listed."""
        if not run.info.artifact_uri.startswith("mlflow-artifacts:") or (path.is_dir() and not any(files_below(path))):
            return True
        listed = self._mlflow.ask(lambda client: client.list_artifacts(run.info.run_id, to))
        return any(file.path == "/".join(part for part in (to, path.name) if part) for file in listed)

    def discard(self, entry: dict[str, Any]) -> None:
        """Delete the copy of a file that MLflow has."""
        if entry["do"] == "file":
            remove(self._folder / FILES / entry["kept"])

    def add_dataset(self, entry: dict[str, Any]) -> None:
        """Record a dataset as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = DatasetInput(Dataset(**entry["dataset"]), [InputTag("mlflow.data.context", entry["context"])])
        self._mlflow.write(
            lambda client: client.log_inputs(self.state.run_id, [data]),
            lambda run: any(known.dataset.digest == data.dataset.digest for known in run.inputs.dataset_inputs),
        )


def _send_file(run_id: str | None, path: Path, to: str | None, client: Any) -> None:
    (client.log_artifact if path.is_file() else client.log_artifacts)(run_id, str(path), to)


def _has_points(run: Any, points: Sequence[Point]) -> bool:
    """Whether each metric of a run has reached the step of its point, which is all that the run tells."""
    latest = {metric.key: metric.step for metric in run.data.to_proto().metrics}
    return all(name in latest and latest[name] >= step for name, _, _, step in points)


def _same(stored: float, value: float) -> bool:
    """Whether the stored value is this one; databases store infinity as the largest double."""
    if math.isinf(value):
        return abs(stored) > 1e300 and (stored > 0) == (value > 0)
    return stored == value or (math.isnan(stored) and math.isnan(value))


def _raise_if(refused: Sequence[str]) -> None:
    """Raise one error for all that MLflow has refused; none if that is nothing."""
    if refused:
        raise RefusedError("; ".join(refused))
