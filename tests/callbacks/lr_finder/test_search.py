"""The steps of a search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lr_plugins import (
    CosineDecay,
    LearningRateScheduler,
)
from lr_plugins.callbacks.lr_finder.curve import rates_between
from tests.callbacks.lr_finder.helpers import Everything, finder, fit
from tests.toys import Toy, loader


class Rates(Toy):
    """Notes the learning rate of each batch."""

    def training_step(self, batch, batch_idx):
        if not hasattr(self.trainer, "noted"):
            self.trainer.noted = []
        self.trainer.noted.append([float(group["lr"]) for group in self.trainer.optimizers[0].param_groups])
        return super().training_step(batch, batch_idx)


def test_each_step_has_its_own_rate_and_loss_on_the_curve():
    search = finder(apply=False, smoothing=0.0, early_stop_threshold=None)
    trainer = fit(Rates(), search, epochs=1)
    expected = rates_between(1e-4, 1.0, 20, "exponential")
    assert [rate for (rate,) in trainer.noted[:20]] == search.curve.rates == expected
    assert (expected[0], expected[-1]) == (1e-4, 1.0)
    assert search.curve.losses == search.curve.smoothed == pytest.approx(search.curve.losses)
    assert [rate for (rate,) in trainer.noted[20:]] == [0.1] * 6


def test_accumulated_step_has_one_rate_and_the_mean_loss():
    search = finder(apply=False, early_stop_threshold=None)
    trainer = fit(Rates(), search, accumulate_grad_batches=4, epochs=1)
    # An epoch of 6 batches has a step of 4 and one of 2.
    counts = [4, 2] * 10
    rates = rates_between(1e-4, 1.0, 20, "exponential")
    expected = [rate for rate, count in zip(rates, counts, strict=True) for _ in range(count)]
    assert [rate for (rate,) in trainer.noted[:60]] == expected
    assert search.curve.rates == rates


def test_param_groups_keep_their_ratio():
    def make(parameters):
        first, *others = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.02}, {"params": others}], lr=0.1)

    search = finder(early_stop_threshold=None)
    trainer = fit(Rates(make), search, LearningRateScheduler(CosineDecay()), epochs=1)
    searched = np.array(trainer.noted[:20])
    assert searched[:, 1].tolist() == rates_between(1e-4, 1.0, 20, "exponential")
    assert searched[:, 0] == pytest.approx(0.2 * searched[:, 1])
    assert trainer.noted[20] == pytest.approx([0.2 * search.found.learning_rate, search.found.learning_rate])


def test_search_spans_epochs_and_does_not_validate():
    class Counts(Everything):
        validations = 0

        def validation_step(self, batch, batch_idx):
            type(self).validations += 1

    search = finder(apply=False, num_training_steps=50, early_stop_threshold=None)
    trainer = fit(Counts(), search, epochs=1, val=loader(8, 8))
    assert len(search.curve) == 50
    assert (trainer.global_step, trainer.current_epoch, Counts.validations) == (
        6,
        1,
        2,
    )  # one of them before the training


def test_short_stream_gives_as_many_losses_as_batches():
    class Once(IterableDataset):
        left = iter(range(30))

        def __iter__(self):
            return ((torch.ones(3), torch.ones(1)) for _ in self.left)

    search = finder(apply=False)
    fit(Toy(), search, train=DataLoader(Once(), batch_size=2), epochs=1)
    assert len(search.curve) == 15


def test_batches_without_a_loss_are_skipped():
    class Skips(Toy):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.global_step % 2 else super().training_step(batch, batch_idx)

    search = finder(apply=False, early_stop_threshold=None)
    fit(Skips(), search, epochs=1)
    assert search.curve.rates == rates_between(1e-4, 1.0, 20, "exponential")[::2]
