"""Where the scheduler stands among the callbacks of a Trainer."""

from __future__ import annotations

from typing import Any

from lr_plugins._lightning import Callback, Trainer
from lr_plugins.callbacks.trainer_facts import is_a
from lr_plugins.errors import InvalidArgument


def put_in_order(trainer: Trainer, scheduler: Callback) -> None:
    """Refuse callbacks that cannot work beside a scheduler as they stand; let those that read follow it.

    At the begin of an epoch, LearningRateMonitor reads the learning rate that the scheduler writes at the begin of an
    epoch, too. A scheduler that the module brings along is always behind the Trainer's own callbacks, so that the
    user could not change the order.

    Raises:
        InvalidArgument: a finetuning callback stands after it.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    at = callbacks.index(scheduler)
    late = [one for one in callbacks[at:] if hasattr(one, "finetune_function")]
    if late:  # in a resumed run they rebuild the param groups, which have to be ours by then
        names = [type(one).__name__ for one in callbacks]
        raise InvalidArgument(
            "Trainer.callbacks", names, f"a list with {type(late[0]).__name__} before LearningRateScheduler"
        )
    readers = [one for one in callbacks[:at] if is_a("LearningRateMonitor", one)]
    others = [one for one in callbacks[:at] if one not in readers]
    # A new list: Lightning is going through the old one.
    trainer.callbacks = [*others, scheduler, *readers, *callbacks[at + 1 :]]  # type: ignore[attr-defined]


def put_before(trainer: Trainer, callback: Callback, kind: type[Callback]) -> None:
    """Let a callback stand before the first one of a kind, which takes up what it has found."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    first = next((at for at, one in enumerate(callbacks) if isinstance(one, kind)), len(callbacks))
    if first < callbacks.index(callback):
        others = [one for one in callbacks if one is not callback]
        trainer.callbacks = [*others[:first], callback, *others[first:]]  # type: ignore[attr-defined]
