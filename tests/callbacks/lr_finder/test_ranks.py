"""The range test in several processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests import preloaded


def test_two_processes_agree_on_the_result_and_undo_the_search(tmp_path):
    words = ["-m", "tests.callbacks.lr_finder.ranks", str(tmp_path)]
    done = preloaded.run(words, Path(__file__).parents[3], os.environ, 150)
    assert all((tmp_path / f"{rank}.json").exists() for rank in (0, 1)), done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for ways in (first, second):
        undone = {**ways["not applied"], "losses": [], "found": None}
        assert undone == ways["without"]
        assert ways["applied"]["lr"][0] == ways["applied"]["found"] != 0.01
        assert ways["not applied"]["found"] == ways["applied"]["found"]
    assert first["applied"]["losses"] == second["applied"]["losses"]
    assert first["applied"]["weights"] == second["applied"]["weights"]
    # The first process writes and speaks.
    assert sorted(path.name for path in (tmp_path / "True").iterdir()) == ["lr_finder.csv", "lr_finder.png"]
    assert done.stdout.count("steps with learning rates from") == 2
