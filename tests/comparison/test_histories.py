"""Curves of runs are the same whether they are read from the database's table or with MLflow's client."""

import math
import sqlite3
from contextlib import closing

import mlflow
import numpy as np
import pytest
from mlflow.entities import Metric

from lr_plugins.comparison import histories
from lr_plugins.comparison.histories import read_histories
from lr_plugins.comparison.runs import find_runs

VALUES = {
    "lr": [(step, 0.1 / (1 + step), 5) for step in range(50)],
    "again": [(3, 1.0, 9), (3, 2.0, 8), (1, 5.0, 9), (3, 0.5, 9), (-1, 1.0, 10)],
    "strange": [(0, math.nan, 1), (1, math.inf, 1), (2, -math.inf, 1), (3, 1e200, 1), (4, -0.0, 1)],
    "Näme/with %": [(0, 1.0, 1)],
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Two runs that have the same metrics with different values."""
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('a b')}/runs #1.db")
    experiment = client.create_experiment("histories")
    for factor in (1, 2):
        run = client.create_run(experiment).info.run_id
        points = [
            Metric(name.replace("ä", "a").replace("%", "p"), factor * value, at, step)
            for name, values in VALUES.items()
            for step, value, at in values
        ]
        client.log_batch(run, points)
        client.set_terminated(run)
    return client


def both(client, monkeypatch):
    """The curves of all runs: as they are read, and with MLflow's client alone."""
    direct = [run.curves for run in find_runs(client, "histories")]
    monkeypatch.setattr(histories, "database_file", lambda uri: None)
    return direct, [run.curves for run in find_runs(client, "histories")]


def assert_same(one, other):
    assert [*one] == [*other]
    for name, points in one.items():
        np.testing.assert_array_equal(points.steps, other[name].steps)
        np.testing.assert_array_equal(points.values, other[name].values)
        assert (points.steps.dtype, points.values.dtype) == (np.int64, np.float64)


def test_both_ways_give_the_same_curves(client, monkeypatch):
    direct, asked = both(client, monkeypatch)
    for one, other in zip(direct, asked, strict=True):
        assert_same(one, other)
    assert len(direct) == 2
    assert direct[0]["again"].values.tolist() == [1.0, 5.0, 2.0, 0.5, 1.0]


def test_a_local_database_is_read_without_the_client(client, monkeypatch):
    monkeypatch.setattr(type(client), "get_metric_history", lambda *_: pytest.fail("slow"))
    [run, _] = find_runs(client, "histories")
    assert run.curves["lr"].values.tolist() == [0.1 / (1 + step) for step in range(50)]


COLUMNS = "key, value, step, is_nan, timestamp, run_uuid"


@pytest.mark.parametrize(
    ("what", "statements"),
    [
        ("another table", ["create table metrics (key, value, step)"]),
        ("no table", []),
        ("locked", [f"create table metrics ({COLUMNS})", "begin exclusive"]),
        ("no database", None),
    ],
)
def test_a_database_of_another_form_is_read_with_the_client(tmp_path, what, statements):
    class Client:
        tracking_uri = f"sqlite:///{tmp_path}/runs.db"

        @staticmethod
        def get_metric_history(run_id, name):
            return [Metric(name, 2.0, 0, 1), Metric(name, 1.0, 0, 0)]

    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as database:
        for statement in statements or ():
            database.execute(statement)
        if statements is None:
            (tmp_path / "runs.db").write_text("something else")
        [(_, points)] = read_histories(Client(), "run", ["loss"])
    assert points.values.tolist() == [1.0, 2.0]


def test_a_metric_without_values_has_an_empty_curve(client):
    [run, _] = find_runs(client, "histories")
    [(name, points)] = read_histories(client, run.run_id, ["nothing"])
    assert (name, points.steps.size, points.values.size) == ("nothing", 0, 0)
