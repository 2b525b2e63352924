"""keras.SGD: the decay per update against Keras 2's recorded weights, and in a Trainer beside schedules."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lr_plugins import History, LearningRateAudit, LearningRateScheduler, LearningRateTrace
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.keras import SGD
from tests.toys import Toy, fit

RECORDINGS = Path(__file__).parents[1] / "parity/recordings"
# Of the rule in float64 against Keras' own float32, over 60 updates of weights below 3.
ROUNDING = 1.3e-6


def weight(*values):
    return nn.Parameter(torch.tensor(values or (1.0,)))


def rule(lr, decay, gradients, momentum=0.0, nesterov=False, w=1.0):
    """The article's source, line by line, in float64."""
    v = 0.0
    for iterations, g in enumerate(gradients):
        lr_t = lr * (1.0 / (1.0 + decay * iterations)) if decay > 0 else lr
        v = momentum * v - lr_t * g
        w = w + momentum * v - lr_t * g if nesterov else w + v
    return w


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.005, 1.0])
def test_it_follows_the_source_of_the_article(decay, momentum, nesterov):
    gradients = np.random.default_rng(0).standard_normal(600)
    one = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = SGD([one], lr=0.1, momentum=momentum, decay=decay, nesterov=nesterov)
    for gradient in gradients:
        one.grad = torch.tensor(gradient)
        optimizer.step()
    assert one.item() == pytest.approx(rule(0.1, decay, gradients, momentum, nesterov), rel=1e-11)
    assert optimizer.iterations == 600


def recorded_cases():
    # Legacy Keras reads the count before an update, as the source has it; single-threaded Keras 2.2.4 after it.
    for name, first in (("sgd_tf_keras_2_21_legacy", 0), ("sgd_keras_2_2_4", 1)):
        data = json.loads((RECORDINGS / f"{name}.json").read_text())["data"]
        for case in data["prescribed"]:
            yield pytest.param(data, case, first, id=f"{name}-{case}")


