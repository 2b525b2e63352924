"""Keras' schedules under Keras' names, with Keras' arguments, defaults and rules; shown as `lr_plugins.keras`."""

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

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "ReduceLROnPlateau",
    "deserialize",
    "serialize",
]
