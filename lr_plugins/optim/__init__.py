"""Optimizers with an update rule that torch does not have."""

from lr_plugins.optim.keras_sgd import KerasSGD
from lr_plugins.safe_globals import register_schedules

__all__ = ["KerasSGD"]

register_schedules()
