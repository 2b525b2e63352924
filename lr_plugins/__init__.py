"""Learning-rate schedules as plugins for the PyTorch Lightning training lifecycle.

What needs torch is imported when it is first used, so that looking at a schedule does without.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from lr_plugins import renamed as _renamed
from lr_plugins import schedules as _schedules
from lr_plugins.schedules import *  # noqa: F403

if TYPE_CHECKING:
    from lr_plugins.callbacks import FullPass as FullPass
    from lr_plugins.callbacks import History as History
    from lr_plugins.callbacks import KerasProgress as KerasProgress
    from lr_plugins.callbacks import LearningRateAudit as LearningRateAudit
    from lr_plugins.callbacks import LearningRateRangeTest as LearningRateRangeTest
    from lr_plugins.callbacks import LearningRateScheduleMixin as LearningRateScheduleMixin
    from lr_plugins.callbacks import LearningRateScheduler as LearningRateScheduler
    from lr_plugins.callbacks import LearningRateTrace as LearningRateTrace
    from lr_plugins.callbacks import Trace as Trace
    from lr_plugins.interop import ScheduleLR as ScheduleLR
    from lr_plugins.interop import TorchSchedule as TorchSchedule
    from lr_plugins.optim import KerasSGD as KerasSGD
    from lr_plugins.simulation.preview import preview as preview
    from lr_plugins.tracking import MLflowLogger as MLflowLogger

__version__ = "0.1.0"

_HOME = {
    "FullPass": "lr_plugins.callbacks",
    "History": "lr_plugins.callbacks",
    "KerasProgress": "lr_plugins.callbacks",
    "KerasSGD": "lr_plugins.optim",
    "LearningRateAudit": "lr_plugins.callbacks",
    "LearningRateRangeTest": "lr_plugins.callbacks",
    "LearningRateScheduleMixin": "lr_plugins.callbacks",
    "LearningRateScheduler": "lr_plugins.callbacks",
    "LearningRateTrace": "lr_plugins.callbacks",
    "MLflowLogger": "lr_plugins.tracking",
    "ScheduleLR": "lr_plugins.interop",
    "TorchSchedule": "lr_plugins.interop",
    "Trace": "lr_plugins.callbacks",
    "preview": "lr_plugins.simulation",
}

_OF_EXTENDERS = {"Change", "Monitor"}  # what a schedule of one's own is written with: `lr_plugins.schedules` has it

__all__ = sorted([*_HOME, *(name for name in _schedules.__all__ if name not in _OF_EXTENDERS)])

for _name in _OF_EXTENDERS:
    del globals()[_name]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise _renamed.missing(__name__, name)
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


if "torch" in sys.modules:
    from lr_plugins.engine.safe_globals import register_schedules

    register_schedules()
