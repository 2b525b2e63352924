"""Trainings on two processes whose ranks see different losses; each rank writes its used values to its own file.

Run as a program: `python -m tests.lifecycle.ranks FOLDER`. One program, because starting two processes is slow.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lr_plugins import (
    BoldDriver,
    CosineDecay,
    FunctionSchedule,
    InverseTimeDecay,
    LearningRateScheduler,
    LossDriven,
    ReduceLROnPlateau,
    StepDecay,
)
from lr_plugins.errors import TrainingError
from tests.toys import QUIET, Toy, loader

warnings.filterwarnings("ignore")


def rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


SCHEDULES = {
    "loss_driven": LossDriven(0.1, monitor="mine"),
    "steps": LossDriven(0.1, when="2st"),
    "plateau": ReduceLROnPlateau(0.1, monitor="mine", mode="min", factor=0.5, patience=1, when="validation"),
    "product": CosineDecay(0.1).with_warmup("1ep") * BoldDriver(monitor="mine", mode="min"),
    "accumulated": InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5),
    "samples": StepDecay(0.1, drop=0.5, every="16sp"),  # two ranks, two batches of 4 per step
    "only on one": LossDriven(0.1, monitor="on rank 0", on_missing="warn"),
    # No reduction can fix a function that depends on the rank.
    "disagreeing": FunctionSchedule(lambda step: 0.1 if step < 8 else 0.1 + rank(), of="step"),
}


class Apart(Toy):
    """Ranks log different values under one name, and their losses differ."""

    def training_step(self, batch, batch_idx):
        # Independent of the data: after a resume within an epoch, Lightning starts at its first batch.
        return 0 * self.compute_loss(batch) + 0.1 * (1 + self.global_rank) * (1 + self.trainer.global_step)

    def on_train_epoch_end(self):
        # Improves in every epoch on rank 0, never on rank 1.
        self.log("mine", [2.0 - 0.25 * self.current_epoch, 1.0 + self.current_epoch][self.global_rank])
        if self.global_rank == 0:
            self.log("on rank 0", 1.0 / (1 + self.current_epoch))

    def on_validation_epoch_end(self):
        self.log("mine", [1.0, 1.0 + self.current_epoch][self.global_rank])


OPTIONS = {name: {"accumulate_grad_batches": 2} for name in ("accumulated", "samples")}


def train(
    name: str, folder: Path, checkpoint: Path | None = None, on_resume: str = "error", epochs: int = 4
) -> dict[str, object]:
    scheduler = LearningRateScheduler(SCHEDULES[name], verbose=1, on_resume=on_resume)
    saver = ModelCheckpoint(folder / name, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    options = {**QUIET, "devices": 2, "strategy": "ddp", "enable_checkpointing": True, **OPTIONS.get(name, {})}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[scheduler, saver], num_sanity_val_steps=0, **options)
    torch.manual_seed(0)
    error = ""
    if trainer.is_global_zero:
        print(f"--- {name}", flush=True)
    try:
        trainer.fit(Apart(), loader(48), loader(), ckpt_path=checkpoint)
    except TrainingError as raised:
        error = str(raised)
    return {"error": error, "lr": scheduler.trace["lr"].values.tolist() if scheduler.trace else []}


def main(folder: Path) -> None:
    found = {name: train(name, folder) for name in SCHEDULES}
    for name in ("steps", "product", "accumulated"):
        found[f"{name}, resumed"] = train(name, folder / "resumed", folder / name / "step=5.ckpt")
    for policy in ("error", "rescale"):
        found[policy] = train("product", folder / "resumed", folder / "product/step=10.ckpt", policy, epochs=6)
    (folder / f"{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
