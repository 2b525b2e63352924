"""An untrusted spool: nothing outside of it is read, written or removed."""

import json
import os

import mlflow
import pytest

from lr_plugins.commands.send import main
from lr_plugins.errors import TrackingError
from lr_plugins.tracking import MLflowLogger, private_files
from lr_plugins.tracking import spool as spool_module
from lr_plugins.tracking.private_files import ForeignFileError
from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import Spool
from lr_plugins.tracking.state import State
from tests.tracking.servers import END, command, point, points_in, refused_in, run_of, spool_of


@pytest.fixture
def treasure(tmp_path):
    """Files of the user outside the spool."""
    folder = tmp_path / "home" / "treasure"
    folder.mkdir(parents=True)
    (folder / "diary.txt").write_text("dear diary")
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sent(spool):
    return send(spool.folder, "", lambda seconds: None, lambda: True)


def linked(spool, treasure, name):
    """A stored file in a spool that is a link, or a folder that contains one."""
    kept = spool.keep_text("x", "x.txt")
    place = spool.folder / "files" / kept
    if name == "the copy":
        (place / "x.txt").unlink()
        place.rmdir()
        place.symlink_to(treasure)
    elif name == "a folder in it":
        (place / "sub").symlink_to(treasure)
    elif name == "a file in it":
        (place / "diary.txt").symlink_to(treasure / "diary.txt")
    elif name == "a file below":
        (place / "sub").mkdir()
        (place / "sub" / "diary.txt").symlink_to(treasure / "diary.txt")
    elif name == "a second name":
        (place / "diary.txt").hardlink_to(treasure / "diary.txt")
    elif name == "a pipe":
        os.mkfifo(place / "pipe")
    elif name == "the folder of copies":
        (place / "x.txt").unlink()
        place.rmdir()
        (treasure / kept).mkdir()
        (treasure / kept / "diary.txt").write_text("dear diary")
        (spool.folder / "files").rmdir()
        (spool.folder / "files").symlink_to(treasure)
    return {"do": "file", "kept": kept, "to": "stolen"}


FILES = {
    "a path": lambda spool, treasure: {"do": "file", "kept": str(treasure), "to": "x"},
    "a path upwards": lambda spool, treasure: {"do": "file", "kept": "../../home/treasure", "to": "x"},
    "two dots": lambda spool, treasure: {"do": "file", "kept": "../..", "to": "x"},
    "a dot": lambda spool, treasure: {"do": "file", "kept": ".", "to": "x"},
    "nothing": lambda spool, treasure: {"do": "file", "kept": "", "to": "x"},
    "a number": lambda spool, treasure: {"do": "file", "kept": 1, "to": "x"},
    "to a path": lambda spool, treasure: {"do": "file", "kept": spool.keep_text("x", "x"), "to": str(treasure)},
    "to upwards": lambda spool, treasure: {"do": "file", "kept": spool.keep_text("x", "x"), "to": "../../.."},
    **{
        f"link: {name}": lambda spool, treasure, name=name: linked(spool, treasure, name)
        for name in (
            "the copy",
            "a folder in it",
            "a file in it",
            "a file below",
            "a second name",
            "a pipe",
            "the folder of copies",
        )
    },
}


@pytest.mark.parametrize("kind", FILES)
def test_files_outside_the_spool_are_not_sent_or_removed(kind, database, treasure, tmp_path):
    experiment = f"files {kind}"
    spool = spool_of(tmp_path / "spool", database, experiment=experiment)
    for entry in (FILES[kind](spool, treasure), point(0), END):
        spool.write(entry)
    before = contents(treasure)
    sender = sent(spool)
    assert contents(treasure) == before
    run = run_of(database, experiment)
    assert mlflow.MlflowClient(database).list_artifacts(run.info.run_id) == []
    assert points_in(database, run.info.run_id) == [(0, 1.0)]
    assert sender.state.refused == 1
    assert refused_in(spool.folder)


def plant(spool, treasure, name):
    """Replace a file of the spool with a link to a file of the user."""
    path = spool.folder / name if not name.startswith("/") else spool.folder.parent / name[1:]
    path = spool.folder.with_suffix(".sending") if name == ".sending" else path
    path.unlink(missing_ok=True)
    path.symlink_to(treasure / "diary.txt")


@pytest.mark.parametrize(
    "name", ["log.jsonl", "state.json", "state.json.part", "refused.jsonl", "held", "sender.log", ".sending", "/lock"]
)
def test_links_in_place_of_files_change_nothing_outside(name, database, treasure, tmp_path):
    spool = spool_of(tmp_path / "spool", database, {"do": "odd"}, point(0), END, experiment=f"plant {name}")
    plant(spool, treasure, name)
    before = contents(treasure)
    said = command(tmp_path / "spool")
    assert contents(treasure) == before
    assert "Traceback" not in said.stderr
    if name in ("log.jsonl", ".sending", "/lock"):
        assert said.returncode == 1
        assert "is a link to another file" in said.stderr


