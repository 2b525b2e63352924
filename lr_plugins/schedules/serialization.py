"""Schedules as plain values, for JSON, yaml and Hydra, and back."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lr_plugins.checkpoint_state import DEPTH, is_plain
from lr_plugins.errors import InvalidArgumentError, described
from lr_plugins.renamed import with_current_names
from lr_plugins.schedules.duration import Duration
from lr_plugins.schedules.schedule import DEFINED, Schedule

TARGET = "_target_"  # Hydra's name for what to build, so that Hydra can build it as well

_HOMES = {
    "lr_plugins": "lr_plugins.schedules",
    "lr_plugins.schedules": "lr_plugins.schedules",
    "lr_plugins.keras": "lr_plugins.schedules.keras",
}
"""The packages by which users name schedules, and the package that defines them."""


def to_config(schedule: Schedule, functions_by_name: bool = False) -> dict[str, Any]:
    """A schedule as numbers, texts, lists and dictionaries: `{"_target_": dotted name, argument: value, ...}`.

    Args:
        schedule: the schedule, of whatever depth.
        functions_by_name: write a function as `{"_function_": name}`, for comparisons; it cannot be read back.
            Default False.

    Raises:
        InvalidArgumentError: it contains a function, which has no plain form.

    Example:
        >>> from lr_plugins import StepDecay
        >>> to_config(StepDecay(0.1, drop=0.5, every="10ep") * 2.0)["schedules"][1]
        {'_target_': 'lr_plugins.schedules.Constant', 'initial_learning_rate': 2.0}
    """
    kind = type(schedule)
    arguments = {
        name: _plain(value, f"{kind.__name__}.{name}", functions_by_name) for name, value in schedule.config().items()
    }
    return {TARGET: public_name(kind), **arguments}


def from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a dictionary that `to_config` made.

    The dictionary may come from an untrusted file, such as a checkpoint: the only classes that are looked up by name
    are the schedules of this package, and those that the program has already defined or imported. Import the module
    that defines a class of your own before.

    Args:
        config: the dictionary; `_target_` names a class of schedules.

    Raises:
        InvalidArgumentError: the name is unknown, the arguments do not fit, or it is nested too deeply.

    Example:
        >>> from_config({"_target_": "lr_plugins.schedules.StepDecay", "initial_learning_rate": 0.1, "every": "5ep"})
        StepDecay(initial_learning_rate=0.1, drop=0.5, every='5ep')
    """
    if not is_plain(config, objects=True):
        raise InvalidArgumentError(
            "the configuration", described("a deeper or larger one"), f"one nested at most {DEPTH} deep"
        )
    return _from_config(with_current_names(config))


def _plain(value: Any, field: str, functions_by_name: bool) -> Any:
    if isinstance(value, Schedule):
        return to_config(value, functions_by_name)
    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, field, functions_by_name) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if functions_by_name:
        kind = type(value)
        known = getattr(value, "__qualname__", f"an instance of {kind.__module__}.{kind.__qualname__}")
        return {"_function_": f"{getattr(value, '__module__', '')}.{known}"}
    raise InvalidArgumentError(
        field, value, "a plain value to be written down", "A function has none; name its formula."
    )


def _from_config(config: Any) -> Schedule:
    target = config.get(TARGET) if isinstance(config, Mapping) else None
    kind = _class(target)
    try:
        schedule: Schedule = kind(**{name: _built(value) for name, value in config.items() if name != TARGET})
    except InvalidArgumentError:
        raise
    except Exception as error:  # any that a constructor raises for a value of the wrong type
        raise InvalidArgumentError(
            f"the configuration of {target}", dict(config), "its arguments", str(error)
        ) from error
    return schedule


def _built(value: Any) -> Any:
    if isinstance(value, Mapping) and TARGET in value:
        return _from_config(value)
    return [_built(item) for item in value] if isinstance(value, (list, tuple)) else value


def _class(target: object) -> type[Schedule]:
    kind = defined_schedule(target) if isinstance(target, str) else None
    if kind is None:
        allowed = "the dotted name of a schedule, e.g. lr_plugins.schedules.StepDecay"
        hint = _import_hint(target) if isinstance(target, str) else ""
        raise InvalidArgumentError(TARGET, described(ascii(target)[:100]), allowed, hint)
    return kind


def _import_hint(target: str) -> str:
    home, _, name = target.rpartition(".")
    if home.startswith("lr_plugins."):
        return f"Write lr_plugins.schedules.{name}." if defined_schedule(f"lr_plugins.schedules.{name}") else ""
    return "Import the module that defines a class of yours first."


def defined_schedule(name: str) -> type[Schedule] | None:
    """The schedule class of a dotted name; None if the program has not defined one.

    Args:
        name: module and class; for a schedule of this package, e.g. `lr_plugins.schedules.StepDecay`.

    Example:
        >>> defined_schedule("lr_plugins.schedules.StepDecay").__name__, defined_schedule("os.system")
        ('StepDecay', None)
    """
    home, _, own = name.rpartition(".")
    if home in _HOMES:
        package = import_module(_HOMES[home])
        kind = vars(package).get(own) if own in package.__all__ else None
        return kind if isinstance(kind, type) and issubclass(kind, Schedule) else None
    return DEFINED.get(name)


def public_name(kind: type[Schedule]) -> str:
    """The dotted name of a class in a configuration: that of the package which exports it, not of its module.

    Example:
        >>> from lr_plugins import StepDecay
        >>> public_name(StepDecay)
        'lr_plugins.schedules.StepDecay'
    """
    for home, package in reversed(_HOMES.items()):
        if kind.__module__.startswith(f"{package}."):
            return f"{home}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"
