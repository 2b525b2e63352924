"""Every optimizer class of torch gets exactly the schedule's value without recompilation."""

import pytest
import pytorch_lightning as pl
import torch
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from lr_plugins import Constant, KerasSGD, LearningRateScheduler, LinearDecay, RunLength
from lr_plugins.interop import ScheduleLR
from tests.toys import Toy, fit

PLAN = [LinearDecay(0.1)(RunLength.of(steps=18).position(step)) for step in range(18)]


def tensor(dtype=torch.float32):
    return torch.tensor(0.1, dtype=dtype)


KINDS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "Adam, foreach": lambda parameters: torch.optim.Adam(parameters, lr=0.1, foreach=True),
    "Adam, fused": lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=True),
    "Adam, maximize": lambda parameters: torch.optim.Adam(parameters, lr=0.1, maximize=True),
    "AdamW, fused, amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True, amsgrad=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "SGD, foreach": lambda parameters: torch.optim.SGD(parameters, lr=0.1, foreach=True),
    "SGD, fused": lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True),
    "Adagrad, fused": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1, fused=True),
    "RMSprop, foreach": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, foreach=True),
    "KerasSGD": lambda parameters: KerasSGD(parameters, lr=0.1, momentum=0.9),
    "Adam, tensor": lambda parameters: torch.optim.Adam(parameters, lr=tensor()),
    "Adam, tensor, fused": lambda parameters: torch.optim.Adam(parameters, lr=tensor(), fused=True),
    "AdamW, tensor": lambda parameters: torch.optim.AdamW(parameters, lr=tensor(torch.float64)),
    "SGD, tensor, foreach": lambda parameters: torch.optim.SGD(parameters, lr=tensor(), foreach=True),
    "SGD, tensor, fused": lambda parameters: torch.optim.SGD(parameters, lr=tensor(), fused=True),
    "RMSprop, tensor": lambda parameters: torch.optim.RMSprop(parameters, lr=tensor()),
    "KerasSGD, tensor": lambda parameters: KerasSGD(parameters, lr=tensor(torch.float64), momentum=0.9),
}


