"""Writes docs/parity.md from the comparisons of the tests: `python -m tests.parity.table docs/parity.md`."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

from .deviation import RECORDED, Comparison

FILES = (
    "test_cycles_against_libraries.py",
    "test_keras_schedules.py",
    "test_learning_rates.py",
    "test_shapes_against_libraries.py",
)
LIBRARIES = ("torch", "timm", "transformers", "keras", "numpy")
TEXT = """# How close to the originals

Every shape that exists in another library is compared with it, step by step over whole runs: the tests in
`tests/parity` build both and compare the learning rate of each step. The table has the largest deviation seen and the
deviation allowed.

- A deviation is `|ours - theirs| / scale`. The scale is the value at that step. Near 0, where a formula subtracts two
  rounded numbers, few significant digits are left; there a fraction of the peak (the largest value of the run) is
  added to the scale. The last column has that fraction.
- torch, timm and transformers compute in float64. If torch multiplies the previous value, it accumulates one rounding
  error per step, so the fraction of the peak is larger; *by its formula* is the same scheduler without the
  accumulation.
- Keras computes in float32, which has 7 digits (6e-8 per rounding). Rows of `keras.` are the classes of
  `lr_plugins.keras`, in both precisions, up to step 100,000.

If a library means something different by the same name, the test says so and compares up to that point.

`python -m tests.parity.table docs/parity.md` generates this page. The last digits vary between processors; the rows
and the tolerances do not, and a test checks them.

Made with {versions}.

| ours | library | its name, and the options | traces | largest deviation | allowed | relative to |
|---|---|---|---|---|---|---|
"""
_ROW = re.compile(r"\| `(.+?)` \| (\w+) \| (.+?) \| (\d+) \| (\S+) \| (\S+) \| (.+?) \|")


def page() -> str:
    """The text of the page, from what has been recorded."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    rows = (
        f"| `{shape}` | {library} | {name} | {one.traces} | {one.largest:.1e} | {one.tolerance:.1e} | {one.against} |"
        for (shape, library, name), one in sorted(RECORDED.items())
    )
    return TEXT.format(versions=versions) + "\n".join(rows) + "\n"


def read(text: str) -> dict[tuple[str, str, str], Comparison]:
    """The rows of a page."""
    rows = (match.groups() for match in map(_ROW.fullmatch, text.splitlines()) if match)
    return {
        (shape, library, name): Comparison(float(tolerance), against, int(traces), float(largest))
        for shape, library, name, traces, largest, tolerance, against in rows
    }


def main(path: Path) -> int:
    """Run the tests, and write the page if they pass."""
    import pytest

    here = Path(__file__).parent
    code = pytest.main(["-q", "-p", "no:cacheprovider", *(str(here / name) for name in FILES)])
    if code == 0:
        path.write_text(page(), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/parity.md")))
