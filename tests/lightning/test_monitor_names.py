"""The names of LearningRateMonitor, for existing dashboards; Lightning's own callback is the oracle."""

import pytest
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers.logger import DummyLogger

from lr_plugins import LearningRateScheduler, LearningRateTrace, StepDecay
from lr_plugins.errors import InvalidArgumentError
from tests.toys import Toy, fit


class Memory(DummyLogger):
    """A logger that keeps the names of its metrics."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def log_metrics(self, metrics, step=None):
        self.names |= set(metrics)


def one(parameters):
    return torch.optim.SGD(parameters, 0.1)


def grouped(parameters):
    return torch.optim.Adam([{"params": [one], "lr": 0.1} for one in parameters])


def named(parameters):
    return torch.optim.AdamW([{"params": [one], "name": f"part {at}"} for at, one in enumerate(parameters)])


def one_named(parameters):
    return torch.optim.SGD([{"params": list(parameters), "name": "all"}], 0.1)


def scheduled(parameters):
    optimizer = torch.optim.SGD(parameters, 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "name": "mine"}}


@pytest.mark.parametrize(
    ("make", "driven"),
    [(one, True), (one, False), (grouped, True), (named, True), (named, False), (one_named, True), (scheduled, False)],
)
def test_the_metrics_have_the_names_of_lightnings_monitor(make, driven):
    module = Toy()
    module.configure_optimizers = lambda: make(module.parameters())
    theirs, ours = Memory(), Memory()
    fit(module, LearningRateMonitor("step"), logger=theirs, log_every_n_steps=1)
    module = Toy()
    module.configure_optimizers = lambda: make(module.parameters())
    callbacks = [LearningRateScheduler(StepDecay())] if driven else []
    fit(module, *callbacks, LearningRateTrace(names="monitor"), logger=ours, log_every_n_steps=1)

    assert ours.names == theirs.names


def test_there_are_two_kinds_of_names():
    with pytest.raises(InvalidArgumentError, match=r"LearningRateTrace\.names must be"):
        LearningRateTrace(names="keras")
