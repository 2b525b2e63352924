"""The metrics logged since the last read."""

from __future__ import annotations

import torch

from lr_plugins._lightning.metrics import MetricCursor


def test_metrics_are_new_until_the_cursor_passes_them():
    cursor, metrics = MetricCursor(), {"loss": torch.tensor(1.0)}
    assert cursor.new(metrics) == cursor.new(metrics) == metrics
    cursor.advance(metrics)
    assert cursor.new(metrics) == {}


def test_equal_value_logged_again_is_new():
    cursor = MetricCursor({"loss": torch.tensor(1.0)})
    assert list(cursor.new({"loss": torch.tensor(1.0)})) == ["loss"]


def test_another_view_of_the_same_tensor_is_not_new():
    loss = torch.tensor(1.0)
    assert MetricCursor({"loss": loss}).new({"loss": loss.view(())}) == {}


def test_cursor_does_not_follow_a_changing_dictionary():
    metrics = {"loss": torch.tensor(1.0)}
    cursor = MetricCursor(metrics)
    metrics["acc"] = torch.tensor(0.5)
    assert list(cursor.new(metrics)) == ["acc"]
