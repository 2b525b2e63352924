"""What several processes that train together have to tell each other."""

from __future__ import annotations

from typing import Any

import torch

from lr_plugins._lightning.compat import Trainer


def gather_objects(trainer: Trainer, value: Any) -> list[Any]:
    """What each process has, by rank; all of them have to call it.

    Args:
        trainer: the Trainer of the run.
        value: this process's value.
    """
    values: list[Any] = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values
