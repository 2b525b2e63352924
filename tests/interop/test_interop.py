"""Our schedules in plain loops, and schedulers of other libraries as schedules."""

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.optim import lr_scheduler
from transformers import get_cosine_schedule_with_warmup

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    InverseTimeDecay,
    LearningRateScheduler,
    LossDriven,
    RunLength,
    StepDecay,
    as_schedule,
)
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.interop import ScheduleLR, TorchSchedule
from tests.toys import Toy, fit


def sgd(lr=0.1, groups=1):
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)]
    if groups > 1:
        parameters[1]["lr"] = lr / 10
    return torch.optim.SGD(parameters, lr=lr)


def loop(scheduler, steps):
    rates = []
    for _ in range(steps):
        scheduler.optimizer.step()
        rates.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.step()
    return np.array(rates)


@pytest.mark.parametrize(
    "schedule",
    [
        StepDecay(every="7st"),
        InverseTimeDecay(0.3, decay_steps=1, decay_rate=0.1),
        CosineDecay().with_warmup("10%"),
        lambda epoch: 1 / (1 + epoch),
    ],
    ids=["step", "inverse", "warm-up", "function"],
)
def test_a_plain_loop_gets_exactly_the_schedule(schedule):
    run = RunLength.of(steps_per_epoch=10, epochs=5)
    scheduler = ScheduleLR(sgd(groups=2), schedule, run_length=run)
    rates = loop(scheduler, 50)
    expected = [as_schedule(schedule)(run.position(step, 0.1)) for step in range(50)]
    assert rates[:, 0].tolist() == expected
    assert rates[:, 1] == pytest.approx(np.array(expected) / 10)


def test_a_loaded_state_takes_effect_at_once():
    first = ScheduleLR(sgd(), StepDecay(drop=0.1, every="10st"))
    loop(first, 25)
    state = first.state_dict()
    assert state == {"last_epoch": 25}
    again = ScheduleLR(sgd(), StepDecay(drop=0.5, every="10st"))
    again.load_state_dict(state)
    assert again.get_last_lr() == [0.1 * 0.5**2]


def test_lightning_steps_it_like_any_other_scheduler():
    class Returns(Toy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = ScheduleLR(optimizer, StepDecay(every="4st"))
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    trainer = fit(Returns(), epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**3


def test_metric_driven_schedules_are_rejected():
    with pytest.raises(InvalidArgumentError, match=r"one that observes no metrics \(it observes loss\)"):
        ScheduleLR(sgd(), LossDriven())


FACTORIES = {
    "torch": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.01),
    "torch, warm-up": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [5],
    ),
    "transformers": lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 5, 40),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_foreign_scheduler_gives_its_values_at_any_position(factory):
    theirs = loop(factory(sgd()), 40)[:, 0]
    schedule = TorchSchedule(factory)
    run = RunLength.of(steps_per_epoch=10)
    assert schedule(run.position(33, 0.1)) == theirs[33]
    assert schedule(run.position(2, 0.1)) == theirs[2]
    assert schedule(run.position(np.arange(40), 0.1)).tolist() == theirs.tolist()
    doubled = schedule(run.position(np.arange(40), 0.2))  # another base, another replay
    assert doubled[0] == pytest.approx(2 * theirs[0])


def test_timms_schedulers_get_their_position():
    for in_epochs in (True, False):

        def factory(optimizer, in_epochs=in_epochs):
            return CosineLRScheduler(
                optimizer, t_initial=20, lr_min=1e-3, warmup_t=5, warmup_lr_init=1e-4, t_in_epochs=in_epochs
            )

        original = factory(sgd())
        expected = [original._get_lr(step)[0] for step in range(30)]
        assert [TorchSchedule(factory, initial_learning_rate=0.1)(step) for step in range(30)] == pytest.approx(
            expected, rel=1e-12
        )


def test_torch_schedule_combines_and_resumes_like_any_other(tmp_path):
    def schedule():
        foreign = TorchSchedule(lambda optimizer: lr_scheduler.StepLR(optimizer, 1, 0.5), per="epoch")
        return Constant(0.3).then(foreign * 2.0, after="1ep")

    whole = LearningRateScheduler(schedule())
    fit(None, whole, epochs=3)
    assert whole.trace["lr"].values.tolist() == [0.3] * 6 + [0.2] * 6 + [0.1] * 6
    fit(None, LearningRateScheduler(schedule()), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    rest = LearningRateScheduler(schedule())
    fit(None, rest, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert rest.trace["lr"].values.tolist() == [0.1] * 6


def test_bad_arguments():
    with pytest.raises(
        InvalidArgumentError, match=r"TorchSchedule\.factory must be a function from optimizer to scheduler"
    ):
        TorchSchedule(3)
    with pytest.raises(InvalidArgumentError, match=r"TorchSchedule\.per must be"):
        TorchSchedule(FACTORIES["torch"], per="batch")
    with pytest.raises(InvalidArgumentError, match="must be a scheduler with a step method"):
        TorchSchedule(lambda optimizer: 3)(RunLength().position(0, 0.1))


def test_assignments_work_in_a_plain_loop():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedules = [
        CosineDecay(),
        Assign(StepDecay(0.5, every="2st"), params=r"^1\."),
        Assign(Constant(0.5), to="momentum"),
    ]
    rates = loop(ScheduleLR(optimizer, schedules, run_length=RunLength.of(steps=8), module=net), 8)
    run = RunLength.of(steps=8)
    assert rates[:, 0].tolist() == [CosineDecay(0.1)(run.position(step)) for step in range(8)]
    assert rates[:, 1].tolist() == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_parameter_names_come_from_the_optimizer():
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.named_parameters(), lr=0.1)
    rates = loop(ScheduleLR(optimizer, [Assign(Constant(0.5), params="bias$")]), 1)
    assert rates.tolist() == [[0.1, 0.5]]
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]


def test_a_function_of_the_epoch_is_called_once_an_epoch():
    asked = []

    def halve(epoch, lr):
        asked.append(epoch)
        return lr / 2

    rates = loop(ScheduleLR(sgd(), halve, run_length=RunLength.of(steps_per_epoch=10, epochs=5)), 50)
    assert rates[::10, 0].tolist() == [0.1 / 2 ** (1 + epoch) for epoch in range(5)]
    assert sorted(set(asked)) == [0, 1, 2, 3, 4, 5]  # the step after the last one, too: so torch's loop goes
    assert len(asked) == 6


def test_metric_driven_schedulers_are_rejected_with_a_hint():
    plateau = TorchSchedule(lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer), initial_learning_rate=0.1)
    with pytest.raises(InvalidArgumentError, match=r"lr_plugins\.ReduceLROnPlateau"):
        plateau(3)
    with pytest.raises(InvalidArgumentError, match="TorchSchedule"):
        LearningRateScheduler(lr_scheduler.StepLR(sgd(), 3))
