"""Every option of the group `schedule` with odd overrides: a schedule whose values are finite, or one sentence."""

import random
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from lr_plugins.schedules import Assignments
from lr_plugins.training.cli import explanation
from tests.schedules.nasty import TIMES, ask, quick_and_quiet
from tests.training.test_main import ROOT

CONF = ROOT / "conf"
OPTIONS = sorted(one.stem for one in (ROOT / "lr_plugins/conf/schedule").glob("*.yaml"))
VALUES = [
    "nan", "inf", "-inf", "-1", "0", "-0.0", "1e308", "1e-320", "1e400", "true", "null", "xx", "5ep", "1e-320ep",
    "1e308ep", "1e-12%", "10%", "10x", "1e308x", "1_000", "0x10", "[]", "[1]", "[3,1,2]", "[[0,1],[5,0.1]]",
    "[null]", "{}", "{a:1}", "{_target_:lr_plugins.schedules.Constant}", "[1,[2,[3]]]", "1,2", "???", "'???'",
    "'${nope}'", "'${schedule}'", "'${oc.env:NOPE_X}'", "'${foo:1}'", "'${now:}'", "{_target_:builtins.dict}", "$$",
    "1+1", "''", "'٣ep'", "'\\ud800'", "extend(1)", "range(0,1e9)", "glob(*)", "float(1)", "json_str('{}')",
    "'a: b'", "1" + "0" * 400, "x" * 3000,
]  # fmt: skip
SHAPES = [
    "{field}.typo={value}", "{field}.typo.deeper={value}", "+{field}.typo={value}", "++{field}.typo={value}",
    "{field}.9={value}", "+{field}.9={value}", "{field}.-1={value}", "{field}.0={value}", "++{field}.0.x={value}",
    "~{field}", "~{field}.typo", "~{field}={value}", "+{field}={value}", "++{field}={value}", "{field}=", "{field}",
    "{field}[0]={value}", "{field}..x={value}", "{field}@x={value}",
]  # fmt: skip
OF_GROUPS = [
    "schedule={value}", "+schedule={value}", "~schedule", "schedule@x={value}", "schedule._target_={value}",
    "={value}", "seed.x={value}", "+schedule._args_={value}", "+schedule._partial_={value}",
    "+schedule._convert_={value}", "+schedule._recursive_={value}", "callbacks.scheduler.schedule={value}",
]  # fmt: skip


def fields(node, place="schedule"):
    """The dotted names of all fields of a node."""
    found = []
    for name in node if isinstance(node, DictConfig) else range(len(node)):
        found.append(f"{place}.{name}")
        if not OmegaConf.is_interpolation(node, name) and not OmegaConf.is_missing(node, name):
            below = node[name]
            if isinstance(below, (DictConfig, ListConfig)):
                found += fields(below, f"{place}.{name}")
    return found


def built(words, monkeypatch):
    """The schedules that train.py would build from its command line; None where it would say one sentence."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", words)
            return Assignments.of(instantiate(config.callbacks.scheduler.schedule))
    except Exception as error:
        message = explanation(error, CONF)
        if message is None:
            raise AssertionError(f"{words}: {type(error).__name__}: {error}") from error
    finally:
        GlobalHydra.instance().clear()
    assert 10 < len(message) <= 4500, words
    assert "Traceback" not in message
    return None


def check(words, monkeypatch):
    with quick_and_quiet(" ".join(words)[:500]):
        assignments = built(words, monkeypatch)
    for one in assignments or ():
        ask(one.schedule)


def cases(option, count):
    draw = random.Random(option if TIMES == 1 else None)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = fields(compose("train", [f"schedule={option}"]).schedule)
    for _ in range(count):
        field, value = draw.choice(names), draw.choice(VALUES)
        kind = draw.random()
        shape = "{field}={value}" if kind < 0.5 else draw.choice(SHAPES if kind < 0.9 else OF_GROUPS)
        yield [f"schedule={option}", shape.format(field=field, value=value)]


@pytest.mark.parametrize("option", OPTIONS)
def test_odd_override_gives_a_schedule_or_one_sentence(option, monkeypatch):
    for words in cases(option, TIMES):
        check(words, monkeypatch)
