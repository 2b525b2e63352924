"""Keras' console output from any Lightning training."""

from lr_plugins.callbacks.keras_progress.callback import KerasProgress

__all__ = ["KerasProgress"]
