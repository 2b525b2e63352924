"""The training with Lightning, and one case of the matrix."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.optim import lr_scheduler

from lr_plugins import (
    Assign,
    LearningRateScheduler,
)
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.training.data import Batches
from tests.lifecycle.matrix.dimensions import AT_THE_END, LOSS, Kind, Setup, Watch
from tests.lifecycle.matrix.plan import Loop, take_turns
from tests.lifecycle.matrix.record import Recorder, Replaces, Result
from tests.lifecycle.matrix.task import EPOCHS, SAMPLES, Breakdown, Net, Place, batches, breaks, validation, weights
from tests.toys import QUIET


class Data(pl.LightningDataModule):
    """The batches of each epoch; the loader is rebuilt if the epochs differ."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup_of = setup

    def train_dataloader(self) -> Batches:
        assert self.trainer is not None
        return batches(self.setup_of.sizes[min(self.trainer.current_epoch, EPOCHS - 1)])

    def val_dataloader(self) -> Batches:
        return validation()


class Module(pl.LightningModule):
    """The same task for Lightning, with a torch scheduler on Lightning's side."""

    def __init__(self, case: Case, lose: bool) -> None:
        super().__init__()
        self.net, self.case, self.lose = Net(), case, lose
        self.automatic_optimization = not case.setup.manual

    def configure_optimizers(self) -> Any:
        optimizers = self.case.setup.optimizers(self.net)
        if self.case.ours:
            return optimizers
        return optimizers, [self.case.kind.config(optimizer, self.case.watch) for optimizer in optimizers]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.net.broken = self.case.setup.scaled and breaks((self.current_epoch, batch_idx))
        if self.case.setup.manual:
            loss = take_turns(self.net, self.optimizers(), batch, batch_idx, self.manual_backward, self._after_turn)
            if not self.case.ours and self.case.kind.interval == "epoch" and self.trainer.is_last_batch:
                self._step_schedulers(monitored=False)
        else:
            loss = self.net.loss(batch)
        if self.case.kind.name == LOSS:
            self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=SAMPLES)
        return loss

    def _after_turn(self, which: int) -> None:
        """Lightning leaves schedulers to the module under manual optimization."""
        if not self.case.ours and self.case.kind.interval == "step":
            self.lr_schedulers()[which].step()

    def _step_schedulers(self, monitored: bool) -> None:
        for scheduler in self.lr_schedulers():
            if monitored != isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                continue
            if not monitored:
                scheduler.step()
            elif (self.current_epoch + 1) % self.case.watch.epochs == 0 and "val_loss" in self.trainer.callback_metrics:
                scheduler.step(self.trainer.callback_metrics["val_loss"])

    def on_train_epoch_end(self) -> None:
        if self.case.setup.manual and not self.case.ours:
            self._step_schedulers(monitored=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net.loss(batch), batch_size=SAMPLES)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.lose:
            checkpoint["optimizer_states"] = []


@dataclass(frozen=True)
class Case:
    """One schedule, one way of training, one side."""

    kind: Kind
    setup: Setup
    ours: bool
    watch: Watch = AT_THE_END

    def watched(self, watch: Watch) -> Case:
        """The same case with other validation runs."""
        return Case(self.kind, self.setup, self.ours, watch)

    def plan(self, of: Result) -> Result:
        """The plan of an uninterrupted run with the used accumulation."""
        others = {place: factor for place, factor in of.factors.items() if factor != self.setup.factor(place[0])}
        return plan_of(self, tuple(sorted(others.items())), of.lost)

    def train(
        self,
        *callbacks: pl.Callback,
        ckpt_path: Path | None = None,
        epochs: int = EPOCHS,
        lose: bool = False,
        last: LastCheckpoint | None = None,
    ) -> Result:
        """Train with Lightning, from the start or a checkpoint, to the end or the interruption."""
        recorder, module = Recorder(), Module(self, lose)
        scheduler = LearningRateScheduler(
            [Assign(part.schedule, to=part.to, group=part.group) for part in self.kind.parts()]
        )
        mine = ([last] if last else []) + ([scheduler] if self.ours else [])
        accumulation = [] if len(self.setup.accumulate) == 1 else [GradientAccumulationScheduler(self.setup.accumulate)]
        options = {**QUIET, "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks)}
        options |= {"num_sanity_val_steps": 0, **dict(self.watch.options)}
        if len(self.setup.accumulate) == 1:
            options["accumulate_grad_batches"] = self.setup.factor(0)
        if self.setup.scaled:
            options["plugins"] = [self.setup.precision()]
        if len(set(self.setup.sizes)) > 1:
            options["reload_dataloaders_every_n_epochs"] = 1
        mine += [Replaces(self.setup.replaced, recorder)] if self.setup.replaced else []
        trainer = pl.Trainer(max_epochs=epochs, callbacks=[*accumulation, *mine, recorder, *callbacks], **options)
        with contextlib.suppress(Breakdown, SIGTERMException):
            trainer.fit(module, datamodule=Data(self.setup), ckpt_path=ckpt_path)
        recorder.steps.detach()
        if self.ours:
            self._check_trace(scheduler, recorder)
        return self._result(trainer, module, recorder)

    def _check_trace(self, scheduler: LearningRateScheduler, recorder: Recorder) -> None:
        """Assert that the trace matches the values the optimizers used."""
        columns = [list(zip(*used, strict=True)) for used in recorder.steps.used]
        rates = [list(column) for used in columns for column in used[: len(used) // 2]]
        momenta = [list(column) for used in columns for column in used[len(used) // 2 :]]
        traced = {name: series.values.tolist() for name, series in scheduler.trace.items()}
        assert [values for name, values in traced.items() if name.startswith("lr")] == rates, self
        assert all(values in momenta for name, values in traced.items() if name.startswith("momentum")), self

    def _result(self, trainer: pl.Trainer, module: Module, recorder: Recorder) -> Result:
        def end(path: Path) -> Path:
            trainer.save_checkpoint(path)
            return path

        lost = frozenset([min(recorder.factors)] if module.lose else [])
        return Result(recorder.steps.used, weights(module.net), recorder.factors, lost, recorder.begun, end)


@functools.lru_cache(maxsize=64)
def plan_of(case: Case, factors: tuple[tuple[Place, int], ...], lost: frozenset[Place]) -> Result:
    return Loop(case, dict(factors), lost).run()
