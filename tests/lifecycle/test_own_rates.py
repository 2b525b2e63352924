"""The rate a param group was built with is its own, even if a torch scheduler has changed it since."""

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

from lr_plugins import Assign, Constant, CosineDecay, LearningRateScheduler, LearningRateTrace, RunLength, StepDecay
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.interop import ScheduleLR
from tests.toys import Toy, fit, loader

FOUR = loader(16, 4)  # batches per epoch


def own_group(parameters):
    """The learning rate is set on the group; the class default, 0.001, is not meant."""
    return AdamW([{"params": list(parameters), "lr": 1e-2}])


class Scheduled(Toy):
    """Also returns a torch scheduler."""

    def __init__(self, make_optimizer, make_scheduler):
        super().__init__(make_optimizer)
        self.make_scheduler = make_scheduler

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [{"scheduler": self.make_scheduler(optimizer), "interval": "step"}]


TORCHS = {
    "StepLR": lambda one: lr_scheduler.StepLR(one, 2, 0.1),
    "LambdaLR with a warm-up from 0": lambda one: lr_scheduler.LambdaLR(one, lambda step: step / 100),
    "CosineAnnealingLR": lambda one: lr_scheduler.CosineAnnealingLR(one, 10),
    "ReduceLROnPlateau's way, initial_lr by hand": lambda one: (
        one.param_groups[0].setdefault("initial_lr", 1e-2) and lr_scheduler.LambdaLR(one, lambda step: 1.0)
    ),
}


@pytest.mark.parametrize("torchs", TORCHS)
def test_group_rate_is_used_next_to_a_torch_scheduler(torchs):
    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    fit(Scheduled(own_group, TORCHS[torchs]), scheduler, train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [1e-2] * 4 + [5e-3] * 4 + [2.5e-3] * 4


def test_groups_keep_their_ratios_to_the_default():
    def make(parameters):
        weight, bias = parameters
        return AdamW([{"params": [weight], "lr": 1e-2}, {"params": [bias]}], lr=1e-3)

    scheduler = LearningRateScheduler(Constant())
    fit(Scheduled(make, TORCHS["StepLR"]), scheduler, train=FOUR)
    assert scheduler.trace["lr/0"].values == pytest.approx([1e-2] * 12)
    assert scheduler.trace["lr/1"].values == pytest.approx([1e-3] * 12)


def test_default_is_used_after_torch_one_cycle_changed_the_group():
    scheduler = LearningRateScheduler(Constant())
    make = Scheduled(
        lambda parameters: SGD(parameters, lr=0.2), lambda one: lr_scheduler.OneCycleLR(one, 5.0, total_steps=20)
    )
    fit(make, scheduler, train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [0.2] * 12


def test_rate_is_kept_when_the_optimizer_state_was_loaded():
    first = own_group([torch.nn.Parameter(torch.zeros(2))])
    scheduler = ScheduleLR(first, StepDecay(every="1st"))
    for _ in range(3):
        first.step()
        scheduler.step()
    second = own_group([torch.nn.Parameter(torch.zeros(2))])
    second.load_state_dict(first.state_dict())
    resumed = ScheduleLR(second, StepDecay(every="1st"))
    assert resumed.get_last_lr() == [1e-2]
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == [1.25e-3]


def test_added_group_starts_from_its_initial_lr():
    one, two = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    optimizer = SGD([one], lr=0.1)
    scheduler = ScheduleLR(optimizer, StepDecay(every="1st"))
    optimizer.add_param_group({"params": [two], "lr": 0.0, "initial_lr": 0.02})
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.05, 0.01])


# --- optimizers that set their learning rate themselves ---------------------------------------------------------------


def adafactor(parameters):
    from transformers.optimization import Adafactor

    return Adafactor(parameters)


