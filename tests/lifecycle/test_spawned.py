"""A fit in other processes: the callbacks of the main program get its record, as after a fit in that program."""

import json
import os
from pathlib import Path

import pytest

from lr_plugins import CosineDecay, LearningRateScheduler, RunLength, StepDecay
from lr_plugins._lightning.worker_results import send_to_main_process
from tests import preloaded
from tests.toys import fit, plan

ROOT = Path(__file__).parents[2]
HALVED = [0.2] * 6 + [0.1] * 6
FORKED = ["ddp_fork", "ddp_notebook"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The results of each fit, and the folder for temporary files."""
    folder = tmp_path_factory.mktemp("spawned")
    (folder / "tmp").mkdir()
    words = ["-m", "tests.lifecycle.spawned", str(folder / "found.json")]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    done = preloaded.run(words, ROOT, environment, 240)
    assert (folder / "found.json").exists(), done.stderr
    return json.loads((folder / "found.json").read_text()), folder / "tmp"


def cosine(batches):
    return pytest.approx(plan(CosineDecay(0.1), [batches, batches], RunLength.of(batches, 2)), rel=1e-15)


@pytest.mark.parametrize(("strategy", "batches"), [("ddp_fork", 3), ("ddp_notebook", 6), ("auto", 6)])
def test_trace_audit_and_history_are_brought_back(strategy, batches, trained):
    found = trained[0][strategy]
    (scheduler,), (trace,), (history,) = (
        found[name] for name in ("LearningRateScheduler", "LearningRateTrace", "History")
    )
    assert scheduler["lr"] == trace == cosine(batches)
    assert scheduler["audit"] == f"lr followed the plan at {2 * batches} of {2 * batches} steps"
    assert scheduler["run"] == [batches, 2, 2 * batches]
    assert history["epoch"] == [0, 1]
    assert history["history"]["lr"] == [trace[batches - 1], trace[-1]]
    assert [len(values) for values in history["history"].values()] == [2, 2, 2]
    assert set(history["history"]) == {"loss", "val_loss", "lr"}
    assert set(found["Again"][0]["history"]) == {"loss", "val_loss", "learning_rate"}


def test_spawned_and_forked_processes_report_the_same(trained):
    spawned, forked = trained[0]["ddp_spawn"], trained[0]["ddp_notebook"]
    assert spawned["LearningRateRangeTest"] == forked["LearningRateRangeTest"]
    assert spawned["LearningRateRangeTest"][0]["found"] > 0
    assert spawned["LearningRateTrace"] == [HALVED]
    assert spawned["History"][0]["history"]["lr"] == [0.2, 0.1]


def test_only_the_overriding_scheduler_gets_the_record(trained):
    for found in (trained[0]["ddp_spawn"]["module's"], trained[0]["mixin"]):
        (scheduler,) = found["LearningRateScheduler"]
        assert scheduler["lr"] == HALVED
        assert scheduler["audit"] == "lr followed the plan at 12 of 12 steps"
    assert trained[0]["mixin"]["overridden"] == []
    assert trained[0]["ddp_spawn"]["LearningRateScheduler"][0]["lr"] == []


def test_callbacks_configured_by_a_module_get_their_record(trained):
    found = trained[0]["brought"]
    assert found["LearningRateScheduler"][0]["lr"] == [0.1] * 6 + [0.05] * 6
    assert found["History"][0]["history"]["lr"] == [0.1, 0.05]


def test_a_trace_without_a_scheduler_is_brought_back(trained):
    assert trained[0]["alone"] == {"LearningRateTrace": [[0.1] * 12]}


@pytest.mark.parametrize("strategy", [*FORKED, "ddp_spawn"])
def test_copies_made_before_the_fit_receive_nothing(strategy, trained):
    copies = trained[0][strategy]["copies"]
    assert [one["lr"] for one in copies["LearningRateScheduler"]] == [[], [], []]
    assert copies["LearningRateTrace"] == [[], [], []]
    assert copies["History"] == [{"history": {}, "epoch": []}] * 3


def test_a_record_larger_than_a_pipe_arrives(trained):
    assert trained[0]["long"] == [9000, 9000]


def test_failed_fit_raises_its_error_and_brings_nothing_back(trained):
    found = trained[0]["failing"]
    assert "RuntimeError: in a worker" in found["error"]
    assert found["LearningRateScheduler"][0]["lr"] == found["LearningRateTrace"][0] == []
    assert found["History"] == [{"history": {}, "epoch": []}]


def test_another_trainer_resumes_with_the_same_callbacks(trained):
    first, second = trained[0]["resumed"]
    assert first["LearningRateScheduler"][0]["lr"] == [0.1] * 6 + [0.05] * 6
    assert second["LearningRateScheduler"][0]["lr"] == [0.025] * 6
    assert first["History"][0]["history"]["lr"] == [0.1, 0.05]
    assert second["History"][0]["history"]["lr"] == [0.1, 0.05, 0.025]


def test_no_temporary_files_are_left(trained):
    assert not list(trained[1].glob("lr_plugins*"))


def test_fit_in_the_main_process_keeps_the_trainer_state():
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    trainer = fit(None, scheduler, epochs=1)
    send_to_main_process(trainer, scheduler, {"trace": None})
    assert sorted(vars(trainer.state)) == ["fn", "stage", "status"]
    assert len(scheduler.trace["lr"]) == 6
