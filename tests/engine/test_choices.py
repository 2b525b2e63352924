"""The names of a choice are listed once, in a Literal; every page that repeats them lists all of them."""

import inspect
import re
import typing
from pathlib import Path

import pytest

from lr_plugins import LearningRateScheduler
from lr_plugins.callbacks.messages import MESSAGES, Style
from lr_plugins.engine.audit import OnConflict
from lr_plugins.engine.resume_policy import POLICIES, OnResume
from lr_plugins.schedules.observation import SET

ROOT = Path(__file__).parents[2]
YAMLS = ["conf/callbacks/default.yaml", "lr_plugins/conf/callbacks/learning_rate_scheduler.yaml"]
CHOICES = {"on_resume": OnResume, "on_conflict": OnConflict, "style": Style}


@pytest.mark.parametrize("path", YAMLS)
@pytest.mark.parametrize("name", ["on_resume", "on_conflict"])
def test_yaml_comments_name_every_choice(path, name):
    [line] = re.findall(rf"^ +{name}: .*$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert [choice for choice in typing.get_args(CHOICES[name]) if not re.search(rf"\b{choice}\b", line)] == []


@pytest.mark.parametrize("name", CHOICES)
def test_the_docstring_names_every_choice(name):
    text = inspect.getdoc(LearningRateScheduler) or ""
    argument = re.split(r"\n    (?=\w+: )|\n\n", text.partition("Args:")[2])
    [described] = [part for part in argument if part.strip().startswith(f"{name}: ")]
    assert [choice for choice in typing.get_args(CHOICES[name]) if f'`"{choice}"`' not in described] == []


def test_every_resume_policy_and_style_has_a_message():
    assert set(POLICIES) == set(typing.get_args(OnResume))
    assert set(MESSAGES) == set(typing.get_args(Style))


@pytest.mark.parametrize(("style", "epoch"), [("keras2", "00004"), ("keras3", "4")])
def test_time_schedule_prints_the_keras_sentence(style, epoch):
    words = {"who": SET.who, "verb": SET.verb, "what": "learning rate", "why": ""}
    sentence = f"\nEpoch {epoch}: LearningRateScheduler setting learning rate to 0.1."
    assert MESSAGES[style].format(epoch=4, value="0.1", **words) == sentence
