"""Earlier names: in code an error with the current name, in a stored configuration read as the current one."""

import importlib
import inspect
import json
import subprocess
import sys

import pytest

import lr_plugins
from lr_plugins import renamed
from lr_plugins import schedules as s
from lr_plugins.engine.resume_policy import Saved
from lr_plugins.errors import InvalidArgumentError, PositionalArgumentError, RenamedError, RenamedNameError
from lr_plugins.renamed import ARGUMENTS, ATTRIBUTES, MODULES, NAMES, with_current_names
from lr_plugins.schedules import Observation, RunLength
from lr_plugins.schedules.serialization import from_config, to_config
from tests.schedules.test_arguments import GIVEN

RUN = RunLength.of(steps_per_epoch=10, epochs=10)
OF_SCHEDULES = [(name, old, new) for name, names in ARGUMENTS.items() if hasattr(s, name) for old, new in names.items()]


def class_of(name):
    return getattr(lr_plugins, name)


def test_each_earlier_module_says_what_there_is_now():
    # In a process of its own: a module that is imported elsewhere may be an attribute of its package already.
    code = f"""
import importlib
import lr_plugins
for module in {list(MODULES)}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(error.name, error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        f"{module} There is no {module} any more: it is now {current}." for module, current in MODULES.items()
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "from lr_plugins import report",
        "from lr_plugins.report import compare",
        "from lr_plugins.schedules.step import StepDecay",
        "from lr_plugins.callbacks import scheduler",
        "import lr_plugins.keras.schedules",
    ],
)
def test_every_form_of_import_names_what_there_is_now(statement):
    with pytest.raises(RenamedNameError, match=r"^There is no lr_plugins\.[a-z._]+ any more: it is now "):
        exec(statement)


def test_unknown_module_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'lr_plugins\.nothing'$"):
        importlib.import_module("lr_plugins.nothing")


def test_module_can_be_reloaded():
    code = """
import sys
from importlib import reload
from lr_plugins import renamed
before = len(sys.meta_path)
reload(renamed)
print(len(sys.meta_path) - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "0\n"


@pytest.mark.parametrize("old", NAMES)
def test_attribute_says_what_it_is_called_now(old):
    home, _, name = old.rpartition(".")
    assert str(renamed.missing(home, name)) == f"{old} is now called {NAMES[old]}."
    new_home, _, new = NAMES[old].rpartition(".")
    assert hasattr(importlib.import_module(new_home), new)
    with pytest.raises(RenamedNameError, match=name):
        getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("home", ["lr_plugins", "lr_plugins.schedules"])
def test_an_earlier_name_is_told_by_the_module_itself(home):
    with pytest.raises(ImportError, match=rf"{home}\.AsPlanned is now called {home}\.Replanned\."):
        exec(f"from {home} import AsPlanned")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_renamed_classes_have_only_the_current_arguments(name):
    accepted = set(inspect.signature(class_of(name)).parameters)
    assert set(ARGUMENTS[name].values()) <= accepted
    assert not accepted & ARGUMENTS[name].keys()


@pytest.mark.parametrize(
    ("name", "old", "new"), [(name, *pair) for name, names in ARGUMENTS.items() for pair in names.items()]
)
def test_argument_says_what_it_is_called_now(name, old, new):
    with pytest.raises(RenamedError, match=rf"^{name}\.{old} is now called {new}\.$"):
        class_of(name)(**{old: 1})


def test_keras_own_names_stay_under_keras_names():
    assert lr_plugins.keras.ReduceLROnPlateau(min_lr=0.1).min_lr == 0.1


def test_a_subclass_of_yours_is_told_as_well():
    class Mine(s.Cooldown):
        def __init__(self, length):
            super().__init__(0.1, length=length)

    with pytest.raises(RenamedError, match=r"^Cooldown\.length is now called decay_steps\.$"):
        Mine("5ep")


@pytest.mark.parametrize(
    ("name", "old", "new"), [(name, *pair) for name, names in ATTRIBUTES.items() for pair in names.items()]
)
def test_attribute_of_a_class_says_what_it_is_called_now(name, old, new):
    kinds = [s.Schedule, s.Position, s.RunLength, s.Chain.__mro__, s.Greedy.__mro__]
    flat = [kind for each in kinds for kind in (each if isinstance(each, tuple) else [each])]
    kind = next(kind for kind in flat if kind.__name__ == name)
    assert new in dir(kind) or new in kind.__annotations__
    with pytest.raises(AttributeError, match=rf"^{name}\.{old} is now called {new}\.$"):
        getattr(kind, old)
    assert not hasattr(kind, old)


@pytest.mark.parametrize("old", ATTRIBUTES["Schedule"])
def test_class_that_overrides_an_earlier_name_is_refused(old):
    with pytest.raises(RenamedError, match=rf"^Mine\.{old} is now called {ATTRIBUTES['Schedule'][old]}\.$"):
        type("Mine", (s.StepDecay,), {old: None})


def test_class_may_have_a_preview_of_its_own():
    assert type("Mine", (s.StepDecay,), {"preview": 3}).preview == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda schedule: schedule.then(0.2, "3ep"),
            PositionalArgumentError,
            "Schedule.then takes following by position, everything else by keyword: Schedule.then(0.2, after='3ep')",
        ),
        (
            lambda schedule: schedule.with_warmup(5, 0.1),
            PositionalArgumentError,
            "Schedule.with_warmup takes warmup_steps by position, everything else by keyword: "
            "Schedule.with_warmup(5, start_factor=0.1)",
        ),
        (
            lambda schedule: schedule.with_warmup(length=5),
            RenamedError,
            "Schedule.with_warmup.length is now called warmup_steps.",
        ),
        (
            lambda schedule: s.Duration.of(5, unit="ep"),
            RenamedError,
            'Duration.of.unit is now a part of the length, such as "10ep".',
        ),
    ],
)
def test_method_called_in_an_earlier_form_says_how_to_call_it(call, error, message):
    with pytest.raises(error) as caught:
        call(s.Constant(0.1))
    assert str(caught.value) == message


