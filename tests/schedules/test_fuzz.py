"""Every constructor with arguments of any kind: a schedule whose values are finite, or one error of ours."""

import inspect
import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lr_plugins
from lr_plugins import keras, preview
from lr_plugins import schedules as s
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.interop import TorchSchedule
from lr_plugins.schedules import Assign, Assignments, Observation, Position, RunLength, Schedule
from lr_plugins.schedules.duration import Duration

from .nasty import SCHEDULES, ask, fuzz, nasty, quick_and_quiet, told
from .test_arguments import GIVEN

HOMES = [(s, s.__all__), (keras, vars(keras)), (lr_plugins, lr_plugins.__all__)]
KINDS = list(
    dict.fromkeys(
        kind
        for home, names in HOMES
        for name in names
        if inspect.isclass(kind := getattr(home, name))
        and issubclass(kind, Schedule)
        and not inspect.isabstract(kind)
        and kind.__module__.startswith("lr_plugins.")
        and kind is not TorchSchedule  # it is among the others
    )
)
OTHERS = {
    "Assign": Assign,
    "Assignments": Assignments,
    "Assignments.of": Assignments.of,
    "Duration": Duration,
    "Duration.of": Duration.of,
    "RunLength": RunLength,
    "RunLength.of": RunLength.of,
    "as_schedule": s.as_schedule,
    "TorchSchedule": TorchSchedule,
}
METHODS = [
    "then", "with_warmup", "__mul__", "__rmul__", "at_least", "at_most", "repeated", "stretched", "smooth", "per_epoch",
]  # fmt: skip
LISTENING = [s.LossDriven, s.ReduceLROnPlateau, s.Greedy, s.BoldDriver]


def arguments_of(call, given=None):
    """Some of a call's arguments, of any kind; the others as they are by default, or as is `given`."""
    names = [name for name in inspect.signature(call).parameters if name not in ("self", "field", "allow_zero")]
    names = [name for name in names if call is not preview or name != "schedule"]
    few = st.lists(st.sampled_from(names), max_size=3, unique=True) if names else st.just([])
    return few.flatmap(lambda chosen: st.fixed_dictionaries(dict.fromkeys(chosen, nasty))).map(
        lambda chosen: {**(given or {}), **chosen}
    )


def built(call, arguments):
    with quick_and_quiet(call):
        return told(call, **arguments, kinds=InvalidArgumentError)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__.split('.')[1]}.{kind.__name__}")
def test_a_constructor_makes_a_schedule_or_one_error(kind):
    @given(arguments_of(kind, GIVEN.get(kind)))
    @fuzz(25)
    def check(arguments):
        schedule = built(kind, arguments)
        if schedule is not None:
            ask(schedule)
            again = type(schedule)(**schedule.config())
            assert again == schedule
            assert repr(again) == repr(schedule)

    check()


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_given_with_schedules_is_checked(name):
    call = OTHERS[name]
    given_to = {"schedule": SCHEDULES[0]} if name == "Assign" else {}

    @given(arguments_of(call, given_to))
    @fuzz(30)
    def check(arguments):
        missing = [
            one.name
            for one in inspect.signature(call).parameters.values()
            if one.default is one.empty and one.name not in arguments
        ]
        if not missing:
            built(call, arguments)

    check()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_makes_a_schedule_or_one_error(name):
    @given(st.sampled_from(SCHEDULES), arguments_of(getattr(Schedule, name)))
    @fuzz(25)
    def check(schedule, arguments):
        method = getattr(schedule, name)
        required = [one.name for one in inspect.signature(method).parameters.values() if one.default is one.empty]
        if set(required) <= set(arguments):
            made = built(method, arguments)
            if made is not None:
                ask(made)

    check()


metrics = st.sampled_from(
    [0.0, -0.0, 0.5, 1.0, 710.0, 1e4, 1e300, -1e300, 1e308, -1e308, 5e-324, 10**400, math.nan, math.inf, -math.inf]
)


@pytest.mark.parametrize("kind", LISTENING, ids=lambda kind: kind.__name__)
def test_what_a_metric_leads_to_is_a_value_or_one_error(kind):
    @given(arguments_of(kind), st.lists(metrics, max_size=8), st.sampled_from([0.1, 1e-300, 5e-324, 1e300, 0.0]))
    @fuzz(30)
    def check(arguments, observed, base):
        schedule = built(kind, {**arguments, "monitor": "loss", "when": "epoch"})
        if schedule is None:
            return
        run, state = RunLength.of(steps_per_epoch=10, epochs=10), schedule.start()
        with quick_and_quiet(schedule):
            for epoch, value in enumerate(observed):
                place = Position(10 * epoch + 10, epoch + 1, run, base)
                state = told(schedule.observe, state, place, Observation("epoch", {"loss": value}))
                if state is None:
                    return
                json.dumps(state, allow_nan=False)
                rate = told(schedule, place, state)
                assert rate is None or 0 <= rate < math.inf

    check()


@given(st.sampled_from(SCHEDULES), arguments_of(preview, {"steps_per_epoch": 3, "epochs": 4}))
@fuzz(30)
def test_a_preview_is_a_page_or_one_error(schedule, arguments):
    arguments.pop("metrics", None)
    if any(isinstance(arguments.get(name), int) and arguments[name] > 1000 for name in arguments):
        return  # a long run takes its time
    with quick_and_quiet(schedule):
        seen = told(preview, schedule, **arguments)
        assert seen is None or "nan" not in str(seen)


@given(nasty)
@fuzz(30)
def test_an_error_goes_to_another_process(value):
    error = InvalidArgumentError("field", value, "something else", "Do it.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
