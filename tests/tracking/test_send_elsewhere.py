"""`lr-plugins send --to URI`: a stranded spool arrives elsewhere, complete and once."""

import shutil

import pytest

from lr_plugins.commands.send import main
from tests.tracking.servers import END, command, expected, point, points_in, run_of, spool_of

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def elsewhere(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "elsewhere.db")
    return f"sqlite:///{tmp_path}/elsewhere.db"


def folders(parent):
    return [path for path in parent.iterdir() if path.is_dir()]


@pytest.mark.parametrize("uri", ["htp://foo", AWAY])
def test_spool_for_an_invalid_uri_can_be_sent_elsewhere(uri, elsewhere, tmp_path):
    waiting = tmp_path / "waiting"
    spool_of(waiting, uri, *(point(step) for step in range(50)), END)
    stranded = command(waiting)
    assert (stranded.returncode, len(folders(waiting))) == (1, 1)
    assert "not sent to a new run" in stranded.stderr
    assert "--to URI" in stranded.stderr
    sent = command(waiting, "--to", elsewhere)
    assert (sent.returncode, sent.stderr, folders(waiting)) == (0, "", [])
    run = run_of(elsewhere)
    assert (run.info.status, points_in(elsewhere, run.info.run_id)) == ("FINISHED", expected(50))


def test_partly_sent_run_is_sent_elsewhere_in_full(server, gate, elsewhere, tmp_path):
    waiting = tmp_path / "waiting"
    (tmp_path / "note.txt").write_text("hello")
    spool = spool_of(waiting, gate.uri)
    spool.write({"do": "file", "kept": spool.keep(tmp_path / "note.txt"), "to": None})
    for step in range(50):
        spool.write(point(step))
    spool.write(END)
    gate.answer, gate.only = (503, b"later"), "log-batch"
    assert command(waiting).returncode == 1
    there = run_of(server.uri)
    sent = command(waiting, "--to", elsewhere)
    assert (sent.returncode, sent.stderr, folders(waiting)) == (0, "", [])
    assert (
        f"run {there.info.run_id} at {gate.uri} has what was sent there before; 1 files are only there" in sent.stdout
    )
    run = run_of(elsewhere)
    assert (run.info.status, points_in(elsewhere, run.info.run_id)) == ("FINISHED", expected(50))


def test_failed_redirection_is_retried_later(elsewhere, tmp_path):
    waiting = tmp_path / "waiting"
    spool_of(waiting, "htp://foo", point(0), END)
    assert command(waiting, "--to", AWAY.replace("//", "//me:secret@")).returncode == 1
    [folder] = folders(waiting)
    assert "secret" not in (folder / "state.json").read_text() + (folder / "log.jsonl").read_text()
    again = command(waiting)
    assert "127.0.0.1:9" in again.stderr
    assert "secret" not in again.stdout + again.stderr
    assert command(waiting, "--to", elsewhere).returncode == 0
    assert points_in(elsewhere, run_of(elsewhere).info.run_id) == expected(1)


def test_run_in_two_spools_stays_one_run(elsewhere, tmp_path):
    waiting = tmp_path / "waiting"
    first = spool_of(waiting, AWAY, *(point(step) for step in range(10)))
    second = spool_of(waiting, AWAY, begins={"spool": first.folder.name})
    for step in range(10, 20):
        second.write(point(step))
    second.write(END)
    assert command(waiting, "--to", elsewhere).returncode == 0
    run = run_of(elsewhere)
    assert (run.info.status, points_in(elsewhere, run.info.run_id)) == ("FINISHED", expected(20))


@pytest.mark.parametrize("uri", ["", "localhost:5000", "sqlite://", "http:///x"])
def test_invalid_destination_is_refused_and_changes_nothing(uri, tmp_path, monkeypatch, capsys):
    waiting = tmp_path / "waiting"
    spool = spool_of(waiting, AWAY, point(0), END)
    before = {path.name: path.read_bytes() for path in spool.folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as end:
        main([str(waiting), "--to", uri])
    assert (end.value.code, "--to:" in capsys.readouterr().err) == (2, True)
    assert {path.name: path.read_bytes() for path in spool.folder.iterdir() if path.is_file()} == before
