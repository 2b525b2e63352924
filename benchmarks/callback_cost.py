"""What LearningRateScheduler adds to a training step and to an epoch, beside a callback without hooks.

How it is measured: in one process, one torch thread. In every round each way trains the net of the Iris recipe (4-6-3,
batches of 5) for three epochs of 30 steps with a bare Lightning Trainer, in an order that rotates from round to round.
A step is the time from the start of one batch to that of the next; the first few of a fit are left out. An epoch is the
time from the start of its first batch to that of the next epoch's. The tables show the lowest decile and the median,
and how much they are above those with the empty callback. The lowest decile is what other work on the machine disturbs
least.

* nothing: no callback.
* empty callback: a `Callback` that has no hook of its own.
* scheduler: LearningRateScheduler with a schedule of the step, or of the epoch.

    python benchmarks/callback_cost.py --rounds 80
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from lr_plugins import InverseTimeDecay, KerasSGD, LearningRateScheduler, StepDecay
from lr_plugins.training.losses import KerasCategoricalCrossentropy
from lr_plugins.training.models import MLP

EPOCHS, STEPS, FIRST = 3, 30, 5
SILENT: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
EMPTY = "empty callback"
WAYS: dict[str, Callable[[], list[pl.Callback]]] = {
    "nothing": list,
    EMPTY: lambda: [pl.Callback()],
    "scheduler, of the step": lambda: [LearningRateScheduler(InverseTimeDecay(decay_steps=1, decay_rate=0.005))],
    "scheduler, of the epoch": lambda: [LearningRateScheduler(StepDecay(drop=0.5, every="3ep"))],
}


class Module(pl.LightningModule):
    """The recipe's net, which notes when each batch starts."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.loss = MLP((4,), 3, (4, 6), "keras"), KerasCategoricalCrossentropy()
        self.starts: list[list[float]] = []  # of the batches, by epoch

    def training_step(self, batch: Any, index: int) -> Any:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return KerasSGD(self.net.parameters(), lr=0.1, momentum=0.9)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        if not index:
            self.starts.append([])
        self.starts[-1].append(time.perf_counter())


def train(way: str) -> tuple[list[float], list[float]]:
    """The seconds of the steps of a training, and of its epochs."""
    x, y = torch.randn(5 * STEPS, 4), torch.arange(5 * STEPS) % 3
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 5)
    module = Module()
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=WAYS[way](), **SILENT)
    trainer.fit(module, batches)
    steps = [end - start for epoch in module.starts for start, end in itertools.pairwise(epoch)]
    return steps[FIRST:], [after[0] - before[0] for before, after in itertools.pairwise(module.starts)]


def show(what: str, found: dict[str, list[float]]) -> None:
    """Print a table of durations by way."""
    low = {way: 1e6 * statistics.quantiles(durations, n=10)[0] for way, durations in found.items()}
    middle = {way: 1e6 * statistics.median(durations) for way, durations in found.items()}
    print(f"| {what}, us | lowest decile | above the empty callback's | median | above the empty callback's |")
    print("|---|---|---|---|---|")
    for way in found:
        cells = [f"{each[way]:.0f} | {each[way] - each[EMPTY]:+.0f}" for each in (low, middle)]
        print(f"| {way} | {cells[0]} | {cells[1]} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=80)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    ways = [*WAYS]
    steps: dict[str, list[float]] = {way: [] for way in ways}
    epochs: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            new_steps, new_epochs = train(way)
            steps[way] += new_steps
            epochs[way] += new_epochs
    show("a step", steps)
    show(f"an epoch of {STEPS} steps", epochs)


if __name__ == "__main__":
    main()
