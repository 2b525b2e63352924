"""What several processes that train together have to tell each other."""

from __future__ import annotations

from typing import Any

import torch

from lr_plugins._lightning.compat import Trainer


def of_all_processes(trainer: Trainer, mine: Any) -> list[Any]:
    """What each process has, by rank; all of them have to call it.

    Args:
        trainer: the Trainer of the run.
        mine: what this one has.
    """
    found: list[Any] = [mine] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(found, mine)
    return found
