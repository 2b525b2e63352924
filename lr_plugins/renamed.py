"""Names of earlier versions: using one is an error that gives the current name."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, NoReturn, TypeVar, cast

from lr_plugins.errors import EARLIER_NAMES, PositionalArgumentError, RenamedError, RenamedNameError, shown

_EXPORTED = {
    "lr_plugins.callbacks": "progress scheduler trace",
    "lr_plugins.keras": "plateau schedules",
    "lr_plugins.schedules": "as_planned bold_driver bound combine constant cosine cycle exponential factors function "
    "greedy inverse loss_driven noise piecewise plateau polynomial step tanh warmup",
}
"""Package -> its earlier modules whose classes it exports, as it always has."""

MODULES = {
    **{
        f"{package}.{module}": f"a part of `{package}`, which exports its "
        "public names. An object that an earlier version pickled loads with that version only"
        for package, modules in _EXPORTED.items()
        for module in modules.split()
    },
    "lr_plugins.keras_styles": "`lr_plugins.keras`",
    "lr_plugins.mixin": "`from lr_plugins import LearningRateScheduleMixin`",
    "lr_plugins.places": "`lr_plugins.paths`",
    "lr_plugins.preview": "the command `lr-plugins preview`; in Python, the function `lr_plugins.preview`",
    "lr_plugins.report": "the command `lr-plugins compare`; in Python, `lr_plugins.comparison` (report.compare, "
    "report.runs), `lr_plugins.plotting.learning_rate` (report.plot) and `lr_plugins.simulation` (report.preview)",
    "lr_plugins.safe_globals": "`lr_plugins.engine.safe_globals`",
    "lr_plugins.schedules.config": "`lr_plugins.schedules.serialization`",
    "lr_plugins.schedules.moments": "`lr_plugins.schedules.milestones`",
    "lr_plugins.schedules.ops": "`lr_plugins.schedules.numerics`",
    "lr_plugins.tracking.__main__": "the command `lr-plugins send`",
    "lr_plugins.training.last_checkpoint": "`lr_plugins.callbacks.last_checkpoint`",
    "lr_plugins.training.random_states": "`lr_plugins.callbacks.random_states`",
}
"""Module -> what there is now, as the end of a sentence. The entry of a package also stands for its modules."""

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

ATTRIBUTES = {
    "Schedule": {
        "foreseeable": "is_pure",
        "moments": "milestones_in",
        "observes_always": "observes_when_inactive",
        "own": "resolve",
        "starts_from_own": "uses_optimizer_lr",
    },
    "Combination": {
        "gives_factor": "is_factor",
        "overhears": "part_observes_when_inactive",
        "seen": "local_position",
    },
    "MetricDriven": {"shrunk": "rescaled"},
    "Position": {"like": "broadcast", "part": "slice", "shrunk": "rescaled"},
    "RunLength": {"part": "slice"},
}
"""Class -> its earlier methods and attributes, and their current names."""

STATE_FIELDS = {"aside": "inactive", "told": "reported"}
"""Field of the state of a metric-driven schedule -> its current name."""

Class = TypeVar("Class", bound=type)
Method = TypeVar("Method", bound=Callable[..., Any])


def missing(module: str, name: str) -> Exception:
    """The error for an attribute that a module does not have, with the current name if there is one.

    For an earlier name it is an ImportError: of an AttributeError, `from module import name` shows no message. The cost
    is that `hasattr` and `getattr` with a default raise it as well.

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


class FormerAttribute:
    """An attribute of an earlier version: reading it raises an error that gives its replacement.

    Args:
        name: the earlier name.
        current: what there is now, as the end of the sentence "<class>.<name> is now ...".
    """

    def __init__(self, name: str, current: str) -> None:
        self.name, self.current = name, current

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__}.{self.name} is now {self.current}.")


def attributes(kind: Class) -> Class:
    """A class decorator: the earlier names of its attributes (`ATTRIBUTES`) are errors that give the current ones."""
    for old, new in ATTRIBUTES[kind.__name__].items():
        setattr(kind, old, FormerAttribute(old, f"called {new}"))
    return kind


def check_overrides(kind: type) -> None:
    """Refuse a class that overrides an attribute under its earlier name (`ATTRIBUTES`): it would never be used.

    Raises:
        RenamedError: it does; the message gives the current name.
    """
    for base in kind.__mro__[1:]:
        names = ATTRIBUTES.get(base.__name__, {}) if base.__module__.startswith("lr_plugins.") else {}
        for old in names.keys() & vars(kind).keys():
            raise RenamedError(f"{kind.__name__}.{old} is now called {names[old]}.")


