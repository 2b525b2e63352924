"""Keras' schedules as dictionaries of plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.keras.base import LearningRateSchedule
from lr_plugins.schedules.keras.cosine import CosineDecay, CosineDecayRestarts
from lr_plugins.schedules.keras.decays import (
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstantDecay,
    PolynomialDecay,
)

SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        CosineDecay,
        CosineDecayRestarts,
        ExponentialDecay,
        InverseTimeDecay,
        PiecewiseConstantDecay,
        PolynomialDecay,
    )
}


def serialize(schedule: LearningRateSchedule) -> dict[str, Any]:
    """A schedule as a dictionary of plain values: `{"class_name": ..., "config": ...}`."""
    return {"class_name": type(schedule).__name__, "config": schedule.get_config()}


def deserialize(config: Mapping[str, Any]) -> LearningRateSchedule:
    """The schedule of a dictionary that Keras' `serialize` (or ours) made.

    Raises:
        InvalidArgumentError: it names no schedule of Keras.
    """
    name = config.get("class_name") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or name not in SCHEDULES or not isinstance(config.get("config"), Mapping):
        allowed = f"a dictionary with class_name, one of {', '.join(SCHEDULES)}, and config"
        raise InvalidArgumentError("the serialized schedule", config, allowed)
    return SCHEDULES[name].from_config(config["config"])
