"""A server that refuses temporarily, answers with something else, or barely responds: the sender retries."""

import time
import warnings

import mlflow
import pytest

from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import spools
from lr_plugins.tracking.state import State
from tests.tracking.servers import (
    END,
    command,
    expected,
    point,
    points_in,
    refused_in,
    run_of,
    spool_of,
)


@pytest.fixture(autouse=True)
def _asked_once(monkeypatch):
    """As in the sender process: by default MLflow's client itself retries for minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


ANSWERS = {
    "401": (401, b"You are not authenticated."),
    "403, a page": (403, b"<html><body>Forbidden</body></html>"),
    "404": (404, b"<html>not found</html>"),
    "404, JSON of something else": (404, b'{"detail": "Not Found"}'),
    "400, a page": (400, b"<html>Bad Request</html>"),
    "407": (407, b"proxy"),
    "429": (429, b"slow down"),
    "500": (500, b"oops"),
    "502": (502, b"<html>Bad Gateway</html>"),
    "503": (503, b""),
    "200, nothing": (200, b""),
    "200, {}": (200, b"{}"),
    "200, a login page": (200, b"<html>Log in</html>"),
    "200, JSON of something else": (200, b'{"status": "ok"}'),
}


class Opening:
    """A fake clock for a sender; the gate answers itself for a range of its waits."""

    def __init__(self, gate, answer, begins, lasts):
        self.gate, self.answer, self.begins, self.ends, self.waits = gate, answer, begins, begins + lasts, 0

    def __call__(self, seconds):
        self.waits += 1
        self.gate.answer = self.answer if self.begins <= self.waits < self.ends else None


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("begins", [0, 2])
def test_temporary_refusals_are_retried(kind, begins, gate, tmp_path):
    experiment = f"passing {kind} {begins}"
    spool = spool_of(tmp_path, gate.uri, experiment=experiment)
    clock, steps = Opening(gate, ANSWERS[kind], begins, 6), iter(range(200))

    def wait(seconds):
        clock(seconds)
        for step in [next(steps, None) for _ in range(20)]:
            if step is not None:
                spool.write(point(step))
        if clock.waits == 12:
            spool.write({"do": "params", "values": {"a": "1"}})
            spool.write(END)

    if not begins:
        gate.answer = ANSWERS[kind]
    sender = send(spool.folder, spool.writer, wait, lambda: clock.waits > 12)
    run = run_of(gate.uri, experiment)
    assert points_in(gate.uri, run.info.run_id) == expected(200)
    assert (run.info.status, run.data.params) == ("FINISHED", {"a": "1"})
    assert sender.state.refused == 0
    assert not spool.folder.exists()


def test_short_outage_during_a_run_gives_one_warning(gate, tmp_path):
    logger = MLflowLogger("three seconds", tracking_uri=gate.uri, spool_dir=tmp_path / "spool")
    for step in range(250):
        logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
    assert logger.run_id
    gate.answer = ANSWERS["401"]
    begin, step = time.monotonic(), 250
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while time.monotonic() < begin + 3 or step < 500:
            if step < 500:
                logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
                step += 1
            time.sleep(0.012)
        gate.answer = None
        for step in range(500, 600):
            logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
            time.sleep(0.01)
        while logger._delivery.parts.trouble:
            logger.flush()
        logger.finalize("success")
    told = [str(one.message) for one in caught if "MLflow" in str(one.message)]
    assert len(told) <= 1
    assert all("does not accept what is sent" in one and "401" in one for one in told)
    assert points_in(gate.uri, logger.run_id) == expected(600)
    assert run_of(gate.uri, "three seconds").info.status == "FINISHED"


def test_entry_a_proxy_rejects_is_set_aside_for_the_command(gate, tmp_path):
    """For example, a file that is too large for the proxy."""
    spool = spool_of(tmp_path, gate.uri, *map(point, range(5)), experiment="too large")
    spool.write({"do": "file", "kept": spool.keep_text("x" * 1000, "large.txt"), "to": None})
    for entry in (*map(point, range(5, 10)), END):
        spool.write(entry)
    gate.only, gate.answer = "large.txt", (413, b"<html>Request Entity Too Large</html>")
    sender = send(spool.folder, "", lambda seconds: None, lambda: True)
    run = run_of(gate.uri, "too large")
    assert points_in(gate.uri, run.info.run_id) == expected(10)
    assert (run.info.status, sender.state.refused) == ("FINISHED", 1)
    assert "413" in refused_in(spool.folder)[0]["refused"]
    refused = command(tmp_path)
    assert refused.returncode == 1
    assert "has everything except 1 entries" in refused.stderr
    gate.answer = None
    sent = command(tmp_path)
    assert (sent.returncode, sent.stderr) == (0, "")
    client = mlflow.MlflowClient(gate.uri)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["large.txt"]
    assert spools(tmp_path) == []


def test_restored_run_receives_the_points_logged_while_deleted(server, tmp_path):
    client, clock = mlflow.MlflowClient(server.uri), []
    spool = spool_of(tmp_path, server.uri, *map(point, range(5)), experiment="deleted")

    def wait(seconds):
        clock.append(seconds)
        if len(clock) == 1:
            client.delete_run(run_of(server.uri, "deleted").info.run_id)
            for entry in (*map(point, range(5, 10)), END):
                spool.write(entry)

    sender = send(spool.folder, spool.writer, wait, lambda: len(clock) > 1)
    assert "has been deleted" in sender.state.trouble
    assert sender.state.refused == 0
    client.restore_run(sender.state.run_id)
    assert command(tmp_path).returncode == 0
    assert points_in(server.uri, sender.state.run_id) == expected(10)


def test_finalize_does_not_wait_for_a_slow_server(gate, tmp_path):
    logger = MLflowLogger("slow", tracking_uri=gate.uri, spool_dir=tmp_path / "spool")
    logger.log_metrics({"lr": 1.0}, step=0)
    assert logger.run_id
    gate.wait = 30.0
    logger.log_metrics({"lr": 0.5}, step=1)
    time.sleep(1)
    begin = time.monotonic()
    with pytest.warns(UserWarning, match="MLflow has not answered yet.* waits in .*send it with"):
        logger.finalize("success")
    assert time.monotonic() - begin < 10  # the limit is 3 seconds; this machine may be busy
    gate.wait = 0.0


def test_unreachable_server_does_not_count_as_being_asked(gate, tmp_path):
    """Otherwise the end of a run would not wait for the server at all, though it may be back."""
    gate.answer, waits = (503, b""), []
    spool = spool_of(tmp_path, gate.uri, point(0), experiment="asked")
    for begins in (1, 3):  # before and after the run is created
        waits.clear()

        def wait(seconds, begins=begins):
            waits.append(seconds)
            gate.answer = None if len(waits) < begins else (503, b"")
            spool.write(point(len(waits)))

        sender = send(spool.folder, spool.writer, wait, lambda: len(waits) > 8)
        assert State.read(spool.folder).asked_at == sender.state.asked_at == 0.0
        assert sender.state.trouble


SWALLOWED = {
    "points": ("log-batch", lambda spool: [point(step) for step in range(100, 150)]),
    "params": ("log-batch", lambda spool: [{"do": "params", "values": {"a": "1"}}]),
    "tags": ("set-tag", lambda spool: [{"do": "tags", "values": {"t": "new"}}]),
    "a file": ("artifacts/", lambda spool: [{"do": "file", "kept": spool.keep_text("x", "x.txt"), "to": "sub"}]),
    "the end": ("runs/update", lambda spool: [END]),
}


@pytest.mark.parametrize("answer", [(200, b"{}"), (200, b"")], ids=["{}", "nothing"])
@pytest.mark.parametrize("kind", SWALLOWED)
def test_requests_a_proxy_swallows_are_sent_again(kind, answer, gate, tmp_path):
    """The proxy swallows one kind of request and forwards the rest; the run already has points and tags."""
    experiment, (gate.only, more) = f"swallowed {kind} {len(answer[1])}", SWALLOWED[kind]
    entries = *map(point, range(100)), {"do": "tags", "values": {"t": "old"}}
    spool, waits = spool_of(tmp_path, gate.uri, *entries, experiment=experiment), []

    def wait(seconds):
        waits.append(seconds)
        gate.answer = answer if 2 <= len(waits) < 7 else None
        if len(waits) == 2:
            for entry in more(spool):
                spool.write(entry)
        if len(waits) == 9:
            spool.write(END)

    sender = send(spool.folder, spool.writer, wait, lambda: len(waits) > 9)
    run = run_of(gate.uri, experiment)
    assert sender.state.refused == 0
    assert run.info.status == "FINISHED"
    assert points_in(gate.uri, run.info.run_id) == expected(150 if kind == "points" else 100)
    assert run.data.params == ({"a": "1"} if kind == "params" else {})
    assert run.data.tags["t"] == ("new" if kind == "tags" else "old")
    listed = mlflow.MlflowClient(gate.uri).list_artifacts(run.info.run_id, "sub")
    assert [file.path for file in listed] == (["sub/x.txt"] if kind == "a file" else [])
