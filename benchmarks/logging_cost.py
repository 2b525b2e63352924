"""What it costs to log loss and learning rate at every step to MLflow's SQLite, with a training step of 2 ms.

Method: in one process and one torch thread, each contender trains the same module for the same number of steps per
round, in an order that rotates from round to round; all of them log to one database. The step is calibrated to about
2 ms of matrix products. The table shows the median time of a step and the median of its ratios, within each round, to
the run with no logger: `training` is from the first batch to the end of the last epoch, `with the end` adds what the
loggers do until `fit` returns (MLflow then has every point).

- `no logger`: `self.log` at every step, a learning-rate schedule, and `logger=False`.
- `ours`: MLflowLogger and LearningRateTrace.
- `Lightning's`: LearningRateMonitor and Lightning's own MLFlowLogger; and the same with `synchronous=False`.

    python benchmarks/logging_cost.py
    python benchmarks/logging_cost.py --steps 2000 --rounds 5 --step-ms 2
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import MLFlowLogger
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import CosineDecay, LearningRateScheduler, LearningRateTrace, MLflowLogger

NONE = "no logger"


class Busy(pl.LightningModule):
    """A step that takes as long as so many matrix products."""

    def __init__(self, products: int) -> None:
        super().__init__()
        self.products = products
        self.weight = torch.nn.Parameter(torch.randn(96, 96) / 96)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x = self.weight
        with torch.no_grad():
            for _ in range(self.products):
                x = torch.relu(x @ self.weight)
        loss = (self.weight**2).mean() + 0 * x.sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(Callback):
    """The time from the first batch to the end of the last epoch."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.begin


def calibrated(milliseconds: float) -> int:
    """So many products take that long."""
    module = Busy(200)
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(20):
            with torch.no_grad():
                x = module.weight
                for _ in range(module.products):
                    x = torch.relu(x @ module.weight)
        seconds = (time.perf_counter() - begin) / 20
    return max(1, round(200 * milliseconds / 1000 / seconds))


def ways(uri: str) -> dict[str, Callable[[], tuple[Any, list[Callback]]]]:
    """The logger and the callbacks of each."""
    return {
        NONE: lambda: (False, []),
        "ours": lambda: (MLflowLogger("ours", tracking_uri=uri), [LearningRateTrace()]),
        "Lightning's": lambda: (MLFlowLogger("theirs", tracking_uri=uri), [LearningRateMonitor("step")]),
        "Lightning's, synchronous=False": lambda: (
            MLFlowLogger("theirs", tracking_uri=uri, synchronous=False),
            [LearningRateMonitor("step")],
        ),
    }


def train(logger: Any, callbacks: list[Callback], products: int, steps: int) -> tuple[float, float]:
    """(seconds of the training, and with its end)."""
    watch = Watch()
    data = DataLoader(TensorDataset(torch.zeros(steps // 2, 1)))
    trainer = pl.Trainer(
        max_epochs=2,
        logger=logger,
        callbacks=[LearningRateScheduler(CosineDecay(0.1)), *callbacks, watch],
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Busy(products), data)
    return watch.seconds, time.perf_counter() - watch.begin


def check(uri: str, logger: Any, steps: int) -> None:
    """Every point is there."""
    client = mlflow.MlflowClient(uri)
    for name in ("loss", "lr"):
        found = len(client.get_metric_history(logger.run_id, name))
        assert found == steps, f"{found} of {steps} points of {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=2.0)
    parser.add_argument("--only", nargs="+", help="ways, besides no logger")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        uri = f"sqlite:///{Path(folder)}/mlflow.db"
        mlflow.MlflowClient(uri).search_experiments()
        chosen = {
            name: way for name, way in ways(uri).items() if name == NONE or not options.only or name in options.only
        }
        products, names = calibrated(options.step_ms), list(chosen)
        print(f"{products} products a step, {options.steps} steps, {options.rounds} rounds, {os.cpu_count()} cores")
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for turn in range(options.rounds + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                logger, callbacks = chosen[name]()
                taken = train(logger, callbacks, products, options.steps)
                if name == "ours":
                    check(uri, logger, options.steps)
                if turn:  # the first round warms up
                    seconds[name].append(taken)
        print(f"{'':32}{'training':>22}{'with the end':>22}")
        for name, mine in seconds.items():
            cells = []
            for which in (0, 1):
                step = statistics.median(one[which] for one in mine) / options.steps * 1e3
                ratio = statistics.median(one[which] / bare[0] for one, bare in zip(mine, seconds[NONE], strict=True))
                cells.append(f"{step:8.3f} ms {ratio:6.3f}x")
            print(f"{name:32}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
