"""Kill `python train.py` at random moments, resume it, and compare the result with an uninterrupted run.

    python -m tests.soak.kills --kills 50 --seed 1

Each scenario (a schedule, a way of training) is trained once undisturbed. Then it is trained with interruptions: the
process is killed (SIGKILL, SIGTERM or Ctrl-C) and resumed with `ckpt_path=last`, several times, until it finishes.
Everything must then be as in the undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import torch

from tests.preloaded import Program

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "train.py")
SAVING = ["callbacks.last_checkpoint.every_n_steps=5"]  # within epochs, often
COMMON = ["data=digits", "model.dropout=[0.25,0.5]", "trainer.max_epochs=12", *SAVING]
FUNCTION = "schedule.function.path=tests.soak.functions.decay"
SCENARIOS = {
    "time": ["schedule=warmup_cosine", *COMMON],
    "function of (epoch, lr)": ["schedule=function", FUNCTION, *COMMON],
    "loss-driven": ["schedule=loss_driven", "schedule.k=0.3", *COMMON],
    "loss-driven, every 7 steps": ["schedule=loss_driven", "schedule.when=7st", "schedule.smoothing=0.9", *COMMON],
    "plateau": ["schedule=plateau", "schedule.patience=1", "schedule.min_delta=0.02", *COMMON],
    "4 batches a step": ["schedule=inverse_time", "trainer.accumulate_grad_batches=4", *COMMON],
    "validated mid-epoch": ["schedule=plateau", "schedule.patience=1", "+trainer.val_check_interval=0.3", *COMMON],
    "by steps": ["schedule=one_cycle", "trainer.max_steps=520", *COMMON],
    "full pass measured": ["experiment=iris_loss_driven", "trainer.max_epochs=60", *SAVING],
}
TRAINING = re.compile(r"Train on|Epoch| - \d")  # the start of the lines that training prints
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)


@dataclass
class Figures:
    """What was done, and what was wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self, what: str, equal: bool) -> None:
        self.counts["comparisons"] += 1
        if not equal:
            self.counts["mismatches"] += 1
            self.wrong.append(what)


@dataclass
class Result:
    """The files and output of a run."""

    folder: Path
    output: str  # of its last process
    seconds: float  # that training took

    @property
    def checkpoints(self) -> Path:
        [last] = self.folder.glob("outputs/*/*/checkpoints/last.ckpt")
        return last.parent

    def checkpoint(self, name: str) -> dict:
        return torch.load(self.checkpoints / name, map_location="cpu", weights_only=True)

    @property
    def table(self) -> str:
        return (self.checkpoints.parent / "lr_trace.csv").read_text()

    @property
    def best(self) -> list[str]:
        return re.findall(r"^(?:best \w+_\w+|learning rate) .*$", self.output, re.MULTILINE)

    def run(self) -> tuple[mlflow.MlflowClient, mlflow.entities.Run]:
        client = mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        [run] = client.search_runs([client.get_experiment_by_name("lr_plugins").experiment_id])
        return client, run

    def points(self) -> dict[str, list[tuple[int, float]]]:
        """Each metric's points, in the order of their steps."""
        client, run = self.run()
        names = run.data.metrics
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        return {name: sorted((point.step, point.value) for point in found) for name, found in histories.items()}


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_", "HYDRA_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def start(folder: Path, *arguments: str) -> Program:
    return Program([TRAIN, *arguments], folder, environment(), one_stream=True)


def finish(folder: Path, *arguments: str, figures: Figures | None = None) -> Result:
    """Run to the end."""
    process, output = start(folder, *arguments), ""
    started = began = time.monotonic()
    for line in iter(process.stdout.readline, ""):
        output += line
        began = time.monotonic() if began == started and TRAINING.match(line) else began
    seconds = time.monotonic() - began
    process.wait()
    if process.returncode:
        if figures is None:
            raise AssertionError(f"status {process.returncode}:\n{output}")
        figures.check(f"status {process.returncode}: {output[-2000:]}", False)
    return Result(folder, output, seconds)


def kill(folder: Path, arguments: list[str], number: int, delay: float, figures: Figures, saved: bool = False) -> None:
    """Start, wait until training starts (with `saved`, for a checkpoint) and `delay` seconds more, kill."""
    process = start(folder, *arguments)
    output = ""
    try:
        for line in iter(process.stdout.readline, ""):
            output += line
            if TRAINING.match(line):
                break
        while saved and process.poll() is None and not any(folder.glob("outputs/*/*/checkpoints/last.ckpt")):
            time.sleep(0.005)
        until = time.monotonic() + delay
        while time.monotonic() < until and select.select([process.stdout], [], [], until - time.monotonic())[0]:
            if not (line := process.stdout.readline()):
                break
            output += line
        process.send_signal(number)
        output += process.communicate(timeout=120)[0]
    finally:
        process.kill()
        process.wait()
    figures.counts["kills"] += process.returncode != 0
    figures.counts[f"kills by {signal.Signals(number).name}"] += process.returncode != 0
    figures.counts["ended before the kill"] += process.returncode == 0
    expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    # A signal may arrive before the training handles it, or after its end.
    figures.check(f"status {process.returncode}: {output[-3000:]}", process.returncode in (expected, -number, 0))
    figures.check(f"a traceback: {output[-3000:]}", "Traceback" not in output)


