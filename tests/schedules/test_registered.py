"""A configuration from a file names a schedule that is known, or it is refused; nothing is imported or run for it."""

import gc
import subprocess
import sys

import pytest

from lr_plugins import Constant, StepDecay, checkpoint_state, keras
from lr_plugins.checkpoint_state import DEPTH
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.serialization import defined_schedule, from_config, to_config

STEP = {"initial_learning_rate": 0.1, "every": "5ep"}
NAMES = [
    "lr_plugins.schedules.StepDecay",
    "lr_plugins.StepDecay",
    "lr_plugins.schedules.shapes.step.StepDecay",
]
NONE = [
    "os.system",
    "builtins.eval",
    "antigravity.Schedule",
    "lr_plugins.schedules.os.system",
    "lr_plugins.schedules.schedule.Schedule.__init_subclass__",
    "lr_plugins.training.run.train",
    "lr_plugins.training.run.TorchSchedule",
    "lr_plugins.schedules.Duration",
    "lr_plugins.schedules.Assign",
    "lr_plugins.schedules.as_schedule",
    "lr_plugins.schedules.shapes.step",
    "lr_plugins.LearningRateScheduler",
    "lr_plugins.keras.serialize",
    "lr_plugins.keras.np.array",
    "StepDecay",
    "..StepDecay",
    ".lr_plugins.schedules.StepDecay",
    "lr_plugins.schedules.StepDecay ",
    "lr_plugins.schedules.",
    "",
    ".",
    "\ud800.x",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("name", NAMES)
def test_schedules_of_this_package_are_found(name):
    assert from_config({"_target_": name, **STEP}) == StepDecay(0.1, every="5ep")


@pytest.mark.parametrize("name", [*NONE, None, 3, [], {}, b"os.system", ["lr_plugins.StepDecay"]], ids=str)
def test_anything_else_is_refused_in_a_short_sentence(name):
    with pytest.raises(InvalidArgumentError, match="_target_ must be the dotted name of a schedule") as caught:
        from_config({"_target_": name, **STEP})
    assert len(str(caught.value)) < 300
    str(caught.value).encode()


def test_no_module_is_imported_for_a_name(tmp_path):
    (tmp_path / "evil.py").write_text("open('ran', 'w')\nfrom lr_plugins.schedules import StepDecay as Evil\n")
    code = (
        "import sys\n"
        "from lr_plugins.schedules.serialization import from_config\n"
        "for name in ('evil.Evil', 'this.s', 'lr_plugins.interop.TorchSchedule', 'lr_plugins.training.run.train'):\n"
        "    try: from_config({'_target_': name})\n"
        "    except ValueError as error: print(error)\n"
        "print(*({'evil', 'this', 'lr_plugins.interop', 'lr_plugins.training', 'torch'} & set(sys.modules)))\n"
        "print(from_config({'_target_': 'lr_plugins.keras.ExponentialDecay', 'initial_learning_rate': 1.0,"
        " 'decay_steps': 1, 'decay_rate': 0.5})(1))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-2:] == ["", "0.5"]
    assert run.stdout.count("Import the module that defines a class of yours first") == 2
    assert not (tmp_path / "ran").exists()


def test_a_class_of_the_user_is_known_once_it_is_defined():
    class Mine(Constant):
        pass

    config = to_config(Mine(0.1) * 2.0)
    assert type(from_config(config).parts[0]) is Mine
    name = config["schedules"][0]["_target_"]
    assert defined_schedule(name) is Mine
    del Mine
    gc.collect()
    with pytest.raises(InvalidArgumentError, match="Import the module that defines a class of yours first"):
        from_config(config)


def test_a_class_without_a_formula_is_refused():
    with pytest.raises(InvalidArgumentError, match="abstract"):
        from_config({"_target_": "lr_plugins.schedules.Schedule"})
    assert defined_schedule("lr_plugins.schedules.Schedule") is Schedule


def nested(levels, value):
    for _ in range(levels):
        value = {"_target_": "lr_plugins.schedules.Smooth", "schedule": value}
    return value


def test_deep_configurations_work_up_to_a_limit():
    assert "Constant" in repr(
        from_config(nested(DEPTH - 1, {"_target_": "lr_plugins.Constant", **{"initial_learning_rate": 1.0}}))
    )
    cyclic = {"_target_": "lr_plugins.schedules.Smooth"}
    cyclic["schedule"] = cyclic
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for config in (nested(100_000, None), cyclic, {"_target_": "lr_plugins.schedules.StepDecay", "drop": deep}):
        with pytest.raises(InvalidArgumentError, match="nested at most 100 deep"):
            from_config(config)


def test_a_configuration_that_shares_its_parts_is_not_searched_without_end(monkeypatch):
    monkeypatch.setattr(checkpoint_state, "_MOST", 10_000)  # elsewhere a few seconds are searched
    part = [0.1]
    for _ in range(60):
        part = [part, part]
    with pytest.raises(InvalidArgumentError, match="a deeper or larger one"):
        from_config({"_target_": "lr_plugins.schedules.StepDecay", "drop": 3, "dorp": part} | {"every": {}})


@pytest.mark.parametrize(
    "arguments", [{1: 2}, {"self": 1}, {"every": {"a": 1}}, {"drop": 10**400}, {"every": "9" * 5000}]
)
def test_arguments_that_no_schedule_has_are_refused(arguments):
    with pytest.raises(InvalidArgumentError):
        from_config({"_target_": "lr_plugins.schedules.StepDecay", **arguments})


@pytest.mark.parametrize(
    "config",
    [None, [], {}, {"class_name": ["CosineDecay"], "config": {}}, {"class_name": "os.system", "config": {}}]
    + [{"class_name": "CosineDecay", "config": config} for config in (None, {"x": 1}, {1: 2})],
)
def test_keras_configurations_are_refused_alike(config):
    with pytest.raises(InvalidArgumentError):
        keras.deserialize(config)