# --- stored configurations ----------------------------------------------------------------------------------


def in_earlier_words(config):
    """A configuration as an earlier version would have written it."""
    if isinstance(config, dict):
        name = config.get("_target_", "").rpartition(".")[2]
        earlier = {new: old for old, new in ARGUMENTS.get(name, {}).items()}
        config = {earlier.get(key, key): in_earlier_words(value) for key, value in config.items()}
        if name == "Replanned":
            config["_target_"] = "lr_plugins.schedules.AsPlanned"
        return config
    return [in_earlier_words(item) for item in config] if isinstance(config, list) else config


@pytest.mark.parametrize("home", ["lr_plugins", "lr_plugins.schedules"])
@pytest.mark.parametrize(("name", "old", "new"), OF_SCHEDULES)
def test_configuration_of_an_earlier_version_is_read(home, name, old, new):
    schedule = class_of(name)(**GIVEN.get(class_of(name), {}))
    config = to_config(schedule) | {"_target_": f"{home}.{name}"}
    config[old] = config.pop(new)
    before = json.dumps(config)
    assert from_config(config) == schedule
    assert with_current_names(config) == {**to_config(schedule), "_target_": f"{home}.{name}"}
    assert json.dumps(config) == before, "the configuration was changed in place"


def test_names_are_read_at_any_depth():
    schedule = s.Chain(
        [
            s.OneCycle(0.1, total_steps="2ep").with_warmup(5),
            s.Replanned(s.Cyclic(0.1, 0.2, up_steps=3), steps_per_epoch=10) * s.Greedy(min_learning_rate="0.1x"),
        ],
        lengths=["50%"],
    )
    earlier = in_earlier_words(json.loads(json.dumps(to_config(schedule))))
    assert {"AsPlanned", "length", "base_learning_rate", "min_lr"} <= set(
        json.dumps(earlier).replace(".", '"').split('"')
    )
    assert from_config(earlier) == schedule


def test_names_of_others_stay_as_they_are():
    for config in ({"_target_": "mine.Warmup", "length": 3}, {"_target_": "lr_plugins.keras.Warmup", "length": 3}):
        assert with_current_names(config) == config
    assert with_current_names([1, "length", None]) == [1, "length", None]


