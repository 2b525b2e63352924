"""Arguments of the logger take precedence over the environment, which is read as MLflow reads it."""

import os
import re
import tempfile
import time
from pathlib import Path

import mlflow
import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from lr_plugins.errors import TrackingError
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.database import database_file, one_at_a_time
from lr_plugins.tracking.destination import PARENT, absolute, address_problem, destination
from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import DEFAULT, Spool, default_folder
from tests import preloaded
from tests.toys import Toy, fit
from tests.tracking.servers import point, spool_of

HERE = Path("/start")


@pytest.fixture
def client(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts of a local database below the current folder
    mlflow.set_tracking_uri(database)
    yield mlflow.MlflowClient(database)
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


def record(logger, value=1.0):
    logger.log_metrics({"loss": value}, step=0)
    logger.finalize("success")
    return logger.run_id


def children(client, parent):
    found = client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'")
    return {run.info.run_name: run.info.status for run in found}


def test_folds_within_an_active_run_are_its_children(client):
    mlflow.set_experiment("folds")
    with mlflow.start_run() as parent:
        tags = {PARENT: parent.info.run_id}
        names = ["folds", "folds", None]
        made = [record(MLflowLogger(name, run_name=f"fold{at}", tags=tags), at) for at, name in enumerate(names)]
    assert len({*made, parent.info.run_id}) == 4
    assert children(client, parent) == {f"fold{at}": "FINISHED" for at in range(3)}
    run = client.get_run(parent.info.run_id)
    assert (PARENT in run.data.tags, run.data.metrics) == (False, {})
    assert [client.get_run(one).data.metrics for one in made] == [{"loss": float(at)} for at in range(3)]


@pytest.mark.parametrize(
    ("options", "joins"),
    [
        ({}, True),
        ({"tags": {"note": "mine"}}, True),
        ({"experiment_name": "active"}, True),
        ({"run_name": "mine"}, False),
        ({"tracking_uri": "the same"}, True),
        ({"experiment_name": "another"}, False),
        ({"tracking_uri": "sqlite:////no/such/place.db"}, False),
        ({"tags": {PARENT: "0" * 32}}, False),
        ({"run_id": "1" * 32}, False),
    ],
    ids=str,
)
def test_only_a_logger_without_names_joins_the_active_run(client, options, joins):
    mlflow.set_experiment("active")
    with mlflow.start_run() as active:
        options = (
            {**options, "tracking_uri": client.tracking_uri} if options.get("tracking_uri") == "the same" else options
        )
        told = [options.get(name) for name in ("tracking_uri", "experiment_name", "run_name")]
        found = destination(*told, options.get("tags", {}), HERE, options.get("run_id"))
    assert (found.joins, found.run_id == active.info.run_id) == (joins, joins)


def test_logger_with_own_uri_ignores_the_active_run(client, empty_database, tmp_path):
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    (tmp_path / "elsewhere.db").write_bytes(empty_database.read_bytes())
    with mlflow.start_run() as active:
        made = record(MLflowLogger(tracking_uri=elsewhere))
    assert made != active.info.run_id
    assert mlflow.MlflowClient(elsewhere).get_run(made).data.metrics == {"loss": 1.0}


def test_first_logger_takes_the_run_of_the_environment(client, database, monkeypatch):
    given = client.create_run(client.create_experiment("by mlflow run")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    first, second = MLflowLogger(run_name="named", tags={"schedule": "cosine"}), MLflowLogger("after")
    assert record(first) == given
    assert record(second) != given
    run = client.get_run(given)
    assert (run.info.run_name, run.info.status, run.data.tags["schedule"]) == ("named", "FINISHED", "cosine")
    assert "version.torch" in run.data.tags


@pytest.mark.parametrize(
    "options", [{"run_id": "1" * 32}, {"tags": {PARENT: "2" * 32}}, {"tracking_uri": "http://127.0.0.1:9"}], ids=str
)
def test_logger_that_names_a_run_ignores_the_environment(monkeypatch, options):
    monkeypatch.setenv("MLFLOW_RUN_ID", "3" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////no/such/place.db")
    found = destination(options.get("tracking_uri"), None, None, options.get("tags", {}), HERE, options.get("run_id"))
    assert found.run_id == options.get("run_id")
    assert os.environ["MLFLOW_RUN_ID"] == "3" * 32


@pytest.mark.parametrize(
    ("told", "environment", "expected"),
    [
        (None, {}, ("lr_plugins", None)),
        (None, {"MLFLOW_EXPERIMENT_NAME": "named"}, ("named", None)),
        (None, {"MLFLOW_EXPERIMENT_ID": "7"}, (None, "7")),
        (None, {"MLFLOW_EXPERIMENT_NAME": "named", "MLFLOW_EXPERIMENT_ID": "7"}, ("named", None)),
        ("mine", {"MLFLOW_EXPERIMENT_NAME": "named", "MLFLOW_EXPERIMENT_ID": "7"}, ("mine", None)),
    ],
)
def test_experiment_argument_overrides_the_environment(monkeypatch, told, environment, expected):
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = destination(None, told, None, {}, HERE)
    assert (found.experiment, found.experiment_id) == expected


def test_experiment_ids_are_ignored_for_another_uri(monkeypatch):
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", "5")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    found = destination("http://127.0.0.1:9", None, None, {}, HERE)
    assert (found.experiment, found.experiment_id) == ("lr_plugins", None)


def test_environment_run_of_another_experiment_is_refused(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run(client.create_experiment("of mlflow run")).info.run_id)
    with pytest.raises(TrackingError, match="belongs to the experiment 'of mlflow run', not to 'mine'"):
        record(MLflowLogger("mine"))


def test_autologging_keeps_its_metrics_in_its_own_run(client, tmp_path):
    mlflow.set_experiment("autologged apart")
    mlflow.pytorch.autolog(log_models=False, checkpoint=False)
    try:
        logger = MLflowLogger(run_name="mine", tags={"mlflow.runName": "theirs"})
        fit(Toy(), logger=logger)
    finally:
        mlflow.pytorch.autolog(disable=True)
    found = client.search_runs([client.get_experiment_by_name("autologged apart").experiment_id])
    assert len(found) == 2
    assert all("loss" in run.data.metrics for run in found)


def test_child_run_inherits_the_experiment_of_its_parent(client):
    parent = client.create_run(client.create_experiment("of the parent"))
    child = client.get_run(record(MLflowLogger(tags={PARENT: parent.info.run_id})))
    assert child.info.experiment_id == parent.info.experiment_id


@pytest.mark.parametrize(
    ("value", "watches"), [("true", True), ("1", True), ("TRUE", True), ("false", False), ("0", False), ("", False)]
)
def test_environment_variable_enables_system_metrics(monkeypatch, value, watches):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", value)
    assert MLflowLogger().log_system_metrics is watches
    assert MLflowLogger(log_system_metrics=not watches).log_system_metrics is not watches


# --- permanent MLflow errors -----------------------------------------------------------------------------------


def deleted(client):
    client.delete_experiment(client.create_experiment("gone"))
    return {"experiment_name": "gone"}, "'gone' has been deleted.*mlflow experiments restore"


def unknown_scheme(client):
    return {"tracking_uri": "htp://foo"}, "a tracking URI begins with http://"


def no_database(client):
    Path("not-a.db").write_text("This is no database." * 100)
    return {"tracking_uri": "sqlite:///not-a.db"}, "not a database"


def no_run(client):
    return {"run_id": "f" * 32}, "does not exist"


@pytest.mark.parametrize("make", [deleted, unknown_scheme, no_database, no_run])
def test_permanent_mlflow_error_is_raised_before_the_first_step(client, make):
    options, message = make(client)
    module = Toy()
    module.training_step = lambda *_: pytest.fail("it was trained")
    with pytest.raises(TrackingError, match=message):
        fit(module, logger=MLflowLogger(**options))
    assert not [path for path in DEFAULT.iterdir() if path.is_dir()]  # no spool is left that could never be sent


@pytest.mark.parametrize(
    ("uri", "begins", "message"),
    [
        ("127.0.0.1:5000", {}, "did you mean http://127.0.0.1:5000"),
        ("sqlite:///:memory:", {}, "in-memory database"),
        ("sqlite:////proc/none/runs.db", {}, "No such file or directory: '/proc/none'"),
        ("sqlite:////proc/runs.db", {}, "unable to open database file"),
        ("http://127.0.0.1:99999", {}, "Invalid url"),
        ("postgresql+nosuch://host/db", {}, "nosuch"),
        (None, {"experiment": None, "experiment_id": "12345"}, "there is no experiment with the id 12345"),
        (None, {"run_id": "f" * 32}, "run f+ does not exist"),
    ],
)
def test_permanent_error_is_reported_immediately(client, database, tmp_path, uri, begins, message):
    spool = spool_of(tmp_path / "waiting", database if uri is None else uri, point(0), begins=begins)
    begun = time.monotonic()
    sender = send(spool.folder, spool.writer, lambda seconds: None, lambda: True)
    assert re.search(message, sender.state.error), sender.state
    assert time.monotonic() - begun < 30
    assert sender.state.trouble == ""


def test_run_name_argument_overrides_the_run_name_tag(client):
    named = record(MLflowLogger(run_name="mine", tags={"mlflow.runName": "theirs"}))
    tagged = record(MLflowLogger(tags={"mlflow.runName": "theirs"}))
    assert [client.get_run(one).info.run_name for one in (named, tagged)] == ["mine", "theirs"]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://127.0.0.1:5000", False),
        ("sqlite:///C:/runs/mlflow.db", False),
        ("postgresql://me:1@host:5432/db", False),
        ("databricks://profile", False),
        ("mlflow.example.org:443/tracking", True),
        ("https:///path", True),
        ("sqlite://", True),
        ("sqlite:///file::memory:?mode=memory&uri=true", True),
    ],
)
def test_invalid_addresses_are_recognized(address, problem):
    assert bool(address_problem(address)) is problem


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:////start/mlflow.db"),
        ("sqlite:///./a/../mlflow.db?timeout=5", "sqlite:////start/mlflow.db?timeout=5"),
        ("sqlite+pysqlite:///mlflow.db", "sqlite+pysqlite:////start/mlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("file:mlruns", "file:///start/mlruns"),
        ("file:///data/mlruns", "file:///data/mlruns"),
        ("mlruns", "/start/mlruns"),
        ("databricks", "databricks"),
        ("https://host/mlflow", "https://host/mlflow"),
    ],
)
def test_relative_addresses_resolve_against_the_start_folder(address, expected):
    assert absolute(address, HERE) == expected
    assert absolute(expected, Path("/elsewhere")) == expected


