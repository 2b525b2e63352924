"""Runs to compare: their settings and their curves, read from MLflow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lr_plugins.comparison.histories import Points, read_histories
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.metric_direction import higher_is_better
from lr_plugins.tracking.destination import PARENT

OVERRIDES = "overrides"  # the tag with the overrides of the command line, one per line
_TAGGED = ("schedule", "model", "data", "seed")  # settings that have a tag or a param of their own
# Groups and fields that do not affect training.
_BESIDE = ("callbacks", "logger", "launcher", "hydra", "verbose", "style", "num_threads", "output_dir", "ckpt_path")


@dataclass
class Run:
    """One run.

    Args:
        run_id: MLflow's.
        name: its name.
        schedule: the tag `schedule`, or else the run's name; with data and model if the runs differ in them.
        seed: the param `seed`; empty without one.
        status: FINISHED, FAILED, KILLED or RUNNING.
        seconds: from start to end; None while it is running.
        curves: by metric; learning rates are `lr`, or `lr/<group>`.
        tags: by name.
    """

    run_id: str
    name: str
    schedule: str
    seed: str
    status: str
    seconds: float | None
    curves: dict[str, Points] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def best(self, metric: str) -> float:
        """The best finite value of a metric; the last one if none is finite; NaN without any value."""
        points = self.curves.get(metric)
        if points is None or not points.values.size:
            return math.nan
        values = points.values[np.isfinite(points.values)]
        if not values.size:
            return float(points.values[-1])
        return float(values.max() if higher_is_better(metric) else values.min())

    def last(self, metric: str) -> float:
        """The last value of a metric; NaN without any value."""
        points = self.curves.get(metric)
        return float(points.values[-1]) if points is not None and points.values.size else math.nan

    @property
    def last_learning_rate(self) -> float:
        """The learning rate of the first param group at the last step; NaN if none is recorded."""
        lr = next((points for name, points in self.curves.items() if is_learning_rate(name)), None)
        return float(lr.values[-1]) if lr is not None and lr.values.size else math.nan


def is_learning_rate(metric: str) -> bool:
    """Whether a metric is a learning rate, judging by its name."""
    return metric == "lr" or metric.startswith(("lr/", "lr-"))


def find_runs(
    client: Any,
    experiment_name: str | None = None,
    run_ids: Sequence[str] = (),
    parent: str | None = None,
    only: str = "",
) -> list[Run]:
    """The runs of an experiment, or some of them, in the order in which they started.

    Args:
        client: MLflow's client.
        experiment_name: the experiment whose runs are read.
        run_ids: read these runs instead.
        parent: read the children of this run instead, e.g. of a sweep.
        only: MLflow's filter, e.g. `"tags.data = 'iris'"`.

    Raises:
        InvalidArgumentError: there is no such experiment or run.
    """
    if run_ids:
        return distinguished([_run(client, _existing(client, run_id)) for run_id in run_ids])
    if parent is not None:
        experiment_id = _existing(client, parent).info.experiment_id
        only = " and ".join(part for part in (f"tags.`{PARENT}` = '{parent}'", only) if part)
    else:
        experiment = client.get_experiment_by_name(experiment_name)
        if experiment is None:
            names = ", ".join(known.name for known in client.search_experiments())
            raise InvalidArgumentError("experiment", experiment_name, f"the name of an experiment ({names})")
        experiment_id = experiment.experiment_id
    runs = list(_search(client, experiment_id, only))
    parents = {run.data.tags.get(PARENT) for run in runs}
    return distinguished([_run(client, run) for run in runs if run.info.run_id not in parents])


def distinguished(runs: list[Run]) -> list[Run]:
    """The runs, with the names of their schedules extended so that runs of one name differ only in the seed."""
    for name in ("model", "data"):
        if len({run.tags.get(name) for run in runs}) > 1:
            for run in runs:
                run.schedule += f", {run.tags.get(name, '?')}"
    overrides = [dict(_overrides(run)) for run in runs]
    schedules = [run.schedule for run in runs]
    for run, schedule, own in zip(runs, schedules, overrides, strict=True):
        others = [other for name, other in zip(schedules, overrides, strict=True) if name == schedule]
        differing = [f"{key}={own[key]}" for key in own if any(other.get(key) != own[key] for other in others)]
        run.schedule = ", ".join([schedule, *differing])
    return runs


def _overrides(run: Run) -> Iterator[tuple[str, str]]:
    """The overrides of a run, except those that do not affect training or are known from other tags."""
    for word in run.tags.get(OVERRIDES, "").split("\n"):
        name, given, value = word.partition("=")
        if given and name not in _TAGGED and name.lstrip("+~").partition(".")[0] not in _BESIDE:
            yield name, value


def _search(client: Any, experiment_id: str, only: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], only, order_by=["attributes.start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _existing(client: Any, run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise InvalidArgumentError("run", run_id, "the ID of a run in this MLflow") from error


def _run(client: Any, run: Any) -> Run:
    info, data = run.info, run.data
    seconds = (info.end_time - info.start_time) / 1000 if info.end_time else None
    schedule = data.tags.get("schedule", info.run_name)
    result = Run(info.run_id, info.run_name, schedule, data.params.get("seed", ""), info.status, seconds)
    result.tags = dict(data.tags)
    names = [name for name in sorted(data.metrics) if name != "epoch" and not name.startswith("system/")]
    result.curves = dict(read_histories(client, info.run_id, names))
    return result
