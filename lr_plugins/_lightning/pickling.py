"""Callbacks that can be copied and pickled at any time, also while a Trainer runs."""

from __future__ import annotations

from typing import Any

from lr_plugins._lightning.compat import Callback


def state_without_fit(callback: Callback, **outside: Any) -> dict[str, Any]:
    """A callback's attributes, for its `__getstate__`, without what belongs to the fit under way.

    Args:
        callback: the callback.
        outside: the attributes that hold the Trainer, hooks on optimizers and the like, with their values outside of a
            fit. `log` and `log_dict`, by which Lightning lets callbacks log, hold the module and are left out.
    """
    return {name: value for name, value in vars(callback).items() if name not in ("log", "log_dict")} | outside
