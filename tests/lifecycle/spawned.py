"""Trainings whose fit runs in other processes; the results that the main program then has are written to a file.

Run as a program: `python -m tests.lifecycle.spawned FILE`. Separate from pytest's process, which must not be forked.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from lr_plugins import (
    CosineDecay,
    History,
    KerasProgress,
    LearningRateRangeTest,
    LearningRateScheduleMixin,
    LearningRateScheduler,
    LearningRateTrace,
    StepDecay,
)
from tests.toys import QUIET, Toy, loader

warnings.filterwarnings("ignore")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class Net(Toy):
    """A picklable measurement; a lambda cannot be sent to another process."""

    def __init__(self):
        super().__init__(sgd)


class Halving(LearningRateScheduleMixin, Net):
    learning_rate_schedule = StepDecay(0.2, every="1ep")


class WithCallbacks(Net):
    """Configures its own callbacks."""

    def configure_callbacks(self):
        return [LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)), History()]


class ManySteps(Net):
    """Enough steps that their record does not fit into a pipe."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for _ in range(1500):
            self.optimizers().step()


class Again(History):
    """A second history in one Trainer."""


class Fails(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise RuntimeError("in a worker")


def fit(module, *callbacks, strategy, epochs=2, devices=1, ckpt_path=None):
    options = {**QUIET, "strategy": strategy, "devices": devices}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=list(callbacks), num_sanity_val_steps=0, **options)
    torch.manual_seed(0)
    trainer.fit(module, loader(), loader(8), ckpt_path=ckpt_path)
    return trainer


def outcome(*callbacks):
    """The results of the callbacks, by class."""
    found = {}
    for callback in callbacks:
        if isinstance(callback, LearningRateScheduler):
            own = {"lr": values(callback), "audit": str(callback.audit), "run": list(callback.run_length)[:3]}
        elif isinstance(callback, LearningRateTrace):
            own = values(callback)
        elif isinstance(callback, LearningRateRangeTest):
            own = {"found": callback.found.learning_rate, "curve": len(callback.curve), "outcome": callback.outcome}
        else:
            own = {"history": callback.history, "epoch": callback.epoch} if isinstance(callback, History) else None
        if own is not None:
            found.setdefault(type(callback).__name__, []).append(own)
    return found


def values(callback):
    return callback.trace["lr"].values.tolist() if callback.trace else []


def everything(strategy, devices=1, module=None):
    """One callback of each class, with copies made before the fit; the module's scheduler may override this one."""
    callbacks = [
        LearningRateRangeTest(
            min_learning_rate=1e-3, max_learning_rate=1.0, num_training_steps=40, apply=False, verbose=0
        ),
        LearningRateScheduler(CosineDecay()),
        LearningRateTrace(),
        History(),
        KerasProgress(verbose=0),
        Again(style="keras3"),
    ]
    copies = [*copy.deepcopy(callbacks), *pickle.loads(pickle.dumps(callbacks)), *map(copy.copy, callbacks)]
    trainer = fit(module or Net(), *callbacks, strategy=strategy, devices=devices)
    found = outcome(*callbacks)
    if module is None:  # starting processes is slow, except by fork
        trainer.validate(Net(), loader(8), verbose=False)
        assert outcome(*callbacks) == found
    else:
        found["module's"] = outcome(*module.configure_callbacks())
    return {**found, "copies": outcome(*(one for one in copies if not isinstance(one, LearningRateRangeTest)))}


def mixin(strategy):
    """The module's scheduler overrides the Trainer's."""
    module, other, trace = Halving(), LearningRateScheduler(StepDecay(9.0)), LearningRateTrace()
    trainer = fit(module, other, trace, strategy=strategy)
    (scheduler,) = [one for one in trainer.callbacks if isinstance(one, LearningRateScheduler)]
    assert scheduler is module.configure_callbacks()[-1]
    return {**outcome(scheduler, trace), "overridden": values(other)}


def brought(strategy):
    return outcome(*fit(WithCallbacks(), strategy=strategy).callbacks)


def alone(strategy):
    """A trace without a scheduler."""
    trace = LearningRateTrace()
    fit(Net(), trace, strategy=strategy)
    return outcome(trace)


def long(strategy):
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(ManySteps(), scheduler, strategy=strategy, epochs=1)
    return [len(scheduler.trace["lr"]), scheduler.audit.followed]


def failing(strategy):
    """A failed fit brings nothing back and raises Lightning's error."""
    scheduler, history, trace = LearningRateScheduler(StepDecay(0.1)), History(), LearningRateTrace("missing")
    try:
        fit(Net(), scheduler, history, trace, Fails(), strategy=strategy)
    except Exception as error:
        return {"error": str(error)[-400:], **outcome(scheduler, history, trace)}
    return None


def resumed(strategy, folder):
    """How Lightning resumes after such a fit: another Trainer, and a checkpoint."""
    scheduler, history = LearningRateScheduler(StepDecay(0.1, every="1ep")), History()
    options = {**QUIET, "strategy": strategy, "enable_checkpointing": True}
    saver = pl.callbacks.ModelCheckpoint(folder)
    trainer = pl.Trainer(max_epochs=2, callbacks=[scheduler, history, saver], **options)
    trainer.fit(Net(), loader())
    first = outcome(scheduler, history)
    fit(Net(), scheduler, history, strategy=strategy, epochs=3, ckpt_path=saver.best_model_path)
    return [first, outcome(scheduler, history)]


def main(file: Path) -> None:
    torch.set_num_threads(1)
    found = {
        "ddp_fork": everything("ddp_fork", devices=2),
        "ddp_notebook": everything("ddp_notebook"),
        "ddp_spawn": everything("ddp_spawn", module=Halving()),
        "mixin": mixin("ddp_fork"),
        "brought": brought("ddp_fork"),
        "alone": alone("ddp_fork"),
        "long": long("ddp_fork"),
        "failing": failing("ddp_fork"),
        "resumed": resumed("ddp_fork", file.parent),
        "auto": everything("auto"),  # in the main process, for comparison
    }
    file.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
