"""`settings.json` beside a checkpoint: a stranger's changes values, and nothing else; a broken one is one sentence."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins.errors import LearningRateError
from lr_plugins.training.resume import continued
from lr_plugins.training.settings import SETTINGS, is_own, read_settings, screened, write_settings

VALUES = [
    "seed=3",
    "schedule=cosine",
    "schedule.power=2",
    "schedule.every=10ep",
    "+trainer.val_check_interval=0.3",
    "++optimizer.weight_decay=0.1",
    "~callbacks.trace",
    "callbacks.trace=null",
    "model.dropout=[0.25,0.5]",
    "logger.experiment_name='two words'",
    "+logger.tags.note=small",
    "style=keras3",
]
NEVER = [
    "--config-dir=/tmp/evil",
    "--config-path=/tmp/evil",
    "-cd",
    "-cp=/tmp/evil",
    "-m",
    "--multirun",
    "--cfg=job",
    "--config-name=evil",
    "hydra.run.dir=/tmp/evil",
    "+hydra.job.chdir=true",
    "~hydra.run",
    "hydra/launcher=joblib",
    "+hydra/callbacks@x.y=evil",
    "schedule@hydra.launcher=cosine",
    "output_dir=/tmp/evil",
    "++output_dir=/tmp/evil",
    "ckpt_path=/tmp/evil.ckpt",
    "+new_run=true",
    "data=../../../tmp/evil",
    "data=/tmp/evil",
    "+experiment=sub/../../evil",
    "seed=${oc.env:HOME}",
    "logger.run_name='${oc.env:HOME}'",
    "schedule._target_=os.system",
    "+callbacks.evil={_target_:os.system,command:ls}",
    "+callbacks.evil=[{a:{_target_:os.system}}]",
    "+x._partial_=true",
    "logger.tracking_uri=http://me:***@host",
    "seed=1,2",
    "seed=range(1,3)",
    "schedule=glob(*)",
    "=3",
]
PLACES = [
    "data.data_dir=/data",
    "logger.tracking_uri=http://host:5000",
    "logger.spool_dir=spool",
    "+logger.artifact_location=s3",
    "callbacks.trace.dirpath=x",
    "callbacks.checkpoint.filename=../../x",
    "trainer.default_root_dir=x",
    "schedule.function.path=my.module.decay",
    "logger.name=../x",
    "logger.version=..",
    "+model.weights=x",
    "schedule@callbacks.scheduler.schedule=cosine",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in the current folder; makes its settings of some words and gives the folder of its checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def make(*words, folder=None, at="outputs/day/run/checkpoints"):
        checkpoints = tmp_path / at
        checkpoints.mkdir(parents=True)
        (checkpoints / "last.ckpt").touch()
        (checkpoints / SETTINGS).write_text(json.dumps({"overrides": list(words), "folder": folder or ".."}))
        return checkpoints

    return make


@pytest.mark.parametrize("word", VALUES)
@pytest.mark.parametrize("place", ["outputs/day/run/checkpoints", "elsewhere/checkpoints"])
def test_words_that_set_a_value_are_taken(run, word, place, capfd):
    checkpoints = run(word, at=place)
    assert word in continued([f"ckpt_path={checkpoints}/last.ckpt"])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("word", NEVER)
@pytest.mark.parametrize("place", ["outputs/day/run/checkpoints", "elsewhere/checkpoints"])
def test_words_that_reach_beyond_the_configuration_are_reported(run, word, place, capfd):
    checkpoints = run("seed=7", word, at=place)
    words = continued([f"ckpt_path={checkpoints}/last.ckpt"])
    assert [one.partition("=")[0] for one in words] == ["seed", "hydra.run.dir", "ckpt_path"]
    assert not any("evil" in one or "os.system" in one or "${" in one for one in words)
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("Warning: ")
    assert "repeat on the command line" in line
    assert word.replace("'", "").split("=")[0] in line.replace("'", "").replace('"', "")


@pytest.mark.parametrize("word", PLACES)
def test_places_are_taken_from_own_runs_only(run, word, capfd):
    own, foreign = run(word), run(word, at="elsewhere/checkpoints")
    assert word in continued([f"ckpt_path={own}/last.ckpt"])
    assert capfd.readouterr().err == ""
    assert word not in continued([f"ckpt_path={foreign}/last.ckpt"])
    assert word in capfd.readouterr().err.replace("'", "")


def test_a_run_of_somebody_else_is_not_own(run, monkeypatch):
    folder = run()
    assert is_own(folder)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not is_own(folder)


def test_a_link_into_the_outputs_is_not_own(run, tmp_path):
    run(at="elsewhere/checkpoints")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/run").symlink_to(tmp_path / "elsewhere")
    assert not is_own(tmp_path / "outputs/run/checkpoints")


def test_settings_that_anyone_can_write_are_not_own(run):
    folder = run()
    (folder / SETTINGS).chmod(0o666)
    assert not is_own(folder)


@pytest.mark.parametrize("folder", ["/tmp", "../../../../../..", "../../other", "../..", ".", "", "../../../../evil"])
@pytest.mark.parametrize("place", ["outputs/run/checkpoints", "elsewhere/checkpoints"])
def test_the_folder_of_the_run_is_where_its_checkpoints_are(run, folder, place):
    checkpoints = run(folder=folder, at=place)
    [_, found, _] = continued(["seed=1", f"ckpt_path={checkpoints}/last.ckpt"])
    assert found == f"hydra.run.dir={place.rpartition('/')[0]}"


def test_nested_checkpoint_folder_is_followed_in_own_runs(run):
    checkpoints = run(folder="../..", at="outputs/day/run/deep/checkpoints")
    assert continued([f"ckpt_path={checkpoints}/last.ckpt"])[0] == "hydra.run.dir=outputs/day/run"


def test_checkpoints_of_another_name_tell_no_folder(run):
    checkpoints = run("seed=1", at="elsewhere/mine")
    assert continued([f"ckpt_path={checkpoints}/last.ckpt"])[0] == "seed=1"
    assert len(continued([f"ckpt_path={checkpoints}/last.ckpt"])) == 2


def test_an_output_dir_that_holds_anyway_is_not_reported(run, tmp_path, capfd):
    checkpoints = run(f"output_dir={tmp_path}/mine", at="mine/checkpoints")
    assert continued([f"ckpt_path={checkpoints}/last.ckpt"])[0] == "hydra.run.dir=mine"
    assert capfd.readouterr().err == ""


def test_what_is_said_now_is_not_reported(run, capfd):
    checkpoints = run("data.data_dir=/data", "output_dir=/evil", at="elsewhere/checkpoints")
    continued([f"ckpt_path={checkpoints}/last.ckpt", "data.data_dir=/mine", "output_dir=mine"])
    assert capfd.readouterr().err == ""


def test_the_warning_is_one_line_whatever_the_words_are(run, capfd):
    words = ["--\x1b[2J\nevil", "-x" * 1000, *[f"-{index}" for index in range(100)]]
    checkpoints = run(*words)
    continued([f"ckpt_path={checkpoints}/last.ckpt"])
    [line] = capfd.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert "94 more" in line
    assert len(line) < 1000


def test_a_masked_password_is_asked_for(run, capfd):
    checkpoints = run("logger.tracking_uri=postgresql://me:***@host/db")
    assert len(continued([f"ckpt_path={checkpoints}/last.ckpt"])) == 2
    assert "MLFLOW_TRACKING_PASSWORD" in capfd.readouterr().err


BROKEN = {
    "half": "{",
    "a list": "[]",
    "a text": '"overrides"',
    "a number": "3",
    "null": "null",
    "overrides that are a text": '{"overrides": "seed=1"}',
    "overrides that are an object": '{"overrides": {"seed": 1}}',
    "an override that is a number": '{"overrides": [1]}',
    "an override that is a list": '{"overrides": [["seed=1"]]}',
    "a folder that is a number": '{"overrides": [], "folder": 3}',
    "NUL": '{"overrides": ["seed=\\u0000"]}',
    "a lone surrogate": '{"overrides": ["seed=\\ud800"]}',
    "a surrogate in the folder": '{"overrides": [], "folder": "\\ud800"}',
    "deep": "[" * 100_000,
    "large": json.dumps({"overrides": ["x" * 10_000_000]}),
    "bytes": b"\xff\xfe\x00",
    "a huge number": '{"overrides": [' + "1" * 10_000 + "]}",
    "no word of Hydra": '{"overrides": ["seed = 3 ]"]}',
    "a deep word": json.dumps({"overrides": ["seed=" + "[" * 5000]}),
    "an empty word": '{"overrides": [""]}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_used_is_one_sentence(run, text):
    checkpoints = run()
    (checkpoints / SETTINGS).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LearningRateError, match=r"settings\.json cannot be used: .*\. Delete it, and give") as caught:
        continued([f"ckpt_path={checkpoints}/last.ckpt"])
    assert len(str(caught.value)) < 600
    str(caught.value).encode()


def test_what_is_no_file_is_refused(run, tmp_path):
    checkpoints = run()
    file = checkpoints / SETTINGS
    file.unlink()
    (tmp_path / "secret").write_text("{}")
    for make in (file.mkdir, lambda: file.symlink_to(tmp_path / "secret"), lambda: os.mkfifo(file)):
        make()
        with pytest.raises(LearningRateError, match="Delete it"):
            read_settings(checkpoints)
        file.rmdir() if file.is_dir() else file.unlink()
    assert not read_settings(checkpoints).is_there


def test_a_file_that_may_not_be_read_is_refused(run, monkeypatch):
    checkpoints = run()
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(LearningRateError, match=r"cannot be read \(no\)"):
        read_settings(checkpoints)


@given(st.lists(st.text(max_size=30), max_size=5))
def test_no_hydra_option_passes_the_screening(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp("run")
    (folder / SETTINGS).touch()
    try:
        taken = screened(words, folder).taken
    except LearningRateError:
        return
    assert not [word for word in taken if word.startswith("-") or "hydra" in word or "${" in word]


def test_settings_are_written_without_passwords_or_links(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"{SETTINGS}.part").symlink_to(tmp_path / "mine")
    write_settings(tmp_path, ["a.b=http://me:secret@host", "ckpt_path=last", "seed=1"], str(tmp_path.parent))
    assert read_settings(tmp_path).overrides == ("a.b=http://me:***@host", "seed=1")
    assert (tmp_path / "mine").read_text() == "mine"
