"""Assignments that are refused, and the message for each."""

import pytest
import torch

from lr_plugins import Assign, Assignments, Constant, LearningRateScheduler
from lr_plugins.errors import InvalidArgumentError
from tests.lifecycle.assigned import Deep
from tests.toys import Toy, fit

ERRORS = [
    ([Assign(Constant(0.1), params="bakbone")], "Assign.params.*backbone.0.weight.*'bakbone'"),
    ([Assign(Constant(0.1), group="head")], r"Assign.group.*\(0\); got 'head'"),
    ([Assign(Constant(0.1), group=3)], "Assign.group.*got 3"),
    ([Assign(Constant(0.1), optimizer="Adam")], "Assign.optimizer.*0: SGD.*'Adam'"),
    ([Assign(Constant(0.1), optimizer=1)], "Assign.optimizer.*0: SGD.*1"),
    ([Assign(Constant(0.1), to="beta1")], "Assign.to.*SGD: lr, momentum.*'beta1'"),
    ([Assign(Constant(0.1), to="params")], "Assign.to.*'params'"),
    ([Assign(Constant(0.1), to="nesterov")], "Assign.to.*'nesterov'"),
    ([Assign(Constant(0.1), layer_decay=0.5, layers=["head"])], "Assign.layers.*None of them finds backbone.0.weight"),
]


@pytest.mark.parametrize(("schedules", "message"), ERRORS, ids=[message[:24] for _, message in ERRORS])
def test_unknown_targets_are_refused_before_training(schedules, message):
    module = Deep()
    with pytest.raises(InvalidArgumentError, match=message):
        fit(module, LearningRateScheduler(schedules))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 3}, "schedule"),
        ({"to": ""}, "Assign.to"),
        ({"params": "("}, r"Assign.params.*regular expression.*'\('"),
        ({"params": 1}, "Assign.params"),
        ({"group": -1}, "Assign.group"),
        ({"group": 1.5}, "Assign.group"),
        ({"optimizer": True}, "Assign.optimizer"),
        ({"layer_decay": 0}, "Assign.layer_decay.*> 0"),
        ({"layers": ["a"]}, "Assign.layers.*together with layer_decay"),
        ({"layers": "a", "layer_decay": 0.5}, "Assign.layers.*list"),
        ({"layers": ["("], "layer_decay": 0.5}, r"Assign.layers\[0\]"),
        ({"name": ""}, "Assign.name"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Assign(**{"schedule": Constant(0.1), **arguments})


@pytest.mark.parametrize("given", [[], {}, "abc", 3])
def test_assignments_are_a_list_or_a_dictionary(given):
    with pytest.raises(InvalidArgumentError):
        Assignments(given)


@pytest.mark.parametrize("more", [{"group": "net"}, {"group": 3}, {"optimizer": 0, "group": "others"}])
def test_selectors_without_a_common_group_are_refused(more):
    with pytest.raises(InvalidArgumentError, match=r"Assign\.params"):
        fit(Deep(), LearningRateScheduler([Constant(0.1), Assign(Constant(0.5), params="^head", **more)]))


def test_lbfgs_is_not_split():
    with pytest.raises(InvalidArgumentError, match="LBFGS, whose parameters cannot be split"):
        fit(
            Toy(lambda parameters: torch.optim.LBFGS(parameters, lr=0.1)),
            LearningRateScheduler([Assign(Constant(0.1), params="bias")]),
        )
