"""The length of an epoch, in steps and in samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lr_plugins._lightning.compat import Trainer
from lr_plugins.console.keras_styles import Style


class _Samples(NamedTuple):
    """The samples that a loader gives to one process: in a batch, and in all batches that are used."""

    per_batch: int
    total: int


def _samples(loader: object, batches: float) -> _Samples | None:
    """The samples in `batches` batches of a loader; None if that is unknown.

    A DataLoader's batch sampler knows it; other loaders may have the attributes `num_samples` and `batch_size`.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    source = loader if batch_sampler is None else batch_sampler
    batch_size = getattr(source, "batch_size", None)
    try:
        available = source.num_samples if source is loader else len(source.sampler)  # type: ignore[union-attr,attr-defined]
    except (AttributeError, TypeError):  # the dataset makes its own batches, or is iterable
        return None
    return _Samples(batch_size, int(min(available, batches * batch_size))) if isinstance(batch_size, int) else None


def samples_of_run(trainer: Trainer) -> tuple[int, int] | None:
    """The training and validation samples of an epoch, over all processes; None if either is unknown."""
    loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    elif not isinstance(loaders, (list, tuple)):
        loaders = [loaders]
    batches = trainer.num_val_batches
    if not sum(batches) or len(batches) != len(loaders):
        return None
    train = _samples(trainer.train_dataloader, trainer.num_training_batches)
    parts = [_samples(loader, limit) for loader, limit in zip(loaders, batches, strict=True)]
    validation = [part for part in parts if part is not None]
    if train is None or len(validation) < len(parts):
        return None
    return train.total * trainer.world_size, sum(part.total for part in validation) * trainer.world_size


class Units(NamedTuple):
    """What a progress bar counts: samples, as Keras 2 does if their number is known, or steps.

    Args:
        per_step: units in a step.
        target: units in the epoch; None if that is unknown.
    """

    per_step: int
    target: int | None

    @staticmethod
    def of(trainer: Trainer, style: Style) -> Units:
        """The units of a training epoch."""
        batches = trainer.num_training_batches
        samples = _samples(trainer.train_dataloader, batches) if style == "keras2" else None
        if samples is not None and samples.total:
            return Units(samples.per_batch * trainer.world_size, samples.total * trainer.world_size)
        return Units(1, None if batches == float("inf") else int(batches))

    @staticmethod
    def of_evaluation(trainer: Trainer, stage: str, style: Style) -> Units:
        """The units of all loaders of `validate`, `test` or `predict` together."""
        name = {"validate": "val"}.get(stage, stage)
        loaders, batches = getattr(trainer, f"{name}_dataloaders"), list(getattr(trainer, f"num_{name}_batches"))
        if isinstance(loaders, Mapping):
            loaders = list(loaders.values())
        loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
        parts = [_samples(loader, limit) for loader, limit in zip(loaders, batches, strict=False)]
        known = [part for part in parts if part is not None and part.total]
        if style == "keras2" and known and len(known) == len(batches):
            return Units(
                known[0].per_batch * trainer.world_size, sum(part.total for part in known) * trainer.world_size
            )
        steps = sum(batches)
        return Units(1, None if steps == float("inf") else int(steps))

    def done(self, steps: int) -> int:
        """The units in a number of steps; the last step may have fewer than the others."""
        return steps * self.per_step if self.per_step == 1 else min(steps * self.per_step, self.target or 0)
