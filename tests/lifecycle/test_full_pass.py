"""FullPass measures a metric over the whole training set before an epoch and has no side effects."""

import math

import pytest
import pytorch_lightning as pl
import torch

from lr_plugins import (
    Constant,
    LearningRateScheduler,
    LossDriven,
)
from lr_plugins.callbacks import FullPass
from lr_plugins.errors import InvalidArgumentError
from tests.toys import Toy, fit, loader


def test_full_pass_measures_the_current_model():
    measured, data = [], loader(22, 4)

    class Checked(FullPass):
        def __call__(self, trainer, pl_module):
            x, y = data.dataset.tensors
            with torch.no_grad():
                expected = float(torch.nn.functional.mse_loss(pl_module.layer(x), y))
            measured.append(super().__call__(trainer, pl_module))
            assert measured[-1] == pytest.approx(expected, rel=1e-6)
            assert pl_module.training
            return measured[-1]

    scheduler = LearningRateScheduler(LossDriven(0.001, monitor="whole"), measure={"whole": Checked()})
    trainer = fit(None, scheduler, epochs=3, train=data)
    assert len(measured) == 3
    assert float(trainer.callback_metrics["whole"]) == pytest.approx(measured[-1])
    assert scheduler.trace["lr"].values[::6].tolist() == [0.001 * math.exp(loss) for loss in measured]


def test_full_pass_reports_what_is_missing():
    class NoLoss(Toy):
        compute_loss = None

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).sum()

    def run(module, train):
        measure = {"whole": FullPass()}
        fit(module, LearningRateScheduler(LossDriven(0.1, monitor="whole"), measure=measure), train=train)

    with pytest.raises(
        InvalidArgumentError, match=r"FullPass\.loss must be a function of .*NoLoss has no method compute_loss"
    ):
        run(NoLoss(), loader())
    with pytest.raises(InvalidArgumentError, match=r"FullPass\.loader must be given for this training set"):
        run(Toy(), [next(iter(loader()))])


def test_full_pass_keeps_modes_and_random_state():
    class Frozen(Toy):
        def __init__(self):
            super().__init__()
            self.frozen = torch.nn.Dropout()
            self.frozen.eval()

    def run(measure):
        pl.seed_everything(3, verbose=False)
        module = Frozen()
        fit(module, LearningRateScheduler(Constant(0.1), measure=measure), epochs=2)
        return module, torch.rand(3).tolist()

    plain, numbers = run({})
    measured, same = run({"whole": FullPass()})
    assert same == numbers
    assert torch.equal(plain.layer.weight, measured.layer.weight)
    assert measured.layer.training
    assert not measured.frozen.training


def test_measured_values_are_logged_for_every_schedule():
    trainer = fit(None, LearningRateScheduler(Constant(0.1), measure={"whole": FullPass()}), epochs=2)
    assert float(trainer.callback_metrics["whole"]) > 0
    with pytest.raises(InvalidArgumentError, match=r"measure\['a'\] must be a function of"):
        LearningRateScheduler(Constant(), measure={"a": 3})
