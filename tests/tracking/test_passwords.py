"""A password in an address appears only where sending needs it."""

import base64
import os
import subprocess
import sys
import warnings
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins.tracking import MLflowLogger, mlflow_logger
from lr_plugins.tracking.secrets import connectable, has_secret, masked, without_user
from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import spools
from tests import preloaded
from tests.tracking.servers import END, command, expected, point, points_in, run_of, spool_of

SECRET = "s3cret-passw0rd"
MASKED = {
    f"http://me:{SECRET}@host:5000": "http://me:***@host:5000",
    f"https://me:{SECRET}%40%3a@host/path?a=b": "https://me:***@host/path?a=b",
    f"http://me:{SECRET}@with@ats@host": "http://me:***@host",
    f"http://me:{SECRET}:with:colons@host": "http://me:***@host",
    f"http://:{SECRET}@host": "http://:***@host",
    f"https://{SECRET}@host/path": "https://***@host/path",
    f"postgresql+psycopg2://me:{SECRET}@host:5432/mlflow": "postgresql+psycopg2://me:***@host:5432/mlflow",
    f"mysql://me:{SECRET}@host/db?ssl=1": "mysql://me:***@host/db?ssl=1",
    f"postgresql://host/db?user=me&password={SECRET}&x=1": "postgresql://host/db?user=me&password=***&x=1",
    f"http://host/?access_token={SECRET}": "http://host/?access_token=***",
    f"s3://key:{SECRET}@bucket/x": "s3://key:***@bucket/x",
    f'{{"uri": "http://me:{SECRET}@host", "b": "x@y"}}': '{"uri": "http://me:***@host", "b": "x@y"}',
    f"first http://a:{SECRET}@h, then http://b:{SECRET}@g": "first http://a:***@h, then http://b:***@g",
    "http://me:pw@host:5000/x": "http://me:***@host:5000/x",
    "postgresql+psycopg://me:p%40%3Aw@host/db?x=1": "postgresql+psycopg://me:***@host/db?x=1",
    "https://me:p:w@x@host": "https://me:***@host",
    "redis://:pw@host": "redis://:***@host",
    "http://me@corp.com:pw@host": "http://me@corp.com:***@host",
    "mysql://me:p/w@host/db": "mysql://me:***@host/db",
    "http://a:b@h,http://c:d@i": "http://a:***@h,http://c:***@i",
    "{'uri': 'http://a:b@h', 'mail': 'x@y'}": "{'uri': 'http://a:***@h', 'mail': 'x@y'}",
    "http://a:b@h/c:d@e": "http://a:***@h/c:d@e",
    "http://me:***@host": "http://me:***@host",
}
PLAIN = [
    "http://host:5000/path@v1",
    "http://127.0.0.1:5000/#/experiments/1/runs/abc?workflowType=machine_learning",
    "sqlite:////tmp/mlflow.db",
    "file:///home/me/mlruns",
    "databricks://profile",
    "me@example.com",
    "a: b @ c",
    "http://host:5000/@me",
    "http://[::1]:5000/a@b",
    "http://me@host",
    "sqlite:///x.db",
    "a:b@c",
    "user@host:22",
    "",
]


@pytest.mark.parametrize("text", MASKED)
def test_passwords_are_masked(text):
    assert masked(text) == MASKED[text]
    assert masked(masked(text)) == masked(text)
    assert has_secret(text) == (masked(text) != text)
    assert masked(f"at '{text}', and") == f"at '{MASKED[text]}', and" or "'" in text


@pytest.mark.parametrize("text", PLAIN)
def test_text_without_a_password_is_unchanged(text):
    assert masked(text) == text
    assert not has_secret(text)


@given(st.text("abcXYZ019%.-_~!$&*+=,;:@", min_size=1, max_size=20))
def test_no_part_of_a_password_survives_masking(password):
    found = masked(
        f"could not reach http://somebody:<<<{password}>>>@host:5000/x, trying again".replace("<<<", "Q7").replace(
            ">>>", "Z9"
        )
    )
    assert f"Q7{password}Z9" not in found
    assert found.startswith("could not reach http://somebody:***@host:5000/x")


@given(st.text(st.characters(exclude_characters="/?#'\" \t\r\n@:", exclude_categories=["Z", "C"]), min_size=4))
def test_any_password_is_masked(password):
    assert masked(f"x http://user:{password}@host:1/y z") == "x http://user:***@host:1/y z"


def test_addresses_are_parsed_like_requests():
    assert without_user("http://me:p%40ss@host:1/x?y=z#f") == ("http://host:1/x?y=z#f", "me", "p@ss")
    assert without_user("http://host") == ("http://host", None, None)


