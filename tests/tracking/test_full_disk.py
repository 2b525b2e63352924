"""A full disk under the spool: messages are accurate, and every point arrives or is counted as lost."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
import warnings
from pathlib import Path

import mlflow
import pytest

from lr_plugins.errors import TrackingError
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.sender import send
from lr_plugins.tracking.spool import spools
from tests import preloaded
from tests.tracking.servers import command, expected, point, points_in, run_of, spool_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 512 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        # test_without_disk_space_points_are_held_and_counted needs no privileges: it limits file sizes.
        pytest.skip("mounting a tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def files_of_at_most(size):
    """Limit the size of every file this process writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def log(logger, start, end):
    for step in range(start, end):
        logger.log_metrics({"lr": 1 / (step + 1)}, step=step)


# A training that logs before and after another file fills its disk. It prints how many points were lost.
TRAINING = """
import os, sys, time
from pathlib import Path
from lr_plugins.tracking import MLflowLogger

database, place, experiment, act = sys.argv[1:5]
full = Path(place) / "filler"

def fill():
    with open(full, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass

logger = MLflowLogger(experiment, tracking_uri=database, spool_dir=Path(place) / "spool")
for step in range(3000):
    logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
    if step == 100:
        logger.log_text("before", "before.txt")
        assert logger.run_id
        fill()
    if step == 2000:
        logger.log_text("after", "after.txt")
        logger.log_artifact("/etc/hostname", "files")
    if step == 2500 and act == "frees":
        full.unlink()
    if step == 2999 and act == "killed":
        time.sleep(1.5)
        logger.log_metrics({"lr": 1 / 3001}, step=3000)
        print("ready", flush=True)
        time.sleep(600)
logger.finalize("success")
print("lost", logger.lost_points)
"""


def train(database, place, act, only_here=False, timeout=200):
    """Run a training and return stdout and stderr. With `only_here` it has no other disk."""
    here = {"TMPDIR": str(place), "HOME": str(place)} if only_here else {}
    words = ["-c", TRAINING, database, str(place), f"{act}, {only_here}", act]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **here}
    process = preloaded.Program(words, place if only_here else ROOT, environment)
    if act == "killed":
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    return process.communicate(timeout=timeout)


def await_no_sender(folder):
    """Wait until the process that sends a killed training's spool has ended."""
    from lr_plugins.tracking.spool import is_left

    deadline = time.monotonic() + 100
    while not all(map(is_left, spools(folder))):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_points_move_to_another_disk_and_all_arrive(database, small_disk):
    out, err = train(database, small_disk, "stays")
    reported = r"No more data can be written under \S+ \(No space left on device\).* from now on waits in (\S+) until"
    [elsewhere] = re.findall(reported, err)
    assert not elsewhere.startswith(str(small_disk))
    run = run_of(database, "stays, False")
    assert points_in(database, run.info.run_id) == expected(3000)
    assert (run.info.status, out) == ("FINISHED", "lost 0\n")
    names = [file.path for file in mlflow.MlflowClient(database).list_artifacts(run.info.run_id)]
    assert names == ["after.txt", "before.txt", "files"]
    assert "cannot be reached" not in err
    deadline = time.monotonic() + 60
    while Path(elsewhere).parent.exists():  # the sender removes it when it ends
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_without_another_disk_points_wait_in_memory(database, small_disk):
    out, err = train(database, small_disk, "frees", only_here=True)
    assert "no other disk has room" in err
    assert "held in memory, and is lost if the process is killed" in err
    run = run_of(database, "frees, True")
    assert points_in(database, run.info.run_id) == expected(3000)
    assert (run.info.status, out) == ("FINISHED", "lost 0\n")
    assert "leaves out the artifact 'after.txt': no disk has room for it" in err


def test_lost_points_are_counted_and_reported(database, small_disk):
    out, err = train(database, small_disk, "stays", only_here=True)
    found = len(points_in(database, run_of(database, "stays, True").info.run_id))
    assert 101 <= found < 3000
    assert out == f"lost {3000 - found}\n"
    assert f"{3000 - found} points of the run" in err


