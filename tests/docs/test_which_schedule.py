"""Every schedule in the table of docs/which_schedule.md can be built and previewed."""

import re

import pytest

import lr_plugins
from lr_plugins import preview
from tests.docs.pages import ROOT

TABLE = (ROOT / "docs/which_schedule.md").read_text().partition("## By situation")[2].partition("## I do not know")[0]
LINES = re.findall(r"^\| [^|]+ \| `(.+?)` \|", TABLE, re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_each_line_of_the_table_builds_a_schedule(line):
    schedule = eval(line, dict(vars(lr_plugins)))
    metrics = {monitor.metric: (2.3, 0.1) for monitor in lr_plugins.as_schedule(schedule).monitors}
    seen = preview(schedule, steps_per_epoch=100, epochs=90, base_learning_rate=0.1, metrics=metrics)
    assert 0 < seen.values.max() <= 0.1


def test_the_table_is_found():
    assert len(LINES) == TABLE.count("\n| ") - 1  # without the head, which has no code
