"""A schedule starts from the optimizer's own learning rate, whatever else has changed it."""

import pytest
import pytorch_lightning as pl
import torch

from lr_plugins import (
    Constant,
    LearningRateScheduler,
    StepDecay,
)
from lr_plugins.errors import InvalidArgumentError
from tests.toys import Toy, fit


def test_groups_keep_their_ratio_to_the_default():
    def make(parameters):
        weight, bias = parameters
        groups = [{"params": [weight], "name": "weight"}, {"params": [bias], "lr": 0.02, "name": "bias"}]
        return torch.optim.SGD(groups, lr=0.1)

    scheduler = LearningRateScheduler(StepDecay(0.4, every="1ep"))
    fit(Toy(make), scheduler, epochs=2)
    assert list(scheduler.trace) == ["lr/weight", "lr/bias"]
    assert scheduler.trace["lr/weight"].values.tolist() == [0.4] * 6 + [0.2] * 6
    assert scheduler.trace["lr/bias"].values == pytest.approx([0.08] * 6 + [0.04] * 6, rel=1e-15)


def test_groups_with_the_same_name_are_numbered():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight], "name": "a"}, {"params": [bias], "name": "a"}], lr=0.1)

    scheduler = LearningRateScheduler(Constant())
    fit(Toy(make), scheduler, epochs=1)
    assert list(scheduler.trace) == ["lr/a-0", "lr/a-1"]


def test_groups_with_their_own_rates_need_a_positive_default():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.1}], lr=0.0)

    with pytest.raises(InvalidArgumentError, match="the default lr of SGD must be greater than 0"):
        fit(Toy(make), LearningRateScheduler(Constant(0.1)))


@pytest.mark.parametrize(
    "make_scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=18),
    ],
    ids=["LambdaLR", "OneCycleLR"],
)
def test_scheduler_returned_by_the_module_is_overridden(make_scheduler):
    class Both(Toy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [{"scheduler": make_scheduler(optimizer), "interval": "step"}]

    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    with pytest.warns(UserWarning, match=r"Both\.configure_optimizers\(\) returns .*overrides it"):
        fit(Both(), scheduler, epochs=2)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 6 + [0.05] * 6


def test_kept_optimizer_starts_from_its_own_rate_in_every_fit():
    kept = []

    def make(parameters):
        if not kept:
            kept.append(torch.optim.SGD(parameters, lr=0.1))
        return kept[0]

    module, scheduler = Toy(make), LearningRateScheduler(StepDecay(every="1ep"))
    for _ in range(2):
        fit(module, scheduler, epochs=2)
        assert scheduler.trace["lr"].values.tolist() == [0.1] * 6 + [0.05] * 6
    kept[0].param_groups[0]["lr"] = 0.4  # a value set by the user counts
    fit(module, scheduler, epochs=1)
    assert scheduler.trace["lr"].values.tolist() == [0.4] * 6


def test_tensor_shared_by_groups_is_not_written_twice():
    rate = torch.tensor(0.1)

    def make(parameters):
        weight, bias = parameters
        return torch.optim.Adam([{"params": [weight]}, {"params": [bias]}], lr=rate, foreach=False)

    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    for _ in range(2):
        trainer = fit(Toy(make), scheduler, epochs=2)
        assert scheduler.trace["lr/0"].values == pytest.approx([0.1] * 6 + [0.05] * 6)
    assert float(rate) == float(trainer.optimizers[0].defaults["lr"]) == pytest.approx(0.1)


def test_rate_set_by_the_lightning_finder_is_the_start():
    class Findable(Toy):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            self.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=self.lr)

    class Found(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.optimizers[0].param_groups[0]["lr"] = 0.3

    for schedule, rate in ((StepDecay(), 0.3), (StepDecay(0.2), 0.2)):
        scheduler = LearningRateScheduler(schedule)
        fit(Findable(), Found(), scheduler, epochs=1)
        assert scheduler.trace["lr"].values.tolist() == [rate] * 6
