"""Schedules in checkpoints, where torch loads only what is known to be safe (`weights_only=True`, its default).

`save_hyperparameters()` puts a module's arguments into each checkpoint, and a schedule may be one of them. Ours are
safe: they keep what their constructor was given, and building one runs nothing but the checks of its arguments. The
functions and classes of a user are not ours to call safe.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from lr_plugins import schedules
from lr_plugins.schedules import keras
from lr_plugins.schedules.duration import Boundaries, Lengths
from lr_plugins.schedules.position import Length

_HOME = "lr_plugins.schedules."


def register_schedules() -> None:
    """Let torch load our schedules, and what they consist of, from any checkpoint.

    Called where something of this package that needs torch is imported, and by `import lr_plugins` after torch. Call it
    in a program that does neither: one that imports nothing but schedules, and those before torch.

    Example:
        >>> import io
        >>> import torch
        >>> from lr_plugins import StepDecay
        >>> file = io.BytesIO()
        >>> torch.save({"hyper_parameters": {"schedule": StepDecay(0.1, every="10ep")}}, file)
        >>> register_schedules()
        >>> torch.load(io.BytesIO(file.getvalue()), weights_only=True)["hyper_parameters"]["schedule"]
        StepDecay(initial_learning_rate=0.1, drop=0.5, every='10ep')
    """
    torch.serialization.add_safe_globals(safe_classes())


def safe_classes() -> list[Any]:
    """Every class that a schedule of this package consists of."""
    parts = Length, Boundaries, Lengths
    classes = {kind for kind in (*vars(schedules).values(), *vars(keras).values(), *parts) if inspect.isclass(kind)}
    return [kind for kind in classes if kind.__module__.startswith(_HOME) and not inspect.isabstract(kind)]
