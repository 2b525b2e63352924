"""A run that resumes keeps the result."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl

from lr_plugins import (
    LearningRateRangeTest,
    LearningRateScheduler,
    LearningRateTrace,
    StepDecay,
)
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.errors import TrainingError
from tests.callbacks.lr_finder.helpers import SEARCH, alike, built_with, finder, fit, weights
from tests.toys import Toy


class Never(LearningRateRangeTest):
    """Must not search."""

    def _search(self, trainer, pl_module):
        raise AssertionError("searched again")

    state_key = "LearningRateRangeTest"


def trained(folder, search, schedule, epochs, ckpt_path=None, module=None):
    scheduler, last = LearningRateScheduler(schedule), LastCheckpoint(folder, min_seconds=0.0)
    module = module or built_with(0.1)
    fit(module, last, scheduler, search, epochs=epochs, ckpt_path=ckpt_path)
    return module, scheduler


def test_resumed_run_keeps_the_found_rate_without_searching(tmp_path):
    schedule, search, again = StepDecay(every="1ep"), finder(), Never(**SEARCH)
    whole, _ = trained(tmp_path / "whole", finder(), schedule, 4)
    trained(tmp_path / "first", search, schedule, 2)
    rest, scheduler = trained(tmp_path / "rest", again, schedule, 4, tmp_path / "first/last.ckpt")
    assert again.found == search.found
    assert again.curve is None
    assert weights(rest) == weights(whole)
    found = search.found.learning_rate
    assert scheduler.trace["lr"].values.tolist() == [found * factor for factor in (0.25, 0.125) for _ in range(6)]


def test_resumed_run_without_a_scheduler_keeps_the_found_rate(tmp_path):
    search, trace, last = finder(), LearningRateTrace(), LastCheckpoint(tmp_path, min_seconds=0.0)
    fit(built_with(0.1), last, search, epochs=1)
    fit(built_with(0.1), trace, Never(**SEARCH), epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert trace.trace["lr"].values.tolist() == [search.found.learning_rate] * 6


@pytest.mark.parametrize("change", ["no finder", "apply=False"])
def test_resuming_without_the_finder_is_refused(change, tmp_path):
    schedule, search = StepDecay(every="1ep"), finder()
    trained(tmp_path, search, schedule, 2)
    other = pl.Callback() if change == "no finder" else finder(apply=False)
    with pytest.raises(TrainingError) as refusal:
        trained(tmp_path / "rest", other, schedule, 4, tmp_path / "last.ckpt")
    assert f"the optimizer's learning rate  {search.found.learning_rate:g}" in str(refusal.value)


def test_run_started_without_the_finder_resumes_without_it(tmp_path, capsys):
    schedule = StepDecay(every="1ep")
    trained(tmp_path, pl.Callback(), schedule, 2)
    again = Never(**{**SEARCH, "verbose": 1})
    _, scheduler = trained(tmp_path, again, schedule, 3, tmp_path / "last.ckpt")
    assert scheduler.trace["lr"].values.tolist() == [0.025] * 6
    assert "range test: none, because the run was started without" in capsys.readouterr().out


def test_second_fit_continues_and_a_new_trainer_searches_again():
    search, scheduler, module = finder(), LearningRateScheduler(StepDecay(every="1ep")), built_with(0.1)
    trainer = fit(module, search, scheduler, epochs=1)
    found = search.found
    search._search = None  # must not be called
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, alike())
    assert scheduler.trace["lr"].values.tolist() == [found.learning_rate] * 6 + [found.learning_rate / 2] * 6
    del search._search
    fit(built_with(0.3), search, epochs=1)
    assert search.found == found


def test_interrupted_search_is_repeated_on_resume(tmp_path):
    class Interrupted(Toy):
        stops = True

        def training_step(self, batch, batch_idx):
            if self.stops and self.trainer.global_step == 7:
                self.trainer._signal_connector.received_sigterm = True
            return super().training_step(batch, batch_idx)

    whole, _ = trained(tmp_path / "whole", finder(), StepDecay(every="1ep"), 2)
    with pytest.raises(SystemExit):
        trained(tmp_path / "first", finder(), StepDecay(every="1ep"), 2, module=Interrupted())
    search, module = finder(), Interrupted()
    module.stops = False
    rest, _ = trained(tmp_path / "rest", search, StepDecay(every="1ep"), 2, tmp_path / "first/last.ckpt", module)
    assert search.found.learning_rate
    assert weights(rest) == weights(whole)
