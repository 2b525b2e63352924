"""Sweeps: one comparison in the sweep's folder, one database, an objective for the sweeper; real processes."""

import json
import math
import os
import re
import subprocess
import sys
from array import array
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from lr_plugins.comparison.run_files import find_run_files
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.training.entry_point import records_in_mlflow
from lr_plugins.training.objective import objective
from lr_plugins.training.record import _without_places
from lr_plugins.training.run_file import RunFile
from tests.training.test_main import ROOT, SMALL, environment, runs, train

FILES = {"comparison.csv", "comparison.md", "learning_rates.png", "metrics.png", "ends.png"}


def test_optuna_uses_the_objective_and_compares_without_mlflow(tmp_path):
    search = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random"]
    search += ["hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1"]
    rates = ["optimizer.lr=choice(0.0,0.01)", "objective=val_acc", "hydra.sweeper.direction=maximize"]
    sweep = train(tmp_path, "-m", *search, *rates, *SMALL, "logger=csv", "callbacks=silent")
    assert sweep.returncode == 0, sweep.stderr
    [folder] = (tmp_path / "multirun").glob("*/*")
    assert {path.name for path in (folder / "comparison").iterdir()} == FILES
    assert not (tmp_path / "mlflow.db").exists()
    found = find_run_files(folder)
    assert [(run.status, len(run.curves["lr"].steps)) for run in found] == [("FINISHED", 14)] * 2
    ends = [float(run.curves["val_acc"].values[-1]) for run in found]
    result = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert result["best_value"] == pytest.approx(max(ends), abs=1e-7)
    assert "compared in" in sweep.stdout


def test_run_with_chdir_resumes_in_its_database_and_folder(tmp_path):
    changed = ["hydra.job.chdir=true", *SMALL, "callbacks=silent"]
    place = "hydra.run.dir=runs/${now:%Y}/${now:%H-%M-%S-%f}"
    first = train(tmp_path, *changed, place)
    assert first.returncode == 0, first.stderr
    more = train(tmp_path, "hydra.job.chdir=true", "trainer.max_epochs=3", "ckpt_path=last", place)
    assert "Resuming runs/" in more.stdout, more.stderr
    [newest] = runs(tmp_path)
    assert (newest.info.status, newest.data.tags["resumed"]) == ("FINISHED", "1")
    assert newest.data.tags["resumed-1.trainer.max_epochs"] == "3"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [point.step for point in client.get_metric_history(newest.info.run_id, "lr")] == list(range(21))
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")] == [Path("mlflow.db")]
    [kept] = (tmp_path / "runs").glob("*/*/run.json")
    curves = json.loads(kept.read_text())["curves"]
    assert (curves["lr"][0], len(curves["val_loss"][0])) == (list(range(21)), 3)