@pytest.mark.parametrize(
    ("environment", "user"),
    [
        ({}, "me"),
        ({"MLFLOW_TRACKING_USERNAME": "other", "MLFLOW_TRACKING_PASSWORD": "else"}, "other"),
        ({"MLFLOW_TRACKING_USERNAME": "other"}, "me"),
    ],
)
def test_credentials_of_the_environment_take_precedence(environment, user, monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert connectable(f"http://me:{SECRET}@host") == "http://host"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == user
    assert connectable("http://another") == "http://another"  # the credentials belong to another host
    assert os.environ.get("MLFLOW_TRACKING_PASSWORD") == environment.get("MLFLOW_TRACKING_PASSWORD")


def everything(*folders):
    """Names and contents of all files in the folders."""
    for folder in folders:
        for path in Path(folder).rglob("*"):
            yield str(path), path.read_bytes() if path.is_file() else b""


def assert_nowhere(*folders, but=()):
    for name, content in everything(*folders):
        assert SECRET not in name
        if not any(one in name for one in but):
            assert SECRET.encode() not in content, name


TRAINING = """
import sys, pathlib, warnings
warnings.simplefilter("always")
import pytorch_lightning as pl
from lr_plugins import LearningRateScheduler, StepDecay, LearningRateTrace
from lr_plugins.tracking import MLflowLogger
from tests.toys import Toy, loader

uri, folder = sys.argv[1:]
logger = MLflowLogger("passwords", tracking_uri=uri if uri != "-" else None, tags={"where": uri})
trainer = pl.Trainer(max_epochs=2, logger=logger, accelerator="cpu", devices=1, log_every_n_steps=1,
                     callbacks=[LearningRateScheduler(StepDecay(0.1)), LearningRateTrace()])
logger.log_hyperparams({"tracking_uri": uri})
trainer.fit(Toy(), loader())
print("run", logger.run_id, logger.page)
"""


def train(folder, uri, **environment):
    told = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    return preloaded.run(["-c", TRAINING, uri, str(folder)], folder, told, 300)


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_training_writes_its_password_nowhere(way, gate, server, tmp_path):
    uri = gate.uri.replace("http://", f"http://me:{SECRET}@")
    environment = {} if way == "argument" else {"MLFLOW_TRACKING_URI": uri}
    said = train(tmp_path, uri if way == "argument" else "-", **environment)
    assert said.returncode == 0, said.stderr
    assert SECRET not in said.stdout + said.stderr
    assert said.stdout.rpartition("run ")[2].split()[1].startswith(gate.uri)
    credentials = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert all(headers.get("Authorization") == f"Basic {credentials}" for _, _, headers in gate.requests)
    assert len(gate.requests) > 5
    assert_nowhere(tmp_path, server.folder)


def test_warning_about_an_unreachable_server_hides_the_password(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_logger, "_AWAY_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri, folder = f"http://me:{SECRET}@127.0.0.1:9", tmp_path / "spool"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger = MLflowLogger("away", tracking_uri=uri, spool_dir=folder)
        logger.log_metrics({"lr": 1.0}, step=0)
        assert logger.run_id is None
        with pytest.raises(Exception, match=r"127\.0\.0\.1") as raised:
            logger.experiment.search_experiments()
        logger.finalize("success")
    told = [str(one.message) for one in caught]
    assert any("MLflow cannot be reached" in one for one in told)
    assert SECRET not in "".join(told) + str(raised.value)
    sender = logger._delivery.sender.process
    logger._delivery.sender.close()
    sender.wait(60)
    [spool] = spools(folder)
    assert_nowhere(tmp_path, but=["addresses.json"])
    assert SECRET in (spool / "addresses.json").read_text()
    assert (spool / "addresses.json").stat().st_mode & 0o777 == 0o600
    assert spool.stat().st_mode & 0o777 == 0o700
    said = command(folder)
    assert said.returncode == 1
    assert "me:***@" in said.stderr or "127.0.0.1:9" in said.stderr
    assert SECRET not in said.stdout + said.stderr
    assert_nowhere(tmp_path, but=["addresses.json"])


def test_spool_is_sent_with_its_own_password(gate, tmp_path):
    uri = gate.uri.replace("http://", f"http://me:{SECRET}@")
    logger = MLflowLogger("later", tracking_uri=uri, spool_dir=tmp_path / "spool")
    gate.answer = (503, b"")
    logger.log_metrics({"lr": 1.0}, step=0)
    spool = logger._delivery.spool
    logger._delivery.sender.close()
    gate.answer = None
    gate.requests.clear()
    logger._delivery.is_open = False
    spool.write(END)
    said = command(tmp_path / "spool")
    if "its training is sending it" not in said.stdout:
        assert (said.returncode, said.stderr) == (0, "")
    while spools(tmp_path / "spool"):
        assert command(tmp_path / "spool").returncode == 0
    assert points_in(gate.uri, run_of(gate.uri, "later").info.run_id) == expected(1)
    assert any("Authorization" in headers for _, _, headers in gate.requests)


def test_database_error_hides_the_password(tmp_path):
    uri = f"postgresql://me:{SECRET}@127.0.0.1:9/mlflow"
    spool = spool_of(tmp_path / "spool", uri.replace(SECRET, "***"), point(0), END)
    spool.keep_address(uri)
    sender = send(spool.folder, "", lambda seconds: None, lambda: True)
    assert sender.state.error or sender.state.trouble
    assert_nowhere(tmp_path, but=["addresses.json"])


def test_token_in_a_git_remote_is_not_recorded_in_tags(tmp_path, monkeypatch):
    database = f"sqlite:///{tmp_path}/test.db"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["remote", "add", "origin", f"https://x:{SECRET}@host/x.git"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    (tmp_path / "train.py").touch()
    subprocess.run([*git, "add", "train.py"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], cwd=tmp_path, check=True)
    spool = spool_of(tmp_path / "spool", database, point(0), END)
    log = spool.folder / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"program": "test"', f'"program": "{tmp_path}/train.py"'.encode()))
    monkeypatch.setattr(sys, "argv", ["x"])
    send(spool.folder, "", lambda seconds: None, lambda: True)
    tags = run_of(database).data.tags
    assert SECRET not in str(tags)
    assert mlflow.MlflowClient(database) is not None
