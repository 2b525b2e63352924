"""How schedules are called: one argument by position, choices as `Literal`; and what reads their signatures."""

import copy
import inspect
import pickle
import types
import typing
from typing import Literal, get_args, get_origin

import jsonargparse
import pytest
from hydra.utils import instantiate

from lr_plugins import keras
from lr_plugins import schedules as s
from lr_plugins.errors import InvalidArgumentError, LearningRateError, PositionalArgumentError
from lr_plugins.schedules import Schedule

from .test_arguments import GIVEN, KINDS

BY_POSITION = {
    s.LinearDecay: (
        (0.1, 1000),
        "LinearDecay takes initial_learning_rate by position, everything else by keyword: "
        "LinearDecay(0.1, end_learning_rate=1000)",
    ),
    s.StepDecay: (
        (0.1, 0.5, "3ep"),
        "StepDecay takes initial_learning_rate by position, everything else by keyword: "
        "StepDecay(0.1, drop=0.5, every='3ep')",
    ),
    s.Cyclic: (
        (0.1, 0.2, 30),
        "Cyclic takes min_learning_rate and max_learning_rate by position, everything else by keyword: "
        "Cyclic(0.1, 0.2, up_steps=30)",
    ),
    s.CycleThrough: (
        (0.1, 0.2, 0.3, 30),
        "CycleThrough takes first, peak and last by position, everything else by keyword: "
        "CycleThrough(0.1, 0.2, 0.3, total_steps=30)",
    ),
    s.Assign: (
        (s.Constant(0.1), "momentum"),
        "Assign takes schedule by position, everything else by keyword: "
        "Assign(Constant(initial_learning_rate=0.1), to='momentum')",
    ),
}


@pytest.mark.parametrize("kind", BY_POSITION, ids=lambda kind: kind.__name__)
def test_argument_by_position_is_told_its_keyword(kind):
    arguments, message = BY_POSITION[kind]
    with pytest.raises(PositionalArgumentError) as refused:
        kind(*arguments)
    assert str(refused.value) == message
    assert isinstance(refused.value, (TypeError, LearningRateError))


def test_keywords_that_were_given_are_shown_as_well():
    with pytest.raises(PositionalArgumentError, match=r"LinearDecay\(0\.1, end_learning_rate=0, decay_steps='5ep'\)$"):
        s.LinearDecay(0.1, 0, decay_steps="5ep")


def test_subclass_is_told_by_its_own_name():
    class Mine(s.StepDecay):
        pass

    class Own(Schedule):
        def __init__(self, rate, *, scale=1.0):
            self.rate, self.scale = rate, scale

        def value(self, position, state):
            return self.rate * self.scale

    class Anything(Own):
        def __init__(self, *rates, scale=1.0):
            super().__init__(sum(rates), scale=scale)

    with pytest.raises(PositionalArgumentError, match=r"^Mine takes .*: Mine\(0\.1, drop=0\.5\)$"):
        Mine(0.1, 0.5)
    with pytest.raises(PositionalArgumentError, match=r"^Own takes rate by position, .*: Own\(0\.1, scale=2\)$"):
        Own(0.1, 2)
    assert Anything(0.1, 0.2, 0.3, scale=2.0)(0) == pytest.approx(1.2)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if not kind.__module__.startswith("lr_plugins.schedules.keras")]
)
def test_one_argument_is_taken_by_position_pairs_excepted(kind):
    kinds = [parameter.kind for parameter in inspect.signature(kind).parameters.values()]
    pairs = {s.PiecewiseConstant: 2, s.Cyclic: 2, s.CycleThrough: 3}
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == pairs.get(kind, 1)


# --- choices ------------------------------------------------------------------------------------------------

# Texts that may be anything: the name of a metric, a bound such as "10x", a regular expression, Keras' name, ...
FREE = {"monitor", "name", "min_learning_rate", "max_learning_rate", "first_learning_rate", "params", "group",
        "optimizer", "to"}  # fmt: skip
LENGTHS = {"every", "after", "until", "warmup_steps", "decay_steps", "first_decay_steps", "total_steps", "up_steps",
           "down_steps", "lengths", "boundaries", "milestones", "points", "layers"}  # fmt: skip
