"""The names of a choice are listed once, in a Literal; whatever repeats them for readers has all of them."""

import inspect
import re
import typing
from pathlib import Path

import pytest

from lr_plugins import LearningRateScheduler
from lr_plugins.callbacks.messages import KERAS_SENTENCES, MESSAGES, Style
from lr_plugins.engine.audit import OnConflict
from lr_plugins.engine.plan_change import POLICIES, OnResume

ROOT = Path(__file__).parents[2]
YAMLS = ["conf/callbacks/default.yaml", "lr_plugins/conf/callbacks/learning_rate_scheduler.yaml"]
CHOICES = {"on_resume": OnResume, "on_conflict": OnConflict, "style": Style}


@pytest.mark.parametrize("path", YAMLS)
@pytest.mark.parametrize("name", ["on_resume", "on_conflict"])
def test_a_yaml_names_every_choice(path, name):
    [line] = re.findall(rf"^ +{name}: .*$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert [choice for choice in typing.get_args(CHOICES[name]) if not re.search(rf"\b{choice}\b", line)] == []


@pytest.mark.parametrize("name", CHOICES)
def test_the_docstring_names_every_choice(name):
    text = inspect.getdoc(LearningRateScheduler) or ""
    argument = re.split(r"\n    (?=\w+: )|\n\n", text.partition("Args:")[2])
    [described] = [part for part in argument if part.strip().startswith(f"{name}: ")]
    assert [choice for choice in typing.get_args(CHOICES[name]) if f'`"{choice}"`' not in described] == []


def test_every_choice_of_a_plan_and_a_style_is_described():
    assert set(POLICIES) == set(typing.get_args(OnResume))
    assert set(MESSAGES) == set(KERAS_SENTENCES) == set(typing.get_args(Style))


def test_keras_sentence_is_that_of_any_schedule_filled_in():
    values = {"who": "LearningRateScheduler", "verb": "setting", "what": "learning rate", "why": ""}
    for style, sentence in KERAS_SENTENCES.items():
        assert MESSAGES[style].format(epoch=4, value="0.1", **values) == sentence.format(epoch=4, value="0.1")
