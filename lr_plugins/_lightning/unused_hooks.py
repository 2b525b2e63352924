"""Skips the per-batch hooks of callbacks that do nothing.

Lightning calls every hook of every callback, and profiles each call: ten callbacks of which none has a hook cost a
quarter of a 1 ms step.
"""

from __future__ import annotations

from lr_plugins._lightning.compat import Callback, Trainer

PER_BATCH = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_validation_batch_start",
    "on_validation_batch_end",
)
"""The hooks that Lightning calls for each batch of a fit."""

_OF_LIGHTNING = "pytorch_lightning.", "lightning.pytorch."
_BASES = "pytorch_lightning.callbacks.callback", "lightning.pytorch.callbacks.callback"


def skip_unused_hooks(callback: Callback, trainer: Trainer) -> None:
    """Have Lightning skip the per-batch hooks that a callback inherits from Lightning's base, where they are empty.

    Lightning calls a hook if it is callable. The instance gets None in its place; `super().hook(...)` in a subclass
    still finds the method. A callback that is not among the Trainer's own stays as it is: another one calls its hooks.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if not any(other is callback for other in callbacks):
        return
    if _saves_only_at_epochs(callback):
        vars(callback).setdefault("on_train_batch_end", None)
    for name in PER_BATCH:
        definer = next(kind for kind in type(callback).__mro__ if name in vars(kind))
        if definer.__module__ in _BASES:
            vars(callback).setdefault(name, None)


def switch_hook(callback: Callback, trainer: Trainer, name: str, owner: type, wanted: bool) -> None:
    """Have Lightning call a hook of a callback, or skip it while it has nothing to do.

    Args:
        callback: the callback. A callback that is not among the Trainer's own stays as it is.
        trainer: the Trainer of the run.
        name: the name of the hook.
        owner: the class that defines the hook; an override in a subclass is always called.
        wanted: whether Lightning calls it.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if wanted:
        if vars(callback).get(name, callback) is None:
            delattr(callback, name)
    elif getattr(type(callback), name) is getattr(owner, name) and any(other is callback for other in callbacks):
        vars(callback).setdefault(name, None)


def _saves_only_at_epochs(callback: Callback) -> bool:
    """Whether a callback is Lightning's ModelCheckpoint and never saves after a batch: finding that out takes 20 us."""
    settings = vars(callback)
    unknown = object()
    return (
        type(callback).__name__ == "ModelCheckpoint"
        and type(callback).__module__.startswith(_OF_LIGHTNING)
        and settings.get("_every_n_train_steps", unknown) == 0
        and settings.get("_train_time_interval", unknown) is None
    )
