"""`python train.py callbacks=lr_finder` as a user runs it."""

import re

import mlflow
import pytest
import torch

from lr_plugins import CosineDecay, RunLength
from tests.callbacks.lr_finder.test_sandbox import same
from tests.training import without_advice
from tests.training.test_main import SMALL, runs, train

FINDER = ["callbacks=lr_finder", *SMALL]


def metrics(folder, run):
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in sorted(run.data.metrics)}
    return {name: [(point.step, point.value) for point in points] for name, points in histories.items()}


def artifacts(folder, run):
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return {file.path for file in client.list_artifacts(run.info.run_id)}


def checkpoint(folder, process, name="last"):
    [path] = re.findall(rf"{name} checkpoint  (\S+)", process.stdout)
    return torch.load(folder / path, weights_only=True)


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """A run that starts from what is found: (folder, the finished process)."""
    folder = tmp_path_factory.mktemp("applied")
    return folder, train(folder, *FINDER, "schedule=warmup_cosine")


def planned(found, epochs):
    """(step, learning rate) of a warm-up with cosine from what is found."""
    run, schedule = RunLength.of(steps_per_epoch=7, epochs=epochs), CosineDecay().with_warmup("5%")
    return [(step, schedule(run.position(step, found))) for step in range(7 * epochs)]


def suggestion(process):
    return float(re.search(r"range test: ([\d.e-]+) \(steepest", process.stdout)[1])


def test_found_rate_is_printed_at_the_start_and_in_the_summary(applied):
    _, process = applied
    assert (process.returncode, without_advice(process.stderr)) == (0, "")
    first, second, *_ = process.stdout.splitlines()
    assert first == "Learning-rate range test: 100 steps with learning rates from 1e-08 to 1"
    said = second.removeprefix("Learning-rate range test: ")
    assert re.fullmatch(r"(\S+) \(steepest, of \d+ learning rates tried.*\); Adam\.lr is \1 instead of 0\.002", said)
    assert re.search(rf"^range test +{re.escape(said)}$", process.stdout, re.MULTILINE)


def test_the_plan_the_trace_and_the_params_agree_with_it(applied):
    folder, process = applied
    [run] = runs(folder)
    found = float(run.data.params["lr_finder.suggestion"])
    assert run.data.params["lr_finder.applied_to"] == "Adam.lr"
    assert found == pytest.approx(suggestion(process), rel=1e-5)
    assert metrics(folder, run)["lr"][:14] == planned(found, epochs=2)
    assert "plan             followed at 14 of 14 steps" in process.stdout
    assert artifacts(folder, run) >= {"lr_finder.csv", "lr_finder.png", "lr_trace.csv", "lr_trace.png"}


def test_resumed_run_keeps_the_found_rate(applied):
    folder, process = applied
    more = train(folder, "ckpt_path=last", "trainer.max_epochs=3", "callbacks.scheduler.on_resume=checkpoint")
    assert (more.returncode, "steps with learning rates from" in more.stdout) == (0, False), more.stderr
    assert suggestion(more) == suggestion(process)
    [run] = runs(folder)
    plan = planned(float(run.data.params["lr_finder.suggestion"]), epochs=2)
    assert metrics(folder, run)["lr"] == [*plan, *((step, 0.0) for step in range(14, 21))]  # the cosine has come to 0


def test_what_is_not_applied_changes_nothing(tmp_path):
    plain = train(tmp_path, *SMALL)
    shown = train(tmp_path, *FINDER, "callbacks.lr_finder.apply=false")
    assert (shown.returncode, without_advice(shown.stderr)) == (0, "")
    assert "not applied, Adam.lr stays 0.002" in shown.stdout
    with_search, without = runs(tmp_path)
    assert metrics(tmp_path, with_search) == metrics(tmp_path, without)
    assert artifacts(tmp_path, with_search) - artifacts(tmp_path, without) == {"lr_finder.csv", "lr_finder.png"}
    for name in ("best", "last"):
        one, other = checkpoint(tmp_path, shown, name), checkpoint(tmp_path, plain, name)
        assert one["callbacks"].pop("LearningRateRangeTest")
        for either in (one, other):  # the folders and the run are others
            either["callbacks"].pop("RecordConfig")
            [best] = [key for key in either["callbacks"] if key.startswith("ModelCheckpoint")]
            either["callbacks"].pop(best)
        same(one, other)


def test_each_run_of_a_sweep_searches_for_itself(tmp_path):
    sweep = train(tmp_path, "-m", *FINDER, "schedule=constant", "optimizer=adam,sgd", timeout=300)
    assert sweep.returncode == 0, sweep.stderr
    *children, _ = runs(tmp_path)
    found = [float(run.data.params["lr_finder.suggestion"]) for run in children]
    assert found[0] != found[1]
    assert [run.data.metrics["lr"] for run in children] == found


def test_schedule_with_fixed_learning_rates_is_refused(tmp_path):
    process = train(tmp_path, *FINDER, "schedule=piecewise", "logger=none")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "LearningRateRangeTest cannot apply its suggestion, because the schedule has its own" in process.stderr
