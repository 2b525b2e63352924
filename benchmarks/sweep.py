"""Sweeps of short runs: what each run costs beside its fit, and what it takes to compare them.

`python train.py -m seed=0,1,...` trains the quick start (ten epochs of a CNN on digits) once per seed: one after the
other in one process, and with `launcher=joblib` in several. By the times in MLflow, a run takes the time from the begin
of the first fit to the end of the last, divided by the number of runs; a fit takes the mean time from its begin to its
end. `lr-plugins compare` then compares runs that exist in MLflow only, each with 6,000 learning rates and 200 values of
two metrics; the seconds are those of the whole program.

    python benchmarks/sweep.py --runs 70 --jobs 2
"""

from __future__ import annotations

import argparse
import csv
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS, EPOCHS = 6000, 200
_FITS = """
SELECT start_time, end_time FROM runs WHERE status = 'FINISHED'
AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId')
"""


def run(words: list[str], folder: Path) -> float:
    """The seconds of a program."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begun


def sweep(runs: int, *words: str) -> tuple[float, float, float]:
    """Seconds: of the whole program, per run once the first fit has begun, and of a fit (the mean)."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = ",".join(map(str, range(runs)))
        whole = run([str(ROOT / "train.py"), "-m", f"seed={seeds}", *words], Path(folder))
        with closing(sqlite3.connect(Path(folder) / "mlflow.db")) as database:
            times = database.execute(_FITS).fetchall()
        assert len(times) == runs
        begun, ended = min(begin for begin, _ in times), max(end for _, end in times)
        [table] = Path(folder).glob("multirun/*/*/comparison/comparison.csv")
        assert len(list(csv.reader(table.open()))) == runs + 1
        fit = statistics.mean(end - begin for begin, end in times)
        return whole, (ended - begun) / runs / 1000, fit / 1000


def compare(runs: int) -> float:
    """Seconds of `lr-plugins compare` on runs in a database of MLflow."""
    with tempfile.TemporaryDirectory() as folder:
        run(["-c", f"from benchmarks.sweep import fill; fill({runs})"], Path(folder))
        return run(["-m", "lr_plugins", "compare", "--experiment", "sweep", "--metrics", "val_loss"], Path(folder))


def fill(runs: int) -> None:
    """Record runs in `mlflow.db`."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.create_experiment("sweep")
    for seed in range(runs):
        made = client.create_run(experiment, tags={"schedule": f"schedule {seed % 7}"}).info.run_id
        points = [Metric("lr", 0.1 / (1 + 0.005 * step), step, step) for step in range(STEPS)]
        points += [
            Metric(name, 1 / (1 + epoch + seed % 10), epoch, epoch)
            for name in ("loss", "val_loss")
            for epoch in range(EPOCHS)
        ]
        for first in range(0, len(points), 1000):
            client.log_batch(made, points[first : first + 1000], [Param("seed", str(seed))])
        client.set_terminated(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=70)
    parser.add_argument("--jobs", type=int, default=2, help="of joblib (default 2)")
    options = parser.parse_args()
    joblib = ["launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"]
    ways: dict[str, list[str]] = {"one after the other": [], f"joblib, {options.jobs} at a time": joblib}
    print(f"{options.runs} runs\n\n| | whole, s | per run, s | fit, s | beside the fit |\n|---|---|---|---|---|")
    for name, words in ways.items():
        whole, each, fit = sweep(options.runs, *words)
        share = each * (options.jobs if words else 1) / fit - 1
        print(f"| {name} | {whole:.1f} | {each:.2f} | {fit:.2f} | {100 * share:.0f} % |", flush=True)
    print(f"\nlr-plugins compare, {options.runs} runs of {STEPS:,} steps: {compare(options.runs):.1f} s")


if __name__ == "__main__":
    main()