def test_mlflow_run_has_a_description_and_no_paths_in_params(tmp_path):
    words = " ".join([sys.executable, str(ROOT / "train.py"), *SMALL, "callbacks=silent"])
    project = {"name": "digits", "entry_points": {"main": {"command": words}}}
    (tmp_path / "MLproject").write_text(yaml.safe_dump(project))
    command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local", "--experiment-name", "lr_plugins"]
    told = {**environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    [run] = runs(tmp_path)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "step_decay-cnn-fake-seed1")
    assert len(mlflow.MlflowClient(told["MLFLOW_TRACKING_URI"]).get_metric_history(run.info.run_id, "lr")) == 14
    places = [name for name, value in run.data.params.items() if "/" in value or re.search("dir|logger|uri|path", name)]
    assert places == []
    assert run.data.params["optimizer.lr"] == "0.002"
    note = run.data.tags["mlflow.note.content"]
    assert "schedule `step_decay`, data `fake`, model `cnn`, optimizer `adam`, seed 1" in note
    assert "python train.py data=fake trainer.max_epochs=2" in note


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        ({"_target_": "lr_plugins.tracking.MLflowLogger"}, True),
        ({"_target_": "lr_plugins.MLflowLogger"}, True),
        ({"_target_": "lr_plugins.tracking.mlflow_logger.MLflowLogger"}, True),
        ({"_target_": "pytorch_lightning.loggers.CSVLogger"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_the_logger_is_known_by_each_of_its_names(logger, expected):
    assert records_in_mlflow(OmegaConf.create({"logger": logger})) is expected


# --- the objective ------------------------------------------------------------------------------------------------

VALUES = {"val_loss": {0: 0.5, 2: 0.25, 1: 0.75}, "loss": {0: 1.0}, "val_f1": {0: math.nan}, "val_mse": {0: -math.inf}}


@pytest.mark.parametrize(
    ("name", "expected"), [("val_loss", 0.25), (None, None), ("val_f1", -math.inf), ("val_mse", math.inf)]
)
def test_objective_is_the_last_value_or_the_worst_if_diverged(name, expected):
    assert objective(name, VALUES) == expected


def test_without_a_validation_the_loss_is_that_of_the_training():
    assert objective("val_loss", {"loss": {0: 1.0}}) == 1.0
    assert objective("val_loss", {}) is None
    with pytest.raises(
        InvalidArgumentError, match=r"objective must be a metric that is logged \(loss\); got 'val_acc'"
    ):
        objective("val_acc", {"loss": {0: 1.0}})


# --- run.json -----------------------------------------------------------------------------------------------------


def test_resumed_run_replaces_values_after_its_checkpoint(tmp_path):
    killed = RunFile(tmp_path, {"schedule": "cosine"})
    killed.log_series("lr", 0, array("d", [0.1] * 8))
    for step in (3, 7):
        killed.log_metrics({"val_loss": step / 10}, step=step)
    killed.save()
    resumed = RunFile(tmp_path, {"schedule": "cosine"})
    resumed.resume()
    resumed.log_series("lr", 4, array("d", [0.2] * 8))
    for step in (7, 11):
        resumed.log_metrics({"val_loss": math.nan}, step=step)
    resumed.finalize("success")
    [run] = find_run_files(tmp_path)
    assert run.curves["lr"].steps.tolist() == list(range(12))
    assert run.curves["lr"].values.tolist() == [0.1] * 4 + [0.2] * 8
    np.testing.assert_array_equal(run.curves["val_loss"].values, [0.3, math.nan, math.nan])
    assert run.status == "FINISHED"


def test_a_long_series_is_thinned_and_a_metric_is_not(tmp_path):
    file = RunFile(tmp_path, {"schedule": "cosine"})
    for name in ("momentum", "lr-SGD"):
        file.log_series(name, 0, array("d", range(100_000)))
    for step in range(10_000):
        file.log_metrics({"lrx_loss": float(step)}, step=step)
    file.finalize("success")
    [run] = find_run_files(tmp_path)
    for name in ("momentum", "lr-SGD"):
        assert len(run.curves[name].steps) < 5000
        assert run.curves[name].values[[0, -1]].tolist() == [0.0, 99_999.0]
    assert len(run.curves["lrx_loss"].steps) == 10_000


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"begun": "x"}', '{"begun": 1, "curves": {"a": 1}}', "\0"])
def test_a_file_that_is_no_run_is_left_out(tmp_path, text):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "run.json").write_text(text)
    assert find_run_files(tmp_path) == []


def test_the_command_compares_folders(tmp_path):
    for job, end in enumerate([0.5, "inf", "nan"]):
        (tmp_path / str(job)).mkdir()
        curves = {"val_loss": [[0, 1], [1.0, end]], "lr": [[0, 1], [0.1, 0.05]]}
        about = {"schedule": "cosine", "seed": str(job), "status": "FINISHED", "begun": job, "seconds": 1.0}
        (tmp_path / str(job) / "run.json").write_text(json.dumps({**about, "curves": curves}))
    words = [sys.executable, "-m", "lr_plugins", "compare", "--folder", str(tmp_path), "--out", str(tmp_path / "out")]
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, env=told)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| cosine | 3 |" in done.stdout


def test_nested_sweep_compares_only_its_own_runs(tmp_path):
    def job(name, sweep):
        (tmp_path / name).mkdir()
        about = {"schedule": "cosine", "status": "FINISHED", "begun": 1, "seconds": 1.0, "sweep": sweep, "curves": {}}
        (tmp_path / name / "run.json").write_text(json.dumps(about))

    job("0", "this")
    job("1", "before")
    assert [run.name for run in find_run_files(tmp_path, "this")] == ["0"]
    assert len(find_run_files(tmp_path)) == 2


def test_params_distinguish_trainings_and_hold_no_paths():
    kept = {"drop_path": 0.1, "num_paths": 3, "skip_path": True, "root": 2, "path": "my.module.decay", "name": "a/b"}
    places = {"weights": "/data/w.pt", "cache": "~/c", "save_to": "./out", "data_dir": "data", "uri": "s3://b/x"}
    places |= {"output_dirs": ["/a"], "up": "../x", "windows": "C:\\x"}
    assert _without_places({"model": {**kept, **places}, "listed": ["/a", 1]}) == {"model": kept, "listed": [1]}
