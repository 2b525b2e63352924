"""Callbacks that can be copied and pickled at any time, even during a fit."""

from __future__ import annotations

from typing import Any

from lr_plugins._lightning.compat import Callback
from lr_plugins._lightning.unused_hooks import PER_BATCH


def state_without_fit(callback: Callback, **outside: Any) -> dict[str, Any]:
    """A callback's attributes, for its `__getstate__`, without what belongs to the current fit.

    Args:
        callback: the callback.
        outside: the attributes that hold the Trainer, optimizer hooks and the like, with their values outside of a fit.
            `log` and `log_dict`, which Lightning sets on callbacks, hold the module and are always left out; so are
            the marks of skipped hooks.
    """
    without = {"log", "log_dict", *(name for name in PER_BATCH if vars(callback).get(name, ...) is None)}
    return {name: value for name, value in vars(callback).items() if name not in without} | outside
