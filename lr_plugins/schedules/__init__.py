"""What the learning rate should be: pure mathematics, without torch or Lightning."""

from lr_plugins.schedules.as_planned import AsPlanned
from lr_plugins.schedules.assign import Assign, Assignments
from lr_plugins.schedules.bold_driver import BoldDriver
from lr_plugins.schedules.combine import Bounded, Chain, PerEpoch, Product, Repeated, Smooth, Stretched
from lr_plugins.schedules.constant import Constant
from lr_plugins.schedules.cosine import CosineDecay, CosineRestarts
from lr_plugins.schedules.cycle import CycleThrough, Cyclic, OneCycle
from lr_plugins.schedules.duration import Duration
from lr_plugins.schedules.exponential import ExponentialDecay
from lr_plugins.schedules.function import FunctionSchedule, as_schedule
from lr_plugins.schedules.greedy import Greedy
from lr_plugins.schedules.inverse import InverseSquareRoot, InverseTimeDecay
from lr_plugins.schedules.loss_driven import LossDriven
from lr_plugins.schedules.noise import Noise
from lr_plugins.schedules.observation import Change, Monitor, Observation
from lr_plugins.schedules.piecewise import PiecewiseConstant, PiecewiseInterpolation
from lr_plugins.schedules.plateau import ReduceLROnPlateau
from lr_plugins.schedules.polynomial import LinearDecay, PolynomialDecay
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.step import MultiStepDecay, StepDecay
from lr_plugins.schedules.tanh import TanhDecay
from lr_plugins.schedules.warmup import Annealed, Cooldown, Warmup, WarmupStableDecay

__all__ = [
    "Annealed",
    "AsPlanned",
    "Assign",
    "Assignments",
    "BoldDriver",
    "Bounded",
    "Chain",
    "Change",
    "Constant",
    "Cooldown",
    "CosineDecay",
    "CosineRestarts",
    "CycleThrough",
    "Cyclic",
    "Duration",
    "ExponentialDecay",
    "FunctionSchedule",
    "Greedy",
    "InverseSquareRoot",
    "InverseTimeDecay",
    "LinearDecay",
    "LossDriven",
    "Monitor",
    "MultiStepDecay",
    "Noise",
    "Observation",
    "OneCycle",
    "PerEpoch",
    "PiecewiseConstant",
    "PiecewiseInterpolation",
    "PolynomialDecay",
    "Position",
    "Product",
    "ReduceLROnPlateau",
    "Repeated",
    "RunLength",
    "Schedule",
    "Smooth",
    "StepDecay",
    "Stretched",
    "TanhDecay",
    "Warmup",
    "WarmupStableDecay",
    "as_schedule",
]