class AtTheStep(pl.Callback):
    """Records the learning rate at each step, and the address of its tensor."""

    def __init__(self):
        self.seen, self.places = [], set()

    def on_train_start(self, trainer, pl_module):  # after the scheduler, whose hook comes first
        trainer.optimizers[0].register_step_pre_hook(self._look)

    def _look(self, optimizer, *_):
        rate = optimizer.param_groups[0]["lr"]
        self.seen.append(float(rate))
        if isinstance(rate, torch.Tensor):
            self.places.add((id(rate), rate.data_ptr()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_class_uses_the_planned_values(kind):
    scheduler, spy, kept = LearningRateScheduler(LinearDecay(0.1)), AtTheStep(), []

    def make(parameters):
        kept.append(KINDS[kind](parameters))
        return kept[-1]

    fit(Toy(make), scheduler, spy)
    rate = kept[0].param_groups[0]["lr"]
    dtype = rate.dtype if isinstance(rate, torch.Tensor) else torch.float64
    assert spy.seen == [float(torch.tensor(value, dtype=dtype)) for value in PLAN]
    assert scheduler.trace["lr"].values.tolist() == PLAN
    assert len(spy.places) == isinstance(rate, torch.Tensor)  # one tensor, written in place
    assert str(scheduler.audit) == "lr followed the plan at 18 of 18 steps"


def test_differentiable_optimizer_is_driven():
    # In a plain loop: Lightning's weights are leaves, which autograd does not allow to change.
    start = torch.ones(2, requires_grad=True)
    weight = start.clone()
    optimizer = torch.optim.SGD([weight], lr=0.1, differentiable=True)
    scheduler = ScheduleLR(optimizer, LinearDecay(0.1), run_length=RunLength.of(steps=18))
    for _ in range(2):
        weight.grad = torch.ones(2)
        with torch.enable_grad():
            optimizer.step()
        scheduler.step()
    assert torch.equal(weight, start - PLAN[0] - PLAN[1])
    assert torch.equal(torch.autograd.grad(weight.sum(), start)[0], torch.ones(2))


def test_torch_refuses_capturable_optimizers_on_the_cpu():
    module = Toy(lambda parameters: torch.optim.Adam(parameters, lr=tensor(), capturable=True))
    with pytest.raises(AssertionError, match="capturable=True"):
        fit(module, LearningRateScheduler(LinearDecay(0.1)))


# --- torch.compile ----------------------------------------------------------------------------------------------------


class CompiledStep(Toy):
    """Compiles the optimizer's update; forward and backward run before it."""

    def __init__(self, make_optimizer, backend):
        super().__init__(make_optimizer)
        self.backend, self.compiled = backend, None

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer_closure()
        if self.compiled is None:
            self.compiled = torch.compile(optimizer.optimizer.step, backend=self.backend)
        self.compiled()


class CompiledInPlace(Toy):
    """Replaces the optimizer's step with a compiled one, which Lightning calls with its closure."""

    def __init__(self, make_optimizer, backend):
        super().__init__(make_optimizer)
        self.backend = backend

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.step = torch.compile(optimizer.step, backend=self.backend)
        return optimizer


class CompiledLayer(Toy):
    """Compiles the network."""

    def __init__(self, make_optimizer, backend):
        super().__init__(make_optimizer)
        self.layer = torch.compile(self.layer, backend=backend)


def compiled_whole(make_optimizer, backend):
    return torch.compile(Toy(make_optimizer), backend=backend)


WAYS = [CompiledStep, CompiledInPlace, CompiledLayer, compiled_whole]


def compilations(way, make_optimizer, schedule, backend=None, **options):
    """The number of compilations, and the scheduler of the run."""
    torch._dynamo.reset()
    counter = CompileCounter() if backend is None else CompileCounterWithBackend(backend)
    scheduler = LearningRateScheduler(schedule)
    fit(way(make_optimizer, counter), scheduler, **options)
    assert str(scheduler.audit) == "lr followed the plan at 18 of 18 steps"
    return counter.frame_count, scheduler


@pytest.mark.parametrize("way", WAYS)
def test_changing_tensor_does_not_recompile(way):
    make_optimizer = KINDS["Adam, tensor"]
    still, _ = compilations(way, make_optimizer, Constant(0.1))
    moving, scheduler = compilations(way, make_optimizer, LinearDecay(0.1))
    assert moving == still > 0
    assert scheduler.trace["lr"].values.tolist() == PLAN


@pytest.mark.parametrize("kind", ["Adam", "Adam, tensor"])
def test_hooks_are_not_compiled_with_the_step(kind):
    torch._dynamo.reset()
    counter = CompileCounter()
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = KINDS[kind]([weight])
    step = torch.compile(optimizer.step, backend=counter)
    for _ in range(18):
        weight.grad = torch.ones(3)
        step()
    frames, _ = compilations(CompiledStep, KINDS[kind], Constant(0.1))
    assert frames == counter.frame_count == 1


def test_eager_backend_compiles_a_float_twice_and_a_tensor_once():
    # torch turns a float into a variable at the second value; the handling depends on the backend.
    numbers, scheduler = compilations(CompiledStep, KINDS["Adam"], LinearDecay(0.1))
    assert scheduler.trace["lr"].values.tolist() == PLAN
    tensors, _ = compilations(CompiledStep, KINDS["Adam, tensor"], LinearDecay(0.1))
    assert (numbers, tensors) == (2, 1)


def has_inductor():
    try:
        torch._dynamo.reset()
        return bool(torch.compile(lambda x: x + 1)(torch.ones(1)) == 2)
    except Exception:  # no working C++ compiler
        return False


def test_default_backend_compiles_a_tensor_step_once():
    if not has_inductor():
        pytest.skip("torch.compile has no working C++ compiler here")

    def make_optimizer(parameters):
        return torch.optim.SGD(parameters, lr=tensor())

    frames, scheduler = compilations(CompiledStep, make_optimizer, LinearDecay(0.1), "inductor")
    assert frames == 1
    assert scheduler.trace["lr"].values.tolist() == PLAN
