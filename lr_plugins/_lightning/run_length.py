"""The length of a Trainer's run, and other facts about it that schedules need."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

from lr_plugins._lightning.compat import Callback, Trainer
from lr_plugins.schedules import RunLength


def run_length(trainer: Trainer) -> RunLength:
    """The length of a Trainer's run in optimizer steps; call it after its training data are set up.

    The samples of a step are those of a full batch, times the batches per step and the processes that share the data. A
    smaller last batch, and a last step of fewer batches, count as full.

    The steps of an epoch are unknown under manual optimization, because the module decides when to step, and if
    gradient accumulation changes during the run. The length of such a run is known only if `max_steps` alone ends it.
    With several optimizers the length is unknown, because `max_steps` counts their steps together. If the samples of a
    step are unknown, `samples_per_step` says why.
    """
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None
    steps = trainer.max_steps if trainer.max_steps >= 0 else None
    if len(trainer.optimizers) > 1:
        return RunLength.of(epochs=epochs)
    if _changes_accumulation(trainer) or not trainer.lightning_module.automatic_optimization:
        return RunLength.of(epochs=epochs, steps=steps if epochs is None else None)
    batches = trainer.num_training_batches
    return RunLength.of(
        steps_per_epoch=math.ceil(batches / trainer.accumulate_grad_batches) if isinstance(batches, int) else None,
        epochs=epochs,
        steps=steps,
        batch_size=samples_per_step(trainer)[0],
    )


def samples_per_step(trainer: Trainer) -> tuple[int | None, str]:
    """(the samples of one optimizer step, ""), or (None, why they are unknown)."""
    if not trainer.lightning_module.automatic_optimization:
        return None, "under manual optimization the module decides when to step"
    if _changes_accumulation(trainer):
        return None, "GradientAccumulationScheduler changes how many batches a step has"
    combined: Any = trainer.fit_loop._combined_loader
    loaders = [] if combined is None else combined.flattened
    sizes = [_batch_size(loader) for loader in loaders]
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes):
        names = ", ".join(type(loader).__name__ for loader, size in zip(loaders, sizes, strict=True) if size is None)
        return None, f"the training data come from {names or 'nowhere'} without a batch_size"
    if len(known) > 1 and combined._mode == "max_size":
        return None, 'in the mode "max_size", a batch lacks the loaders that are exhausted'
    return sum(known) * trainer.accumulate_grad_batches * _data_processes(trainer), ""


def _batch_size(loader: Any) -> int | None:
    """The size of a loader's full batches; None if neither the loader nor its batch sampler has it."""
    for source in (loader, getattr(loader, "batch_sampler", None)):
        size = getattr(source, "batch_size", None)
        if isinstance(size, numbers.Integral) and not isinstance(size, bool) and int(size) >= 1:
            return int(size)
    return None


def _data_processes(trainer: Trainer) -> int:
    """The number of processes that the data are divided among: all, except those that share a model's layers."""
    divided = trainer.distributed_sampler_kwargs or {}
    return int(divided.get("num_replicas") or trainer.world_size)


def _changes_accumulation(trainer: Trainer) -> bool:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(is_a("GradientAccumulationScheduler", callback) for callback in callbacks)


def is_a(name: str, instance: object) -> bool:
    """Whether an object is of one of Lightning's classes, in either package, or of a class derived from it."""
    return any(kind.__name__ == name for kind in type(instance).__mro__)


def is_detached(callback: Callback, trainer: Trainer) -> Callable[[], bool]:
    """A function that returns whether a callback is currently removed from the Trainer.

    Lightning's learning-rate finder and batch-size finder, which may run during a fit, replace all callbacks, try some
    steps, and undo them.
    """
    return lambda: callback not in trainer.callbacks  # type: ignore[attr-defined]
