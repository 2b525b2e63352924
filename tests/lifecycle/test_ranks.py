"""Two real processes (gloo) whose ranks see different losses use bit-equal learning rates."""

import json
import math
import os
from pathlib import Path

import pytest

from tests import preloaded

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The values each rank used in each training, and the output."""
    folder = tmp_path_factory.mktemp("ranks")
    words = ["-m", "tests.lifecycle.ranks", str(folder)]
    done = preloaded.run(words, ROOT, os.environ, 150)
    files = [folder / "0.json", folder / "1.json"]
    assert all(file.exists() for file in files), done.stderr
    return [json.loads(file.read_text()) for file in files], done.stdout


def rates(trained, name):
    first, second = (rank[name] for rank in trained[0])
    assert first["error"] == second["error"] == ""
    assert first["lr"] == second["lr"]
    return first["lr"]


@pytest.mark.parametrize("name", ["loss_driven", "plateau", "product"])
def test_ranks_with_different_losses_decide_alike(name, trained):
    used = rates(trained, name)
    assert len(used) == 24
    assert len(set(used)) > 2
    # Only rank 0 prints.
    said = trained[1].partition(f"--- {name}\n")[2].partition("---")[0]
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == len(set(lines)) > 2


def test_step_mean_covers_all_ranks_and_resumes(trained):
    used = rates(trained, "steps")
    means = [0.1 * 1.5 * (2 * index + 1.5) for index in range(11)]
    expected = [0.1, 0.1] + [min(0.1 * math.exp(mean), 1.0) for mean in means for _ in range(2)]
    assert used == pytest.approx(expected)
    assert rates(trained, "steps, resumed") == pytest.approx(used[5:], rel=1e-15)


@pytest.mark.parametrize("name", ["product", "accumulated"])
def test_run_resumed_within_an_epoch_matches_on_all_ranks(name, trained):
    assert rates(trained, f"{name}, resumed") == rates(trained, name)[5:]


def test_each_rank_counts_global_steps_under_accumulation(trained):
    assert rates(trained, "accumulated") == [0.1 / (1 + 0.5 * step) for step in range(12)]


def test_samples_count_all_ranks(trained):
    assert rates(trained, "samples") == [0.1 * 0.5**step for step in range(12)]


def test_all_ranks_apply_the_same_resume_policy(trained):
    whole, rescaled = rates(trained, "product"), rates(trained, "rescale")
    assert len(rescaled) == 26
    assert rescaled[0] == pytest.approx(whole[10])
    for rank in trained[0]:
        assert rank["error"]["lr"] == []
        assert "on_resume" in rank["error"]["error"]


def test_metric_logged_on_one_rank_is_shared(trained):
    used = rates(trained, "only on one")
    assert used[::6] == pytest.approx([0.1, 0.1 * math.exp(1.0), 0.1 * math.exp(1 / 2), 0.1 * math.exp(1 / 3)])


def test_disagreeing_ranks_stop_with_step_and_values(trained):
    for rank in trained[0]:
        assert "the ranks disagree: at step 8, lr was 0.1 on rank 0, 1.1 on rank 1" in rank["disagreeing"]["error"]
