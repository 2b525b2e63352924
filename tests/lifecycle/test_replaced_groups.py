"""Param groups replaced during a run: the current groups are driven and recorded."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD

from lr_plugins import Assign, Constant, LearningRateScheduler, LinearDecay, RunLength, StepDecay
from lr_plugins.errors import TrainingError
from tests.toys import Toy, fit, loader

from .test_replaced_optimizers import noting

FOUR = loader(16, 4)  # batches per epoch
HALVED = [0.1] * 4 + [0.05] * 4 + [0.025] * 4


def by_a_copy(optimizer):
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.7}


def by_pop_and_add(optimizer):
    group = optimizer.param_groups.pop()
    optimizer.add_param_group({"params": group["params"], "lr": 0.7})


def by_clear_and_add(optimizer):
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    optimizer.param_groups.clear()
    optimizer.add_param_group({"params": parameters, "lr": 0.7})


def by_a_new_list(optimizer):
    optimizer.param_groups = [{**group, "lr": 0.7} for group in optimizer.param_groups]


def by_its_own_state(optimizer):
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = 0.7
    optimizer.load_state_dict(state)


def by_an_equal_copy(optimizer):
    optimizer.param_groups[0] = dict(optimizer.param_groups[0])


WAYS = [by_a_copy, by_pop_and_add, by_clear_and_add, by_a_new_list, by_its_own_state, by_an_equal_copy]


class Replaces(pl.Callback):
    def __init__(self, way, hook, epochs=(1,)):
        self.way, self.epochs, self.done = way, epochs, set()
        setattr(self, hook, self._do)

    def _do(self, trainer, *_):
        if trainer.current_epoch in self.epochs and trainer.current_epoch not in self.done:
            self.done.add(trainer.current_epoch)
            self.way(trainer.optimizers[0])


HOOKS = [
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_end",
]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("way", WAYS)
def test_replaced_group_is_driven(way, hook):
    used = []
    scheduler, replacing = LearningRateScheduler(StepDecay(0.1, every="1ep")), Replaces(way, hook)
    fit(Toy(noting(used)), scheduler, replacing, train=FOUR, val=FOUR)
    assert replacing.done
    # on_before_optimizer_step runs within the closure of the optimizer's step.
    assert used == scheduler.trace["lr"].values.tolist() == HALVED
    assert scheduler.audit.followed == 12


@pytest.mark.parametrize("way", WAYS[:-1])
def test_replacing_a_group_warns_or_raises(way, recwarn):
    fit(None, LearningRateScheduler(StepDecay(0.1, every="1ep")), Replaces(way, "on_train_batch_start"), train=FOUR)
    told = [str(one.message) for one in recwarn if "other code has set lr to 0.7" in str(one.message)]
    assert len(told) == 1
    with pytest.raises(TrainingError, match=r"lr to 0\.7"):
        fit(
            None,
            LearningRateScheduler(StepDecay(0.1, every="1ep"), on_conflict="error"),
            Replaces(way, "on_train_batch_start"),
            train=FOUR,
        )


def test_two_replaced_groups_keep_their_ratios():
    def make(parameters):
        weight, bias = parameters
        return SGD([{"params": [weight], "name": "w"}, {"params": [bias], "lr": 0.02, "name": "b"}], lr=0.1)

    def swap(optimizer):
        first, second = optimizer.param_groups
        optimizer.param_groups[:] = [{**second, "lr": 0.3}, {**first, "lr": 0.4}]

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(make), scheduler, Replaces(swap, "on_train_batch_start"), train=FOUR)
    assert scheduler.trace["lr/w"].values.tolist() == HALVED
    assert scheduler.trace["lr/b"].values == pytest.approx([0.2 * value for value in HALVED], rel=1e-15)


def test_group_of_other_parameters_is_a_new_group():
    class Two(Toy):
        def __init__(self):
            super().__init__()
            self.other = torch.nn.Linear(3, 1)

        def configure_optimizers(self):
            return SGD(self.layer.parameters(), lr=0.1)

        def compute_loss(self, batch):
            return super().compute_loss(batch) + self.other(batch[0]).square().mean()

    module = Two()

    def replace(optimizer):
        optimizer.param_groups.pop()
        optimizer.add_param_group({"params": list(module.other.parameters()), "lr": 0.01})

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    trainer = fit(module, scheduler, Replaces(replace, "on_train_epoch_start"), train=FOUR)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0025)
    assert scheduler.trace["lr"].values == pytest.approx([0.1] * 4 + [0.005] * 4 + [0.0025] * 4)


def test_replaced_groups_keep_their_assignment():
    used = []
    schedules = [StepDecay(0.1, every="1ep"), Assign(Constant(0.003), params="weight")]
    scheduler = LearningRateScheduler(schedules)
    replacing = Replaces(by_a_new_list, "on_train_batch_start", epochs=(0, 1, 2))
    fit(Toy(noting(used)), scheduler, replacing, train=FOUR)
    assert scheduler.trace["lr/weight"].values.tolist() == used == [0.003] * 12
    assert [values.values.tolist() for name, values in scheduler.trace.items() if name != "lr/weight"] == [HALVED]


def test_float_replaced_by_a_tensor_is_driven():
    def put(optimizer):
        optimizer.param_groups[0]["lr"] = torch.tensor(0.7)

    used = []
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(noting(used)), scheduler, Replaces(put, "on_train_batch_start"), train=FOUR)
    assert used == pytest.approx(HALVED, rel=1e-7)


def test_value_written_within_the_step_is_not_followed():
    class Decays(SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            self.param_groups[0]["lr"] *= 0.5
            return loss

    scheduler = LearningRateScheduler(Constant(0.1))
    with pytest.warns(UserWarning, match="The step may have used it"):
        fit(Toy(lambda parameters: Decays(parameters, lr=0.1)), scheduler, train=FOUR, epochs=1)
    assert (scheduler.audit.steps, scheduler.audit.followed) == (4, 0)


class Reloads(pl.Callback):
    """Replaces the groups with equal ones at every batch."""

    def __init__(self, hook):
        setattr(
            self, hook, lambda trainer, *_: trainer.optimizers[0].load_state_dict(trainer.optimizers[0].state_dict())
        )


@pytest.mark.parametrize("on_conflict", ["ours", "theirs", "error"])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"])
def test_equal_replacement_groups_are_not_a_conflict(hook, on_conflict):
    scheduler = LearningRateScheduler(LinearDecay(0.1), on_conflict=on_conflict)
    fit(None, scheduler, Reloads(hook), train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [
        LinearDecay(0.1)(RunLength.of(4, 3).position(one)) for one in range(12)
    ]
    assert str(scheduler.audit) == "lr followed the plan at 12 of 12 steps"


def two_groups(parameters):
    weight, bias = parameters
    return SGD([{"params": [weight]}, {"params": [bias], "lr": 0.05}], lr=0.1)


class Pops(pl.Callback):
    """Removes a group in epoch 1 and puts it back in epoch 2."""

    def on_train_epoch_start(self, trainer, module):
        groups = trainer.optimizers[0].param_groups
        if trainer.current_epoch == 1:
            self.group = groups.pop()
        elif trainer.current_epoch == 2:
            groups.append(self.group)


def test_removed_group_that_returns_has_a_gap():
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(two_groups), scheduler, Pops(), train=FOUR)
    assert scheduler.trace["lr/0"].values.tolist() == HALVED
    returned = scheduler.trace["lr/1"].values
    assert returned[:4].tolist() + returned[8:].tolist() == [0.05] * 4 + [0.0125] * 4
    assert np.isnan(returned[4:8]).all()


def test_removed_group_gets_no_more_values():
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    popping = Replaces(lambda optimizer: optimizer.param_groups.pop(), "on_train_epoch_start")
    fit(Toy(two_groups), scheduler, popping, train=FOUR)
    assert len(scheduler.trace["lr/0"]) == 12
    assert scheduler.trace["lr/1"].values.tolist() == [0.05] * 4


def test_split_group_keeps_its_column():
    def split(optimizer):
        (group,) = optimizer.param_groups
        weight, bias = group["params"]
        optimizer.param_groups[:] = [{**group, "params": [weight]}, {**group, "params": [bias]}]

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(None, scheduler, Replaces(split, "on_train_epoch_start"), train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == HALVED
    assert scheduler.trace["lr/1"].values.tolist() == HALVED[4:]


def test_parameters_added_to_a_group():
    class Grows(Toy):
        def __init__(self):
            super().__init__(lambda parameters: SGD([next(iter(parameters))], lr=0.1))

    def put(trainer):
        trainer.optimizers[0].param_groups[0]["params"].append(trainer.lightning_module.layer.bias)

    class Puts(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                put(trainer)

    schedules = [StepDecay(0.1, every="1ep"), Assign(Constant(0.003), params="bias")]
    scheduler = LearningRateScheduler(schedules)
    fit(Grows(), scheduler, Puts(), train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == HALVED
    assert scheduler.trace["lr/bias"].values.tolist() == [0.003] * 8


@pytest.mark.parametrize("before", [True, False])
def test_value_written_before_the_first_step_is_a_conflict(before):
    class Writes(pl.Callback):
        def on_train_start(self, trainer, module):
            trainer.optimizers[0].param_groups[0]["lr"] = 0.7

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"), on_conflict="error")
    with pytest.raises(TrainingError, match=r"before step 0, other code has set lr to 0\.7; the plan has 0\.1"):
        fit(None, *([Writes(), scheduler] if before else [scheduler, Writes()]), train=FOUR)


def test_writing_the_planned_value_is_not_a_conflict():
    class Agrees(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            trainer.optimizers[0].param_groups[0]["lr"] = 0.1 * 0.5**trainer.current_epoch

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"), on_conflict="error")
    fit(None, Agrees(), scheduler, train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == HALVED