def test_send_command_reports_points_lost_in_memory(database, small_disk):
    train(database, small_disk, "killed", only_here=True)
    await_no_sender(small_disk / "spool")
    (small_disk / "filler").unlink()
    said = command(small_disk / "spool", cwd=ROOT)
    run = run_of(database, "killed, True")
    found = len(points_in(database, run.info.run_id))
    assert (said.returncode, said.stdout) == (1, "")
    [lost] = re.findall(r"At least (\d+) points are lost", said.stderr)
    assert 2000 < int(lost) <= 3001 - found
    assert (run.info.status, run.data.tags["lost_points"]) == ("KILLED", lost)
    assert spools(small_disk / "spool") == []


@pytest.mark.parametrize("room", [100, 1000, 20_000])
def test_file_size_limit_continues_the_run_in_another_file(room, database, tmp_path):
    logger = MLflowLogger(f"limit {room}", tracking_uri=database, spool_dir=tmp_path / "spool")
    log(logger, 0, 10)
    assert logger.run_id
    with files_of_at_most(max(logger._delivery.spool.size + room, 2000)):
        log(logger, 10, 500)
    log(logger, 500, 600)
    parts = len(logger._delivery.parts)
    logger.finalize("success")
    assert parts > 1
    assert points_in(database, logger.run_id) == expected(600)
    assert run_of(database, f"limit {room}").info.status == "FINISHED"


@pytest.mark.parametrize("frees", [True, False])
def test_without_disk_space_points_are_held_and_counted(frees, database, tmp_path):
    """No file may grow, on any disk."""
    logger = MLflowLogger(f"no room, {frees}", tracking_uri=database, spool_dir=tmp_path / "spool")
    log(logger, 0, 10)
    assert logger.run_id
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with files_of_at_most(0):
            log(logger, 10, 300)
            if not frees:
                logger.finalize("success")
        if frees:
            logger.finalize("success")
    told = [str(one.message) for one in caught if "no other disk has room" in str(one.message)]
    lost = [str(one.message) for one in caught if "are lost" in str(one.message)]
    assert len(told) == 1
    assert len(lost) == (not frees)
    assert logger.lost_points == (0 if frees else 290)
    assert points_in(database, logger.run_id) == expected(300 if frees else 10)


def test_send_command_delivers_parts_of_a_run_in_any_order(database, tmp_path):
    """The parts left by a training that ended while the server was unreachable."""
    first = spool_of(tmp_path / "a", database, *map(point, range(50)))
    name = first.folder.name
    second = spool_of(tmp_path / "b", database)
    log = second.folder / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(second.folder.name.encode(), name.encode()))
    for entry in (*map(point, range(50, 100)), {"do": "end", "time": 2, "status": "FINISHED"}):
        second.write(entry)
    for folder in (second.folder, first.folder):
        sender = send(folder, "", lambda seconds: None, lambda: True)
        assert not folder.exists(), sender.state
    run = run_of(database)
    assert points_in(database, run.info.run_id) == expected(100)
    assert run.info.status == "FINISHED"


def test_disk_full_from_the_start_does_not_stop_training(database, small_disk):
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    logger = MLflowLogger("from the start", tracking_uri=database, spool_dir=small_disk / "spool")
    with pytest.warns(UserWarning, match="No more data can be written"):
        logger.log_metrics({"lr": 1.0}, step=0)
    logger.finalize("success")
    assert points_in(database, logger.run_id) == expected(1)


def test_spool_folder_that_cannot_be_created_is_an_error(database, tmp_path):
    (tmp_path / "file").touch()
    logger = MLflowLogger("no folder", tracking_uri=database, spool_dir=tmp_path / "file" / "spool")
    with pytest.raises(TrackingError, match="cannot be written"):
        logger.log_metrics({"lr": 1.0}, step=0)
