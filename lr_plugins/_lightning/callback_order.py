"""The order of the scheduler among the callbacks of a Trainer."""

from __future__ import annotations

from typing import Any

from lr_plugins._lightning.compat import Callback, Trainer
from lr_plugins._lightning.run_length import is_a

_READERS = ("LearningRateMonitor", "LearningRateTrace")


def order_scheduler(trainer: Trainer, scheduler: Callback) -> None:
    """Move a scheduler behind the callbacks that build param groups and in front of those that read its values.

    At the start of an epoch, LearningRateMonitor reads the learning rate that the scheduler writes, and
    LearningRateTrace reads what it measures. A finetuning callback adds the groups that it unfreezes at the start of an
    epoch, and rebuilds them at the start of a resumed fit; they must exist before the scheduler reads the groups. Users
    cannot change the order themselves if the scheduler comes from the module: Lightning puts the module's callbacks
    behind the Trainer's own.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    index = callbacks.index(scheduler)
    builders = [callback for callback in callbacks[index + 1 :] if hasattr(callback, "finetune_function")]
    readers = [callback for callback in callbacks[:index] if any(is_a(name, callback) for name in _READERS)]
    before = [callback for callback in callbacks[:index] if callback not in readers]
    after = [callback for callback in callbacks[index + 1 :] if callback not in builders]
    # A new list, because Lightning is iterating over the old one.
    trainer.callbacks = [*before, *builders, scheduler, *readers, *after]  # type: ignore[attr-defined]


def put_before(trainer: Trainer, callback: Callback, *names: str) -> None:
    """Move a callback in front of the first callback of one of the named classes."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    others = (index for index, other in enumerate(callbacks) if any(is_a(name, other) for name in names))
    first = next(others, len(callbacks))
    if first < callbacks.index(callback):
        rest = [other for other in callbacks if other is not callback]
        trainer.callbacks = [*rest[:first], callback, *rest[first:]]  # type: ignore[attr-defined]
