"""What a Trainer knows that schedules want to know."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

from lr_plugins._lightning.compat import Callback, Trainer
from lr_plugins.schedules import RunLength


def run_length(trainer: Trainer) -> RunLength:
    """How long a Trainer's run will be, in optimizer steps; call it once its training data are set up.

    A step's samples are those of a full batch, times the batches of a step and the processes that share the data. A
    last batch that is smaller than the others, and a last step of fewer batches, count as full ones.

    Unknown are the steps of an epoch under manual optimization, where the module decides when to step, and under an
    accumulation that changes on the way; a run of those has a known length only where nothing but `max_steps` ends
    it. Of several optimizers nothing is known, for `max_steps` counts them together. Where a step's samples are
    unknown, `samples_per_step` says why.
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
    """(the samples of one optimizer step, nothing), or (None, why they are unknown)."""
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
        return None, 'of several loaders in the mode "max_size", those that have ended are missing in a batch'
    return sum(known) * trainer.accumulate_grad_batches * _data_processes(trainer), ""


def _batch_size(loader: Any) -> int | None:
    """The size of a loader's full batches; None where neither the loader nor its batch sampler tells it."""
    for source in (loader, getattr(loader, "batch_sampler", None)):
        size = getattr(source, "batch_size", None)
        if isinstance(size, numbers.Integral) and not isinstance(size, bool) and int(size) >= 1:
            return int(size)
    return None


def _data_processes(trainer: Trainer) -> int:
    """Between how many processes the data are divided: all, except those that share a model's layers."""
    divided = trainer.distributed_sampler_kwargs or {}
    return int(divided.get("num_replicas") or trainer.world_size)


def _changes_accumulation(trainer: Trainer) -> bool:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(is_a("GradientAccumulationScheduler", callback) for callback in callbacks)


def is_a(name: str, callback: object) -> bool:
    """Whether a callback is of one of Lightning's classes, in either package, or of a class derived from it."""
    return any(kind.__name__ == name for kind in type(callback).__mro__)


def is_detached(callback: Callback, trainer: Trainer) -> Callable[[], bool]:
    """Whether a Trainer does without a callback of its run for the moment.

    Lightning's searches for a learning rate and for a batch size, which a user may start on the way, put other
    callbacks in the place of all, try some steps, and undo them.
    """
    return lambda: callback not in trainer.callbacks  # type: ignore[attr-defined]
