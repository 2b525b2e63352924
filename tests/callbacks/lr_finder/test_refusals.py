"""Unsupported trainings of the range test, and dry runs."""

from __future__ import annotations

import pytest
import torch

from lr_plugins import (
    Constant,
    LearningRateRangeTest,
    LearningRateScheduler,
)
from lr_plugins.errors import InvalidArgumentError, UnsupportedError
from tests import toys
from tests.callbacks.lr_finder.helpers import alike, finder, fit
from tests.toys import Toy


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("min_learning_rate", 0),
        ("min_learning_rate", "low"),
        ("max_learning_rate", 1e-9),
        ("num_training_steps", 9),
        ("num_training_steps", 20.0),
        ("mode", "cubic"),
        ("early_stop_threshold", 1),
        ("smoothing", 1.0),
        ("smoothing", -0.1),
        ("suggestion", "best"),
        ("apply", "yes"),
        ("on_failure", "ignore"),
        ("verbose", "yes"),
    ],
)
def test_argument_out_of_range_is_named(argument, value):
    with pytest.raises(InvalidArgumentError, match=f"LearningRateRangeTest.{argument} must be"):
        LearningRateRangeTest(**{argument: value})


def test_unsupported_trainings_are_refused():
    class Manual(Toy):
        def __init__(self, count=1):
            super().__init__(lambda parameters: [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(count)])
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            pass

    with pytest.raises(UnsupportedError, match="does not support manual optimization"):
        fit(Manual(), finder())
    with pytest.raises(UnsupportedError, match=r"needs exactly one optimizer, but configure_optimizers\(\) returned 2"):
        fit(Manual(2), finder())

    class Lazy(Toy):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.LazyLinear(1)

    with pytest.raises(UnsupportedError, match="lazy modules"):
        fit(Lazy(), finder())


def test_a_dry_run_does_not_search():
    search = finder()
    fit(None, search, fast_dev_run=True)
    assert search.found is None


def test_trainers_of_the_other_package_search_as_well():
    import lightning.pytorch as lightning

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return torch.nn.functional.mse_loss(self.layer(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    search, scheduler = finder(), LearningRateScheduler(Constant())
    lightning.Trainer(max_epochs=1, callbacks=[scheduler, search], **toys.QUIET).fit(Net(), alike())
    assert scheduler.trace["lr"].values.tolist() == [search.found.learning_rate] * 6
