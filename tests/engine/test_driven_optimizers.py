"""Several optimizers of a plain loop, their schedules, and what happens when the plan or an optimizer changes."""

import pytest
import torch

import lr_plugins as lp
from lr_plugins.engine.driven_optimizers import DrivenOptimizers, describe_targets
from lr_plugins.engine.trace import Trace
from lr_plugins.errors import InvalidArgumentError, TrainingError
from lr_plugins.schedules import Assign, Position
from lr_plugins.schedules.assign import Assignments
from lr_plugins.schedules.observation import Observation
from tests.engine.loops import parameters, rates, sgd

RUN = lp.RunLength.of(steps_per_epoch=2, epochs=3)
HALVES = lp.StepDecay(0.1, drop=0.5, every="1ep")


def drive(schedules, *optimizers, steps=None, run=RUN, **settings):
    driven = DrivenOptimizers(optimizers, Assignments.of(schedules), run.position, **settings)
    driven.attach(Trace(), steps or [0] * len(optimizers), run.steps)
    driven.refresh()
    return driven


def test_each_optimizer_counts_its_own_steps():
    first, second = sgd(0.1), sgd(0.1)
    driven = drive(HALVES, first, second)
    for _ in range(3):
        first.step()
    second.step()
    assert [writer.step for writer in driven.writers] == [3, 1]
    assert driven.steps_taken == 4
    assert driven.trace["lr/SGD-0"].values.tolist() == [0.1, 0.1, 0.05]
    assert driven.trace["lr/SGD-1"].values.tolist() == [0.1]


def test_assignment_applies_to_the_optimizer_it_names():
    first, second = sgd(0.1), torch.optim.Adam(parameters(1), lr=0.2)
    drive([HALVES, Assign(lp.Constant(0.7), optimizer="Adam")], first, second)
    assert (rates(first), rates(second)) == ([0.1], [0.7])


@pytest.mark.parametrize(
    ("assignment", "field"),
    [
        (Assign(HALVES, optimizer="LBFGS"), "Assign.optimizer"),
        (Assign(HALVES, to="momentum2"), "Assign.to"),
        (Assign(HALVES, group="head"), "Assign.group"),
        (Assign(HALVES, params="head"), "Assign.params"),
    ],
)
def test_assignment_without_a_target_is_refused(assignment, field):
    with pytest.raises(InvalidArgumentError) as refused:
        drive([assignment], sgd(0.1))
    assert refused.value.field == field


def test_replacement_continues_at_the_previous_position():
    first = sgd(0.1)
    driven = drive(HALVES, first)
    for _ in range(2):
        first.step()
    second = torch.optim.SGD(first.param_groups[0]["params"], lr=0.1)
    [before] = driven.writers
    continued = driven.replace([second])
    assert list(continued.values()) == [before]
    second.step()
    first.step()  # is not followed any more
    assert driven.trace["lr"].values.tolist() == [0.1, 0.1, 0.05]
    assert driven.steps_taken == 3


def test_the_list_of_writers_stays_the_same_object():
    first = sgd(0.1)
    driven = drive(HALVES, first)
    writers = driven.writers
    driven.replace([torch.optim.SGD(first.param_groups[0]["params"], lr=0.1)])
    assert driven.writers is writers


def test_steps_of_a_removed_optimizer_still_count():
    first, second = sgd(0.1), sgd(0.1)
    driven = drive(HALVES, first, second)
    second.step()
    driven.replace([first])
    first.step()
    assert driven.steps_taken == 2


def test_restart_clears_the_memory_of_schedules():
    optimizer = sgd(0.1)
    driven = drive(lp.LossDriven(0.1, monitor="loss"), optimizer)
    [(_, only)] = driven.driven_groups()
    start = only.state
    for loss in (1.0, 0.5):
        only.state = only.schedule.observe(only.state, Position(0, 0, RUN, 0.1), Observation("epoch", {"loss": loss}))
    optimizer.step()
    assert only.state != start
    driven.restart()
    assert (only.state, driven.steps_taken) == (start, 0)


# --- resuming under another plan --------------------------------------------------------------------------------------


def saved_at(step):
    optimizer = sgd(0.1)
    driven = drive(HALVES, optimizer)
    for _ in range(step):
        optimizer.step()
    saved = driven.saved(RUN)
    driven.detach()
    return saved


def resume(schedule, policy, step=4):
    driven = drive(schedule, sgd(0.1), steps=[step])
    reports = list(driven.apply_resume_policy(policy, saved_at(step), RUN, [step]))
    driven.refresh()
    return driven, reports


def test_same_plan_resumes_silently():
    driven, reports = resume(HALVES, "error")
    assert (driven.writers[0].learning_rate, reports) == (0.025, [])


def test_jump_is_refused_with_a_table_of_differences():
    with pytest.raises(TrainingError) as refused:
        resume(lp.StepDecay(0.8, drop=0.5, every="1ep"), "error")
    assert "resuming at step 4 with another plan would make the learning rate jump." in str(refused.value)
    assert "schedule.initial_learning_rate" in str(refused.value)


@pytest.mark.parametrize(("policy", "expected"), [("config", 0.2), ("checkpoint", 0.025)])
def test_a_policy_chooses_between_the_two_plans(policy, expected):
    driven, [report] = resume(lp.StepDecay(0.8, drop=0.5, every="1ep"), policy)
    assert driven.writers[0].learning_rate == pytest.approx(expected)
    assert f"(on_resume={policy})" in report


def test_group_sizes_that_differ_from_the_checkpoint_are_refused():
    first, second = parameters(2)
    names = {id(first): "backbone.weight", id(second): "head.weight"}
    optimizer = torch.optim.SGD([first, second], lr=0.1)
    driven = drive([HALVES, Assign(lp.Constant(0.7), params="^head")], optimizer, names=names)
    assert driven.parameters() == [[["backbone.weight"], ["head.weight"]]]
    driven.check_groups(driven.parameters(), [])
    with pytest.raises(InvalidArgumentError, match="those of the checkpoint, 1 \\(2\\) parameters"):
        driven.check_groups([], [[2]])


# --- words ------------------------------------------------------------------------------------------------------------


def test_targets_with_different_values_are_named():
    driven = drive([HALVES, Assign(lp.Constant(0.7), group=1)], sgd(0.1, 0.1))
    assert list(describe_targets(driven.writers).values()) == ["0 learning rate", "1 learning rate"]
    agreeing = drive(HALVES, sgd(0.1), sgd(0.1))
    assert list(describe_targets(agreeing.writers).values()) == ["learning rate", "learning rate"]
