"""Values of params and tags as texts that are the same in every process."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from lr_plugins.tracking.names import encodable
from lr_plugins.tracking.secrets import masked

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def text_of(value: object) -> str:
    """A value as it is recorded: functions and classes by their names, without addresses in memory and passwords.

    Example:
        >>> import math, functools
        >>> text_of(0.1), text_of(math.floor), text_of(functools.partial(math.pow, 2.0))
        ('0.1', 'math.floor', 'functools.partial(math.pow, 2.0)')
        >>> text_of([object(), math.floor]), text_of({"b", "a"})
        ('[<object object>, math.floor]', "{'a', 'b'}")
    """
    return masked(encodable(_plain(value)))


def _plain(value: Any) -> str:
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args]
        told = [_inner(one) for one in parts] + [f"{name}={_inner(one)}" for name, one in value.keywords.items()]
        return f"functools.partial({', '.join(told)})"
    if isinstance(getattr(value, "__qualname__", None), str) and isinstance(getattr(value, "__module__", None), str):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, str):
        return value
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(_inner, value))) + "}" if value else str(value)
    if type(value) in (list, tuple) and any(map(_is_told_by_name, value)):
        inner = ", ".join(map(_inner, value))
        if type(value) is list:
            return f"[{inner}]"
        return f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping) and any(map(_is_told_by_name, value.values())):
        return "{" + ", ".join(f"{key!r}: {_inner(one)}" for key, one in value.items()) + "}"
    return _ADDRESS.sub("", str(value))


def _inner(value: Any) -> str:
    """A value within another one."""
    if isinstance(value, str):
        return repr(value)
    return _plain(value) if _is_told_by_name(value) else _ADDRESS.sub("", repr(value))


def _is_told_by_name(value: Any) -> bool:
    return callable(value) or isinstance(value, (list, tuple, set, frozenset, Mapping))