@pytest.mark.parametrize("folder", ["two words", "100%25 sure", "a?b#c", "é"])
def test_relative_database_works_in_a_folder_of_any_name(tmp_path, folder):
    assert database_file(absolute("sqlite:///runs.db", tmp_path / folder)) == tmp_path / folder / "runs.db"


# --- names as paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/Users/me@example.com/digits", "a/../../b"])
def test_checkpoint_folders_are_named_by_id_not_experiment(client, tmp_path, name):
    logger, saver = MLflowLogger(name), ModelCheckpoint()
    root = tmp_path / "root"
    fit(Toy(), saver, logger=logger, enable_checkpointing=True, default_root_dir=root)
    folder = root / logger.experiment_id / logger.run_id / "checkpoints"
    assert Path(saver.best_model_path).parent == folder
    assert client.get_experiment(logger.experiment_id).name == name
    assert (logger.name, logger.version) == (logger.experiment_id, logger.run_id)


@pytest.mark.filterwarnings("ignore:MLflow cannot be reached")
def test_unsent_runs_get_separate_checkpoint_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = set()
    for _ in range(2):
        saver = ModelCheckpoint()
        logger = MLflowLogger("/up", tracking_uri="http://127.0.0.1:9")
        fit(Toy(), saver, logger=logger, enable_checkpointing=True, default_root_dir=tmp_path / "root")
        folders.add(Path(saver.best_model_path).parent.relative_to(tmp_path / "root"))
    assert len(folders) == 2
    assert all(len(folder.parts) == 3 and folder.parts[::2] == ("unsent", "checkpoints") for folder in folders)


