"""The learning-rate range test: finds an initial learning rate by trying several before training."""

from lr_plugins.callbacks.lr_finder.callback import LearningRateRangeTest

__all__ = ["LearningRateRangeTest"]
