"""Learning-rate schedules as plugins for the PyTorch Lightning training lifecycle.

Names are imported when they are first used, so that looking at a schedule needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lr_plugins.callbacks import KerasProgress as KerasProgress
    from lr_plugins.callbacks import LearningRateScheduler as LearningRateScheduler
    from lr_plugins.callbacks import LearningRateTrace as LearningRateTrace
    from lr_plugins.mixin import LearningRateScheduleMixin as LearningRateScheduleMixin
    from lr_plugins.optim import KerasSGD as KerasSGD
    from lr_plugins.schedules import Bounded as Bounded
    from lr_plugins.schedules import Chain as Chain
    from lr_plugins.schedules import Constant as Constant
    from lr_plugins.schedules import Cooldown as Cooldown
    from lr_plugins.schedules import CosineDecay as CosineDecay
    from lr_plugins.schedules import CosineRestarts as CosineRestarts
    from lr_plugins.schedules import CycleThrough as CycleThrough
    from lr_plugins.schedules import Cyclic as Cyclic
    from lr_plugins.schedules import Duration as Duration
    from lr_plugins.schedules import ExponentialDecay as ExponentialDecay
    from lr_plugins.schedules import FunctionSchedule as FunctionSchedule
    from lr_plugins.schedules import InverseSquareRoot as InverseSquareRoot
    from lr_plugins.schedules import InverseTimeDecay as InverseTimeDecay
    from lr_plugins.schedules import LinearDecay as LinearDecay
    from lr_plugins.schedules import LossDriven as LossDriven
    from lr_plugins.schedules import MultiStepDecay as MultiStepDecay
    from lr_plugins.schedules import Noise as Noise
    from lr_plugins.schedules import OneCycle as OneCycle
    from lr_plugins.schedules import PerEpoch as PerEpoch
    from lr_plugins.schedules import PiecewiseConstant as PiecewiseConstant
    from lr_plugins.schedules import PiecewiseInterpolation as PiecewiseInterpolation
    from lr_plugins.schedules import PolynomialDecay as PolynomialDecay
    from lr_plugins.schedules import Position as Position
    from lr_plugins.schedules import Product as Product
    from lr_plugins.schedules import Repeated as Repeated
    from lr_plugins.schedules import RunLength as RunLength
    from lr_plugins.schedules import Schedule as Schedule
    from lr_plugins.schedules import Smooth as Smooth
    from lr_plugins.schedules import StepDecay as StepDecay
    from lr_plugins.schedules import Stretched as Stretched
    from lr_plugins.schedules import TanhDecay as TanhDecay
    from lr_plugins.schedules import Warmup as Warmup
    from lr_plugins.schedules import WarmupStableDecay as WarmupStableDecay

__version__ = "0.1.0"

_HOMES = {
    "lr_plugins.schedules": (
        "Bounded",
        "Chain",
        "Constant",
        "Cooldown",
        "CosineDecay",
        "CosineRestarts",
        "CycleThrough",
        "Cyclic",
        "Duration",
        "ExponentialDecay",
        "FunctionSchedule",
        "InverseSquareRoot",
        "InverseTimeDecay",
        "LinearDecay",
        "LossDriven",
        "MultiStepDecay",
        "Noise",
        "OneCycle",
        "PerEpoch",
        "PiecewiseConstant",
        "PiecewiseInterpolation",
        "PolynomialDecay",
        "Position",
        "Product",
        "Repeated",
        "RunLength",
        "Schedule",
        "Smooth",
        "StepDecay",
        "Stretched",
        "TanhDecay",
        "Warmup",
        "WarmupStableDecay",
    ),
    "lr_plugins.callbacks": ("KerasProgress", "LearningRateScheduler", "LearningRateTrace"),
    "lr_plugins.mixin": ("LearningRateScheduleMixin",),
    "lr_plugins.optim": ("KerasSGD",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
