"""Callbacks that can be copied and pickled at any time, even during a fit."""

from __future__ import annotations

from typing import Any

from lr_plugins._lightning.compat import Callback


def state_without_fit(callback: Callback, **outside: Any) -> dict[str, Any]:
    """A callback's attributes, for its `__getstate__`, without what belongs to the current fit.

    Args:
        callback: the callback.
        outside: the attributes that hold the Trainer, optimizer hooks and the like, with their values outside of a fit.
            `log` and `log_dict`, which Lightning sets on callbacks, hold the module and are always left out.
    """
    return {name: value for name, value in vars(callback).items() if name not in ("log", "log_dict")} | outside
