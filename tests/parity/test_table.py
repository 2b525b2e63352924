"""docs/parity.md has the rows of the tests."""

from pathlib import Path

import pytest

from .deviation import RECORDED
from .table import FILES, read

PAGE = Path(__file__).parents[2] / "docs/parity.md"


def test_every_figure_of_the_page_is_within_its_tolerance():
    rows = read(PAGE.read_text())
    assert len(rows) > 50
    assert all(0 <= row.largest <= row.tolerance for row in rows.values())


def test_page_has_the_rows_of_the_tests(request, parity_tests_left_out):
    """Of the tests beside it, which have run before it: only where all of them have."""
    have_run = {item.path.name for item in request.session.items}
    if parity_tests_left_out or not have_run.issuperset(FILES) or request.session.testsfailed:
        pytest.skip("not all tests of parity have run")
    hint = "run: python -m tests.parity.table docs/parity.md"
    rows = read(PAGE.read_text())
    assert rows.keys() == RECORDED.keys(), hint
    for key, row in rows.items():
        now = RECORDED[key]
        said = (row.traces, row.against, row.tolerance)
        assert (now.traces, now.against, float(f"{now.tolerance:.1e}")) == said, (key, hint)
