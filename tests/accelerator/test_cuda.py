"""Tests that need a GPU: `python -m pytest tests/accelerator`."""

import contextlib

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from lr_plugins import Assign, Constant, KerasSGD, LearningRateScheduler, LinearDecay, RunLength, Trace
from lr_plugins.engine.writer import Writer
from lr_plugins.interop import ScheduleLR
from tests.lifecycle.test_optimizer_kinds import PLAN, AtTheStep, CompiledLayer, CompiledStep, compilations
from tests.toys import Toy, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

RUN = RunLength.of(steps=18)
ON_GPU = {"accelerator": "gpu", "devices": 1}


def tensor(dtype=torch.float32):
    return torch.tensor(0.1, dtype=dtype, device="cuda")


KINDS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "Adam, fused": lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=True),
    "Adam, capturable": lambda parameters: torch.optim.Adam(parameters, lr=0.1, capturable=True),
    "Adam, tensor": lambda parameters: torch.optim.Adam(parameters, lr=tensor(), capturable=True),
    "Adam, tensor, no foreach": lambda parameters: torch.optim.Adam(
        parameters, lr=tensor(), foreach=False, capturable=True
    ),
    "Adam, tensor, fused": lambda parameters: torch.optim.Adam(parameters, lr=tensor(), fused=True),
    "Adam, tensor on the CPU": lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.1), fused=True),
    "SGD, fused": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "SGD, tensor": lambda parameters: torch.optim.SGD(parameters, lr=tensor(), foreach=True),
    "KerasSGD, tensor": lambda parameters: KerasSGD(parameters, lr=tensor(), momentum=0.9),
}


class WithoutWaiting(pl.Callback):
    """Lets torch refuse whatever waits for the device, while hooks of the optimizer run that come between its own.

    One of it belongs before the callback to be watched and one behind it.

    Args:
        mode: what its hooks switch to: `"error"` or `"default"`.
    """

    def __init__(self, mode):
        self.mode, self.calls = mode, 0

    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].register_step_pre_hook(self._switch)
        trainer.optimizers[0].register_step_post_hook(self._switch)

    def _switch(self, *_):
        torch.cuda.set_sync_debug_mode(self.mode)
        self.calls += 1

    def on_exception(self, *_):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_follows_the_plan_without_device_waits(kind):
    scheduler, spy = LearningRateScheduler(LinearDecay(0.1)), AtTheStep()
    begin, end = WithoutWaiting("error"), WithoutWaiting("default")
    fit(Toy(KINDS[kind]), begin, scheduler, end, spy, **ON_GPU)
    assert begin.calls == end.calls == 36
    dtype = torch.float32 if "tensor" in kind else torch.float64
    assert spy.seen == [float(torch.tensor(value, dtype=dtype)) for value in PLAN]
    assert len(spy.places) == ("tensor" in kind)  # one tensor, written in place
    assert scheduler.trace["lr"].values.tolist() == PLAN
    assert str(scheduler.audit) == "lr followed the plan at 18 of 18 steps"


@contextlib.contextmanager
def no_waiting():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def constant_gradient():
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64, device="cuda"))
    weight.grad = torch.ones_like(weight)
    return weight


@pytest.mark.parametrize(
    "kind", ["Adam, tensor", "Adam, tensor, no foreach", "Adam, tensor, fused", "KerasSGD, tensor"]
)
def test_steps_do_not_wait_for_the_device(kind):
    optimizer = KINDS[kind]([constant_gradient()])
    trace, writer = Trace(), Writer(optimizer, {0: Assign(LinearDecay(0.1))}, RUN.position)
    writer.attach(trace)
    optimizer.step()  # makes its state
    with no_waiting():
        for _ in range(17):
            optimizer.step()
    assert trace["lr"].values.tolist() == PLAN
    writer.detach()


# --- steps that are skipped -------------------------------------------------------------------------------------------


class Overflows(Toy):
    """Its loss is infinite in two of six batches."""

    def training_step(self, batch, batch_idx):
        return self.compute_loss(batch) * (float("inf") if batch_idx in (1, 3) else 1.0)


@pytest.mark.parametrize("kind", ["Adam", "Adam, fused", "Adam, tensor, fused", "SGD, fused"])
def test_steps_skipped_by_mixed_precision_are_not_counted(kind):
    scheduler = LearningRateScheduler(LinearDecay(0.1, decay_steps="18st"))
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0)  # small: no other step overflows
    precision = MixedPrecision("16-mixed", "cuda", scaler=scaler)
    fit(Overflows(KINDS[kind]), scheduler, plugins=[precision], **ON_GPU)
    assert scheduler.trace["lr"].values.tolist() == PLAN[:12]
    assert str(scheduler.audit) == "lr followed the plan at 12 of 12 steps"


# --- CUDA graphs ------------------------------------------------------------------------------------------------------


def captured(optimizer):
    """A graph of one step, after some real ones on another stream as torch wants them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph


@pytest.mark.parametrize("foreach", [False, True])
def test_replays_of_a_captured_step_use_new_values(foreach):
    # Of gradients that are always 1, Adam makes steps of the learning rate; powers of these betas are exact.
    weight, betas = constant_gradient(), (0.5, 0.5)
    optimizer = torch.optim.Adam([weight], lr=tensor(), betas=betas, capturable=True, foreach=foreach)
    scheduler = ScheduleLR(optimizer, LinearDecay(0.1), run_length=RUN)
    graph, changes = captured(optimizer), []
    for _ in range(18):
        before = weight[0].item()
        graph.replay()
        changes.append(before - weight[0].item())
        scheduler.step()
    assert changes == pytest.approx(PLAN, rel=1e-5)  # the learning rate is of single precision


def test_captured_step_is_not_counted_and_replays_write_nothing():
    optimizer = KINDS["Adam, tensor"]([constant_gradient()])
    trace, writer = Trace(), Writer(optimizer, {0: Assign(LinearDecay(0.1))}, RUN.position)
    writer.attach(trace)
    graph = captured(optimizer)
    assert trace["lr"].values.tolist() == PLAN[:3]
    optimizer.step()
    for _ in range(2):
        graph.replay()
    rate = optimizer.param_groups[0]["lr"]
    assert rate.item() == float(torch.tensor(PLAN[4]))
    assert writer.step == 4
    writer.detach()


# --- torch.compile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [CompiledStep, CompiledLayer])
def test_a_changing_learning_rate_recompiles_nothing(way):
    still, _ = compilations(way, KINDS["Adam, tensor"], Constant(0.1), "inductor", **ON_GPU)
    moving, scheduler = compilations(way, KINDS["Adam, tensor"], LinearDecay(0.1), "inductor", **ON_GPU)
    assert moving == still > 0
    assert scheduler.trace["lr"].values.tolist() == PLAN
