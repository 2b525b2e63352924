"""A writer puts a schedule's values into an optimizer of a plain loop, step by step."""

import pytest
import torch

import lr_plugins as lp
from lr_plugins.engine.audit import Audit
from lr_plugins.engine.trace import Trace
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules import Assign
from tests.engine.loops import parameters, rates, sgd

RUN = lp.RunLength.of(steps_per_epoch=2, epochs=3)
HALVES = lp.StepDecay(0.1, drop=0.5, every="1ep")


def follow(optimizer, schedule=HALVES, audit=None):
    writer, trace = Writer(optimizer, {0: Assign(schedule)}, RUN.position, audit=audit), Trace()
    writer.attach(trace)
    writer.refresh()
    return writer, trace


def test_each_step_uses_the_value_of_its_position():
    optimizer = sgd(0.1)
    writer, trace = follow(optimizer)
    for _ in range(6):
        optimizer.step()
    assert trace["lr"].values.tolist() == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]
    assert writer.step == 6


def test_groups_hold_the_upcoming_value_between_steps():
    optimizer = sgd(0.1)
    follow(optimizer)
    seen = []
    for _ in range(4):
        seen += rates(optimizer)
        optimizer.step()
    assert seen == [0.1, 0.1, 0.05, 0.05]


def test_groups_keep_their_ratio_to_the_default():
    optimizer = sgd(0.1, 0.2, lr=0.1)
    _, trace = follow(optimizer)
    optimizer.step()
    assert rates(optimizer) == [0.1, 0.2]
    assert {name: series.values.tolist() for name, series in trace.items()} == {"lr/0": [0.1], "lr/1": [0.2]}


def test_a_ratio_to_a_default_of_zero_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"the default lr of SGD must be greater than 0 .*; got 0.0"):
        follow(sgd(0.1, 0.2, lr=0.0))


def test_value_of_other_code_before_a_step_is_not_used():
    optimizer, audit = sgd(0.1), Audit()
    _, trace = follow(optimizer, audit=audit)
    optimizer.param_groups[0]["lr"] = 9.0
    with pytest.warns(UserWarning, match="before step 0, other code has set lr to 9; the plan has 0.1"):
        optimizer.step()
    assert trace["lr"].values.tolist() == [0.1]
    assert (audit.steps, audit.followed, audit.foreign["other code"].count) == (1, 1, 1)


def test_yielding_writer_records_values_of_other_code():
    optimizer, audit = sgd(0.1), Audit("theirs")
    writer, trace = follow(optimizer, audit=audit)
    optimizer.param_groups[0]["lr"] = 9.0
    with pytest.warns(UserWarning, match="From here on it only records"):
        optimizer.step()
    optimizer.step()
    assert not writer.active
    assert trace["lr"].values.tolist() == [9.0, 9.0]


def test_conflict_error_is_raised_before_the_step():
    optimizer = sgd(0.1)
    follow(optimizer, audit=Audit("error"))
    optimizer.param_groups[0]["lr"] = 9.0
    weight = optimizer.param_groups[0]["params"][0]
    with pytest.raises(TrainingError, match="on_conflict=error"):
        optimizer.step()
    assert float(weight) == 0.0


def test_added_group_is_driven_from_its_first_step():
    optimizer = sgd(0.1)
    _, trace = follow(optimizer)
    optimizer.step()
    optimizer.add_param_group({"params": parameters(1), "lr": 0.2})
    optimizer.step()
    assert trace["lr"].values.tolist() == [0.1, 0.1]
    assert (trace["lr/1"].first_step, trace["lr/1"].values.tolist()) == (1, [0.2])


def test_a_detached_writer_leaves_the_optimizer_alone():
    optimizer = sgd(0.1)
    writer, trace = follow(optimizer)
    optimizer.step()
    writer.detach()
    optimizer.param_groups[0]["lr"] = 9.0
    optimizer.step()
    assert rates(optimizer) == [9.0]
    assert len(trace["lr"]) == 1


def test_momentum_of_an_optimizer_with_betas_is_beta1():
    optimizer = torch.optim.Adam(parameters(1), lr=0.1, betas=(0.9, 0.99))
    assignment = Assign(lp.Constant(0.5), to="momentum")
    writer = Writer(optimizer, {0: assignment}, RUN.position)
    writer.attach(Trace())
    writer.refresh()
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.99)
