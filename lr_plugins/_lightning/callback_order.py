"""Where the scheduler stands among the callbacks of a Trainer."""

from __future__ import annotations

from typing import Any

from lr_plugins._lightning.compat import Callback, Trainer
from lr_plugins._lightning.run_length import is_a

_READERS = ("LearningRateMonitor", "LearningRateTrace")


def order_scheduler(trainer: Trainer, scheduler: Callback) -> None:
    """Let a scheduler follow those callbacks that build param groups, and those that read follow it.

    At the begin of an epoch, LearningRateMonitor reads the learning rate that the scheduler writes there, and
    LearningRateTrace what the scheduler measures there. A finetuning callback adds the groups of what it unfreezes
    there, and in a resumed run rebuilds them when the fit begins: they have to be there before the scheduler looks. A
    scheduler that the module brings along is always behind the Trainer's own callbacks, so that the user could not
    change the order.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    index = callbacks.index(scheduler)
    builders = [callback for callback in callbacks[index + 1 :] if hasattr(callback, "finetune_function")]
    readers = [callback for callback in callbacks[:index] if any(is_a(name, callback) for name in _READERS)]
    before = [callback for callback in callbacks[:index] if callback not in readers]
    after = [callback for callback in callbacks[index + 1 :] if callback not in builders]
    # A new list: Lightning is going through the old one.
    trainer.callbacks = [*before, *builders, scheduler, *readers, *after]  # type: ignore[attr-defined]


def put_before(trainer: Trainer, callback: Callback, *names: str) -> None:
    """Let a callback stand before the first one of some classes, given by their names."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    others = (index for index, other in enumerate(callbacks) if any(is_a(name, other) for name in names))
    first = next(others, len(callbacks))
    if first < callbacks.index(callback):
        rest = [other for other in callbacks if other is not callback]
        trainer.callbacks = [*rest[:first], callback, *rest[first:]]  # type: ignore[attr-defined]
