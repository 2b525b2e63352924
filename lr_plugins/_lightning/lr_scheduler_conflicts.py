"""Torch schedulers that Lightning runs on optimizers that LearningRateScheduler drives."""

from __future__ import annotations

import math

from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins.engine.audit import OnConflict
from lr_plugins.engine.driven_optimizers import DrivenOptimizers
from lr_plugins.errors import TrainingError
from lr_plugins.rank_zero import rank_zero_warn


def source_of(trainer: Trainer, value: float) -> str:
    """The source of a value: the Lightning-run scheduler that has it among its last values, or other code."""
    for config in trainer.lr_scheduler_configs:
        if any(math.isclose(value, float(rate)) for rate in getattr(config.scheduler, "_last_lr", ())):
            return type(config.scheduler).__name__
    return "other code"


def check_configured(
    trainer: Trainer, module: LightningModule, driven: DrivenOptimizers, on_conflict: OnConflict
) -> None:
    """Apply `on_conflict` if the module returns schedulers as well.

    Raises:
        TrainingError: the choice is `"error"`.
    """
    if trainer.lr_scheduler_configs:
        conflict = f"{type(module).__name__}.configure_optimizers() returns {_names(trainer)} as well"
        _handle(conflict, driven, on_conflict)


def check_added(trainer: Trainer, driven: DrivenOptimizers, on_conflict: OnConflict) -> None:
    """Yield to schedulers that a callback has added, which happens at the start of an epoch."""
    if on_conflict == "theirs" and trainer.lr_scheduler_configs and driven.active:
        _handle(f"{_names(trainer)} was added in epoch {trainer.current_epoch}", driven, on_conflict)


def _names(trainer: Trainer) -> str:
    return ", ".join(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs)


def _handle(conflict: str, driven: DrivenOptimizers, on_conflict: OnConflict) -> None:
    choices = "Return only the optimizer, or remove LearningRateScheduler."
    if on_conflict == "error":
        choices = f"Choose on_conflict='ours' or 'theirs', {choices[0].lower()}{choices[1:]}"
        raise TrainingError(f"{conflict}, and LearningRateScheduler has on_conflict='error'. {choices}")
    if on_conflict == "theirs":
        rank_zero_warn(f"{conflict}. LearningRateScheduler stops writing and only records. {choices}")
        driven.stop_writing()
    else:
        rank_zero_warn(f"{conflict}. LearningRateScheduler overrides it at every step. {choices}")
