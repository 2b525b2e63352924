"""What a progress bar costs a training step: ours, one line per epoch, and Lightning's bars.

Method: in one process and one torch thread, each contender trains the same tiny module (a step takes what Lightning
itself needs, about half a millisecond) for the same number of steps per round, in an order that rotates from round to
round. Standard output is a terminal that discards everything. The table shows the median time of a step and the median
of its ratios, within each round, to the run without progress.

Then the callback alone: `on_train_batch_start` and `on_train_batch_end` of one batch, without and with a refresh of the
bar, of which there are at most 20 per second.

    python benchmarks/progress.py
    python benchmarks/progress.py --steps 2000 --rounds 7
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import CosineDecay, History, KerasProgress, LearningRateScheduler

NONE = "no progress"


class Net(pl.LightningModule):
    """A step that does next to nothing and logs two metrics of the epoch, which Lightning's bars show, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch[0]).mean() ** 2
        self.log_dict({"loss": loss, "acc": loss.detach()}, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Terminal(io.StringIO):
    """A terminal that discards everything, and counts the writes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return len(text)

    def isatty(self) -> bool:
        return True


class Watch(Callback):
    """The time from the first batch to the end of the last epoch."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.begin


CONTENDERS: dict[str, Callable[[], tuple[list[Callback], bool]]] = {
    NONE: lambda: ([], False),
    "KerasProgress(verbose=2)": lambda: ([KerasProgress()], False),
    "KerasProgress(verbose=1)": lambda: ([KerasProgress(verbose=1)], False),
    "KerasProgress(verbose=1), keras3": lambda: ([KerasProgress("keras3", verbose=1)], False),
    "History": lambda: ([History()], False),
    "Lightning's TQDMProgressBar": lambda: ([], True),
    "Lightning's RichProgressBar": lambda: ([RichProgressBar()], True),
}


def train(callbacks: list[Callback], bar: bool, steps: int, module: Net) -> tuple[pl.Trainer, float]:
    """The Trainer, and the seconds of its training."""
    watch = Watch()
    data = DataLoader(TensorDataset(torch.zeros(steps * 4, 4)), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        callbacks=[*callbacks, LearningRateScheduler(CosineDecay(0.1)), watch],
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=bar,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return trainer, watch.seconds


class Alone(Callback):
    """Calls the hooks of another callback over and over within one epoch, where training would call them once."""

    def __init__(self, other: KerasProgress, terminal: Terminal) -> None:
        self.other, self.terminal = other, terminal

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx != 20:
            return
        plain, refreshing = [], []
        end = time.perf_counter() + 2.0
        while time.perf_counter() < end:
            writes, begin = self.terminal.writes, time.perf_counter()
            self.other.on_train_batch_start(trainer, pl_module, batch, batch_idx)
            self.other.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            taken = time.perf_counter() - begin
            (plain if self.terminal.writes == writes else refreshing).append(taken)
        self.hooks, self.refresh = statistics.median(plain), statistics.median(refreshing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    names, seconds = list(CONTENDERS), {name: [] for name in CONTENDERS}
    terminal = Terminal()
    for turn in range(options.rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            callbacks, bar = CONTENDERS[name]()
            with contextlib.redirect_stdout(terminal):
                _, taken = train(callbacks, bar, options.steps, Net())
            if turn:  # the first round warms up
                seconds[name].append(taken)
    print(f"{options.steps} steps, {options.rounds} rounds, {os.cpu_count()} cores")
    for name, mine in seconds.items():
        step = statistics.median(mine) / options.steps * 1e3
        ratio = statistics.median(one / bare for one, bare in zip(mine, seconds[NONE], strict=True))
        print(f"{name:36}{step:8.3f} ms {ratio:6.3f}x")
    for style in ("keras2", "keras3"):
        progress = KerasProgress(style, verbose=1)
        alone = Alone(progress, terminal)
        with contextlib.redirect_stdout(terminal):
            train([progress, alone], False, 40, Net())
        print(f"{style} alone: {alone.hooks * 1e6:.2f} us per step, {alone.refresh * 1e6:.0f} us with a refresh")


if __name__ == "__main__":
    main()
