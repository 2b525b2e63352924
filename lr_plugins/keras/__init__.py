"""Keras' schedules, optimizers, callbacks and constraints under Keras' names, for Lightning's Trainer and torch.

They take Keras' arguments with Keras' defaults and follow Keras' rules. A schedule here is an ordinary schedule of this
package, a callback an ordinary Lightning callback.

Everything that needs torch is imported when it is first used, so that schedules alone do not import it.

Example:
    >>> from lr_plugins import keras
    >>> schedule = keras.InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
    >>> keras.deserialize(keras.serialize(schedule)) == schedule
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lr_plugins.schedules.keras.base import LearningRateSchedule
from lr_plugins.schedules.keras.cosine import CosineDecay, CosineDecayRestarts
from lr_plugins.schedules.keras.decays import (
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstantDecay,
    PolynomialDecay,
)
from lr_plugins.schedules.keras.plateau import ReduceLROnPlateau
from lr_plugins.schedules.keras.serialization import deserialize, serialize

if TYPE_CHECKING:
    from lr_plugins.callbacks import History as History
    from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
    from lr_plugins.keras import constraints as constraints
    from lr_plugins.keras.classifier import KerasClassifier
    from lr_plugins.keras.csv_logger import CSVLogger
    from lr_plugins.keras.early_stopping import EarlyStopping
    from lr_plugins.keras.optimizers import SGD
    from lr_plugins.keras.terminate_on_nan import TerminateOnNaN

_HOME = {
    "CSVLogger": "lr_plugins.keras.csv_logger",
    "EarlyStopping": "lr_plugins.keras.early_stopping",
    "History": "lr_plugins.callbacks.history",
    "KerasClassifier": "lr_plugins.keras.classifier",
    "LearningRateScheduler": "lr_plugins.callbacks.learning_rate_scheduler",
    "SGD": "lr_plugins.keras.optimizers",
    "TerminateOnNaN": "lr_plugins.keras.terminate_on_nan",
}
_MODULES = {"constraints"}

__all__ = [
    "SGD",
    "CSVLogger",
    "CosineDecay",
    "CosineDecayRestarts",
    "EarlyStopping",
    "ExponentialDecay",
    "History",
    "InverseTimeDecay",
    "KerasClassifier",
    "LearningRateSchedule",
    "LearningRateScheduler",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
    "deserialize",
    "serialize",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