def compare(name: str, undisturbed: Result, resumed: Result, figures: Figures) -> None:
    """Check that both runs have the same result."""
    for file in ("last.ckpt", "best.ckpt"):
        one, other = undisturbed.checkpoint(file), resumed.checkpoint(file)
        for part in ("state_dict", "optimizer_states"):
            figures.check(f"{name}: {part} of {file}", _equal(one[part], other[part]))
    drawn = [one.checkpoint("last.ckpt")["callbacks"]["LearningRateTrace"]["losses"] for one in (undisturbed, resumed)]
    figures.check(f"{name}: metrics in the picture", drawn[0] == drawn[1])
    figures.check(f"{name}: lr_trace.csv", undisturbed.table == resumed.table)
    figures.check(f"{name}: summary {undisturbed.best} {resumed.best}", undisturbed.best == resumed.best)
    expected, found = undisturbed.points(), resumed.points()
    figures.check(f"{name}: metrics {sorted(expected)} {sorted(found)}", expected.keys() == found.keys())
    for metric, points in expected.items():
        compare_points(f"{name}: {metric}", points, found.get(metric, []), figures)
    client, run = resumed.run()
    figures.check(f"{name}: status {run.info.status}", run.info.status == "FINISHED")
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    figures.check(f"{name}: artifacts {files}", files == {"config.yaml", "lr_trace.csv", "lr_trace.png"})


def compare_points(
    name: str, expected: list[tuple[int, float]], found: list[tuple[int, float]], figures: Figures
) -> None:
    counted = Counter(step for step, _ in found)
    twice = {step for step, count in counted.items() if count > dict(Counter(s for s, _ in expected)).get(step, 1)}
    missing = {step for step, _ in expected} - counted.keys()
    figures.counts["points"] += len(expected)
    figures.counts["duplicates"] += len(twice)
    figures.counts["gaps"] += len(missing)
    figures.check(f"{name}: {sorted(twice)[:5]} twice, {sorted(missing)[:5]} missing", not twice and not missing)
    figures.check(f"{name}: other values", expected == found)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))  # type: ignore[arg-type]
    return one == other


def soak(name: str, kills: int, seed: int, place: Path, until: float) -> Figures:
    """One scenario: undisturbed, and with a number of kills, fewer if time runs out."""
    figures, rng = Figures(), random.Random(f"{name} {seed}")
    folders = [place / re.sub(r"\W+", "-", name) / kind for kind in ("undisturbed", "killed")]
    for folder in folders:
        folder.mkdir(parents=True)
    undisturbed = finish(folders[0], *SCENARIOS[name])
    arguments, longest = list(SCENARIOS[name]), undisturbed.seconds * 1.2 / kills
    for index in range(kills):
        if time.monotonic() > until:
            break
        number = SIGNALS[(index + rng.randrange(2)) % len(SIGNALS)]
        kill(folders[1], arguments, number, rng.uniform(0, longest), figures)
        if next(folders[1].glob("outputs/*/*/checkpoints/last.ckpt"), None) is not None:
            arguments = ["ckpt_path=last"]
            figures.counts["resumes"] += 1
    resumed = finish(folders[1], *arguments, figures=figures)
    figures.counts["steps"] += resumed.table.count("\n") - 1
    compare(name, undisturbed, resumed, figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="at least so many")
    parser.add_argument("--minutes", type=float, default=30, help="no kill after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--only", default="", help="scenarios that have this in their names")
    parser.add_argument("--keep", action="store_true", help="do not delete the folders")
    options = parser.parse_args()
    names = [name for name in SCENARIOS if options.only in name]
    each = -(-options.kills // len(names))
    place, began = Path(tempfile.mkdtemp(prefix="kills-")), time.monotonic()
    until = began + 60 * options.minutes
    found: list[Figures] = []
    columns = ("kills", "resumes", "steps", "points", "comparisons", "mismatches", "duplicates", "gaps")
    wide = max(map(len, names))

    def tell(name: str, counts: Counter[str]) -> None:
        print(f"{name:<{wide}}", *(f"{counts[column]:>{len(column)}}" for column in columns), flush=True)

    print(" " * wide, *columns)
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, one in zip(
            names, pool.map(lambda name: soak(name, each, options.seed, place, until), names), strict=True
        ):
            found.append(one)
            tell(name, one.counts)
    total = sum((one.counts for one in found), Counter())
    tell("all", total)
    print({name: count for name, count in total.items() if name not in columns}, f"{time.monotonic() - began:.0f} s")
    for one in found:
        print(*one.wrong, sep="\n", end="\n" if one.wrong else "")
    if options.keep:
        print(place)
    else:
        shutil.rmtree(place)
    sys.exit(any(one.wrong for one in found))


if __name__ == "__main__":
    main()
