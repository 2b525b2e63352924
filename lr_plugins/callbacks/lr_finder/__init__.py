"""The learning-rate range test: which learning rate to begin with, found by trying them before the training."""

from lr_plugins.callbacks.lr_finder.callback import LearningRateRangeTest

__all__ = ["LearningRateRangeTest"]
