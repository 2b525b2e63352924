"""How often the sender calls MLflow, and what it imports."""

import subprocess
import sys
from itertools import islice

import mlflow

from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import Spool

BEGIN = {
    "do": "run",
    "time": 1,
    "experiment": "paced",
    "name": None,
    "tags": {},
    "artifact_location": None,
    "run_id": None,
    "resumes": False,
    "joins": False,
    "system_metrics": False,
    "program": "test",
}


LOOKS, PER_LOOK = 5, 40


def test_sender_and_command_import_no_torch_or_lightning():
    """Importing them takes as long as MLflow, for each run again."""
    look = "import sys, lr_plugins.tracking.sender_program, lr_plugins.commands.send; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pytorch_lightning", "lightning", "mlflow"} & set(found)


def test_points_between_two_polls_go_in_one_call(tmp_path, monkeypatch):
    """A call costs as much as dozens of points, so even slow steps must share calls."""
    uri, spool = f"sqlite:///{tmp_path}/mlflow.db", Spool.new(tmp_path / "spool")
    place = {"uri": uri, "writer": spool.writer, "spool": spool.folder.name, "folder": str(tmp_path)}
    spool.write({**BEGIN, **place})
    steps = iter(range(LOOKS * PER_LOOK))

    def train(steps_taken):
        for step in islice(steps, steps_taken):
            spool.write({"do": "points", "time": 1, "step": step, "values": {"loss": step / 7, "lr": 0.1}})

    sizes, log_batch = [], mlflow.MlflowClient.log_batch

    def while_training_goes_on(self, run_id, metrics=(), **others):
        sizes.append(len(metrics))
        train(1)
        return log_batch(self, run_id, metrics=metrics, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", while_training_goes_on)
    ended = iter([False] * (LOOKS + 1))
    state = send(spool.folder, spool.writer, lambda seconds: train(PER_LOOK - 1), lambda: next(ended, True)).state
    assert sum(sizes) == 2 * LOOKS * PER_LOOK
    assert len(sizes) <= LOOKS + 2
    found = mlflow.MlflowClient(uri).get_metric_history(state.run_id, "loss")
    assert [(point.step, point.value) for point in found] == [(step, step / 7) for step in range(LOOKS * PER_LOOK)]


def test_unreachable_server_is_retried_for_hours(tmp_path, monkeypatch):
    """The pause grows to ten seconds and no further."""
    spool = Spool.new(tmp_path / "spool")
    place = {"uri": "http://127.0.0.1:9", "writer": spool.writer, "spool": spool.folder.name, "folder": str(tmp_path)}
    spool.write({**BEGIN, **place})
    pauses = []

    def away(self, name):
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", away)
    ended = iter([False] * 2000)
    state = send(spool.folder, spool.writer, pauses.append, lambda: next(ended, True)).state
    assert state.trouble == "nobody is there"
    assert pauses[:5] == [1.0, 2.0, 4.0, 8.0, 10.0]
    assert set(pauses[5:]) == {10.0}
    assert len(pauses) >= 2000
