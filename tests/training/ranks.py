"""Runs on two processes that are interrupted and go on; each rank writes what it came to into a file of its own.

Run as a program: `python -m tests.training.ranks FOLDER`. All in one, since to start two processes takes long.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from lr_plugins import LearningRateScheduler, LossDriven
from lr_plugins._lightning.atomic_checkpoints import AtomicFiles
from lr_plugins.callbacks import History
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.data import Fake
from tests.toys import QUIET

warnings.filterwarnings("ignore")

WAYS = {"plain": {}, "two batches a step": {"accumulate_grad_batches": 2}, "mid-epoch": {"val_check_interval": 2}}
BATCHES = 5  # of an epoch, on each rank


def rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


class Interrupt(pl.Callback):
    """A SIGTERM for one of the two processes, in a batch counted from the begin."""

    def __init__(self, batch: int | None):
        self.batch, self.seen = batch, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.seen == self.batch and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self.seen += 1


class Diary(pl.Callback):
    """The steps at which checkpoints were taken, the samples seen, and sums that Lightning makes of each rank's own."""

    def __init__(self):
        self.saves, self.samples = [], []

    def on_train_start(self, trainer, pl_module):
        torch.manual_seed(rank())  # Lightning begins alike on all; a run that goes on has its own states after this

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.saves.append(trainer.global_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.samples.append([round(float(one.sum()), 6) for one in batch[0]])
        own = outputs["loss"] * (1 + trainer.global_rank)
        pl_module.log("own", own, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)


class Training:
    """Two epochs, of which a checkpoint is kept as often as the clock of the first process says."""

    def __init__(self, folder: Path, way: str, checkpoint: Path | None = None, interrupt: int | None = None, devices=2):
        pl.seed_everything(3, verbose=False)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.3), nn.Linear(12, 10))
        self.module = Classifier(net, nn.CrossEntropyLoss(), partial(torch.optim.Adam, lr=0.01))
        self.scheduler = LearningRateScheduler(LossDriven(0.01, monitor="own", k=0.2))
        self.history, self.diary = History(), Diary()
        self.last = LastCheckpoint(folder, every_seconds=1e-6 if rank() == 0 else 1e6, min_seconds=0.0)
        callbacks = [self.history, self.last, self.scheduler, self.diary, Interrupt(interrupt), RandomStates()]
        options = {**QUIET, "devices": devices, "num_sanity_val_steps": 0, "plugins": [AtomicFiles()], **WAYS[way]}
        options |= {"strategy": "ddp"} if devices > 1 else {}
        trainer = pl.Trainer(max_epochs=2, callbacks=callbacks, **options)
        self.ended = ""
        data = Fake(num_samples=101, batch_size=8, validation_fraction=0.21, seed=3)
        try:
            trainer.fit(self.module, datamodule=data, ckpt_path=checkpoint)
        except SIGTERMException as end:
            self.ended = type(end).__name__

    def outcome(self) -> dict[str, object]:
        return {
            "weights": {name: value.tolist() for name, value in self.module.state_dict().items()},
            "history": self.history.history,
            "next random number": torch.rand(()).item(),
            "lr": self.scheduler.trace["lr"].values.tolist(),
            "saves": self.diary.saves,
            "samples": self.diary.samples,
            "ended": self.ended,
        }


def main(folder: Path) -> None:
    found: dict[str, object] = {}
    for way in WAYS:
        whole = Training(folder / way, way).outcome()
        stopped, resumed = [], []
        for batch in range(0, 2 * BATCHES - 1, 3):
            place = folder / f"{way} {batch}"
            stopped.append(Training(place, way, interrupt=batch).outcome())
            resumed.append(Training(place, way, place / "last.ckpt").outcome())
        found[way] = {"whole": whole, "stopped": stopped, "resumed": resumed}
    (folder / f"{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
