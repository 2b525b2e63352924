"""Names of earlier versions: using one is an error that gives the current name."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, TypeVar

from lr_plugins.errors import EARLIER_NAMES, PositionalArgumentError, RenamedError, RenamedNameError, shown

MODULES = {
    "lr_plugins.mixin": "`from lr_plugins import LearningRateScheduleMixin`",
    "lr_plugins.preview": "the command `lr-plugins preview`; in Python, the function `lr_plugins.preview`",
    "lr_plugins.report": "the command `lr-plugins compare`; in Python, `lr_plugins.comparison` (report.compare, "
    "report.runs), `lr_plugins.plotting.learning_rate` (report.plot) and `lr_plugins.simulation` (report.preview)",
    "lr_plugins.safe_globals": "`lr_plugins.engine.safe_globals`",
    "lr_plugins.schedules.config": "`lr_plugins.schedules.serialization`",
    "lr_plugins.tracking.__main__": "the command `lr-plugins send`",
    "lr_plugins.training.last_checkpoint": "`lr_plugins.callbacks.last_checkpoint`",
}
"""Module -> its replacement. Modules within one of these are not found before it: its entry speaks for them."""

NAMES = {
    "lr_plugins.AsPlanned": "lr_plugins.Replanned",
    "lr_plugins.schedules.AsPlanned": "lr_plugins.schedules.Replanned",
    "lr_plugins.Change": "lr_plugins.schedules.Change",
    "lr_plugins.Monitor": "lr_plugins.schedules.Monitor",
    **{f"lr_plugins.errors.{old}": f"lr_plugins.errors.{new}" for old, new in EARLIER_NAMES.items()},
}
"""Dotted name -> the current one."""

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
"""Class -> its earlier arguments, and their current names."""

_HOMES = "lr_plugins", "lr_plugins.schedules"  # the packages by whose names configurations know the schedules

HOOKS = {
    "foreseeable": "is_pure",
    "moments": "milestones_in",
    "observes_always": "observes_when_inactive",
    "starts_from_own": "uses_optimizer_lr",
}
"""Method or attribute that a schedule class of one's own may define -> its current name."""

Class = TypeVar("Class", bound=type)


def missing(module: str, name: str) -> Exception:
    """The error for an attribute that a module does not have, with the current name if there is one.

    For an earlier name it is an ImportError: of an AttributeError, `from module import name` shows no message.

    Args:
        module: the dotted name of the module.
        name: the attribute that it does not have.

    Example:
        >>> missing("lr_plugins", "AsPlanned")
        RenamedNameError('lr_plugins.AsPlanned is now called lr_plugins.Replanned.')
        >>> missing("lr_plugins", "NoSuchSchedule")
        AttributeError("module 'lr_plugins' has no attribute 'NoSuchSchedule'")
    """
    earlier = f"{module}.{name}"
    if earlier in NAMES:
        return RenamedNameError(f"{earlier} is now called {NAMES[earlier]}.")
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def check_hooks(kind: type) -> None:
    """Refuse a schedule class that defines a hook under its earlier name: it would never be called.

    Raises:
        RenamedError: it does; the message gives the current name.
    """
    for name in HOOKS.keys() & vars(kind).keys():
        raise RenamedError(f"{kind.__name__}.{name} is now called {HOOKS[name]}.")


def arguments(kind: Class) -> Class:
    """A class decorator: calls written for an earlier version are errors that say how to write them.

    Those are a keyword that has another name now (`ARGUMENTS`), and an argument by position that is taken by keyword
    only. The signature of the class stays what it is. `Schedule` applies it to each of its sub-classes.

    Raises:
        RenamedError: by the constructor, for an earlier keyword.
        PositionalArgumentError: by the constructor, for more arguments by position than it takes.
    """
    build: Any = vars(kind).get("__init__") or getattr(kind, "__init__")  # noqa: B009  # of the class itself
    parameters = list(inspect.signature(build).parameters.values())[1:]  # without self
    positional = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    keyword_only = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    takes_any_number = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    accepted = {one.name for one in parameters}
    names = ARGUMENTS.get(kind.__name__, {}) if kind.__module__.startswith("lr_plugins.") else {}
    earlier = {old: new for old, new in names.items() if old not in accepted}

    @functools.wraps(build)
    def init(self: Any, *args: Any, **given: Any) -> None:
        for name in given.keys() & earlier.keys():
            raise RenamedError(f"{kind.__name__}.{name} is now called {earlier[name]}.")
        if len(args) > len(positional) and keyword_only and not takes_any_number:
            called = type(self) if type(self).__init__ is init else kind
            raise PositionalArgumentError(_by_keyword(called.__name__, positional, keyword_only, args, given))
        build(self, *args, **given)

    setattr(kind, "__init__", init)  # noqa: B010  # mypy takes `kind` for an instance
    return kind


def _by_keyword(
    name: str, positional: list[str], keyword_only: list[str], args: tuple[Any, ...], given: Mapping[str, Any]
) -> str:
    """How to write a call that gives too many arguments by position."""
    first = len(positional)
    named = dict(zip(keyword_only, args[first:], strict=False)) | dict(given)
    call = ", ".join([*map(shown, args[:first]), *(f"{key}={shown(value)}" for key, value in named.items())])
    by_position = " and ".join(filter(None, [", ".join(positional[:-1]), *positional[-1:]])) or "nothing"
    return f"{name} takes {by_position} by position, everything else by keyword: {name}({call})"


def in_todays_words(config: Any) -> Any:
    """A schedule's configuration that an earlier version wrote, with the current names.

    Example:
        >>> in_todays_words({"_target_": "lr_plugins.schedules.Cooldown", "length": "5ep"})
        {'_target_': 'lr_plugins.schedules.Cooldown', 'decay_steps': '5ep'}
    """
    if isinstance(config, Mapping):
        home, _, kind = str(config.get("_target_", "")).rpartition(".")
        names = ARGUMENTS.get(kind, {}) if home in _HOMES else {}
        current = {names.get(name, name): in_todays_words(value) for name, value in config.items()}
        if NAMES.get(f"{home}.{kind}"):
            current["_target_"] = NAMES[f"{home}.{kind}"]
        return current
    return [in_todays_words(item) for item in config] if isinstance(config, list) else config


class _Renamed(MetaPathFinder):
    """The last finder on `sys.meta_path`: it is asked for modules that do not exist."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in MODULES:
            raise ModuleNotFoundError(f"There is no {fullname} any more: it is now {MODULES[fullname]}", name=fullname)


sys.meta_path.append(_Renamed())
