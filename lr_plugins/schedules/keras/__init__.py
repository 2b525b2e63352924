"""Keras' schedules under Keras' names, with Keras' arguments, defaults and rules; shown as `lr_plugins.keras`."""

from lr_plugins.schedules.keras.decays import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
    PolynomialDecay,
    deserialize,
    serialize,
)
from lr_plugins.schedules.keras.plateau import ReduceLROnPlateau

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
