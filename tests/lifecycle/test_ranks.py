"""Two real processes (gloo) whose ranks see different losses use bit-equal learning rates."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What each rank has used in each training, and what was printed."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.lifecycle.ranks", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    files = [folder / "0.json", folder / "1.json"]
    assert all(file.exists() for file in files), done.stderr
    return [json.loads(file.read_text()) for file in files], done.stdout


def rates(trained, name):
    first, second = (rank[name] for rank in trained[0])
    assert first["error"] == second["error"] == ""
    assert first["lr"] == second["lr"]
    return first["lr"]


@pytest.mark.parametrize("name", ["loss_driven", "plateau", "product"])
def test_ranks_that_see_different_losses_decide_alike(name, trained):
    used = rates(trained, name)
    assert len(used) == 24
    assert len(set(used)) > 2
    # Rank 0 alone has something to say.
    said = trained[1].partition(f"--- {name}\n")[2].partition("---")[0]
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == len(set(lines)) > 2


def test_the_mean_of_steps_is_that_of_all_ranks_also_after_a_resume(trained):
    used = rates(trained, "steps")
    means = [0.1 * 1.5 * (2 * index + 1.5) for index in range(11)]
    expected = [0.1, 0.1] + [min(0.1 * math.exp(mean), 1.0) for mean in means for _ in range(2)]
    assert used == pytest.approx(expected)
    assert rates(trained, "resumed") == pytest.approx(used[5:], rel=1e-15)


def test_a_metric_of_one_rank_alone_is_that_of_all(trained):
    used = rates(trained, "only on one")
    assert used[::6] == pytest.approx([0.1, 0.1 * math.exp(1.0), 0.1 * math.exp(1 / 2), 0.1 * math.exp(1 / 3)])


def test_ranks_that_disagree_stop_with_step_series_and_values(trained):
    for rank in trained[0]:
        assert "the ranks disagree: at step 8, lr was 0.1 on rank 0, 1.1 on rank 1" in rank["disagreeing"]["error"]
