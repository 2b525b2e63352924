"""docs/architecture.md and CONTRIBUTING.md: every file and folder that they name exists."""

import re

import pytest

from tests.docs.pages import ROOT

PATH = re.compile(r"`((?:[\w.]+/)+(?:\w+\.(?:py|md|yaml|yml|toml))?|\w+\.(?:py|yml|toml))`")
NAMED = [
    (page, path)
    for page in ("docs/architecture.md", "CONTRIBUTING.md")
    for path in sorted(set(PATH.findall((ROOT / page).read_text())))
]


@pytest.mark.parametrize(("page", "path"), NAMED)
def test_a_path_exists(page, path):
    homes = [ROOT, ROOT / "lr_plugins", ROOT / "lr_plugins/schedules", ROOT / "tests", ROOT / "tests/schedules"]
    homes.append(ROOT / "lr_plugins/schedules/metric_driven")
    assert any((home / path).exists() for home in homes), f"{page} names {path}"


def test_change_table_has_enough_rows():
    rows = (ROOT / "docs/architecture.md").read_text().partition("## To change X, go to Y")[2].count("\n| ")
    assert rows > 20
