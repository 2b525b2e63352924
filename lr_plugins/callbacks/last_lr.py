"""The learning rate that was used last, regardless of what set it."""

from __future__ import annotations

import torch
from torch import Tensor

from lr_plugins._lightning.compat import Trainer
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
from lr_plugins.engine.hyperparameter import LEARNING_RATE
from lr_plugins.engine.recorder import decays_by_itself


class LastLR:
    """The learning rate of the first param group at the last optimizer step.

    It is read from the `trace` of a callback, if there is one. Otherwise it is what the optimizer held when the last
    batch started: after the batch, a torch scheduler has already set the next one. For an optimizer that decays its
    learning rates itself (`keras.SGD`) it is always the latter, the undecayed value that Keras shows.
    """

    def __init__(self) -> None:
        self._noted: float | Tensor | None = None
        self._is_undecayed = False

    def note(self, trainer: Trainer) -> None:
        """Read the optimizer, at the start of each batch."""
        # For a module without an optimizer, Lightning creates a mock optimizer without groups.
        groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
        rate = groups[0]["lr"] if groups else None
        self._is_undecayed = bool(groups) and decays_by_itself(trainer.optimizers[0])
        # A tensor is overwritten in place; reading it now would synchronize with its device.
        self._noted = rate.clone() if isinstance(rate, Tensor) else rate

    def value(self, trainer: Trainer) -> float | None:
        """The learning rate; None without an optimizer, or before the first step."""
        traced = None if self._is_undecayed else _traced(trainer)
        noted = None if self._noted is None else float(self._noted)
        return noted if traced is None else traced


def is_scheduled(trainer: Trainer) -> bool:
    """Whether a callback or a torch scheduler sets the learning rate; Keras shows it only then."""
    schedulers = [callback for callback in trainer.callbacks if isinstance(callback, LearningRateScheduler)]  # type: ignore[attr-defined]
    drives = any(callback.to == LEARNING_RATE.name for scheduler in schedulers for callback in scheduler.assignments)
    return drives or bool(trainer.lr_scheduler_configs)


def _traced(trainer: Trainer) -> float | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        last = getattr(getattr(callback, "trace", None), "last", None)
        value = last() if callable(last) else None
        if value is not None:
            return float(value)
    return None


def in_float32(rate: float) -> float:
    """The value as Keras keeps it: 0.001 is just above 1e-3 there."""
    return torch.tensor(rate, dtype=torch.float32).item()
