"""The comparison tables of runs, without MLflow."""

import csv
import math
import re

import mlflow
import numpy as np
import pytest

from lr_plugins.comparison.histories import Points
from lr_plugins.comparison.report import ENDS, METRICS, RATES, compare, page
from lr_plugins.comparison.runs import Run, distinguished, find_runs
from lr_plugins.comparison.statistics import final_value
from lr_plugins.errors import InvalidArgumentError


def run(schedule="cosine", seed=1, accuracies=(0.5, 0.8, 0.7), **tags):
    steps = np.arange(len(accuracies), dtype=np.int64)
    curves = {"val_acc": Points(steps, np.array(accuracies)), "lr": Points(steps, np.full(len(accuracies), 0.1))}
    return Run(f"id{seed}", f"{schedule}-{seed}", schedule, str(seed), "FINISHED", 2.0, curves, tags)


def test_schedule_line_has_mean_and_spread_of_the_best_values(tmp_path):
    files = compare([run(seed=1), run(seed=2, accuracies=(0.1, 0.6)), run("step", 3)], tmp_path)
    assert [file.name for file in files] == ["comparison.csv", "comparison.md", RATES, METRICS, ENDS]
    text = files[1].read_text()
    assert f"| cosine | 2 | 0.7000 ± {math.sqrt(0.02):.4f} | 2.0 ± 0.0 |" in text
    assert "| step | 1 | 0.8000 | 2.0 |" in text
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["schedule"], row["seed"], row["best val_acc"]) for row in rows][1] == ("cosine", "2", "0.6")


def test_runs_on_different_data_are_not_pooled():
    runs = distinguished([run(data="iris", model="mlp"), run(seed=2, data="digits", model="mlp")])
    assert [one.schedule for one in runs] == ["cosine, iris", "cosine, digits"]


def test_pipe_in_a_name_does_not_end_the_cell():
    assert "| a\\|b | 1 |" in page([run("a|b")], ["val_acc"])


def test_unknown_metric_is_refused(tmp_path):
    with pytest.raises(
        InvalidArgumentError, match=r"metrics must be metrics of the runs \(lr, val_acc\); got 'nosuch'"
    ):
        compare([run()], tmp_path, ["nosuch"])


def test_runs_with_different_overrides_are_not_pooled():
    tags = {"data": "iris", "model": "mlp"}
    low, high = "optimizer.lr=0.01\nseed=1\nverbose=0", "optimizer.lr=0.1\nseed=1"
    runs = distinguished([run(overrides=low, **tags), run(seed=2, overrides=low, **tags), run(overrides=high, **tags)])
    assert [one.schedule for one in runs] == ["cosine, optimizer.lr=0.01"] * 2 + ["cosine, optimizer.lr=0.1"]


def test_common_overrides_of_a_schedule_are_not_named():
    runs = distinguished([run(overrides="experiment=a\nseed=1"), run("step", overrides="experiment=b\nseed=1")])
    assert [one.schedule for one in runs] == ["cosine", "step"]


def test_schedule_line_has_its_final_standing():
    values = {"cosine": (0.9, 0.92, 0.94), "step": (0.8, 0.82, 0.84)}
    runs = [run(name, seed, (0.99, last)) for name, ends in values.items() for seed, last in enumerate(ends)]
    text = page(runs, ["val_acc"])
    assert "| cosine | 3 | 0.9200 ± 0.0200 | 0.8703 to 0.9697 |  |  | best |" in text
    assert "| step | 3 | 0.8200 ± 0.0200 | 0.7703 to 0.8697 | 0.1000 | 0.25 | too few runs to tell |" in text


def test_diverged_run_does_not_stop_the_report():
    text = page([run(seed=1), run(seed=2, accuracies=(math.inf, math.inf))], ["val_acc"])
    assert "| cosine | 2 | 0.8000 (1 of 2) |" in text


@pytest.mark.parametrize("end", [math.inf, -math.inf, math.nan, 1.7976931348623157e308, 1e200])
def test_huge_value_is_neither_printed_in_full_nor_the_best(end):
    text = page([run(seed=1), run(seed=2, accuracies=(0.5, end)), run("step", 1), run("step", 2)], ["val_acc"])
    assert not re.search(r"\d{12}", text)
    if not math.isfinite(end):
        assert "not compared: 1 of 2 runs diverged or did not finish" in text


def test_infinity_is_read_back_from_mlflow(tmp_path):
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs.db")
    made = client.create_run(client.create_experiment("infinite", f"file://{tmp_path}"))
    for step, value in enumerate([1.0, math.inf, -math.inf, math.nan, 1e200]):
        client.log_metric(made.info.run_id, "val_loss", value, step=step)
    client.set_terminated(made.info.run_id)
    [found] = find_runs(client, "infinite")
    np.testing.assert_array_equal(found.curves["val_loss"].values, [1.0, math.inf, -math.inf, math.nan, 1e200])
    assert found.best("val_loss") == 1.0
    ends = Run("", "", "", "", "FINISHED", 1.0, {"m": Points(np.arange(1), np.array([np.inf]))})
    assert math.isnan(final_value(ends, "m"))
    assert len(compare([found], tmp_path / "out")) == 4
