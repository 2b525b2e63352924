"""The options of the group `schedule` are what the docstrings make of them."""

import inspect
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import lr_plugins
from docs_tools.schedule_yamls import OPTIONS, text_of
from lr_plugins import schedules as s

FOLDER = Path(lr_plugins.__file__).parent / "conf/schedule"


def test_each_file_is_an_option():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_file_is_what_is_generated(name):
    hint = "run `python -m docs_tools.schedule_yamls`"
    assert (FOLDER / f"{name}.yaml").read_text() == text_of(OPTIONS[name]), hint


@pytest.mark.parametrize("name", OPTIONS)
def test_each_field_has_a_comment_in_yamls_words(name):
    first, *lines = text_of(OPTIONS[name]).splitlines()
    assert first.startswith("# ")
    for line in [first, *lines]:
        assert len(line) <= 120
        assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b|`|Default", line)
        assert "# " in line or "_target_" in line or "_partial_" in line or re.fullmatch(r" +\w+:", line)


@pytest.mark.parametrize("name", OPTIONS)
def test_option_of_a_single_schedule_lists_all_arguments(name):
    node = OPTIONS[name].node
    config = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert config.pop("_target_") == f"lr_plugins.schedules.{node.kind.__name__}"
    parameters = inspect.signature(node.kind).parameters
    assert list(config) == [*node.only] if node.only else set(config) == set(parameters)
    for key, value in config.items():
        if key not in node.values:
            assert value == parameters[key].default
            assert type(value) is type(parameters[key].default)


def test_every_shape_has_an_option():
    shown = {option.node.kind for option in OPTIONS.values()}
    shapes = {kind for name in s.__all__ if inspect.isclass(kind := getattr(s, name)) and ".shapes." in kind.__module__}
    assert shapes <= shown
