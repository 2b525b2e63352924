"""Assignments in a resumed run and in a second fit."""

import pytest
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint

from lr_plugins import Assign, Constant, CosineDecay, LearningRateScheduler, LinearDecay, StepDecay
from lr_plugins.errors import InvalidArgumentError
from tests.lifecycle.assigned import Deep, planned, used
from tests.toys import Toy, fit


@pytest.mark.parametrize("resumed_at", [5, 12])
def test_resumed_groups_match_an_uninterrupted_run(resumed_at, tmp_path):
    def scheduler():
        return LearningRateScheduler(
            [
                lambda epoch, lr: lr * 0.7,
                Assign(lambda epoch, lr: lr * 0.9, params=r"^backbone\.[01]"),
                Assign(StepDecay(0.9, every="4st"), to="momentum"),
                Assign(CosineDecay(), params="head", layer_decay=0.5, layers=["weight", "bias"]),
            ]
        )

    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    whole, cut, rest = scheduler(), scheduler(), scheduler()
    fit(Deep(make), whole, epochs=4)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=resumed_at, save_top_k=-1, filename="{step}")
    fit(Deep(make), cut, saver, epochs=4, enable_checkpointing=True)
    fit(Deep(make), rest, epochs=4, ckpt_path=tmp_path / f"step={resumed_at}.ckpt")
    assert len(whole.trace) == 8
    for name, series in whole.trace.items():
        assert rest.trace[name].values.tolist() == series.values.tolist()[resumed_at:], name
    state = torch.load(tmp_path / f"step={resumed_at}.ckpt", weights_only=True)["callbacks"]["LearningRateScheduler"]
    assert sum(saved["state"] is not None for saved in state["schedules"].values()) == 2


def test_second_fit_starts_from_the_original_group_values():
    module = Toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module.make_optimizer = lambda parameters: optimizer
    for _ in range(2):
        scheduler = LearningRateScheduler(
            [Assign(StepDecay(every="1ep"), params="weight"), Assign(LinearDecay(), to="momentum")]
        )
        fit(module, scheduler)
        assert used(scheduler, "lr/weight") == [0.1] * 6 + [0.05] * 6 + [0.025] * 6
        assert used(scheduler, "momentum/weight") == planned(LinearDecay(), base=0.9)
    assert len(optimizer.param_groups) == 2


def saved(tmp_path, schedules, **options):
    saver = ModelCheckpoint(tmp_path, filename="end", enable_version_counter=False)
    fit(Deep(), LearningRateScheduler(schedules), saver, epochs=2, enable_checkpointing=True, **options)
    return tmp_path / "end.ckpt"


@pytest.mark.parametrize("other", [r"^backbone\.1", r"^backbone\.[01]"])
def test_patterns_that_differ_from_the_checkpoint_are_refused(other, tmp_path):
    checkpoint = saved(tmp_path, [Constant(0.1), Assign(Constant(0.01), params=r"^backbone\.0")])
    again = LearningRateScheduler([Constant(0.1), Assign(Constant(0.01), params=other)], on_resume="config")
    with pytest.raises(InvalidArgumentError, match="the param groups of SGD must be those of the checkpoint"):
        fit(Deep(), again, epochs=4, ckpt_path=checkpoint)


def test_resuming_without_the_split_is_refused(tmp_path):
    checkpoint = saved(tmp_path, [Constant(0.1), Assign(Constant(0.01), params="head")])
    with pytest.raises(InvalidArgumentError, match="the param groups of SGD must be those of the checkpoint"):
        fit(Deep(), LearningRateScheduler(Constant(0.1)), epochs=4, ckpt_path=checkpoint)


def test_the_order_of_assignments_may_change(tmp_path):
    def halve(epoch, lr):
        return lr / 2

    def tenth(epoch, lr):
        return lr / 10

    first, second = Assign(halve, params="weight$"), Assign(tenth, params="bias$")
    checkpoint = saved(tmp_path, [first, second])
    scheduler = LearningRateScheduler([second, first])
    fit(Deep(), scheduler, epochs=3, ckpt_path=checkpoint)
    assert used(scheduler, "lr/weight") == [0.1 / 8] * 6
    assert used(scheduler, "lr/bias") == pytest.approx([0.1 / 1000] * 6)


class Freezing(BackboneFinetuning):
    pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pattern", [None, "^backbone", "bias$"])
def test_resumed_finetuning_matches_an_uninterrupted_run(pattern, tmp_path):
    def parts():
        module = Deep(lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1))
        chosen = [] if pattern is None else [Assign(LinearDecay(0.05), params=pattern)]
        freezing = Freezing(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01, verbose=False)
        return module, freezing, LearningRateScheduler([CosineDecay(0.2), *chosen])

    module, freezing, whole = parts()
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    fit(module, freezing, whole, saver, epochs=4, enable_checkpointing=True)
    module, freezing, rest = parts()
    fit(module, freezing, rest, epochs=4, ckpt_path=tmp_path / "step=12.ckpt")
    for name, series in rest.trace.items():
        assert series.values.tolist() == whole.trace[name].values.tolist()[-12:], name
    assert whole.trace.last() == rest.trace.last() == whole.trace[next(iter(rest.trace))].last()
