"""Schedules for loops without Lightning, and other libraries' schedulers as schedules.

Nothing here imports Lightning.
"""

from lr_plugins.interop.schedule_lr import ScheduleLR
from lr_plugins.interop.torch_schedule import TorchSchedule

__all__ = ["ScheduleLR", "TorchSchedule"]