ARGUMENTS = [
    pytest.param(kind, name, id=f"{kind.__module__.split('.')[-2]}.{kind.__name__}.{name}")
    for kind in [*KINDS, s.Assign, keras.ReduceLROnPlateau]
    for name in inspect.signature(kind).parameters
]


def parts(annotation):
    """The types in a union, at any depth."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for one in get_args(annotation) for part in parts(one)]
    return [annotation]


def annotations(kind):
    return typing.get_type_hints(kind.__init__)


@pytest.mark.parametrize(("kind", "name"), ARGUMENTS)
def test_text_arguments_are_typed_choices_or_free_text(kind, name):
    found = parts(annotations(kind)[name])
    choices = [part for part in found if get_origin(part) is Literal]
    if str in found and name not in FREE | LENGTHS:
        assert name == "when", "a choice is a Literal"
        assert get_args(choices[0]) == ("epoch", "validation", "step")
    default = inspect.signature(kind).parameters[name].default
    if isinstance(default, str) and name not in FREE | LENGTHS:
        assert any(default in get_args(choice) for choice in choices)


CHOICES = [
    (kind, name, part)
    for kind, name in (argument.values for argument in ARGUMENTS)
    for part in parts(annotations(kind)[name])
    if get_origin(part) is Literal
]


def given_to(kind, name, choice):
    given = {s.Assign: {"schedule": s.Constant(0.1)}}.get(kind, GIVEN.get(kind, {}))
    return {**given, name: choice, **({"start_factor": 0.1} if choice == "exponential" and kind is s.Warmup else {})}


@pytest.mark.parametrize(("kind", "name", "choices"), CHOICES, ids=lambda one: getattr(one, "__name__", str(one)))
def test_each_choice_is_accepted_and_no_other(kind, name, choices):
    for choice in get_args(choices):
        assert getattr(kind(**given_to(kind, name, choice)), name) == choice
    with pytest.raises(
        InvalidArgumentError, match=rf"^{kind.__name__}\.{name} must be .*{get_args(choices)[-1]}.*; got "
    ):
        kind(**given_to(kind, name, "no such choice"))


def test_these_are_the_choices():
    """So that a new one, or one that is lost, is seen."""
    assert {name for _, name, _ in CHOICES} == {
        "anneal", "decay_shape", "distribution", "dtype", "interpolation", "mode", "of", "on_missing", "on_nonfinite",
        "reference", "rule", "shape", "since", "threshold_mode", "when",
    }  # fmt: skip


# --- what reads signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_signature_is_that_of_the_class(kind):
    build = inspect.unwrap(kind.__init__)
    own = list(inspect.signature(build).parameters.values())[1:]
    assert list(inspect.signature(kind).parameters.values()) == own
    assert annotations(kind) == typing.get_type_hints(build)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not s.FunctionSchedule], ids=lambda kind: kind.__name__
)
def test_copies_and_pickles_are_the_same(kind):
    schedule = kind(**GIVEN.get(kind, {}))
    assert copy.deepcopy(schedule) == copy.copy(schedule) == pickle.loads(pickle.dumps(schedule)) == schedule


def test_hydra_builds_it_and_passes_the_sentence_on():
    config = {"_target_": "lr_plugins.schedules.LinearDecay", "initial_learning_rate": 0.1, "decay_steps": "5ep"}
    assert instantiate(config) == s.LinearDecay(0.1, decay_steps="5ep")
    assert instantiate({"_target_": "lr_plugins.LinearDecay", "_args_": [0.1]}) == s.LinearDecay(0.1)
    with pytest.raises(Exception, match=r"Cooldown\.length is now called decay_steps"):
        instantiate({"_target_": "lr_plugins.schedules.Cooldown", "length": "5ep"})


class Holder:
    """Takes a schedule, as a class of the user's may."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule


def test_jsonargparse_builds_it_and_checks_its_choices():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Holder, "holder")
    path = "lr_plugins.schedules.ReduceLROnPlateau"
    arguments = ["--holder.schedule", path, "--holder.schedule.rule", "torch", "--holder.schedule.when", "50st"]
    built = parser.instantiate_classes(parser.parse_args(arguments)).holder.schedule
    assert built == s.ReduceLROnPlateau(rule="torch", when="50st")
    with pytest.raises(jsonargparse.ArgumentError, match="keras2"):
        parser.parse_args(["--holder.schedule", path, "--holder.schedule.rule", "pytorch"])