@pytest.mark.parametrize(
    ("replace", "reason"),
    [
        (lambda log, treasure: log.symlink_to(treasure / "diary.txt"), "is a link to another file"),
        (lambda log, treasure: log.symlink_to(treasure / "nothing"), "is a link to another file"),
        (lambda log, treasure: log.hardlink_to(treasure / "diary.txt"), "is also linked under"),
        (lambda log, treasure: log.mkdir(), "is not a regular file"),
        (lambda log, treasure: os.mkfifo(log), "is not a regular file"),
    ],
    ids=["link", "dangling link", "second name", "folder", "pipe"],
)
def test_sending_a_foreign_log_is_not_tried_again(replace, reason, database, treasure, tmp_path):
    """It stays what it is, so that a user would wait in vain; once it is mended, the spool can be sent."""
    spool, waits = spool_of(tmp_path / "spool", database, point(0), END, experiment=reason), []
    log = spool.folder / "log.jsonl"
    own = log.read_bytes()
    log.unlink()
    replace(log, treasure)
    sender = send(spool.folder, "", waits.append, lambda: True)
    assert reason in sender.state.trouble
    assert (waits, sender.state.error) == ([], "")
    log.rmdir() if log.is_dir() else log.unlink()
    log.write_bytes(own)
    assert send(spool.folder, "", waits.append, lambda: True).state.ended


@pytest.mark.parametrize("name", ["log.jsonl", "files", "/lock"])
def test_training_does_not_write_through_links(name, database, treasure, tmp_path):
    spool = spool_of(tmp_path / "spool", database, point(0))
    if name == "files":
        (spool.folder / "files").rmdir()
        (spool.folder / "files").symlink_to(treasure)
    else:
        plant(spool, treasure, name)
    before = contents(treasure)
    if name == "/lock":
        logger = MLflowLogger("links", tracking_uri=database, spool_dir=tmp_path / "spool")
        with pytest.raises(TrackingError, match="is a link"):
            logger.log_metrics({"lr": 1.0}, step=0)
    else:
        with pytest.raises(ForeignFileError, match="is a link"):
            Spool(spool.folder)
    assert contents(treasure) == before


def test_linked_spool_is_not_sent(database, tmp_path):
    spool = spool_of(tmp_path / "elsewhere", database, point(0), END, experiment="linked")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / spool.folder.name).symlink_to(spool.folder)
    said = command(tmp_path / "spool")
    assert said.returncode == 1
    assert "is a link; remove it" in said.stderr
    assert (spool.folder / "log.jsonl").is_file()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("what", ["", "log.jsonl"])
def test_spool_of_another_user_is_refused(what, database, tmp_path):
    spool = spool_of(tmp_path / "spool", database, point(0), END, experiment="somebody else")
    os.chown(spool.folder / what, 12345, 12345)
    said = command(tmp_path / "spool")
    assert said.returncode == 1
    assert "belongs to another user (12345)" in said.stderr
    assert "Traceback" not in said.stderr
    assert (spool.folder / "log.jsonl").is_file()
    assert mlflow.MlflowClient(database).get_experiment_by_name("somebody else") is None


@pytest.mark.parametrize("what", ["a spool", "its log"])
def test_spool_is_refused_for_any_other_user(what, tmp_path, monkeypatch, capsys):
    """Needs no root: the user ID is patched to differ from the owner of the files."""
    spool = spool_of(tmp_path / "spool", f"sqlite:///{tmp_path}/test.db", point(0), END)
    if what == "its log":
        monkeypatch.setattr(private_files, "check_folder", lambda folder: None)
        monkeypatch.setattr(spool_module, "check_folder", lambda folder: None)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(spool.folder).st_uid + 1)
    assert main([str(tmp_path / "spool")]) == 1
    assert "belongs to another user" in capsys.readouterr().err
    assert (spool.folder / "log.jsonl").is_file()
    assert not (tmp_path / "test.db").exists()


def test_state_does_not_overwrite_a_linked_file(treasure, tmp_path):
    (tmp_path / "state.json").symlink_to(treasure / "diary.txt")
    before = contents(treasure)
    State(done=5).write(tmp_path)
    assert contents(treasure) == before
    assert json.loads((tmp_path / "state.json").read_text())["done"] == 5
    assert State.read(tmp_path).done == 5


def test_spool_files_are_readable_by_the_owner_only(database, tmp_path):
    before = os.umask(0)
    try:
        (tmp_path / "note.txt").write_text("x")
        logger = MLflowLogger("modes", tracking_uri=database, spool_dir=tmp_path / "sub" / "spool")
        logger.log_metrics({"lr": 1.0}, step=0)
        logger.log_artifact(tmp_path / "note.txt")
        spool = spool_of(tmp_path / "spool", "http://me:s3cret@127.0.0.1:9", {"do": "odd"}, point(0), END)
        folders = [logger._delivery.spool.folder, spool.folder]
        modes = {
            str(path): path.stat().st_mode & 0o777
            for folder in folders
            for path in (folder, *folder.rglob("*"))
            if "files/" not in str(path)
        }
    finally:
        os.umask(before)
    logger.finalize("success")
    assert len(modes) >= 8
    for path, mode in modes.items():
        assert mode == (0o700 if os.path.basename(path) == "files" or "." not in os.path.basename(path) else 0o600), (
            path
        )