@pytest.mark.parametrize(("data", "case", "first"), recorded_cases())
def test_recorded_weights_of_keras_2(data, case, first):
    schedule, momentum, kind = case.split("_")
    one = nn.Parameter(torch.tensor(data["w0"]))
    decay = data["decay"] if schedule == "decay" else 0.0
    optimizer = SGD([one], data["lr0"], float(momentum.removeprefix("mu")), decay, kind == "nesterov")
    optimizer.param_groups[0]["iterations"] = first
    path = [one.tolist()]
    for update, gradient in enumerate(data["gradients"]):
        if schedule == "sched":
            optimizer.param_groups[0]["lr"] = data["epoch_lr"][update // data["batches_per_epoch"]]
        one.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(one.tolist())
    np.testing.assert_allclose(path, data["prescribed"][case]["weights"], rtol=0, atol=ROUNDING)


def test_both_names_of_the_learning_rate_and_the_order_of_keras():
    for optimizer in (
        SGD([weight()], 0.1, 0.9, 0.005, True),
        SGD([weight()], lr=0.1, momentum=0.9, decay=0.005, nesterov=True),
    ):
        assert optimizer.get_config() == {"lr": 0.1, "momentum": 0.9, "decay": 0.005, "nesterov": True}
    assert SGD([weight()]).get_config() == {"lr": 0.01, "momentum": 0.0, "decay": 0.0, "nesterov": False}
    config = SGD([weight()], learning_rate=0.2).get_config("keras3")
    assert config == {"learning_rate": 0.2, "momentum": 0.0, "decay": 0.0, "nesterov": False}
    assert SGD.from_config(config, [weight()]).get_config("keras3") == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.1, "learning_rate": 0.1}, r"SGD\.lr must be left out where learning_rate is given"),
        ({"decay": -0.1}, r"SGD\.decay must be a finite number >= 0; got -0\.1"),
        ({"decay": float("nan")}, r"SGD\.decay must be a finite number >= 0"),
        ({"lr": -1.0}, r"KerasSGD\.lr must be"),
        ({"momentum": 2.0}, r"KerasSGD\.momentum must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SGD([weight()], **arguments)
    with pytest.raises(InvalidArgumentError, match="config of SGD must be made of lr, learning_rate"):
        SGD.from_config({"lr": 0.1, "clipnorm": 1.0}, [weight()])


def step(optimizer, one):
    one.grad = torch.ones_like(one)
    optimizer.step()


def test_the_count_of_updates_is_in_the_state():
    one = weight(1.0, 2.0)
    optimizer = SGD([one], 0.1, 0.9, decay=0.5)
    for _ in range(300):
        step(optimizer, one)
    other = nn.Parameter(one.detach().clone())
    again = SGD([other], 0.3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert (again.iterations, again.decay, again.get_config()) == (300, 0.5, optimizer.get_config())
    assert again.learning_rate_factor() == optimizer.learning_rate_factor() == pytest.approx(1 / 151)
    for _ in range(3):
        step(optimizer, one), step(again, other)
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copied", "pickled"]
)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_copy_continues_where_the_original_stands(decay, again):
    one = weight(1.0, 2.0)
    optimizer = SGD([one], 0.1, 0.9, decay)
    for _ in range(3):
        step(optimizer, one)
    other = again(optimizer)
    twin = other.param_groups[0]["params"][0]
    for _ in range(3):
        step(optimizer, one)
        step(other, twin)
    assert torch.equal(one, twin)
    assert other.get_config() == optimizer.get_config()
    assert (other.iterations, other.decay) == (6, decay)


def test_state_without_the_count_is_refused_entirely():
    one = weight()
    optimizer, state = SGD([one], 0.1, decay=0.5), SGD([weight()], 0.2).state_dict()
    del state["param_groups"][0]["iterations"]
    with pytest.raises(InvalidArgumentError, match=r"iterations in the state of SGD"):
        optimizer.load_state_dict(state)
    assert optimizer.get_config()["lr"] == 0.1


def test_a_group_has_its_own_learning_rate_and_the_common_decay():
    one, other = weight(), weight()
    optimizer = SGD([{"params": [one]}, {"params": [other], "lr": 0.2}], 0.1, decay=1.0)
    for each in (one, other):
        each.grad = torch.ones_like(each)
    for _ in range(2):
        optimizer.step()
    assert one.item() == pytest.approx(1 - 0.1 - 0.05)
    assert other.item() == pytest.approx(1 - 0.2 - 0.1)
    with pytest.raises(InvalidArgumentError, match="decay of a param group must be that of the optimizer, 1"):
        optimizer.add_param_group({"params": [weight()], "decay": 0.5})


# --- in a Trainer -------------------------------------------------------------------------------------------


class Decaying(Toy):
    def configure_optimizers(self):
        return SGD(self.parameters(), lr=0.1, momentum=0.9, decay=0.01)


def test_schedule_and_decay_multiply_and_follow_the_plan():
    history, audit = History(), LearningRateAudit()
    scheduler = LearningRateScheduler(lambda epoch: 0.2 * 0.5**epoch)
    fit(Decaying(), history, scheduler, audit, epochs=2)
    epochs = len(scheduler.trace["lr"]) // 2
    scheduled = np.repeat([0.2, 0.1], epochs)
    np.testing.assert_allclose(scheduler.trace["lr"].values, scheduled / (1 + 0.01 * np.arange(2 * epochs)), rtol=1e-12)
    assert history["lr"] == [0.2, 0.1]  # as Keras' own history, without the decay
    assert not scheduler.audit.foreign
    assert scheduler.audit.followed == scheduler.audit.steps == 2 * epochs


def test_without_a_scheduler_the_trace_has_the_decayed_rates():
    trace, history = LearningRateTrace(), History()
    fit(Decaying(), trace, history, epochs=2)
    used = trace.trace["lr"].values
    np.testing.assert_allclose(used, 0.1 / (1 + 0.01 * np.arange(len(used))), rtol=1e-12)
    assert len(used) > 2
    assert history.learning_rates == {0: 0.1, 1: 0.1}


def test_a_resumed_run_continues_the_decay(tmp_path):
    checkpoint = tmp_path / "one.ckpt"
    whole, first, rest = LearningRateTrace(), LearningRateTrace(), LearningRateTrace()
    fit(Decaying(), whole, epochs=2)
    fit(Decaying(), first, epochs=1).save_checkpoint(checkpoint)
    fit(Decaying(), rest, epochs=2, ckpt_path=checkpoint)
    np.testing.assert_array_equal(
        rest.trace["lr"].values[-len(first.trace["lr"]) :], whole.trace["lr"].values[len(first.trace["lr"]) :]
    )


def test_the_learning_rate_as_a_tensor():
    one, other = weight(), weight()
    optimizers = SGD([one], torch.tensor(0.1), 0.9, decay=0.5), SGD([other], 0.1, 0.9, decay=0.5)
    for _ in range(5):
        step(optimizers[0], one), step(optimizers[1], other)
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
