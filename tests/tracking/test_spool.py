"""The lines in the log of a spool."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from lr_plugins.tracking.entries import line_of, line_of_points


@given(
    st.integers(0, 2**45),
    st.integers(-(2**40), 2**40),
    st.dictionaries(st.text(), st.floats(allow_nan=False), min_size=1, max_size=4),
)
def test_points_are_encoded_like_json_dumps(time, step, values):
    names = {}
    expected = {"do": "points", "time": time, "step": step, "values": values}
    for _ in range(2):  # the second time the names are cached
        assert line_of_points(time, step, values, names) == line_of(expected)
    assert json.loads(line_of_points(time, step, values, names)) == expected


def test_nan_is_written_as_nan():
    line = line_of_points(1, 2, {"loss": math.nan}, {})
    assert line == b'{"do": "points", "time": 1, "step": 2, "values": {"loss": NaN}}\n'