def test_earlier_and_current_name_together_are_refused():
    config = {"_target_": "lr_plugins.schedules.Cooldown", "length": "3ep", "decay_steps": "5ep"}
    with pytest.raises(InvalidArgumentError, match=r"Cooldown\.length is now called decay_steps\."):
        from_config(config)


@pytest.mark.parametrize("target", ["lr_plugins.schedules.step.StepDecay", "lr_plugins.nowhere.StepDecay"])
def test_target_in_a_module_of_an_earlier_version_names_the_class(target):
    with pytest.raises(InvalidArgumentError, match=r"Write lr_plugins\.schedules\.StepDecay\.$"):
        from_config({"_target_": target})


@pytest.mark.parametrize(
    ("now", "saved", "state"),
    [
        (
            s.Chain([s.Constant(0.1), s.LossDriven(0.1)], lengths=["5ep"]),
            {
                "schedule": {
                    "_target_": "lr_plugins.schedules.Chain",
                    "schedules": [
                        {"_target_": "lr_plugins.schedules.Constant", "initial_learning_rate": 0.1},
                        to_config(s.LossDriven(0.1)),
                    ],
                    "lengths": ["5ep"],
                },
                "base": 0.1,
                "run": [10, 10, None, None],
                "kind": "Chain(Constant, LossDriven(loss, epoch, ))",
                "state": {
                    "1": {
                        "observed": 2.5,
                        "factor": 12.2,
                        "verb": "setting",
                        "capped": True,
                        "told": False,
                        "aside": True,
                    }
                },
            },
            {
                "1": {
                    "observed": 2.5,
                    "factor": 12.2,
                    "verb": "setting",
                    "capped": True,
                    "reported": False,
                    "inactive": True,
                }
            },
        ),
        (
            s.Replanned(s.LossDriven(0.1), steps_per_epoch=10),
            {
                "schedule": {
                    "_target_": "lr_plugins.schedules.AsPlanned",
                    "schedule": to_config(s.LossDriven(0.1)),
                    "steps_per_epoch": 10,
                },
                "base": 0.1,
                "run": [10, 10, None, None],
                "kind": "LossDriven(loss, epoch, )",
                "state": {"observed": 1.0, "factor": 2.7, "verb": "setting", "capped": False, "told": True},
            },
            {"observed": 1.0, "factor": 2.7, "verb": "setting", "capped": False, "reported": True},
        ),
    ],
    ids=["Chain", "Replanned"],
)
def test_schedule_saved_by_an_earlier_version_is_restored(now, saved, state):
    restored = Saved.restored(saved)
    restored.check(now, "schedules['0/lr/0']")
    assert (restored.state, restored.kind) == (state, now.kind)
    assert float(now(RUN.position(60), restored.state)) > 0.0


def test_state_of_a_class_of_yours_keeps_its_fields():
    state = {"told": 3, "nested": {"aside": 4}}
    assert renamed.state_with_current_names(state) == state


@pytest.mark.parametrize(
    "schedule",
    [
        s.ReduceLROnPlateau(0.1, monitor="loss", patience=1, factor=0.5, min_learning_rate=0.01).with_warmup("2ep"),
        s.Greedy(0.1, monitor="loss", patience=1, factor=0.5, max_learning_rate="4x"),
        s.Annealed(s.LossDriven(0.1), after="50%", decay_steps="2ep"),
        s.Replanned(s.LossDriven(0.1), steps_per_epoch=10, epochs=20, steps=200),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_state_saved_with_earlier_names_continues(schedule):
    def trained(schedule, state, epochs):
        for epoch in epochs:
            position = RUN.position(10 * epoch)
            state = schedule.observe(state, position, Observation("epoch", {"loss": 1.0 + (epoch % 2)}))
            yield float(schedule(position, state)), state

    uninterrupted = list(trained(schedule, schedule.start(), range(8)))
    *_, (_, state) = trained(schedule, schedule.start(), range(4))
    saved = json.loads(json.dumps({"schedule": in_earlier_words(to_config(schedule)), "state": state}))
    restored = from_config(saved["schedule"])
    assert restored == schedule
    restored.check_state(saved["state"])
    assert list(trained(restored, saved["state"], range(4, 8))) == uninterrupted[4:]
