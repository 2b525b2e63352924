"""A log that is shorter than its state, or not the one that was sent, is noticed; the remaining points are sent."""

import json

import pytest

from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import Spool, spools
from tests.tracking.servers import END, command, expected, point, points_in, run_of, spool_of


def sent(spool):
    return send(spool.folder, spool.writer, lambda seconds: None, lambda: True)


def sent_halfway(database, parent, experiment):
    """A spool with 20 points sent, as a killed sender leaves it."""
    spool = spool_of(parent, database, *map(point, range(20)), experiment=experiment)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(spool.folder, spool.writer, wait, lambda: False)
    assert json.loads((spool.folder / "state.json").read_text())["done"] == spool.size
    return spool


def cut(spool, size):
    with (spool.folder / "log.jsonl").open("r+b") as file:
        file.truncate(size)


def change_state(spool, **values):
    path = spool.folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


WAYS = {
    "cut at a line": lambda spool: cut(
        spool, spool.size - len((spool.folder / "log.jsonl").read_bytes().splitlines()[-1]) - 1
    ),
    "cut in a line": lambda spool: cut(spool, spool.size - 30),
    "done too large": lambda spool: change_state(spool, done=10**9),
    "done within a line": lambda spool: change_state(spool, done=spool.size - 5, before_done=""),
    "done and no number": lambda spool: change_state(spool, done="all"),
    "done below zero": lambda spool: change_state(spool, done=-5),
    "no state": lambda spool: (spool.folder / "state.json").unlink(),
    "a state that is none": lambda spool: (spool.folder / "state.json").write_text("[1, 2]"),
    "a state cut off": lambda spool: cut_state(spool),
    "a deep state": lambda spool: (spool.folder / "state.json").write_text("[" * 100_000),
}


def cut_state(spool):
    path = spool.folder / "state.json"
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("way", WAYS)
def test_every_remaining_point_arrives(way, database, tmp_path):
    experiment = f"shortened, {way}"
    first = sent_halfway(database, tmp_path, experiment)
    WAYS[way](first)
    again = Spool(first.folder)  # like a training that resumes the run
    for entry in (*map(point, range(20, 60)), END):
        again.write(entry)
    sender = send(again.folder, "", lambda seconds: None, lambda: True)
    run = run_of(database, experiment)  # the only one
    assert points_in(database, run.info.run_id) == expected(60)
    assert run.info.status == "FINISHED"
    assert sender.state.trouble == sender.state.error == ""
    if "done too" in way or "cut at" in way or way in ("cut in a line", "done within a line"):
        assert sender.was_shortened


def test_send_command_reports_a_truncated_log(database, tmp_path):
    spool = sent_halfway(database, tmp_path, "by the command")
    spool.write(END)
    change_state(spool, done=10**9)
    said = command(tmp_path)
    assert said.returncode == 0
    assert "the log was truncated" in said.stderr
    run = run_of(database, "by the command")
    assert (points_in(database, run.info.run_id), run.info.status) == (expected(20), "FINISHED")
    assert spools(tmp_path) == []


def test_log_truncated_during_sending_is_noticed(database, tmp_path):
    spool, waits = spool_of(tmp_path, database, *map(point, range(20)), experiment="live"), []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            cut(spool, spool.size // 2)
            for entry in (*map(point, range(20, 50)), END):
                spool.write(entry)

    sender = send(spool.folder, spool.writer, wait, lambda: len(waits) > 2)
    run = run_of(database, "live")
    assert sender.was_shortened
    assert run.info.status == "FINISHED"
    found = points_in(database, run.info.run_id)
    assert set(found) >= set(expected(50)[21:])
    assert found[:20] == expected(20)
