"""Every point arrives exactly once when a server, a disk or the training fails. Real servers, real kills."""

import os
import resource
import shutil
import sqlite3
import time
import warnings
from pathlib import Path

import mlflow
import pytest

from lr_plugins.errors import TrackingError
from lr_plugins.tracking import MLflowLogger, mlflow_logger
from lr_plugins.tracking.spool import spools
from tests import preloaded
from tests.tracking.servers import Server, command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    one = Server(folder)
    yield one
    one.kill()


@pytest.fixture
def database(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path)
    return f"sqlite:///{tmp_path}/test.db"


def points(uri, run_id, name="lr"):
    return [(point.step, point.value) for point in mlflow.MlflowClient(uri).get_metric_history(run_id, name)]


def expected(steps):
    return [(step, 1 / (step + 1)) for step in range(steps)]


def log(logger, start, end):
    for step in range(start, end):
        logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
        time.sleep(0.002)


def log_until_told(logger):
    begin, step = time.monotonic(), 0
    while not logger._delivery._has_warned:
        logger.log_metrics({"other": 0.0}, step=step)
        time.sleep(0.1)
        step += 1
        assert time.monotonic() - begin < 60


def test_restarted_server_receives_every_point(server, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_logger, "_AWAY_SECONDS", 20)  # a busy machine is slow to restart the server
    server.start()
    logger = MLflowLogger("faults", tracking_uri=server.uri, spool_dir=tmp_path / "spool")
    log(logger, 0, 500)
    assert logger.run_id is not None
    server.kill()
    with pytest.warns(UserWarning, match="MLflow cannot be reached .* The training continues"):
        log_until_told(logger)
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no second warning
        log(logger, 500, 1000)
    assert time.monotonic() - begin < 20  # whatever the server does
    server.start()
    log(logger, 1000, 1500)
    logger.finalize("success")
    assert points(server.uri, logger.run_id) == expected(1500)
    assert mlflow.MlflowClient(server.uri).get_run(logger.run_id).info.status == "FINISHED"


def test_send_command_delivers_to_a_server_started_later(server, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_logger, "_AWAY_SECONDS", 0.5)
    logger = MLflowLogger("faults", tracking_uri=server.uri, spool_dir=tmp_path / "spool", run_name="late")
    with pytest.warns(UserWarning, match="MLflow cannot be reached .* The training continues"):
        log(logger, 0, 20)
    assert logger.run_id is None
    logger.log_hyperparams({"seed": 1})
    logger.log_text("hello", "notes/note.txt")
    with pytest.warns(UserWarning, match=r"send it with: lr-plugins send .*spool"):
        logger.finalize("success")
    logger._delivery.sender.process.stdin.close()
    logger._delivery.sender.process.wait(60)
    away = command(tmp_path / "spool")
    assert away.returncode == 1
    assert "not sent" in away.stderr
    server.start()
    sent = command(tmp_path / "spool")
    assert (sent.returncode, sent.stderr) == (0, "")
    client = mlflow.MlflowClient(server.uri)
    [run] = client.search_runs([client.get_experiment_by_name("faults").experiment_id])
    assert points(server.uri, run.info.run_id) == expected(20)
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "late", {"seed": "1"})
    assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == ["notes/note.txt"]
    assert spools(tmp_path / "spool") == []


KILLED = """
import sys, time
from lr_plugins.tracking import MLflowLogger

logger = MLflowLogger("faults", tracking_uri=sys.argv[1], spool_dir=sys.argv[2])
for step in range(10**6):
    logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
    print(step, logger.reference, flush=True)
    time.sleep(0.001)
"""


def killed(database, folder):
    """Kill a training after some steps; return the steps and the reference to its run."""
    process = preloaded.Program(["-c", KILLED, database, str(folder)], ROOT, os.environ)
    for line in process.stdout:
        if line.startswith("1500 "):
            process.kill()
            break
    rest = process.stdout.read().splitlines()
    process.wait()
    steps, reference = (rest or [line])[-1].split()
    return int(steps) + 1, reference


