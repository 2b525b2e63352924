"""Registers schedules as safe for `torch.load(weights_only=True)`, torch's default.

`save_hyperparameters()` stores a module's arguments in each checkpoint, and a schedule may be one of them. The
schedules of this package are safe: they keep the arguments of their constructor, and building one only checks them.
Functions and classes of users are not registered.
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
    """Let torch load schedules of this package from any checkpoint.

    It is called when a part of this package that needs torch is imported, and by `import lr_plugins` after torch. Call
    it yourself in a program that imports only schedules, and imports them before torch.

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
    """All classes that the schedules of this package consist of."""
    parts = Length, Boundaries, Lengths
    classes = {kind for kind in (*vars(schedules).values(), *vars(keras).values(), *parts) if inspect.isclass(kind)}
    return [kind for kind in classes if kind.__module__.startswith(_HOME) and not inspect.isabstract(kind)]
