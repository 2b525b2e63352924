"""Two real processes that train together, are interrupted, and go on as if nothing had happened."""

import json
import os
from pathlib import Path

import pytest
import torch

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.training.data import Batches
from tests import preloaded
from tests.soak.kills import finish
from tests.training.ranks import BATCHES, WAYS, Training

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the two processes have left their files."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["-m", "tests.training.ranks", str(folder)]
    done = preloaded.run(words, ROOT, environment, 150)
    assert all((folder / f"{rank}.json").exists() for rank in (0, 1)), done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("way", WAYS)
def test_signal_to_one_process_stops_all_and_the_run_resumes(way, ranks):
    for found in (rank[way] for rank in ranks):
        whole = found["whole"]
        for stopped, resumed in zip(found["stopped"], found["resumed"], strict=True):
            assert (whole["ended"], stopped["ended"], resumed["ended"]) == ("", "SIGTERMException", "")
            for name in ("weights", "history", "next random number"):
                assert resumed[name] == whole[name], name
            for name in ("lr", "samples"):
                assert stopped[name] + resumed[name] == whole[name], name


@pytest.mark.parametrize("way", WAYS)
def test_the_clock_of_the_first_process_counts_for_all(way, ranks):
    first, second = (rank[way]["whole"]["saves"] for rank in ranks)
    assert first == second
    assert len(set(first)) > 3


def test_processes_split_the_samples_and_share_the_rate(ranks):
    first, second = (rank["plain"]["whole"] for rank in ranks)
    assert first["lr"] == second["lr"]
    assert len(set(first["lr"])) > 1
    for epoch in range(2):
        seen = [
            {sample for batch in one["samples"][epoch * BATCHES : (epoch + 1) * BATCHES] for sample in batch}
            for one in (first, second)
        ]
        assert [len(samples) for samples in seen] == [40, 40]
        assert len(seen[0] | seen[1]) == 79  # one of them comes twice, so that both have as many
    assert first["next random number"] != second["next random number"]


def test_mid_epoch_checkpoint_needs_the_same_process_count(folder):
    with pytest.raises(InvalidArgumentError, match="the number of processes must be 2, as in the run that is resumed"):
        Training(folder / "alone", "plain", folder / "plain/previous.ckpt", devices=1)


@pytest.mark.parametrize("samples", [6, 7, 8])
def test_the_parts_make_up_the_whole(samples):
    numbers = torch.arange(samples)
    for even in (False, True):
        parts = [Batches(numbers, numbers, 2, process=(rank, 3), even=even) for rank in range(3)]
        found = [[y.tolist() for _, y in part] for part in parts]
        assert {number for part in found for batch in part for number in batch} == {*range(samples)}
        assert [sum(map(len, part)) for part in found] == [part.num_samples for part in parts]
        assert [len(part) for part in found] == [len(part) for part in parts]
        assert not even or len({part.num_samples for part in parts}) == 1


@pytest.mark.timeout(300)
def test_command_line_resumes_on_two_processes_in_the_same_run(tmp_path):
    settings = ["data=fake", "trainer=cpu", "trainer.devices=2", "+trainer.strategy=ddp"]
    first = finish(tmp_path, *settings, "trainer.max_epochs=1")
    resumed = finish(tmp_path, "ckpt_path=last", "trainer.max_epochs=2")
    assert "Train on 204 samples" in first.output
    assert [output.count("best val_loss") for output in (first.output, resumed.output)] == [1, 1]
    assert resumed.output.count("Resuming outputs/") == 1
    _, run = resumed.run()  # there is one run, and one folder
    assert (run.info.status, run.data.tags["resumed"]) == ("FINISHED", "1")
    points = resumed.points()
    assert [step for step, _ in points["lr"]] == list(range(8))
    assert len(points["val_loss"]) == 2
    assert resumed.checkpoint("last.ckpt")["global_step"] == 8
