"""Range tests on two processes; each rank writes its result to its own file.

Run as a program: `python -m tests.callbacks.lr_finder.ranks FOLDER`.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from lr_plugins import CosineDecay, LearningRateRangeTest, LearningRateScheduler
from lr_plugins.callbacks import History
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.data import Digits
from tests.toys import QUIET

warnings.filterwarnings("ignore")

WAYS = {"without": None, "not applied": False, "applied": True}


def trained(folder: Path, apply: bool | None) -> dict[str, object]:
    pl.seed_everything(3, verbose=False)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.3), nn.Linear(12, 10))
    module = Classifier(net, nn.CrossEntropyLoss(), partial(torch.optim.Adam, lr=0.01))
    scheduler, metrics = LearningRateScheduler(CosineDecay()), History()
    search = [] if apply is None else [LearningRateRangeTest(apply=apply, dirpath=folder / str(apply))]
    callbacks = [metrics, *search, scheduler, RandomStates()]
    options = {**QUIET, "devices": 2, "strategy": "ddp", "num_sanity_val_steps": 0}
    trainer = pl.Trainer(max_epochs=2, callbacks=callbacks, **options)
    trainer.fit(module, datamodule=Digits(batch_size=64, seed=3))
    curve = search[0].curve if search else None
    return {
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "metrics": {name: sorted(epochs.items()) for name, epochs in metrics.values.items()},
        "next random number": torch.rand(()).item(),
        "lr": scheduler.trace["lr"].values.tolist(),
        "losses": curve.losses if curve else [],
        "found": search[0].found.learning_rate if search else None,
    }


def main(folder: Path) -> None:
    found = {way: trained(folder, apply) for way, apply in WAYS.items()}
    (folder / f"{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
