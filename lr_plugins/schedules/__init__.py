"""What the learning rate should be: pure mathematics, without torch or Lightning."""

from lr_plugins.schedules.combine import Bounded, Chain, PerEpoch, Product, Repeated, Smooth, Stretched
from lr_plugins.schedules.constant import Constant
from lr_plugins.schedules.duration import Duration
from lr_plugins.schedules.exponential import ExponentialDecay
from lr_plugins.schedules.function import FunctionSchedule, as_schedule
from lr_plugins.schedules.inverse import InverseTimeDecay
from lr_plugins.schedules.loss_driven import LossDriven
from lr_plugins.schedules.piecewise import PiecewiseConstant
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.step import StepDecay

__all__ = [
    "Bounded",
    "Chain",
    "Constant",
    "Duration",
    "ExponentialDecay",
    "FunctionSchedule",
    "InverseTimeDecay",
    "LossDriven",
    "PerEpoch",
    "PiecewiseConstant",
    "Position",
    "Product",
    "Repeated",
    "RunLength",
    "Schedule",
    "Smooth",
    "StepDecay",
    "Stretched",
    "as_schedule",
]
