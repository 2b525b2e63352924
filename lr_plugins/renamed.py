"""Names of earlier versions: who uses one is told what it is called now."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, TypeVar

from lr_plugins.errors import RenamedError

MODULES = {
    "lr_plugins.mixin": "`from lr_plugins import LearningRateScheduleMixin`",
    "lr_plugins.preview": "the command `lr-plugins preview`; in Python, the function `lr_plugins.preview`",
    "lr_plugins.report": "the command `lr-plugins compare`; in Python, `lr_plugins.comparison`",
    "lr_plugins.report.compare": "`lr_plugins.comparison.report`",
    "lr_plugins.report.runs": "`lr_plugins.comparison.runs`",
    "lr_plugins.report.plot": "`lr_plugins.plotting.learning_rate`",
    "lr_plugins.report.preview": "`lr_plugins.simulation`",
    "lr_plugins.report.catalogue": "`python -m docs_tools.catalogue`, in the repository",
    "lr_plugins.safe_globals": "`lr_plugins.engine.safe_globals`",
    "lr_plugins.schedules.config": "`lr_plugins.schedules.serialization`",
    "lr_plugins.tracking.__main__": "the command `lr-plugins send`",
    "lr_plugins.training.last_checkpoint": "`lr_plugins.callbacks.last_checkpoint`",
}
"""Module -> what has taken its place."""

NAMES = {
    "lr_plugins.AsPlanned": "lr_plugins.Replanned",
    "lr_plugins.schedules.AsPlanned": "lr_plugins.schedules.Replanned",
    "lr_plugins.Change": "lr_plugins.schedules.Change",
    "lr_plugins.Monitor": "lr_plugins.schedules.Monitor",
}
"""Dotted name -> what it is called now."""

ARGUMENTS = {
    "Annealed": {"length": "decay_steps"},
    "Cooldown": {"length": "decay_steps"},
    "CycleThrough": {"length": "total_steps"},
    "Cyclic": {
        "base_learning_rate": "min_learning_rate",
        "step_size_up": "up_steps",
        "step_size_down": "down_steps",
    },
    "Greedy": {"min_lr": "min_learning_rate", "max_lr": "max_learning_rate"},
    "LearningRateRangeTest": {"min_lr": "min_learning_rate", "max_lr": "max_learning_rate"},
    "OneCycle": {"length": "total_steps"},
    "ReduceLROnPlateau": {"min_lr": "min_learning_rate"},
    "Warmup": {"length": "warmup_steps"},
    "WarmupStableDecay": {"warmup": "warmup_steps", "decay": "decay_steps"},
}
"""Class -> its earlier arguments, and what they are called now."""

Class = TypeVar("Class", bound=type)


def missing(module: str, name: str) -> str:
    """The message of an AttributeError; it names the new name where there is one.

    Args:
        module: the module that was asked.
        name: what it does not have.
    """
    now = NAMES.get(f"{module}.{name}")
    return f"module {module!r} has no attribute {name!r}" + (f": it is {now} now" if now else "")


def arguments(kind: Class) -> Class:
    """A class decorator: an earlier name of one of its arguments is an error that tells the one of today."""
    names, build = ARGUMENTS[kind.__name__], kind.__init__

    @functools.wraps(build)
    def init(self: Any, *args: Any, **given: Any) -> None:
        for name in given.keys() & names.keys():
            raise RenamedError(f"{kind.__name__}.{name} is called {names[name]} now.")
        build(self, *args, **given)

    kind.__init__ = init
    return kind


def in_todays_words(config: Any) -> Any:
    """A schedule's configuration as an earlier version has written it, with the names of today."""
    if isinstance(config, Mapping):
        home, _, kind = str(config.get("_target_", "")).rpartition(".")
        names = ARGUMENTS.get(kind, {}) if home == "lr_plugins.schedules" else {}
        found = {names.get(name, name): in_todays_words(value) for name, value in config.items()}
        if NAMES.get(f"{home}.{kind}"):
            found["_target_"] = NAMES[f"{home}.{kind}"]
        return found
    return [in_todays_words(one) for one in config] if isinstance(config, list) else config


class _Renamed(MetaPathFinder):
    """Asked last, for a module that nobody else has found."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in MODULES:
            raise ModuleNotFoundError(f"There is no {fullname} any more: it is {MODULES[fullname]} now", name=fullname)


sys.meta_path.append(_Renamed())
