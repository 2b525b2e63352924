"""Optimizers around others, and objects that are none of torch's: each step that changes weights follows the plan."""

import copy
from collections import defaultdict

import pytest
import pytorch_lightning as pl
import torch
from timm.optim import Lookahead as TimmLookahead
from torch.optim import SGD, Adam, AdamW, Optimizer

from lr_plugins import Assign, Constant, LearningRateScheduler, LearningRateTrace, StepDecay
from tests.toys import Toy, fit, loader

FOUR = loader(16, 4)  # batches an epoch
HALVED = [0.1] * 4 + [0.05] * 4 + [0.025] * 4


class Inner(SGD):
    """The one that changes the weights, and notes what it does that with."""

    def __init__(self, params, lr=0.1, **kwargs):
        super().__init__(params, lr=lr, **kwargs)
        self.used = []

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.used.append([float(group["lr"]) for group in self.param_groups])
        super().step()
        return loss


class PublishedSAM(Optimizer):
    """As its authors and most libraries write it: the base optimizer shares the groups."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        norm = torch.norm(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]))
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * group["rho"] / (norm + 1e-12))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        closure()
        self.first_step(zero_grad=True)
        closure()
        self.second_step()


class CopyingSAM(PublishedSAM):
    """Its base optimizer has dictionaries of its own for the same parameters."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        Optimizer.__init__(self, params, dict(rho=rho, **kwargs))
        self.base_optimizer = base_optimizer([dict(group) for group in self.param_groups], **kwargs)


class LibraryLookahead(Optimizer):
    """Leaves `Optimizer.__init__` out, and has the base's groups as a property."""

    def __init__(self, base, k=3, alpha=0.5):
        self.base, self.k, self.alpha, self.count = base, k, alpha, 0
        self.state, self.defaults = defaultdict(dict), base.defaults
        self.slow = [[p.clone().detach() for p in group["params"]] for group in base.param_groups]

    @property
    def param_groups(self):
        return self.base.param_groups

    def step(self, closure=None):
        loss = self.base.step(closure)
        self.count += 1
        return loss

    def zero_grad(self, set_to_none=True):
        self.base.zero_grad(set_to_none)

    def state_dict(self):
        return self.base.state_dict()

    def load_state_dict(self, state):
        self.base.load_state_dict(state)


class Duck:
    """No optimizer of torch: it has what Lightning needs, and does the arithmetic itself."""

    def __init__(self, params, lr=0.1):
        self.param_groups = [{"params": list(params), "lr": lr}]
        self.defaults, self.state, self.used = {"lr": lr}, defaultdict(dict), []

    def step(self, closure=None):
        loss = closure() if closure is not None else None
        self.used.append([group["lr"] for group in self.param_groups])
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad, alpha=group["lr"])
        return loss

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def state_dict(self):
        return {
            "state": {},
            "param_groups": [{**g, "params": list(range(len(g["params"])))} for g in self.param_groups],
        }

    def load_state_dict(self, state):
        for mine, saved in zip(self.param_groups, state["param_groups"], strict=True):
            mine.update({key: value for key, value in saved.items() if key != "params"})


class SlottedDuck(Duck):
    """One whose `step` cannot be set on the object."""

    def __setattr__(self, name, value):
        if name == "step":
            raise AttributeError("step is read-only")
        super().__setattr__(name, value)


class Wrapper:
    """Only hands on, as wrappers of mixed precision and communication do."""

    def __init__(self, inner):
        self.inner = inner
        self.param_groups, self.defaults, self.state = inner.param_groups, inner.defaults, inner.state

    def step(self, closure=None):
        return self.inner.step(closure)

    def zero_grad(self, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)
        self.param_groups = self.inner.param_groups


class Many(Optimizer):
    """Several optimizers in one, each with some of the parameters."""

    def __init__(self, *inner):
        self.inner, self.state, self.defaults = list(inner), defaultdict(dict), {}
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}

    @property
    def param_groups(self):
        return [group for one in self.inner for group in one.param_groups]

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.inner:
            one.step()
        return loss

    def zero_grad(self, set_to_none=True):
        for one in self.inner:
            one.zero_grad(set_to_none)

    def state_dict(self):
        return {"inner": [one.state_dict() for one in self.inner]}

    def load_state_dict(self, state):
        for one, saved in zip(self.inner, state["inner"], strict=True):
            one.load_state_dict(saved)


def in_a_list(parameters):
    weight, bias = parameters
    return Many(Inner([weight]), Inner([bias]))


AUTOMATIC = {
    "SAM": lambda parameters: PublishedSAM(parameters, Inner, lr=0.1),
    "SAM, groups copied": lambda parameters: CopyingSAM(parameters, Inner, lr=0.1),
    "Lookahead of timm": lambda parameters: TimmLookahead(Inner(parameters)),
    "Lookahead of a library": lambda parameters: LibraryLookahead(Inner(parameters)),
    "Lookahead of a Lookahead": lambda parameters: LibraryLookahead(TimmLookahead(Inner(parameters))),
    "wrapper": lambda parameters: Wrapper(Inner(parameters)),
    "wrapper of a duck": lambda parameters: Wrapper(Duck(parameters)),
    "duck": Duck,
    "read-only duck": SlottedDuck,
    "many": in_a_list,
}


def inner_of(optimizer):
    """What notes what it used, at whatever depth."""
    found = [optimizer] if hasattr(optimizer, "used") else []
    for value in vars(optimizer).values():
        for one in value if isinstance(value, list) else [value]:
            if hasattr(one, "param_groups"):
                found += inner_of(one)
    return list({id(one): one for one in found}.values())


