"""What the learning rate should be: pure mathematics, without torch or Lightning."""

from typing import TYPE_CHECKING

from lr_plugins import renamed as _renamed
from lr_plugins.schedules.assign import Assign, Assignments
from lr_plugins.schedules.combinators.annealed import Annealed
from lr_plugins.schedules.combinators.bounded import Bounded
from lr_plugins.schedules.combinators.chain import Chain
from lr_plugins.schedules.combinators.cooldown import Cooldown
from lr_plugins.schedules.combinators.epochs import PerEpoch, Smooth
from lr_plugins.schedules.combinators.noise import Noise
from lr_plugins.schedules.combinators.product import Product
from lr_plugins.schedules.combinators.repeated import Repeated
from lr_plugins.schedules.combinators.replanned import Replanned
from lr_plugins.schedules.combinators.stretched import Stretched
from lr_plugins.schedules.combinators.warmup import Warmup
from lr_plugins.schedules.combinators.warmup_stable_decay import WarmupStableDecay
from lr_plugins.schedules.duration import Duration
from lr_plugins.schedules.metric_driven.bold_driver import BoldDriver
from lr_plugins.schedules.metric_driven.greedy import Greedy
from lr_plugins.schedules.metric_driven.loss_driven import LossDriven
from lr_plugins.schedules.metric_driven.plateau import ReduceLROnPlateau
from lr_plugins.schedules.observation import Change, Monitor, Observation
from lr_plugins.schedules.position import Position, RunLength
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.shapes.constant import Constant
from lr_plugins.schedules.shapes.cosine import CosineDecay, CosineRestarts
from lr_plugins.schedules.shapes.cycle import CycleThrough, Cyclic, OneCycle
from lr_plugins.schedules.shapes.exponential import ExponentialDecay
from lr_plugins.schedules.shapes.function import FunctionSchedule, as_schedule
from lr_plugins.schedules.shapes.inverse import InverseSquareRoot, InverseTimeDecay
from lr_plugins.schedules.shapes.piecewise import PiecewiseConstant, PiecewiseInterpolation
from lr_plugins.schedules.shapes.polynomial import LinearDecay, PolynomialDecay
from lr_plugins.schedules.shapes.step import MultiStepDecay, StepDecay
from lr_plugins.schedules.shapes.tanh import TanhDecay

__all__ = [
    "Annealed",
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
    "Replanned",
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

if not TYPE_CHECKING:  # type checkers are to report a name that does not exist

    def __getattr__(name: str) -> None:
        raise _renamed.missing(__name__, name)
