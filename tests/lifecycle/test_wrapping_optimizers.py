"""Optimizers that wrap others or do not inherit from torch: every weight update follows the plan."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from timm.optim import Lookahead as TimmLookahead
from torch.optim import SGD, Adam, AdamW

from lr_plugins import Assign, Constant, LearningRateScheduler, LearningRateTrace, StepDecay
from tests.lifecycle.wrapping_optimizers import AUTOMATIC, Dictionary, Duck, Inner, Lazy, OwnArithmetic, TwoSteps
from tests.toys import Toy, fit, loader

FOUR = loader(16, 4)  # batches per epoch


HALVED = [0.1] * 4 + [0.05] * 4 + [0.025] * 4


def inner_of(optimizer):
    """The optimizers that record their rates, at any depth."""
    found = [optimizer] if hasattr(optimizer, "used") else []
    for value in vars(optimizer).values():
        for one in value if isinstance(value, list) else [value]:
            if hasattr(one, "param_groups"):
                found += inner_of(one)
    return list({id(one): one for one in found}.values())


@pytest.fixture
def made():
    """Builds optimizers and keeps them."""
    kept = []

    def make(kind):
        def build(parameters):
            kept.append(AUTOMATIC[kind](parameters))
            return kept[-1]

        return build

    make.kept = kept
    return make


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", AUTOMATIC)
def test_inner_optimizer_follows_the_plan(kind, accumulate, made):
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Dictionary(made(kind)), scheduler, train=FOUR, accumulate_grad_batches=accumulate)
    planned = HALVED[::accumulate]
    for inner in inner_of(made.kept[0]):
        assert [used[0] for used in inner.used] == planned
    for name, values in scheduler.trace.items():
        assert values.values.tolist() == planned, name
    assert str(scheduler.audit) == f"lr followed the plan at {len(planned)} of {len(planned)} steps"


@pytest.mark.parametrize("kind", ["SAM", "SAM, groups copied"])
def test_sam_in_two_steps(kind, made):
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    with pytest.warns(UserWarning, match="counted 12 optimizer steps in this fit, Lightning counted 0"):
        fit(TwoSteps(made(kind)), scheduler, train=FOUR)
    assert [used[0] for used in made.kept[0].base_optimizer.used] == HALVED
    assert scheduler.trace["lr"].values.tolist() == HALVED


def test_unannounced_steps_are_counted_by_batch_and_warn_once(recwarn):
    kept = []

    def make(parameters):
        kept.append(OwnArithmetic(parameters))
        return kept[0]

    scheduler = LearningRateScheduler(StepDecay(0.1, every="5st"))
    fit(TwoSteps(make), scheduler, train=FOUR)
    planned = [0.1] * 5 + [0.05] * 5 + [0.025] * 2
    assert [used[0] for used in kept[0].used] == planned
    assert scheduler.trace["lr"].values.tolist() == planned
    told = [str(one.message) for one in recwarn if "no call of step() was seen" in str(one.message)]
    assert len(told) == 1
    assert "OwnArithmetic" in told[0]


@pytest.mark.parametrize(
    "kind", ["SAM", "SAM, groups copied", "Lookahead of timm", "wrapper", "Lookahead of a library"]
)
def test_inner_groups_are_split_as_well(kind, made):
    schedules = [StepDecay(0.1, every="1ep"), Assign(Constant(0.003), params="bias")]
    scheduler = LearningRateScheduler(schedules)
    fit(Toy(made(kind)) if kind != "wrapper" else Dictionary(made(kind)), scheduler, train=FOUR)
    (inner,) = inner_of(made.kept[0])
    assert [sorted(used) for used in inner.used] == [[0.003, value] for value in HALVED]
    assert scheduler.trace["lr/bias"].values.tolist() == [0.003] * 12


@pytest.mark.parametrize("kind", ["SAM", "Lookahead of timm", "Lookahead of a library", "duck", "wrapper"])
def test_resumed_run_continues_the_plan(kind, made, tmp_path):
    fit(
        Dictionary(made(kind)), LearningRateScheduler(StepDecay(0.1, every="5st")), train=FOUR, epochs=1
    ).save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(StepDecay(0.1, every="5st"))
    fit(Dictionary(made(kind)), scheduler, train=FOUR, ckpt_path=tmp_path / "a.ckpt")
    planned = [0.1] + [0.05] * 5 + [0.025] * 2
    (inner,) = inner_of(made.kept[1])
    assert [used[0] for used in inner.used] == planned
    assert scheduler.trace["lr"].values.tolist() == planned


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_trace_alone_records_the_rate(kind, made):
    trace = LearningRateTrace()
    fit(Dictionary(made(kind)), trace, train=FOUR)
    assert [values.values.tolist() for values in trace.trace.values()] == [[0.1] * 12] * len(trace.trace)


def test_optimizer_object_is_restored_after_the_fit(made):
    fit(Dictionary(made("duck")), LearningRateScheduler(Constant(0.1)), train=FOUR)
    assert "step" not in vars(made.kept[0])
    assert isinstance(copy.deepcopy(made.kept[0]), Duck)


def test_later_user_hook_does_not_change_the_used_rate():
    used = []

    class Hooks(pl.Callback):
        def on_train_start(self, trainer, module):
            optimizer = trainer.optimizers[0]
            optimizer.register_step_pre_hook(lambda one, *_: one.param_groups[0].update(lr=0.7))

    class Noted(Inner):
        pass

    def make(parameters):
        optimizer = Noted(parameters)
        optimizer.used = used
        return optimizer

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(make), scheduler, Hooks(), train=FOUR)
    assert [one[0] for one in used] == scheduler.trace["lr"].values.tolist() == HALVED


def test_later_user_hook_does_not_change_the_rate_of_a_step_without_closure():
    used = []

    class Noted(SGD):
        def step(self, closure=None):
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    class Manual(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return Noted(self.parameters(), lr=0.1)

        def on_train_start(self):
            optimizer = self.trainer.optimizers[0]
            optimizer.register_step_pre_hook(lambda optimizer, *_: optimizer.param_groups[0].update(lr=0.7))

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            optimizer.step()

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Manual(), scheduler, train=FOUR)
    assert used == scheduler.trace["lr"].values.tolist() == HALVED
    assert scheduler.audit.followed == len(HALVED)


def test_gradient_clipping_with_adam_in_lookahead():
    kept = []

    def make(parameters):
        kept.append(TimmLookahead(AdamW(parameters, lr=0.3)))
        return kept[0]

    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    fit(Toy(make), scheduler, train=FOUR, gradient_clip_val=0.5)
    assert scheduler.trace["lr"].values.tolist() == [0.3] * 4 + [0.15] * 4 + [0.075] * 4
    assert isinstance(kept[0]._base_optimizer, Adam)


def test_base_created_at_the_first_step_is_driven():
    kept = []

    def make(parameters):
        kept.append(Lazy(parameters))
        return kept[0]

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Dictionary(make), scheduler, train=FOUR)
    assert [used[0] for used in kept[0].inner.used] == scheduler.trace["lr"].values.tolist() == HALVED


def test_replaced_base_is_driven(made):
    class Swaps(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                made.kept[0].base_optimizer = Inner(module.parameters(), lr=0.7)

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(made("SAM")), scheduler, Swaps(), train=FOUR)
    assert [used[0] for used in made.kept[0].base_optimizer.used] == HALVED[4:]
    assert scheduler.trace["lr"].values.tolist() == HALVED


def test_other_weight_changes_are_not_steps():
    class Clamps(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.clamp_(-1, 1)
            self.manual_backward(self.compute_loss(batch))
            if batch_idx == 3:
                self.optimizers().step()
                self.optimizers().zero_grad()

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1st"))
    fit(Clamps(), scheduler, train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [0.1, 0.05, 0.025]


def test_retried_step_of_a_subclass_counts_once():
    class Child(SGD):
        tries = 0

        def step(self, closure=None):
            self.tries += 1
            if self.tries % 3 == 0:
                raise MemoryError
            return super().step(closure)

    class Retries(Toy):
        def __init__(self):
            super().__init__(lambda parameters: Child(parameters, lr=0.1))
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            try:
                optimizer.step()
            except MemoryError:
                optimizer.step()

    SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # instances of SGD itself announce their steps, too
    scheduler = LearningRateScheduler(StepDecay(0.1, every="5st"))
    fit(Retries(), scheduler, train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 5 + [0.05] * 5 + [0.025] * 2
