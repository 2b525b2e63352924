"""Log points while disks fill up, servers refuse and senders die; count the points in MLflow at the end.

    python -m tests.soak.faults --runs 20 --seed 1

In each run a process logs points to a real MLflow server, through a proxy that can answer in its place, from a spool on
a small disk of its own (a tmpfs, which needs the right to mount one). Faults come at random moments and pass. What is
unsent at the end is sent by `lr-plugins send`. Each point must then be there exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.tracking.servers import Gate, Server, command, points_in, run_of

ROOT = Path(__file__).parents[2]
POINTS = 3000
TRAINING = """
import sys, time
from lr_plugins.tracking import MLflowLogger

logger = MLflowLogger(sys.argv[2], tracking_uri=sys.argv[1], spool_dir="spool")
for step in range(int(sys.argv[3])):
    logger.log_metrics({"lr": 1 / (step + 1)}, step=step)
    time.sleep(0.003)
    if step % 100 == 0:
        print(logger._delivery.sender.pid, flush=True)
logger.finalize("success")
print("lost", logger.lost_points, flush=True)
"""
ANSWERS = [(401, b"who are you"), (403, b"<html>no</html>"), (404, b"nothing"), (500, b""), (503, b""), (200, b"{}")]


def mount(place: Path) -> None:
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], check=True)


def fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


class Run:
    """One process that logs, with random faults."""

    def __init__(self, name: str, server: Server, place: Path, rng: random.Random) -> None:
        self.name, self.server, self.disk, self.rng = name, server, place / name, rng
        self.gate, self.counts, self.other_disk = Gate(server.uri), Counter(), rng.random() < 0.5
        mount(self.disk)

    def go(self) -> Counter[str]:
        here = {} if self.other_disk else {"TMPDIR": str(self.disk), "HOME": str(self.disk)}
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, self.gate.uri, self.name, str(POINTS)],
            cwd=self.disk,
            env={**os.environ, "PYTHONPATH": str(ROOT), **here},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        sender = int(process.stdout.readline())  # it has started
        while process.poll() is None and self.counts["faults"] < 6:
            fault = self.rng.choice([self.disk_fills, self.server_refuses, self.sender_dies])
            sender = fault(sender) or sender
            self.counts["faults"] += 1
            self.counts[fault.__name__.replace("_", " ")] += 1
            time.sleep(self.rng.uniform(0, 1.5))
        out, err = process.communicate(timeout=300)
        self.counts["lost"] += int(out.rpartition("lost ")[2])
        for folder in {self.disk / "spool", *map(Path, re.findall(r"\S+/lr_plugins-spool-\w+(?=/)", err))}:
            self.send(folder)
        found = points_in(self.server.uri, run_of(self.server.uri, self.name).info.run_id)
        expected = [(step, 1 / (step + 1)) for step in range(POINTS)]
        self.counts["points"] += len(expected)
        self.counts["missing"] += len(set(expected) - set(found))
        self.counts["twice"] += len(found) - len(set(found))
        self.counts["not FINISHED"] += run_of(self.server.uri, self.name).info.status != "FINISHED"
        self.gate.close()
        subprocess.run(["umount", "-l", str(self.disk)], check=True)
        return self.counts

    def send(self, folder: Path) -> None:
        """By the command, until it has nothing left to say."""
        for _ in range(60):
            said = command(folder, cwd=ROOT)
            if "Nothing waits" in said.stdout or "there is no folder" in said.stderr:
                break
            time.sleep(0.5)
        if folder.name.startswith("lr_plugins-spool-"):
            shutil.rmtree(folder, ignore_errors=True)

    def disk_fills(self, sender: int) -> None:
        fill(self.disk)
        time.sleep(self.rng.uniform(0.5, 2))
        (self.disk / "filler").unlink()

    def server_refuses(self, sender: int) -> None:
        self.gate.answer = self.rng.choice(ANSWERS)
        time.sleep(self.rng.uniform(0.5, 3))
        self.gate.answer = None

    def sender_dies(self, sender: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(sender, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    place, total = Path(tempfile.mkdtemp(prefix="faults-")), Counter()
    (place / "server").mkdir()
    server = Server(place / "server").start()
    try:
        for index in range(options.runs):
            counts = Run(f"run-{index}", server, place, random.Random(options.seed * 1000 + index)).go()
            print(f"run {index}:", dict(counts), flush=True)
            total += counts
    finally:
        server.kill()
        shutil.rmtree(place, ignore_errors=True)
    print("all:", dict(total))
    sys.exit(bool(total["missing"] > total["lost"] or total["twice"] or total["not FINISHED"]))


if __name__ == "__main__":
    main()
