"""The learning-rate range test: find an initial learning rate by trying some before training."""

from lr_plugins.callbacks.lr_finder.callback import LearningRateRangeTest

__all__ = ["LearningRateRangeTest"]
