"""The callback that publishes the learning rates used: to the loggers, as a table and as a plot."""

from lr_plugins.callbacks.learning_rate_trace.callback import LearningRateTrace

__all__ = ["LearningRateTrace"]
