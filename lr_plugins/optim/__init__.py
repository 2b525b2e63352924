"""Optimizers with an update rule that torch does not have."""

from lr_plugins.engine.safe_globals import register_schedules
from lr_plugins.optim.keras_sgd import KerasSGD

__all__ = ["KerasSGD"]

register_schedules()
