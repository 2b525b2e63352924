"""Runs side by side, without MLflow: what the table says of them."""

import csv
import math

import numpy as np
import pytest

from lr_plugins.errors import InvalidArgument
from lr_plugins.report.compare import METRICS, RATES, compare, page
from lr_plugins.report.runs import Points, Run, _told_apart


def run(schedule="cosine", seed=1, accuracies=(0.5, 0.8, 0.7), **tags):
    steps = np.arange(len(accuracies), dtype=np.int64)
    curves = {"val_acc": Points(steps, np.array(accuracies)), "lr": Points(steps, np.full(len(accuracies), 0.1))}
    return Run(f"id{seed}", f"{schedule}-{seed}", schedule, str(seed), "FINISHED", 2.0, curves, tags)


def test_a_line_per_schedule_has_mean_and_spread_of_the_best_values(tmp_path):
    files = compare([run(seed=1), run(seed=2, accuracies=(0.1, 0.6)), run("step", 3)], tmp_path)
    assert [file.name for file in files] == ["comparison.csv", "comparison.md", RATES, METRICS]
    text = files[1].read_text()
    assert f"| cosine | 2 | 0.7000 ± {math.sqrt(0.02):.4f} | 2.0 ± 0.0 |" in text
    assert "| step | 1 | 0.8000 | 2.0 |" in text
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["schedule"], row["seed"], row["best val_acc"]) for row in rows][1] == ("cosine", "2", "0.6")


def test_runs_of_other_data_are_not_taken_together():
    runs = _told_apart([run(data="iris", model="mlp"), run(seed=2, data="digits", model="mlp")])
    assert [one.schedule for one in runs] == ["cosine, iris", "cosine, digits"]


def test_a_bar_in_a_name_does_not_end_the_cell():
    assert "| a\\|b | 1 |" in page([run("a|b")], ["val_acc"])


def test_a_metric_that_no_run_has_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match=r"metrics must be metrics of the runs \(lr, val_acc\); got 'nosuch'"):
        compare([run()], tmp_path, ["nosuch"])
