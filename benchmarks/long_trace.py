"""What the learning rates of a long run cost: memory, files, MLflow, and the response time of MLflow's page.

Method: a trace is filled with the values of a cosine, as the scheduler does, and saved. Its points then go to
MLflowLogger in batches of a thousand, as LearningRateTrace sends them, until SQLite has all of them (a separate process
sends them). Memory is the growth of the process' resident set. Finally a real `mlflow server` answers the request of a
run's page for a curve (`get-history-bulk-interval`, 320 points), five times; the table has the median.

    python benchmarks/long_trace.py
    python benchmarks/long_trace.py --steps 1000000 --keep folder
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lr_plugins import CosineDecay, MLflowLogger, RunLength, Trace
from lr_plugins.plotting.learning_rate import plot_learning_rate

DELIVERY = 1000  # steps, as LearningRateTrace hands them over
POINTS = 320  # of a curve, as MLflow's page asks for


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Do it, and say how long it took."""
    begin = time.perf_counter()
    result = call()
    print(f"{what:58}{time.perf_counter() - begin:9.2f} s")
    return result


def filled(steps: int) -> Trace:
    """The trace of a run of so many steps."""
    run = RunLength.of(steps_per_epoch=1000, epochs=steps // 1000)
    values = np.asarray(CosineDecay(0.1)(run.position(np.arange(steps), 0.1))).tolist()
    resident = psutil.Process().memory_info().rss
    trace = Trace()
    append = trace.series("lr").append
    for value in values:
        append(value)
    grown = psutil.Process().memory_info().rss - resident
    print(f"{'memory of the trace':58}{grown / 1e6:9.2f} MB, {grown / steps:.1f} bytes a step")
    return trace


def handed_over(logger: MLflowLogger, trace: Trace) -> None:
    """Give the points to the logger."""
    series = trace["lr"]
    for first in range(0, len(series), DELIVERY):
        logger.log_series("lr", first, series.column[first : first + DELIVERY])


@contextmanager
def server(folder: Path) -> Any:
    """`mlflow server` in a folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def curve(address: str, run_id: str) -> float:
    """Seconds until the points of the page's curve are there."""
    query = f"run_ids={run_id}&metric_key=lr&max_results={POINTS}"
    begin = time.perf_counter()
    with urllib.request.urlopen(f"{address}/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?{query}") as answer:
        found = json.load(answer)["metrics"]
    assert len(found) >= POINTS // 2, len(found)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="folder to leave the database in; default: a temporary one")
    options = parser.parse_args()
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        print(f"{options.steps:,} steps")
        trace = filled(options.steps)
        timed("to the table (csv)", lambda: trace.to_csv("lr_trace.csv"))
        timed("to the picture (png), drawn and saved", lambda: plot_learning_rate(trace, Path("lr_trace.png")))
        logger = MLflowLogger("long")
        assert logger.experiment is not None
        timed("to the logger: what the training waits for", lambda: handed_over(logger, trace))
        timed("until MLflow has all of them in SQLite", logger.flush)
        run_id = logger.run_id
        logger.finalize("success")
        print(f"{'mlflow.db':58}{Path('mlflow.db').stat().st_size / 1e6:9.0f} MB")
        with server(folder) as address:
            seconds = statistics.median(curve(address, run_id) for _ in range(5))
        print(f"{f'the page: {POINTS} points of the curve':58}{seconds:9.2f} s")
        client = logger.experiment
        found = np.array([point.value for point in client.get_metric_history(run_id, "lr")])
        assert np.array_equal(found, trace["lr"].values), "MLflow has other values"
        print(f"{'points in MLflow, each with its exact value':58}{len(found):>9,}")


if __name__ == "__main__":
    main()
