"""A copied or pickled ScheduleLR continues where the original is, like torch's schedulers."""

import copy
import functools
import io
import pickle

import cloudpickle
import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from lr_plugins import Assign, Constant, CosineDecay, FunctionSchedule, RunLength, StepDecay
from lr_plugins.interop import ScheduleLR, TorchSchedule
from tests.interop.loops import sgd, used

RUN = RunLength.of(steps_per_epoch=5, epochs=4)


def halve(epoch, lr):
    return lr / 2


def net():
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))


def two_groups():
    layers = net()
    return torch.optim.SGD(
        [{"params": layers[0].parameters()}, {"params": layers[1].parameters(), "lr": 0.01}], lr=0.1, momentum=0.9
    )


def with_module(schedules, **options):
    layers = net()
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1, **options)
    return ScheduleLR(optimizer, schedules, run_length=RUN, module=layers)


SCHEDULERS = {
    "one group": lambda: ScheduleLR(sgd(), CosineDecay().with_warmup("10%"), run_length=RUN),
    "two groups": lambda: ScheduleLR(two_groups(), CosineDecay().with_warmup("10%"), run_length=RUN),
    "tensor": lambda: ScheduleLR(sgd(torch.tensor(0.1)), StepDecay(every="3st")),
    "function": lambda: ScheduleLR(sgd(), halve, run_length=RUN),
    "factory": lambda: ScheduleLR(sgd(), TorchSchedule(functools.partial(StepLR, step_size=3))),
    "split": lambda: with_module([CosineDecay(), Assign(StepDecay(0.5, every="2st"), params=r"^1\.")]),
    "split, and by index": lambda: with_module(
        [
            CosineDecay(),
            Assign(Constant(0.01), to="weight_decay", params="bias$"),
            Assign(StepDecay(every="2st"), group=0),
        ]
    ),
    "layers": lambda: with_module(Assign(CosineDecay(), layer_decay=0.5)),
    "betas": lambda: with_module([CosineDecay(), Assign(CosineDecay(0.9, end_learning_rate=0.5), to="momentum")]),
}

WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "pickle, protocol 2": lambda pair: pickle.loads(pickle.dumps(pair, protocol=2)),
    "twice": lambda pair: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(pair)))),
}


def numbers(optimizer):
    return [
        {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_copied_together_they_continue_like_the_originals(make, way, steps):
    scheduler = make()
    optimizer = scheduler.optimizer
    used(optimizer, scheduler, steps)
    other_optimizer, other = way([optimizer, scheduler])
    assert other.optimizer is other_optimizer is not optimizer
    assert numbers(other_optimizer) == numbers(optimizer)
    assert other.last_epoch == steps
    assert other.get_last_lr() == scheduler.get_last_lr()
    assert used(other_optimizer, other, 9) == used(optimizer, scheduler, 9)
    assert numbers(other_optimizer) == numbers(optimizer)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copied_alone_it_copies_its_optimizer_like_torch(way):
    for build in (
        functools.partial(StepLR, step_size=2),
        functools.partial(ScheduleLR, schedule=StepDecay(every="2st")),
    ):
        optimizer = sgd()
        scheduler = build(optimizer)
        used(optimizer, scheduler, 1)
        other = way(scheduler)
        used(other.optimizer, other, 3)
        assert other.optimizer is not optimizer
        assert other.optimizer.param_groups[0]["params"][0] is not optimizer.param_groups[0]["params"][0]
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert other.optimizer.param_groups[0]["lr"] < 0.1


def test_a_copy_does_not_affect_the_original():
    scheduler = SCHEDULERS["two groups"]()
    used(scheduler.optimizer, scheduler, 3)
    expected = used(*copy.deepcopy([scheduler.optimizer, scheduler]), 10)
    other = copy.deepcopy(scheduler)
    used(other.optimizer, other, 5)
    assert used(scheduler.optimizer, scheduler, 10) == expected


def test_a_copied_trainer_whose_method_is_the_schedule():
    class Training:
        def __init__(self):
            self.net = net()
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
            self.scheduler = ScheduleLR(self.optimizer, FunctionSchedule(self.rate, of="step"), module=self.net)

        def rate(self, step):
            return 0.1 / (1 + step)

    training = Training()
    used(training.optimizer, training.scheduler, 2)
    other = copy.deepcopy(training)
    assert other.scheduler.optimizer is other.optimizer
    assert other.optimizer.param_groups[0]["params"][0] is other.net[0].weight
    assert used(other.optimizer, other.scheduler, 2) == [[0.1 / 3], [0.1 / 4]]


def test_lambdas_are_copied_and_pickling_says_what_to_do():
    for schedule in (
        lambda epoch: 0.1,
        FunctionSchedule(lambda step: 0.1, of="step") * 2.0,
        [CosineDecay(0.1), Assign(lambda epoch: 0.5, to="momentum")],
        TorchSchedule(lambda optimizer: StepLR(optimizer, 2)),
    ):
        scheduler = ScheduleLR(sgd(momentum=0.9), schedule, run_length=RUN)
        used(*copy.deepcopy([scheduler.optimizer, scheduler]), 3)
        with pytest.raises(
            pickle.PicklingError, match=r"cannot be pickled with .*<lambda> in its schedule.*state_dict"
        ):
            pickle.dumps(scheduler)
        with pytest.raises(pickle.PicklingError, match="cannot be pickled with"):
            torch.save(scheduler, io.BytesIO())
        other = pickle.loads(cloudpickle.dumps(scheduler))  # takes the code along
        assert used(other.optimizer, other, 3) == used(scheduler.optimizer, scheduler, 3)


def test_a_shallow_copy_has_the_same_optimizer():
    scheduler = ScheduleLR(sgd(), StepDecay(every="2st"))
    other = copy.copy(scheduler)
    assert other.optimizer is scheduler.optimizer
    used(other.optimizer, other, 3)
    assert other.optimizer.param_groups[0]["lr"] == 0.05


def test_a_copy_does_not_call_the_function_again():
    asked = []

    def schedule(epoch, lr):
        asked.append(epoch)
        return lr / 2

    scheduler = ScheduleLR(sgd(), schedule, run_length=RUN)
    used(scheduler.optimizer, scheduler, 7)
    other = copy.deepcopy(scheduler)
    used(other.optimizer, other, 2)
    assert asked == [0, 1]


def test_added_groups_and_values_set_by_hand_are_copied():
    scheduler = ScheduleLR(sgd(), CosineDecay(), run_length=RUN)
    used(scheduler.optimizer, scheduler, 3)
    scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.05})
    scheduler.optimizer.param_groups[0]["lr"] = 0.7
    other = copy.deepcopy(scheduler)
    assert other.optimizer.param_groups[0]["lr"] == 0.7
    assert used(other.optimizer, other, 5) == used(scheduler.optimizer, scheduler, 5)