@pytest.fixture
def made():
    """Makes optimizers, and keeps them."""
    kept = []

    def make(kind):
        def build(parameters):
            kept.append(AUTOMATIC[kind](parameters))
            return kept[-1]

        return build

    make.kept = kept
    return make


class Dictionary(Toy):
    """Returns the optimizer in a dictionary, which Lightning asks less of."""

    def configure_optimizers(self):
        return {"optimizer": super().configure_optimizers()}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", AUTOMATIC)
def test_under_automatic_optimization(kind, accumulate, made):
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Dictionary(made(kind)), scheduler, train=FOUR, accumulate_grad_batches=accumulate)
    planned = HALVED[::accumulate]
    for inner in inner_of(made.kept[0]):
        assert [used[0] for used in inner.used] == planned
    for name, values in scheduler.trace.items():
        assert values.values.tolist() == planned, name
    assert str(scheduler.audit) == f"lr followed the plan at {len(planned)} of {len(planned)} steps"


class TwoSteps(Toy):
    """SAM under manual optimization: `step` is never called."""

    def __init__(self, make):
        super().__init__(make)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.compute_loss(batch))
        optimizer.first_step(zero_grad=True)
        self.manual_backward(self.compute_loss(batch))
        optimizer.second_step(zero_grad=True)


@pytest.mark.parametrize("kind", ["SAM", "SAM, groups copied"])
def test_sam_in_two_steps(kind, made):
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    with pytest.warns(UserWarning, match="counted 12 optimizer steps in this fit, Lightning counted 0"):
        fit(TwoSteps(made(kind)), scheduler, train=FOUR)
    assert [used[0] for used in made.kept[0].base_optimizer.used] == HALVED
    assert scheduler.trace["lr"].values.tolist() == HALVED


class OwnArithmetic(Optimizer):
    """SAM that needs no base optimizer: nothing announces its second step."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.used = []

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.clone()
                p.add_(p.grad, alpha=0.05)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        self.used.append([group["lr"] for group in self.param_groups])
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"] - group["lr"] * p.grad)
        if zero_grad:
            self.zero_grad()

    def step(self, closure=None):
        raise AssertionError("never called")


def test_steps_that_nothing_announces_are_counted_by_batches_and_told_once(recwarn):
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
def test_groups_that_are_split_within_too(kind, made):
    schedules = [StepDecay(0.1, every="1ep"), Assign(Constant(0.003), params="bias")]
    scheduler = LearningRateScheduler(schedules)
    fit(Toy(made(kind)) if kind != "wrapper" else Dictionary(made(kind)), scheduler, train=FOUR)
    (inner,) = inner_of(made.kept[0])
    assert [sorted(used) for used in inner.used] == [[0.003, value] for value in HALVED]
    assert scheduler.trace["lr/bias"].values.tolist() == [0.003] * 12


@pytest.mark.parametrize("kind", ["SAM", "Lookahead of timm", "Lookahead of a library", "duck", "wrapper"])
def test_a_resumed_run_goes_on(kind, made, tmp_path):
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
def test_a_trace_alone_follows_too(kind, made):
    trace = LearningRateTrace()
    fit(Dictionary(made(kind)), trace, train=FOUR)
    assert [values.values.tolist() for values in trace.trace.values()] == [[0.1] * 12] * len(trace.trace)


def test_the_object_is_as_it_was_afterwards(made):
    fit(Dictionary(made("duck")), LearningRateScheduler(Constant(0.1)), train=FOUR)
    assert "step" not in vars(made.kept[0])
    assert isinstance(copy.deepcopy(made.kept[0]), Duck)


def test_a_hook_of_the_users_that_writes_behind_ours():
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


def test_gradient_clipping_and_adam_within_lookahead():
    kept = []

    def make(parameters):
        kept.append(TimmLookahead(AdamW(parameters, lr=0.3)))
        return kept[0]

    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    fit(Toy(make), scheduler, train=FOUR, gradient_clip_val=0.5)
    assert scheduler.trace["lr"].values.tolist() == [0.3] * 4 + [0.15] * 4 + [0.075] * 4
    assert isinstance(kept[0]._base_optimizer, Adam)


class Lazy(Wrapper):
    """Makes its base at the first step."""

    def __init__(self, parameters):
        self.inner, self.kept = None, list(parameters)
        self.param_groups = [{"params": self.kept, "lr": 0.1}]
        self.defaults, self.state = {"lr": 0.1}, defaultdict(dict)

    def step(self, closure=None):
        if self.inner is None:
            self.inner = Inner(self.kept, lr=0.9)
        return self.inner.step(closure)

    def zero_grad(self, set_to_none=True):
        for parameter in self.kept:
            parameter.grad = None


def test_a_base_that_comes_with_the_first_step():
    kept = []

    def make(parameters):
        kept.append(Lazy(parameters))
        return kept[0]

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Dictionary(make), scheduler, train=FOUR)
    assert [used[0] for used in kept[0].inner.used] == scheduler.trace["lr"].values.tolist() == HALVED


def test_a_base_that_is_replaced(made):
    class Swaps(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                made.kept[0].base_optimizer = Inner(module.parameters(), lr=0.7)

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(made("SAM")), scheduler, Swaps(), train=FOUR)
    assert [used[0] for used in made.kept[0].base_optimizer.used] == HALVED[4:]
    assert scheduler.trace["lr"].values.tolist() == HALVED


def test_weights_that_something_else_changes_are_no_steps():
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


def test_a_step_that_fails_in_a_child_class_is_made_up_for():
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

    SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # whose class announces its steps, too
    scheduler = LearningRateScheduler(StepDecay(0.1, every="5st"))
    fit(Retries(), scheduler, train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 5 + [0.05] * 5 + [0.025] * 2
