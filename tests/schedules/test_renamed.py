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
from lr_plugins.errors import RenamedError, RenamedNameError
from lr_plugins.renamed import ARGUMENTS, MODULES, NAMES, in_todays_words
from lr_plugins.schedules import Observation, RunLength
from lr_plugins.schedules.serialization import from_config, to_config

from .test_arguments import GIVEN

RUN = RunLength.of(steps_per_epoch=10, epochs=10)
OF_SCHEDULES = [(name, old, new) for name, names in ARGUMENTS.items() if hasattr(s, name) for old, new in names.items()]


def class_of(name):
    return getattr(lr_plugins, name)


@pytest.mark.parametrize("module", MODULES)
def test_module_says_where_it_is_now(module):
    # In a process of its own: a module that is imported elsewhere may be an attribute of its package already.
    code = f"import lr_plugins\ntry: import {module}\nexcept ModuleNotFoundError as error: print(error.name, error)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{module} There is no {module} any more: it is now {MODULES[module]}"


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
    assert in_todays_words(config) == {**to_config(schedule), "_target_": f"{home}.{name}"}
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
        assert in_todays_words(config) == config
    assert in_todays_words([1, "length", None]) == [1, "length", None]


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
