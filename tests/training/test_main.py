"""`python train.py` as a user runs it: a real process in an empty folder, a real MLflow database and server."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
import torch
import yaml

from tests import preloaded
from tests.tracking.servers import NO_JOBS
from tests.training import without_advice

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "train.py")
SMALL = ["data=fake", "trainer.max_epochs=2"]


def environment():
    # A user has neither our test settings nor a tracking server named.
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_", "HYDRA_"))}


def train(folder, *arguments, timeout=120):
    """`python train.py` in a process that has imported torch already."""
    return preloaded.run([TRAIN, *arguments], folder, environment(), timeout)


def runs(folder):
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("lr_plugins")
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """The main job in an empty folder: (folder, the finished process)."""
    folder = tmp_path_factory.mktemp("main_job")
    words = [sys.executable, TRAIN, "schedule=step_decay"]
    return folder, subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)


def test_console_shows_only_keras_lines_and_the_summary(main_job):
    _, process = main_job
    assert process.returncode == 0
    # Aside, the rule of thumb: StepDecay's own drops come to an eighth in ten epochs.
    assert re.fullmatch(r"lr decays 8x, from 0\.002 to 0\.00025; as a rule of thumb .*\n", process.stderr)
    epochs = "".join(
        rf"Epoch {epoch}/10\n\nEpoch {epoch:05d}: LearningRateScheduler setting learning rate to {lr}\.\n"
        r" - \d+s - loss: \S+ - acc: \S+ - val_loss: \S+ - val_acc: \S+\n"
        for epoch, lr in enumerate([0.002] * 3 + [0.001] * 3 + [0.0005] * 3 + [0.00025], start=1)
    )
    end = (
        r"\nbest val_loss    0\.\d{4}  \(epoch \d+\)\n"
        r"best val_acc     0\.\d{4}  \(epoch \d+\)\n"
        r"learning rate    0\.002 at the first step, 0\.00025 at the last of 450\n"
        r"plan             followed at 450 of 450 steps\n"
        r"run              step_decay-cnn-digits-seed1\n"
        r"to browse        mlflow ui, then http://127\.0\.0\.1:5000/#/experiments/1/runs/[0-9a-f]{32}/model-metrics\S+\n"
        r"best checkpoint  (\S+/best\.ckpt)\n"
        r"last checkpoint  (\S+/last\.ckpt)\n"
    )
    header = "Train on 1437 samples, validate on 360 samples\n"
    assert re.fullmatch(header + epochs + end, process.stdout), process.stdout


def test_summary_shows_the_checkpoints_and_the_true_accuracy(main_job):
    folder, process = main_job
    best, last = re.findall(r"checkpoint  (\S+)", process.stdout)
    assert (folder / best).is_file()
    assert (folder / last).is_file()
    [run] = runs(folder)
    assert run.data.metrics["val_acc"] > 0.95


def test_the_run_holds_params_metrics_trace_and_artifacts(main_job):
    folder, _ = main_job
    [run] = runs(folder)
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert run.info.status == "FINISHED"
    assert run.data.params["schedule.drop"] == "0.5"
    assert run.data.tags["schedule"] == "step_decay"
    trace = client.get_metric_history(run.info.run_id, "lr")
    assert [(point.step, point.value) for point in trace] == [(t, 0.002 * 0.5 ** (t // 45 // 3)) for t in range(450)]
    for name in ("loss", "acc", "val_loss", "val_acc"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(44, 450, 45))
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "lr_trace.csv", "lr_trace.png"}
    config = yaml.safe_load(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml"))
    assert config["schedule"]["every"] == "3ep"


def test_mlflow_ui_without_flags_shows_the_run(main_job):
    folder, _ = main_job
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Its own port, by the environment: another program may own the usual one.
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui"],
        cwd=folder,
        env={**environment(), **NO_JOBS, "MLFLOW_PORT": str(port), "MLFLOW_WORKERS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        found = _ask(port, "experiments/search", {"max_results": 10})
        [experiment] = [one for one in found["experiments"] if one["name"] == "lr_plugins"]
        found = _ask(port, "runs/search", {"experiment_ids": [experiment["experiment_id"]]})
        [run] = found["runs"]
        metrics = {metric["key"] for metric in run["data"]["metrics"]}
        assert {"lr", "loss", "acc", "val_loss", "val_acc"} <= metrics
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _ask(port, what, question, patience=60):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/{what}",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(patience * 2):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError:  # not up yet
            time.sleep(0.5)
    raise AssertionError(f"mlflow ui did not answer within {patience} s")


def test_seed_determines_the_run(tmp_path):
    sweep = train(tmp_path, "-m", *SMALL, "seed=1,2", "model.dropout=[0.25,0.5]")
    again = train(tmp_path, *SMALL, "seed=1")
    assert (sweep.returncode, again.returncode) == (0, 0), sweep.stderr + again.stderr
    last, second, first, _ = runs(tmp_path)  # MLflow gives the newest first
    assert first.data.metrics == last.data.metrics != second.data.metrics


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_ends_cleanly_and_keeps_the_record(tmp_path, number, status):
    process = preloaded.Program([TRAIN, "trainer.max_epochs=100000", "data=fake"], tmp_path, environment())
    try:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("Epoch 4/") for line in lines), process.stderr.read()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    assert "Traceback" not in err
    assert "Interrupted. What was recorded is kept.\n\nbest val_loss" in out
    assert re.search(r"^to resume +python train\.py ckpt_path=last$", out, re.MULTILINE)
    [run] = runs(tmp_path)
    assert run.info.status == "KILLED"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "lr")]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 3 * 7
    assert {"lr_trace.csv", "lr_trace.png"} <= {file.path for file in client.list_artifacts(run.info.run_id)}


def test_parallel_sweep_is_compared_in_its_folder_and_parent(tmp_path):
    words = ["launcher=joblib", "hydra.job.chdir=true", *SMALL, "schedule=inverse_time,cosine", "seed=1,2"]
    sweep = train(tmp_path, "-m", *words, timeout=300)
    assert (sweep.returncode, "compared in" in sweep.stdout) == (0, True), sweep.stderr
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")] == [Path("mlflow.db")]
    *children, parent = runs(tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [parent.info.run_id] * 4
    assert [run.info.status for run in (*children, parent)] == ["FINISHED"] * 5
    for run in children:
        assert len(client.get_metric_history(run.info.run_id, "lr")) == 14
    [folder] = (tmp_path / "multirun").glob("*/*")
    names = {"comparison.csv", "comparison.md", "learning_rates.png", "metrics.png", "ends.png"}
    assert {path.name for path in (folder / "comparison").iterdir()} == names
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id, "comparison")}
    assert artifacts == {f"comparison/{name}" for name in names}
    with (folder / "comparison" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {run.info.run_id for run in children}
    assert {row["schedule"] for row in rows} == {"inverse_time", "cosine"}


def test_a_recipe_without_validation_set_is_as_quiet(tmp_path):
    process = train(tmp_path, "experiment=iris_loss_driven", "trainer.max_epochs=2")
    assert (process.returncode, without_advice(process.stderr)) == (0, "")
    assert "best training_set_loss" in process.stdout


def test_a_checkpoint_begins_a_new_run_where_that_is_asked_for(tmp_path):
    first = train(tmp_path, *SMALL, "schedule=inverse_time")
    [last] = re.findall(r"last checkpoint  (\S+)", first.stdout)
    new = ["data=fake", "trainer.max_epochs=3", "schedule=inverse_time", "new_run=true"]
    more = train(tmp_path, *new, f"ckpt_path={last}")
    assert (more.returncode, without_advice(more.stderr)) == (0, "")
    assert "Epoch 3/3" in more.stdout
    assert "Epoch 1/3" not in more.stdout
    newest, _ = runs(tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    points = client.get_metric_history(newest.info.run_id, "lr")
    assert [(point.step, point.value) for point in points] == [(t, 0.002 / (1 + 0.005 * t)) for t in range(14, 21)]


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(tmp_path):
    train(tmp_path, *SMALL, "schedule=inverse_time")
    refused = train(tmp_path, "ckpt_path=last", "trainer.max_epochs=4", "schedule.decay_rate=0.5")
    assert refused.returncode == 1
    assert "on_resume" in refused.stderr
    more = train(tmp_path, "ckpt_path=last", "trainer.max_epochs=3")
    assert (more.returncode, without_advice(more.stderr)) == (0, "")
    [run] = runs(tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    points = client.get_metric_history(run.info.run_id, "lr")
    assert [(point.step, point.value) for point in points] == [(t, 0.002 / (1 + 0.005 * t)) for t in range(21)]
    assert {file.path for file in client.list_artifacts(run.info.run_id) if "resumed" in file.path} == {
        f"config-resumed-{run.data.tags['resumed']}.yaml"
    }


def test_constraint_holds_in_checkpoints_and_resumed_runs(tmp_path):
    words = ["data=iris", "model=mlp", "optimizer=keras_sgd", "constraint=max_norm", "constraint.max_value=0.4"]
    for arguments in ([*words, r"constraint.params=\.weight$", "trainer.max_epochs=2"],
                      ["ckpt_path=last", "trainer.max_epochs=3"]):  # fmt: skip
        process = train(tmp_path, *arguments)
        assert (process.returncode, without_advice(process.stderr)) == (0, "")
        [last] = re.findall(r"last checkpoint  (\S+)", process.stdout)
        weights = torch.load(tmp_path / last, weights_only=True)["state_dict"]
        norms = [weights[f"net.{layer}.weight"].norm(dim=1) for layer in (1, 3, 5)]  # over the inputs of each unit
        assert max(norm.max() for norm in norms) <= 0.4
        assert torch.cat(norms).max() > 0.399
        assert norms[0].unique().numel() > 1
    assert "Epoch 3/3" in process.stdout
    [run] = runs(tmp_path)
    assert (run.data.params["constraint.max_value"], run.data.params["constraint.axis"]) == ("0.4", "0")
