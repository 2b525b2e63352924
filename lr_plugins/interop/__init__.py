"""Schedules for loops without Lightning, and schedulers of other libraries as schedules.

Nothing here imports Lightning.
"""

from lr_plugins.interop.schedule_lr import ScheduleLR
from lr_plugins.interop.torch_schedule import TorchSchedule

__all__ = ["ScheduleLR", "TorchSchedule"]