# --- simultaneous starts ---------------------------------------------------------------------------------------

START = """
import sys
import time
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.database import one_at_a_time
logger = MLflowLogger("at once", tracking_uri=sys.argv[1])
logger.log_metrics({"loss": 1.0}, step=0)
logger.finalize("success")
"""


def test_simultaneous_runs_create_one_shared_database(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    places = ["shared/new.db", "link/new.db", "shared/../shared/new.db"]
    processes = []
    for at, place in enumerate(places):
        folder = tmp_path / f"folder{at}"
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
        processes.append(preloaded.Program(["-c", START, f"sqlite:///{tmp_path}/{place}"], folder, environment))
    errors = [process.communicate(timeout=150)[1] for process in processes]
    assert errors == [""] * 3
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/shared/new.db")
    found = client.search_runs([client.get_experiment_by_name("at once").experiment_id])
    assert [(run.info.status, run.data.metrics) for run in found] == [("FINISHED", {"loss": 1.0})] * 3
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"new.db"}


def test_simultaneous_runs_create_one_server_experiment(server, tmp_path):
    start = ["-c", START, server.uri]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [preloaded.Program(start, tmp_path, environment) for _ in range(2)]
    assert [process.communicate(timeout=150)[1] for process in processes] == [""] * 2
    client = mlflow.MlflowClient(server.uri)
    found = client.search_runs([client.get_experiment_by_name("at once").experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * 2


@pytest.fixture
def shared():
    """A folder that is accessible to every user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_database_lock_holds_across_users_and_folders(shared):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)  # another user, without write access
            os.chdir("/")
            with one_at_a_time(f"sqlite:///{shared}/runs.db"):
                os.write(writing, b"x")
                time.sleep(1.5)
        finally:
            os._exit(0)
    assert os.read(reading, 1) == b"x"
    begun = time.monotonic()
    with one_at_a_time(f"sqlite:///{shared}/./runs.db?timeout=3"):
        waited = time.monotonic() - begun
    os.waitpid(child, 0)
    assert 0.5 < waited < 30
    assert not list(shared.iterdir())


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://host/db", "sqlite:////no/such/folder/runs.db"])
def test_address_without_a_folder_needs_no_lock(uri):
    begun = time.monotonic()
    with one_at_a_time(uri), one_at_a_time(uri):
        assert time.monotonic() - begun < 10


def test_users_of_a_shared_folder_get_separate_spool_folders(shared, monkeypatch):
    shared.chmod(0o777)
    first = default_folder(shared)
    mask = os.umask(0)  # as users who share a folder set it
    Spool.new(first)
    os.umask(mask)
    other = 65534 if os.geteuid() == 0 else os.geteuid()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setuid(other)
            spool = Spool.new(default_folder(shared))
            spool.write({"do": "end"})
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert first == shared / DEFAULT
    assert len(list((shared / ".lr_plugins").glob("spool*/*/log.jsonl"))) == 2
    assert default_folder(shared) == first
