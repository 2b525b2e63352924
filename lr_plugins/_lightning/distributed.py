"""Communication between the processes of a distributed training."""

from __future__ import annotations

from typing import Any

import torch

from lr_plugins._lightning.compat import Trainer


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """Gather a value from each process, ordered by rank. A collective call.

    Args:
        trainer: the Trainer of the run.
        value: this process's value.
    """
    values: list[Any] = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values
