"""A recorder records the values of each step; a custom quantity is a short class."""

import copy
import math

import pytest
import torch

from lr_plugins.engine.recorder import Recorder
from lr_plugins.engine.trace import Trace
from tests.engine.loops import parameters, sgd
from tests.toys import QUIET, Toy, loader


class GradientNorm:
    """The Euclidean norm of all gradients."""

    name = "gradient_norm"

    def __call__(self, optimizer):
        gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))


def record(optimizer, *quantities):
    recorder, trace = Recorder(optimizer), Trace()
    for quantity in quantities:
        recorder.measure(quantity)
    recorder.attach(trace)
    return recorder, trace


def test_a_quantity_is_recorded_at_every_step():
    optimizer = sgd(0.1, 0.1)
    _, trace = record(optimizer, GradientNorm())
    optimizer.step()
    optimizer.param_groups[0]["params"][0].grad.fill_(0.0)
    optimizer.step()
    assert trace["gradient_norm"].values.tolist() == [math.sqrt(2), 1.0]


def test_a_quantity_is_measured_and_a_hyperparameter_is_not():
    optimizer = sgd(0.1)
    _, trace = record(optimizer, GradientNorm())
    optimizer.step()
    assert [name for name, series in trace.items() if series.is_measured] == ["gradient_norm"]
    assert list(trace.hyperparameters) == ["lr"]


def test_restored_values_keep_a_quantity_measured():
    """LearningRateTrace puts the steps before a checkpoint into the series that the recorder has created."""
    trace = Trace()
    trace.series("gradient_norm", is_measured=True)
    trace.series("gradient_norm", 0).append(5.0)
    assert trace["gradient_norm"].is_measured
    assert not trace.hyperparameters


def test_last_learning_rate_ignores_measured_quantities():
    trace = Trace()
    trace.series("gradient_norm", is_measured=True).append(5.0)
    assert (trace.first(), trace.last()) == (None, None)
    trace.series("lr").append(0.1)
    assert (trace.first(), trace.last()) == (0.1, 0.1)


def test_gradients_of_the_closure_are_measured():
    [weight] = parameters(1)
    weight.grad = None
    optimizer = torch.optim.SGD([weight], lr=0.1)
    _, trace = record(optimizer, GradientNorm())

    def closure():
        optimizer.zero_grad()
        loss = 3.0 * weight.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert trace["gradient_norm"].values.tolist() == [3.0]


def test_replacement_optimizer_continues_the_quantities():
    first = sgd(0.1)
    recorder, trace = record(first, GradientNorm())
    first.step()
    recorder.detach()
    second = torch.optim.SGD(first.param_groups[0]["params"], lr=0.1)
    after = Recorder(second, replaces=recorder)
    after.attach(trace, recorder.step)
    second.step()
    assert trace["gradient_norm"].steps.tolist() == [0, 1]


def test_a_failed_step_is_not_recorded():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("no memory")

    recorder, trace = record(Failing(parameters(1), lr=0.1), GradientNorm())
    with pytest.raises(RuntimeError, match="no memory"):
        recorder.optimizer.step()
    assert (recorder.step, len(trace["lr"])) == (0, 0)


def test_short_callback_records_a_quantity_in_a_trainer():
    import pytorch_lightning as pl

    from lr_plugins import LearningRateScheduler, StepDecay

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))

    class RecordsGradientNorm(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            for recorder in scheduler.recorders:
                recorder.measure(GradientNorm())

    trainer = pl.Trainer(max_epochs=2, callbacks=[scheduler, RecordsGradientNorm()], **QUIET)
    trainer.fit(Toy(), loader())
    norms = scheduler.trace["gradient_norm"]
    assert (len(norms), len(scheduler.trace["lr"])) == (12, 12)
    assert norms.values.min() > 0
    assert scheduler.trace.last() == 0.05
    assert copy.deepcopy(scheduler).trace["gradient_norm"].is_measured
