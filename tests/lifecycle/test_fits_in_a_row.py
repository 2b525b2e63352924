"""One callback used in several fits, after errors, with tests in between, and copied."""

import pytest
import torch

from lr_plugins import (
    InverseTimeDecay,
    LearningRateScheduler,
    LossDriven,
    StepDecay,
)
from tests.toys import Toy, fit, loader


def test_second_fit_continues_and_a_new_trainer_starts_over():
    scheduler, module = LearningRateScheduler(StepDecay(0.8, every="1ep")), Toy()
    trainer = fit(module, scheduler, epochs=2)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert scheduler.trace["lr"].values.tolist() == [0.8] * 6 + [0.4] * 6 + [0.2] * 6
    fit(module, scheduler, epochs=1)
    assert scheduler.trace["lr"].values.tolist() == [0.8] * 6


class Failing(Toy):
    """Fails once, at one optimizer step."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.at and self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().training_step(batch, batch_idx)


def test_callback_can_be_reused_after_an_error():
    scheduler, module = (
        LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1)),
        Failing(8, KeyError("broken data")),
    )
    with pytest.raises(KeyError):
        fit(module, scheduler)
    assert len(scheduler.trace["lr"]) == 8
    fit(module, scheduler, epochs=1)
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(6)])


def test_optimizer_is_released_after_an_error():
    kept = []

    def make(parameters):
        kept.append(torch.optim.SGD(parameters, lr=0.1))
        return kept[-1]

    module = Failing(8, KeyError("broken data"))
    module.make_optimizer = make
    with pytest.raises(KeyError):
        fit(module, LearningRateScheduler(StepDecay(0.1)))
    kept[0].param_groups[0]["lr"] = 0.9
    kept[0].step()
    assert kept[0].param_groups[0]["lr"] == 0.9


def test_a_fit_with_nothing_to_do_keeps_the_position(tmp_path):
    scheduler, module = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1)), Toy()
    trainer = fit(module, scheduler, epochs=2)
    trainer.fit(module, loader())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(18)])


def test_resaving_a_finished_run_keeps_the_position(tmp_path):
    fit(None, LearningRateScheduler(LossDriven(0.001)), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    trainer = fit(None, LearningRateScheduler(LossDriven(0.001)), epochs=2, ckpt_path=tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    first, second = (torch.load(tmp_path / name, weights_only=True)["callbacks"] for name in ("a.ckpt", "b.ckpt"))
    assert first["LearningRateScheduler"]["steps"] == second["LearningRateScheduler"]["steps"] == [12]


def test_testing_a_checkpoint_does_not_move_the_next_fit(tmp_path):
    class Testable(Toy):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.compute_loss(batch))

    scheduler, module = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1)), Testable()
    trainer = fit(module, scheduler, epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    trainer.test(module, loader(8), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(18)])


def test_the_callback_can_be_copied_and_pickled():
    import copy
    import pickle

    scheduler = LearningRateScheduler(StepDecay(0.1))
    fit(None, scheduler, epochs=1)
    for copied in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        copied.trace["lr"].append(0.5)
        assert len(scheduler.trace["lr"]) == 6
        assert copied.state_dict()["steps"] == [6]
