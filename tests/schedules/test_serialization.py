"""Schedules as plain values and back."""

import inspect
import json
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

import lr_plugins
from docs_tools.catalogue import EXAMPLES
from lr_plugins import CosineDecay, FunctionSchedule, RunLength, StepDecay, keras
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules import ReduceLROnPlateau
from lr_plugins.schedules.serialization import from_config, to_config

ALL = {name: one for examples in EXAMPLES.values() for name, one in examples.items() if name != "function"}
CONF = Path(lr_plugins.__file__).parent / "conf/schedule"
RUN = RunLength.of(steps_per_epoch=10, epochs=30, batch_size=32)


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_json_gives_the_same_schedule_and_so_does_hydra(schedule):
    written = json.loads(json.dumps(to_config(schedule)))
    for again in (from_config(written), instantiate(written)):
        assert again == schedule
        assert [again(RUN.position(step)) for step in (0, 77, 299)] == [
            schedule(RUN.position(step)) for step in (0, 77, 299)
        ]


def test_keras_schedules_too():
    schedule = keras.CosineDecay(0.1, 100) * 0.5
    assert from_config(to_config(schedule)) == schedule


def test_a_function_has_no_plain_form():
    with pytest.raises(InvalidArgumentError, match=r"FunctionSchedule\.function must be a plain value"):
        to_config(FunctionSchedule(lambda epoch: 0.1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "os.system"}, "_target_ must be the dotted name of a schedule"),
        ({"_target_": "no.such.Thing"}, "_target_ must be the dotted name of a schedule"),
        ({"drop": 0.5}, "_target_ must be the dotted name of a schedule.*got None"),
        ({"_target_": "lr_plugins.schedules.StepDecay", "dorp": 1}, "unexpected keyword argument 'dorp'"),
        ({"_target_": "lr_plugins.schedules.StepDecay", "drop": -1}, r"StepDecay\.drop must be"),
    ],
)
def test_what_is_no_configuration_is_refused(config, message):
    with pytest.raises(InvalidArgumentError, match=message):
        from_config(config)


def test_a_list_of_values_stays_one():
    assert to_config(StepDecay(0.1, every="3ep"))["every"] == "3ep"


@pytest.mark.parametrize("name", ["loss_driven", "plateau", "greedy", "bold_driver"])
def test_files_of_metric_driven_schedules_list_every_default(name):
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    parameters = inspect.signature(get_class(config.pop("_target_"))).parameters
    assert config == {key: parameter.default for key, parameter in parameters.items()}


@pytest.mark.parametrize("name", ["loss_driven", "plateau", "plateau_warmup", "greedy", "bold_driver"])
def test_every_line_of_it_says_what_it_is(name):
    first, *lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert all("  # " in line for line in lines if "_target_" not in line)


def test_a_plateau_after_a_warm_up_has_every_option_too():
    schedule = instantiate(OmegaConf.load(CONF / "plateau_warmup.yaml"))
    assert schedule == (
        CosineDecay() * ReduceLROnPlateau(factor=0.5, patience=3, min_learning_rate="0.01x")
    ).with_warmup("5%")
    assert from_config(json.loads(json.dumps(to_config(schedule)))) == schedule
    config = OmegaConf.load(CONF / "plateau_warmup.yaml").schedule.schedules[1]
    assert {*config} - {"_target_"} == {*inspect.signature(ReduceLROnPlateau).parameters}
