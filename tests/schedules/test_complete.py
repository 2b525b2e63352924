"""Every public schedule stands in every table that CONTRIBUTING.md names; a failure says in which one it is missing."""

import re
from pathlib import Path

import pytest

from docs_tools.catalogue import EXAMPLES
from lr_plugins import schedules
from lr_plugins.schedules import Schedule
from lr_plugins.schedules.metric_driven.base import MetricDriven
from tests.schedules.instances import CONTINUOUS, INSTANCES
from tests.schedules.test_milestones import CASES

ROOT = Path(__file__).parents[2]
PUBLIC = [
    one
    for name in schedules.__all__
    if isinstance(one := getattr(schedules, name), type) and issubclass(one, Schedule) and one is not Schedule
]
OPTIONS = "".join(path.read_text() for path in (ROOT / "lr_plugins/conf/schedule").glob("*.yaml"))
FEATURES = (ROOT / "docs/features.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
REFERENCE = "".join(path.read_text() for path in (ROOT / "docs/reference").glob("*.md"))


def kinds(found):
    """The classes of some schedules and of their parts."""
    return {kind for one in found for kind in {type(one), *kinds(getattr(one, "parts", ()))}}


def names(text, pattern):
    return {one for one in PUBLIC if re.search(pattern.format(one.__name__), text)}


TABLES = {
    "LEAVES or COMBINATIONS of tests/schedules/instances.py": set(INSTANCES),
    "CONTINUOUS of tests/schedules/instances.py": set(CONTINUOUS),
    "CASES of tests/schedules/test_milestones.py": kinds(schedule for schedule, _ in CASES),
    "GALLERY of docs_tools/catalogue.py": kinds(one for group in EXAMPLES.values() for one in group.values()),
    "an option in lr_plugins/conf/schedule": names(OPTIONS, r"_target_: lr_plugins\.schedules\.{}\b"),
    "a row of docs/features.md": names(FEATURES, r"\b{}\b"),
    "an entry in docs/reference": names(REFERENCE, r"::: lr_plugins\.{}\n"),
}
MILESTONES, OPTION, ROW = list(TABLES)[2], list(TABLES)[4], list(TABLES)[5]
# Combinators that are built by a method or an operator, by how it looks; they have no option of their own.
BY_METHOD = {
    schedules.Bounded: ".at_least(",
    schedules.PerEpoch: ".per_epoch(",
    schedules.Repeated: ".repeated(",
    schedules.Smooth: ".smooth(",
    schedules.Stretched: ".stretched(",
}
# Who is missing in a table, and why.
LEFT_OUT = {
    **{(kind, OPTION): "its method is applied in code" for kind in BY_METHOD},
    **{(kind, ROW): f"the page has its method, {method}" for kind, method in BY_METHOD.items()},
    **{
        (kind, MILESTONES): "nobody knows before training when a metric decides"
        for kind in PUBLIC
        if issubclass(kind, MetricDriven)
    },
    (schedules.FunctionSchedule, MILESTONES): "a function of the user's reports none",
    (schedules.Replanned, OPTION): "made by a resume, not by a user",
    (schedules.Replanned, ROW): "made by a resume, not by a user",
    (schedules.Product, ROW): "the page has its operator, *",
    (schedules.Cooldown, ROW): "the page has the schedules that end with one",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_a_schedule_stands_in(table, kind):
    found = kind in TABLES[table]
    assert found or (kind, table) in LEFT_OUT, f"{kind.__name__} is missing in {table}: see CONTRIBUTING.md"
    assert not (found and (kind, table) in LEFT_OUT), f"LEFT_OUT names {kind.__name__}, but it is in {table}"


@pytest.mark.parametrize("method", [*BY_METHOD.values(), " * "])
def test_the_page_of_features_has_a_row_for_each_method(method):
    assert method in FEATURES


@pytest.mark.parametrize("table", TABLES)
def test_contributing_names_the_table(table):
    place = table.split(" ")[-1]
    assert place in CONTRIBUTING