def test_killed_training_loses_no_points(database, tmp_path):
    steps, _ = killed(database, tmp_path / "spool")
    deadline = time.monotonic() + 60
    while spools(tmp_path / "spool"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client = mlflow.MlflowClient(database)
    [run] = client.search_runs([client.get_experiment_by_name("faults").experiment_id])
    # The signal may arrive after a point was logged and before its step was printed.
    found = points(database, run.info.run_id)
    assert found == expected(len(found))
    assert len(found) - steps in (0, 1)
    assert run.info.status == "KILLED"


def test_killed_run_continues_while_its_points_are_being_sent(database, tmp_path):
    steps, reference = killed(database, tmp_path / "spool")
    again = MLflowLogger("faults", tracking_uri=database, spool_dir=tmp_path / "spool")
    assert again.continue_run(reference)
    log(again, steps - 200, steps + 300)
    again.finalize("success")
    assert points(database, again.run_id) == expected(steps + 300)
    run = mlflow.MlflowClient(database).get_run(again.run_id)
    assert (run.info.status, run.data.tags["resumed"]) == ("FINISHED", "1")


def test_concurrent_runs_in_one_database_lose_no_points(database, tmp_path):
    loggers = [MLflowLogger("faults", tracking_uri=database, spool_dir=tmp_path / "spool") for _ in range(2)]
    for step in range(3000):
        for logger in loggers:
            logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
    for logger in loggers:
        logger.finalize("success")
    assert len({logger.run_id for logger in loggers}) == 2
    for logger in loggers:
        assert points(database, logger.run_id) == expected(3000)


def test_temporarily_locked_database_receives_every_point(database, tmp_path):
    logger = MLflowLogger("faults", tracking_uri=database, spool_dir=tmp_path / "spool")
    log(logger, 0, 10)
    logger.flush()
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    log(logger, 10, 500)
    time.sleep(7)  # longer than SQLite's own timeout
    other.execute("ROLLBACK")
    other.close()
    logger.finalize("success")
    assert points(database, logger.run_id) == expected(500)


def test_points_wait_while_the_database_disk_is_full(database, tmp_path):
    logger = MLflowLogger("faults", tracking_uri=database, spool_dir=tmp_path / "spool")
    log(logger, 0, 10)
    logger.flush()
    sender = logger._delivery.sender.pid
    resource.prlimit(sender, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with pytest.warns(UserWarning, match="MLflow cannot be reached"):
        log_until_told(logger)
    log(logger, 10, 100)
    resource.prlimit(sender, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    logger.finalize("success")
    assert points(database, logger.run_id) == expected(100)


def test_repeatedly_killed_sender_is_replaced(database, tmp_path):
    logger = MLflowLogger("faults", tracking_uri=database, spool_dir=tmp_path / "spool")
    for turn in range(7):
        log(logger, 100 * turn, 100 * (turn + 1))
        logger.flush()
        logger._delivery.sender.process.kill()
        logger._delivery.sender.process.wait()
    logger.finalize("success")
    assert points(database, logger.run_id) == expected(700)


def test_changing_the_working_directory_does_not_move_a_run(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / "first")
    logger = MLflowLogger("faults", tracking_uri="sqlite:///here.db")
    log(logger, 0, 10)
    monkeypatch.chdir(tmp_path / "second")
    log(logger, 10, 20)
    logger.log_text("hello", "note.txt")
    logger.finalize("success")
    assert points(f"sqlite:///{tmp_path}/first/here.db", logger.run_id) == expected(20)
    assert list((tmp_path / "second").iterdir()) == []


def test_late_refusal_does_not_stop_training(server, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_logger, "_AWAY_SECONDS", 20)
    server.start()
    client = mlflow.MlflowClient(server.uri)
    experiment = client.create_experiment("deleted")
    client.delete_experiment(experiment)
    server.kill()
    logger = MLflowLogger("deleted", tracking_uri=server.uri, spool_dir=tmp_path / "spool")
    with pytest.warns(UserWarning, match="MLflow cannot be reached .* The training continues"):
        log(logger, 0, 3)
    server.start()
    log(logger, 3, 5)
    with pytest.warns(UserWarning, match=r"cannot be used \(the experiment 'deleted' has been deleted.* --to URI"):
        logger.finalize("success")
    assert logger.run_id is None
    assert "has been deleted" in logger.error
    client.restore_experiment(experiment)
    sent = command(tmp_path / "spool")
    assert (sent.returncode, sent.stderr) == (0, "")
    [run] = client.search_runs([experiment])
    assert points(server.uri, run.info.run_id) == expected(5)


def test_unknown_run_id_is_an_error(database, tmp_path):
    logger = MLflowLogger("faults", tracking_uri=database, spool_dir=tmp_path / "spool", run_id="f" * 32)
    with pytest.raises(TrackingError, match="does not exist"):
        _ = logger.experiment


def test_invalid_database_file_is_an_immediate_error(tmp_path):
    (tmp_path / "notes.db").write_text("This is no database. " * 100)
    logger = MLflowLogger("faults", tracking_uri=f"sqlite:///{tmp_path}/notes.db", spool_dir=tmp_path / "spool")
    with pytest.raises(TrackingError, match="file is not a database"):
        logger.log_metrics({"lr": 0.1}, step=0)


def test_unwritable_spool_is_an_immediate_error(database, tmp_path):
    (tmp_path / "taken").write_text("")
    logger = MLflowLogger("faults", tracking_uri=database, spool_dir=tmp_path / "taken")
    with pytest.raises(TrackingError, match=r"spool_dir: .*taken cannot be written to"):
        logger.log_metrics({"lr": 0.1}, step=0)
