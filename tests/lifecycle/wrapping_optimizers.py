"""Optimizers that wrap others or do not inherit from `torch.optim.Optimizer`, and modules that use them."""

from collections import defaultdict

import torch
from timm.optim import Lookahead as TimmLookahead
from torch.optim import SGD, Optimizer

from tests.toys import Toy


class Inner(SGD):
    """The optimizer that changes the weights; it records the rate of each step."""

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
    """SAM as published and in most libraries: the base optimizer shares the groups."""

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
    """Skips `Optimizer.__init__` and exposes the base's groups as a property."""

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
    """Not a torch Optimizer: it has the attributes that Lightning needs and does its own arithmetic."""

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
    """A duck whose `step` cannot be set on the object."""

    def __setattr__(self, name, value):
        if name == "step":
            raise AttributeError("step is read-only")
        super().__setattr__(name, value)


class Wrapper:
    """Only delegates, like wrappers for mixed precision and communication."""

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


class Lazy(Wrapper):
    """Creates its base at the first step."""

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


class OwnArithmetic(Optimizer):
    """SAM without a base optimizer: nothing announces its second step."""

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


class Dictionary(Toy):
    """Returns the optimizer in a dictionary, for which Lightning checks less."""

    def configure_optimizers(self):
        return {"optimizer": super().configure_optimizers()}


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