def arguments(kind: Class) -> Class:
    """A class decorator: calls written for an earlier version are errors that say how to write them.

    Those are a keyword that has another name now (`ARGUMENTS`), and an argument by position that is taken by keyword
    only. The signature of the class stays what it is. `Schedule` applies it to each of its sub-classes.

    Raises:
        RenamedError: by the constructor, for an earlier keyword.
        PositionalArgumentError: by the constructor, for more arguments by position than it takes.
    """
    build: Any = vars(kind).get("__init__") or getattr(kind, "__init__")  # noqa: B009  # of the class itself
    names = ARGUMENTS.get(kind.__name__, {}) if kind.__module__.startswith("lr_plugins.") else {}
    check = _call_check(build, {old: f"called {new}" for old, new in names.items()})

    @functools.wraps(build)
    def init(self: Any, *args: Any, **given: Any) -> None:
        check((type(self) if type(self).__init__ is init else kind).__name__, args, given)
        build(self, *args, **given)

    setattr(kind, "__init__", init)  # noqa: B010  # mypy takes `kind` for an instance
    return kind


def method_arguments(**earlier: str) -> Callable[[Method], Method]:
    """The same for a method.

    Args:
        earlier: earlier argument -> what there is now, as the end of the sentence "<method>.<argument> is now ...".
    """

    def decorate(method: Method) -> Method:
        check = _call_check(method, earlier)

        @functools.wraps(method)
        def checked(self: Any, *args: Any, **given: Any) -> Any:
            check(method.__qualname__, args, given)
            return method(self, *args, **given)

        return cast(Method, checked)

    return decorate


def _call_check(
    function: Callable[..., Any], names: Mapping[str, str]
) -> Callable[[str, tuple[Any, ...], Mapping[str, Any]], None]:
    """Checks the arguments of a call, given the name of what is called; the first parameter is `self`."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    positional = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    keyword_only = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    takes_any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    earlier = {old: new for old, new in names.items() if old not in {each.name for each in parameters}}

    def check(called: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        for name in given.keys() & earlier.keys():
            raise RenamedError(f"{called}.{name} is now {earlier[name]}.")
        if len(args) > len(positional) and keyword_only and not takes_any_number:
            raise PositionalArgumentError(_by_keyword(called, positional, keyword_only, args, given))

    return check


def _by_keyword(
    name: str, positional: list[str], keyword_only: list[str], args: tuple[Any, ...], given: Mapping[str, Any]
) -> str:
    """How to write a call that gives too many arguments by position."""
    first = len(positional)
    named = dict(zip(keyword_only, args[first:], strict=False)) | dict(given)
    call = ", ".join([*map(shown, args[:first]), *(f"{key}={shown(value)}" for key, value in named.items())])
    by_position = " and ".join(filter(None, [", ".join(positional[:-1]), *positional[-1:]])) or "nothing"
    return f"{name} takes {by_position} by position, everything else by keyword: {name}({call})"


def with_current_names(config: Any) -> Any:
    """A schedule's configuration that an earlier version wrote, with the current names.

    An earlier name beside its current one stays, for the constructor to refuse.

    Example:
        >>> with_current_names({"_target_": "lr_plugins.schedules.Cooldown", "length": "5ep"})
        {'_target_': 'lr_plugins.schedules.Cooldown', 'decay_steps': '5ep'}
    """
    if isinstance(config, Mapping):
        home, _, kind = str(config.get("_target_", "")).rpartition(".")
        names = ARGUMENTS.get(kind, {}) if home in _HOMES else {}
        current = {name: with_current_names(value) for name, value in _with_current_keys(config, names).items()}
        if NAMES.get(f"{home}.{kind}"):
            current["_target_"] = NAMES[f"{home}.{kind}"]
        return current
    return [with_current_names(item) for item in config] if isinstance(config, list) else config


def state_with_current_names(state: Any) -> Any:
    """The state of a schedule that an earlier version wrote, with the current names of its fields.

    Example:
        >>> state_with_current_names({"1": {"observed": 0.5, "aside": True}})
        {'1': {'observed': 0.5, 'inactive': True}}
    """
    if not isinstance(state, Mapping):
        return state
    # Every state of a metric-driven schedule that is not empty has `observed`; schedules of the user's may have others.
    names = STATE_FIELDS if "observed" in state else {}
    return {name: state_with_current_names(value) for name, value in _with_current_keys(state, names).items()}


def _with_current_keys(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {name if names.get(name) in values else names.get(name, name): value for name, value in values.items()}


class _FormerModules(MetaPathFinder):
    """The last finder on `sys.meta_path`: it is asked for modules that do not exist."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        # Not a ModuleNotFoundError, which `from package import module` replaces by a message of its own.
        if fullname in MODULES:
            raise RenamedNameError(f"There is no {fullname} any more: it is now {MODULES[fullname]}.", name=fullname)


if not any(type(finder).__qualname__ == _FormerModules.__qualname__ for finder in sys.meta_path):  # else it is reloaded
    sys.meta_path.append(_FormerModules())
