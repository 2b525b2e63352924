"""When the learning rate is applied and shown: callbacks for Lightning's Trainer."""

from lr_plugins.callbacks.audit import LearningRateAudit
from lr_plugins.callbacks.full_pass import FullPass
from lr_plugins.callbacks.history import History
from lr_plugins.callbacks.keras_progress import KerasProgress
from lr_plugins.callbacks.learning_rate_trace import LearningRateTrace
from lr_plugins.callbacks.lr_finder import LearningRateRangeTest
from lr_plugins.callbacks.scheduler import LearningRateScheduler
from lr_plugins.callbacks.trace import Trace
from lr_plugins.safe_globals import register_schedules

__all__ = [
    "FullPass",
    "History",
    "KerasProgress",
    "LearningRateAudit",
    "LearningRateRangeTest",
    "LearningRateScheduler",
    "LearningRateTrace",
    "Trace",
]

register_schedules()
