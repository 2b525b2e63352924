"""Reproducible string forms of the values of params and tags."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lr_plugins.tracking.names import encodable
from lr_plugins.tracking.secrets import masked

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def text_of(value: object) -> str:
    """The recorded form of a value: functions and classes by name, without memory addresses and passwords.

    Example:
        >>> import math, functools
        >>> text_of(0.1), text_of(math.floor), text_of(functools.partial(math.pow, 2.0))
        ('0.1', 'math.floor', 'functools.partial(math.pow, 2.0)')
        >>> text_of([object(), math.floor]), text_of({"b", "a"})
        ('[<object object>, math.floor]', "{'a', 'b'}")
    """
    try:
        text = value if isinstance(value, str) else _spelled(value, str)
    except RecursionError:  # a list that contains itself
        text = _without_addresses(str(value))
    return masked(encodable(text))


def flattened(params: Mapping[str, Any], *above: object) -> Iterator[tuple[tuple[object, ...], Any]]:
    """The values of nested params, each with the names that lead to it.

    Example:
        >>> list(flattened({"lr": 0.1, "data": {"seed": 1}}))
        [(('lr',), 0.1), (('data', 'seed'), 1)]
    """
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, *above, name)
        else:
            yield (*above, name), value


def _spelled(value: Any, otherwise: Callable[[object], str] = repr) -> str:
    """Containers, functions and classes in Python syntax; everything else through `otherwise`."""
    if isinstance(value, functools.partial):
        options = [f"{name}={_spelled(argument)}" for name, argument in value.keywords.items()]
        return f"functools.partial({', '.join([*map(_spelled, (value.func, *value.args)), *options])})"
    if type(value) is list:
        return f"[{', '.join(map(_spelled, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(_spelled, value))}{',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return "{" + ", ".join(f"{key!r}: {_spelled(item)}" for key, item in value.items()) + "}"
    if type(value) in (set, frozenset) and value:
        return "{" + ", ".join(sorted(map(_spelled, value))) + "}"  # the order of a set differs between processes
    home, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(home, str) and isinstance(name, str):
        return f"{home}.{name}"
    return repr(value) if isinstance(value, str) else _without_addresses(otherwise(value))


def _without_addresses(text: str) -> str:
    return _ADDRESS.sub("", text)