class Relative(Optimizer):
    """Computes its own step sizes."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": None, "weight_decay": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        return torch.enable_grad()(closure)() if closure is not None else None


@pytest.mark.parametrize("schedule", [CosineDecay(0.1), CosineDecay(), Assign(CosineDecay(0.1), group=0)], ids=repr)
@pytest.mark.parametrize("make", [adafactor, Relative])
def test_optimizer_without_a_learning_rate_is_refused(make, schedule):
    with pytest.raises(InvalidArgumentError) as error:
        fit(Toy(make), LearningRateScheduler(schedule), train=FOUR)
    kind = type(make([torch.nn.Parameter(torch.zeros(1))])).__name__
    assert f"lr of {kind} must be a number, for a schedule to drive; got None" in str(error.value)
    assert "relative_step=False" in str(error.value)


def test_other_hyperparameters_can_be_driven():
    seen = []

    class Watches(Relative):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["weight_decay"])
            return super().step(closure)

    scheduler, trace = LearningRateScheduler(Assign(StepDecay(every="1ep"), to="weight_decay")), LearningRateTrace()
    fit(Toy(Watches), scheduler, trace, train=FOUR)
    assert seen == [0.1] * 4 + [0.05] * 4 + [0.025] * 4
    assert list(scheduler.trace) == ["weight_decay"]


def test_trace_skips_an_optimizer_without_a_learning_rate():
    trace = LearningRateTrace()
    fit(Toy(Relative), trace, train=FOUR)
    assert dict(trace.trace) == {}


def test_group_without_a_learning_rate_is_refused():
    def make(parameters):
        weight, bias = parameters
        return SGD([{"params": [weight]}, {"params": [bias], "lr": None}], lr=0.1)

    with pytest.raises(InvalidArgumentError, match="lr of SGD must be a number"):
        fit(Toy(make), LearningRateScheduler(Constant(0.1)), train=FOUR)


# --- groups with different keys ---------------------------------------------------------------------------------------


class Muon(Optimizer):
    """As published: matrices by Muon, the rest by AdamW, in one optimizer."""

    def __init__(self, matrices, others):
        groups = [
            {"params": matrices, "lr": 0.02, "momentum": 0.95, "use_muon": True},
            {"params": others, "lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "use_muon": False},
        ]
        super().__init__(groups, {})
        self.used = []

    def step(self, closure=None):
        loss = closure() if closure is not None else None
        first, second = self.param_groups
        self.used.append((first["lr"], second["lr"], first["momentum"], second["betas"][0]))
        return loss


def muon(kept):
    def make(parameters):
        weight, bias = parameters
        kept.append(Muon([weight], [bias]))
        return kept[0]

    return make


def trained(schedules):
    kept = []
    scheduler = LearningRateScheduler(schedules)
    fit(Toy(muon(kept)), scheduler, train=FOUR)
    return scheduler, kept[0].used


def test_momentum_of_one_group_changes_only_that_group():
    scheduler, used = trained([Assign(StepDecay(0.8, every="1ep"), to="momentum", group=0)])
    assert [one[2] for one in used] == [0.8] * 4 + [0.4] * 4 + [0.2] * 4
    assert {one[3] for one in used} == {0.9}
    assert {one[:2] for one in used} == {(0.02, 3e-4)}
    assert scheduler.trace["momentum/0"].values.tolist() == [0.8] * 4 + [0.4] * 4 + [0.2] * 4


def test_beta_of_the_other_group_changes_only_that_group():
    _, used = trained([Assign(Constant(0.5), to="beta1", group=1)])
    assert {one[2:] for one in used} == {(0.95, 0.5)}


def test_momentum_drives_beta1_in_groups_with_betas():
    _, used = trained([Assign(Constant(0.6), to="momentum")])
    assert {one[2:] for one in used} == {(0.6, 0.6)}


def test_beta_changes_only_the_groups_that_have_one():
    _, used = trained([StepDecay(every="1ep"), Assign(Constant(0.7), to="beta1")])
    assert {one[2:] for one in used} == {(0.95, 0.7)}


def test_hyperparameter_missing_in_the_group_is_refused():
    with pytest.raises(
        InvalidArgumentError, match=r"Assign\.to must be a number in the param groups of Muon: lr, momentum; got 'eps'"
    ):
        trained([Assign(Constant(0.1), to="eps", group=0)])


def test_each_group_starts_from_its_own_rate():
    _, used = trained([Assign(StepDecay(every="1ep"), group=0), Assign(StepDecay(every="2ep"), group=1)])
    assert [one[:2] for one in used] == [(0.02, 3e-4)] * 4 + [(0.01, 3e-4)] * 4 + [(0.005, 1.5e-4)] * 4


def test_momentum_of_one_group_in_a_plain_loop():
    weight, bias = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
    optimizer = Muon([weight], [bias])
    scheduler = ScheduleLR(
        optimizer, Assign(StepDecay(0.8, every="1st"), to="momentum", group=0), run_length=RunLength.of(steps=9)
    )
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["momentum"] == 0.4
