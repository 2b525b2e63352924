"""What the learning rate should be: pure mathematics, without torch or Lightning."""

from lr_plugins.schedules.duration import Duration
from lr_plugins.schedules.function import FunctionSchedule, as_schedule
from lr_plugins.schedules.loss_driven import LossDriven
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.shapes import (
    Constant,
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstant,
    StepDecay,
)

__all__ = [
    "Constant",
    "Duration",
    "ExponentialDecay",
    "FunctionSchedule",
    "InverseTimeDecay",
    "LossDriven",
    "PiecewiseConstant",
    "Position",
    "RunLength",
    "Schedule",
    "StepDecay",
    "as_schedule",
]
