"""`python train.py`, killed and resumed: real processes, real signals; at the end all is as if nothing had happened."""

import os
import random
import shutil
import signal
from pathlib import Path

import mlflow
import pytest

from lr_plugins.errors import LearningRateError
from lr_plugins.training.resume import continued
from lr_plugins.training.settings import write_settings
from tests.soak.kills import FUNCTION, Figures, compare, finish, kill

RUN = ["data=fake", "schedule=function", FUNCTION, "trainer.max_epochs=24", "model.dropout=[0.25,0.5]"]
OFTEN = ["callbacks.last_checkpoint.every_n_steps=5"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    shutil.copyfile(folder / "mlflow.db", folder / "empty.db")  # making its tables takes seconds
    return finish(folder, *RUN)


@pytest.mark.timeout(600)  # five processes, where other things may be running
def test_run_killed_three_times_equals_an_undisturbed_run(undisturbed, tmp_path):
    shutil.copyfile(undisturbed.folder / "empty.db", tmp_path / "mlflow.db")
    figures, rng, arguments = Figures(), random.Random(7), [*RUN, *OFTEN]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        kill(tmp_path, arguments, number, rng.uniform(0.02, 0.1), figures, saved=True)
        arguments = ["ckpt_path=last"]
    resumed = finish(tmp_path, *arguments)
    assert "Resuming outputs/" in resumed.output
    assert ", MLflow run function-cnn-fake-seed1" in resumed.output
    compare("killed", undisturbed, resumed, figures)
    assert figures.wrong == []
    assert figures.counts["kills"] == 3
    _, run = resumed.run()
    assert run.data.tags["resumed"] == "3"
    assert int(run.data.tags["resumed_from_step"]) > 0


# --- the command line of a run that goes on --------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Two runs in an empty folder; the one that was started first has the newer checkpoint."""
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(["b", "a"]):
        folder = tmp_path / f"outputs/day/{name}"
        overrides = [f"seed={index}", "schedule=cosine", "schedule.power=2", "ckpt_path=last", "new_run=false"]
        write_settings(folder / "checkpoints", overrides, str(folder))
        (folder / "checkpoints/last.ckpt").write_text("")
    return tmp_path / "outputs/day"


def test_last_is_the_newest_checkpoint_with_its_run_settings(outputs):
    settings = ["seed=1", "schedule=cosine", "schedule.power=2"]
    place = ["hydra.run.dir=outputs/day/a", "ckpt_path=outputs/day/a/checkpoints/last.ckpt"]
    assert continued(["ckpt_path=last"]) == [*settings, *place]


def test_new_overrides_win_and_a_changed_group_starts_fresh(outputs):
    words = continued(["ckpt_path='outputs/day/b/checkpoints/last.ckpt'", "schedule=tanh", "++seed=5"])
    assert words[:2] == ["schedule=tanh", "++seed=5"]
    assert words[2] == "hydra.run.dir=outputs/day/b"


def test_a_new_run_takes_over_nothing_but_the_checkpoint(outputs):
    found = "ckpt_path=outputs/day/a/checkpoints/last.ckpt"
    assert continued(["new_run=true", "ckpt_path=last"]) == ["new_run=true", found]


@pytest.mark.parametrize("words", [[], ["ckpt_path=null", "seed=1"], ["--cfg", "job", "ckpt_path=last"]])
def test_other_command_lines_stay_as_they_are(words, outputs):
    assert continued(words) == words


def test_a_folder_that_was_moved_is_found(outputs):
    moved = outputs.rename(outputs.parent / "with 'quotes' = signs")
    [*_, folder, checkpoint] = continued([f"ckpt_path={moved / 'b/checkpoints/last.ckpt'}"])
    assert folder == r"hydra.run.dir='outputs/with \'quotes\' = signs/b'"
    assert checkpoint.endswith(r"with \'quotes\' = signs/b/checkpoints/last.ckpt'")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=1", "hydra.run.dir=runs/seed-${seed}"], "runs/seed-1"),
        (["seed=2", "hydra.run.dir='runs/seed-${seed}'"], "runs/seed-2"),
        (["hydra.run.dir=runs/seed-${seed}"], "runs/seed-2"),  # the newest
        (["schedule=cosine", "hydra.run.dir=by/${hydra:runtime.choices.schedule}/${now:%Y/%m}"], "by/cosine/2026/11"),
        (["hydra.run.dir=${oc.env:PLACE}/${now:%H}"], "runs/seed-2"),
        (["hydra.run.dir=${oc.env:NONE,by}/x"], None),
    ],
)
def test_an_interpolation_is_what_is_said_or_anything(tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", str(tmp_path / "runs"))
    for at, place in enumerate(["runs/seed-1", "runs/seed-2", "by/step/2026/11", "by/cosine/2026/11", "outputs/x"]):
        last = tmp_path / place / "checkpoints" / "last.ckpt"
        last.parent.mkdir(parents=True)
        last.touch()
        os.utime(last, (at, at))
    if expected is None:
        with pytest.raises(LearningRateError, match=r"there is no checkpoints/last\.ckpt below"):
            continued([*words, "ckpt_path=last"])
        return
    *_, found = continued([*words, "ckpt_path=last"])
    assert Path(found.removeprefix("ckpt_path=").strip("'")).resolve() == tmp_path / expected / "checkpoints/last.ckpt"


def test_a_place_that_is_named_is_where_last_is_looked_for(outputs):
    found = continued(["ckpt_path=last", f"hydra.run.dir={outputs / 'b'}"])
    assert found[-1] == f"ckpt_path={outputs / 'b/checkpoints/last.ckpt'}"
    with pytest.raises(LearningRateError, match="no checkpoints/last"):
        continued(["ckpt_path=last", "output_dir=elsewhere"])
