"""One process sends the runs of a program one after the other, and imports MLflow while the program still starts."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import mlflow
import pytest

from lr_plugins.tracking import MLflowLogger, mlflow_logger, sender_process
from lr_plugins.tracking.sender_process import stand_by
from tests.tracking.servers import Server
from tests.training.test_main import SMALL, environment

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("started_senders")


@pytest.fixture(autouse=True)
def _nobody_stands_by():
    _dismiss()
    yield
    _dismiss()


def _dismiss():
    while sender_process._idle:
        sender_process._close_input(sender_process._idle.pop().process)


def record(database, tmp_path, steps=20, **options):
    logger = MLflowLogger("standing", tracking_uri=database, spool_dir=tmp_path / "spool", **options)
    for step in range(steps):
        logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
    pid = logger._delivery.sender.pid
    logger.finalize("success")
    return logger, pid


def recorded(database, run_id):
    client = mlflow.MlflowClient(database)
    points = [(point.step, point.value) for point in client.get_metric_history(run_id, "lr")]
    return client.get_run(run_id).info.status, points


COMPLETE = "FINISHED", [(step, 1 / (step + 1)) for step in range(20)]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid):
    deadline = time.monotonic() + 30
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_process_that_stands_by_sends_the_next_run(database, tmp_path):
    stand_by()
    stand_by()  # one is enough
    [idle] = sender_process._idle
    logger, pid = record(database, tmp_path)
    assert (pid, sender_process._idle) == (idle.process.pid, [])
    assert recorded(database, logger.run_id) == COMPLETE
    [spool] = (tmp_path / "spool").glob("*/")
    assert os.readlink(f"/proc/{pid}/fd/2") == str(spool / "sender.log")


def test_a_released_process_sends_run_after_run(database, tmp_path):
    pids, loggers = [], []
    for _ in range(3):
        logger, pid = record(database, tmp_path)
        logger.release()
        pids.append(pid)
        loggers.append(logger)
    assert len(set(pids)) == 1
    assert all(logger.reference == logger.version == logger.run_id for logger in loggers)
    assert [recorded(database, logger.run_id) for logger in loggers] == [COMPLETE] * 3
    _dismiss()
    wait_until_gone(pids[0])
    assert [*(tmp_path / "spool").glob("*/")] == []


def test_a_run_that_another_one_follows_can_still_be_continued(database, tmp_path):
    first, pid = record(database, tmp_path)
    first.release()
    second, _ = record(database, tmp_path)
    first.log_metrics({"late": 1.0}, step=0)
    assert first._delivery.sender.pid != pid, "that of the second run, which is not released"
    first.finalize("success")
    assert recorded(database, first.run_id) == COMPLETE
    assert mlflow.MlflowClient(database).get_run(first.run_id).data.metrics["late"] == 1.0
    assert recorded(database, second.run_id) == COMPLETE


def test_a_run_that_waits_for_its_server_keeps_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_logger, "_AWAY_SECONDS", 0.5)
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger, _ = record(server.uri, tmp_path)
        logger.release()
        assert sender_process._idle == []
        try:
            server.start()
            deadline = time.monotonic() + 60
            while logger._delivery.parts.waiting:
                assert time.monotonic() < deadline
                logger._delivery.sender.wake()
                logger._delivery._refresh()
                time.sleep(0.1)
            assert recorded(server.uri, logger.run_id) == COMPLETE
        finally:
            server.kill()


def test_an_open_run_keeps_its_process(database, tmp_path):
    logger = MLflowLogger("standing", tracking_uri=database, spool_dir=tmp_path / "spool")
    logger.log_metrics({"lr": 1.0}, step=0)
    logger.flush()
    logger.release()
    assert sender_process._idle == []
    logger.finalize("success")
    assert recorded(database, logger.run_id) == ("FINISHED", [(0, 1.0)])


@pytest.mark.parametrize("happens", ["it is killed", "the program forks"])
def test_another_process_is_started_if_the_idle_one_cannot_send(database, tmp_path, monkeypatch, happens):
    stand_by()
    [idle] = sender_process._idle
    if happens == "it is killed":
        idle.process.kill()
        idle.process.wait()
    else:
        monkeypatch.setattr(idle, "_owner", os.getpid() + 1)
    logger, pid = record(database, tmp_path)
    assert pid != idle.process.pid
    assert recorded(database, logger.run_id) == COMPLETE
    wait_until_gone(idle.process.pid)


def test_a_process_that_ends_just_when_it_is_needed_is_replaced(database, tmp_path, monkeypatch):
    stand_by()
    [idle] = sender_process._idle
    monkeypatch.setattr(idle.process, "poll", lambda: None)  # not known yet
    idle.process.kill()
    os.waitid(os.P_PID, idle.process.pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(sender_process.SenderProcess, "add", _after(idle, monkeypatch))
    logger, pid = record(database, tmp_path)
    assert pid != idle.process.pid
    assert recorded(database, logger.run_id) == COMPLETE


def _after(idle, monkeypatch):
    add = sender_process.SenderProcess.add

    def then_known(self, spool):
        add(self, spool)
        monkeypatch.undo()

    return then_known


def test_settings_made_after_it_was_started_apply(database, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "old")
    stand_by()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"from": "the environment"}')
    monkeypatch.chdir(tmp_path)
    logger = MLflowLogger(spool_dir="here")
    logger.log_metrics({"lr": 1.0}, step=0)
    assert sender_process._idle == []
    assert os.readlink(f"/proc/{logger._delivery.sender.pid}/cwd") == str(tmp_path)
    logger.finalize("success")
    run = mlflow.MlflowClient(database).get_run(logger.run_id)
    assert run.data.tags["from"] == "the environment"
    assert mlflow.MlflowClient(database).get_experiment(run.info.experiment_id).name == "lr_plugins"


def test_it_ends_with_a_program_that_does_not_train(tmp_path):
    code = (
        "from lr_plugins.tracking import sender_process\n"
        "sender_process.stand_by(); print(sender_process._idle[0].process.pid)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=True)
    wait_until_gone(int(ended.stdout))


def test_a_sweep_starts_one_process_for_its_runs_and_one_for_their_parent(tmp_path):
    code = (
        "import runpy, sys\n"
        "from lr_plugins.tracking import sender_process\n"
        "start = sender_process._start\n"
        "def counted(*arguments): print('a process starts', flush=True); return start(*arguments)\n"
        "sender_process._start = counted\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    words = ["-m", "seed=1,2,3", *SMALL, "callbacks=silent", f"hydra.sweep.dir={tmp_path}/sweep"]
    command = [sys.executable, "-c", code, *words]
    told = {**environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a process starts") == 2
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [one for one in client.search_experiments() if one.name == "lr_plugins"]
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
