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
    assert rates(trained, "steps, resumed") == pytest.approx(used[5:], rel=1e-15)


@pytest.mark.parametrize("name", ["product", "accumulated"])
def test_a_run_that_is_resumed_within_an_epoch_uses_on_all_ranks_what_the_whole_run_does(name, trained):
    assert rates(trained, f"{name}, resumed") == rates(trained, name)[5:]


def test_under_accumulation_each_rank_counts_the_steps_of_all(trained):
    assert rates(trained, "accumulated") == [0.1 / (1 + 0.5 * step) for step in range(12)]


def test_samples_are_those_of_all_ranks(trained):
    assert rates(trained, "samples") == [0.1 * 0.5**step for step in range(12)]


def test_what_is_done_where_a_run_goes_on_under_another_plan_is_decided_alike_on_all_ranks(trained):
    whole, rescaled = rates(trained, "product"), rates(trained, "rescale")
    assert len(rescaled) == 26
    assert rescaled[0] == pytest.approx(whole[10])
    for rank in trained[0]:
        assert rank["error"]["lr"] == []
        assert "on_resume" in rank["error"]["error"]


def test_a_metric_of_one_rank_alone_is_that_of_all(trained):
    used = rates(trained, "only on one")
    assert used[::6] == pytest.approx([0.1, 0.1 * math.exp(1.0), 0.1 * math.exp(1 / 2), 0.1 * math.exp(1 / 3)])


def test_ranks_that_disagree_stop_with_step_series_and_values(trained):
    for rank in trained[0]:
        assert "the ranks disagree: at step 8, lr was 0.1 on rank 0, 1.1 on rank 1" in rank["disagreeing"]["error"]
