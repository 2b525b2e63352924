"""Callbacks for Lightning's Trainer that apply, record and show the learning rate."""

from lr_plugins.callbacks.full_pass import FullPass
from lr_plugins.callbacks.history import History
from lr_plugins.callbacks.keras_progress import KerasProgress
from lr_plugins.callbacks.learning_rate_audit import LearningRateAudit
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
from lr_plugins.callbacks.learning_rate_trace import LearningRateTrace
from lr_plugins.callbacks.lr_finder import LearningRateRangeTest
from lr_plugins.callbacks.mixin import LearningRateScheduleMixin
from lr_plugins.engine.safe_globals import register_schedules
from lr_plugins.engine.trace import Trace

__all__ = [
    "FullPass",
    "History",
    "KerasProgress",
    "LearningRateAudit",
    "LearningRateRangeTest",
    "LearningRateScheduleMixin",
    "LearningRateScheduler",
    "LearningRateTrace",
    "Trace",
]

register_schedules()
