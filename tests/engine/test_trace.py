"""Trace: series that share a column, gaps, and the table."""

import math

import numpy as np

from lr_plugins.engine.trace import Trace


def test_groups_of_one_schedule_share_a_column():
    trace = Trace()
    column = trace.column({"lr/0": 1.0, "lr/1": 0.5}, first_step=0)
    column.extend([0.1, 0.2])
    assert trace["lr/0"].column is trace["lr/1"].column
    assert trace["lr/1"].values.tolist() == [0.05, 0.1]
    assert trace["lr/1"].tail(1).tolist() == [0.1]


def test_removed_group_keeps_its_own_values():
    trace = Trace()
    trace.column({"lr/0": 1.0, "lr/1": 0.5}, first_step=0).append(0.1)
    trace.column({"lr/0": 1.0}, first_step=1).append(0.2)
    assert trace["lr/0"].values.tolist() == [0.1, 0.2]
    assert trace["lr/1"].values.tolist() == [0.05]


def test_added_group_has_no_earlier_values():
    trace = Trace()
    trace.column({"lr/0": 1.0}, first_step=0).append(0.1)
    assert trace.column({"lr/0": 1.0, "lr/1": 1.0}, first_step=1) is None
    series = trace.series("lr/1", first_step=1)
    series.append(0.2)
    assert (series.first_step, series.values.tolist()) == (1, [0.2])


def test_resumed_series_has_a_gap():
    trace = Trace()
    trace.series("lr").append(0.1)
    trace.series("lr", first_step=3).append(0.4)
    assert trace["lr"].steps.tolist() == [0, 1, 2, 3]
    assert np.isnan(trace["lr"].values).tolist() == [False, True, True, False]


def test_table_cells_before_a_group_exists_are_empty(tmp_path):
    trace = Trace()
    for value in (0.1, 0.2):
        trace.series("lr/0").append(value)
    trace.series("lr/1", first_step=1).append(math.pi)
    lines = trace.to_csv(tmp_path / "trace.csv").read_text().splitlines()
    assert lines == ["step,lr/0,lr/1", "0,0.1,", f"1,0.2,{math.pi!r}"]
