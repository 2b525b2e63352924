"""Callbacks copied or pickled before, during and after a fit keep their record but not the fit."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch

import lr_plugins as lp
from tests.toys import Toy, fit, loader

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda one: pickle.loads(pickle.dumps(one)), "copy": copy.copy}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def record(callback):
    trace = getattr(callback, "trace", {})
    return {name: one.values.tolist() for name, one in trace.items()}, getattr(callback, "history", None)


class Copies(pl.Callback):
    """Copies others in the middle of an epoch and at its end."""

    def __init__(self, others):
        self.others, self.made = others, 0

    def copy(self):
        for one in self.others:
            for way in WAYS.values():
                again = way(one)
                assert record(again) == record(one)
                held = [*vars(again).values()]
                assert not any(isinstance(value, (pl.Trainer, pl.LightningModule)) for value in held)
                assert not {"log", "log_dict"} & set(vars(again))
                self.made += 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in (3, 9):
            self.copy()

    def on_train_epoch_end(self, trainer, pl_module):
        self.copy()


@pytest.mark.parametrize("driven", [True, False])
def test_copy_has_the_record_but_not_the_fit(driven):
    others = [lp.LearningRateScheduler(lp.CosineDecay(0.1))] if driven else []
    others += [lp.LearningRateTrace(), lp.History(), lp.KerasProgress(verbose=0)]
    others += [
        lp.LearningRateRangeTest(
            min_learning_rate=1e-3, max_learning_rate=1.0, num_training_steps=20, apply=False, verbose=0
        )
    ]
    copies = Copies(others)
    copies.copy()
    fit(Toy(sgd), *others, copies, epochs=2, val=loader(8))
    copies.copy()
    assert copies.made == 6 * 3 * len(others)
    again = pickle.loads(pickle.dumps(others))  # they work in another fit
    fit(Toy(sgd), *again, epochs=1)
    assert len(again[-4].trace["lr"]) == 6
    assert len(others[-4].trace["lr"]) == 12
