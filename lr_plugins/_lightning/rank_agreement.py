"""Checks that all ranks use the same values."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch

from lr_plugins._lightning.compat import Trainer
from lr_plugins.engine.trace import Trace
from lr_plugins.errors import TrainingError


class RankAgreement:
    """Compares the values that the steps have used between ranks.

    Schedules make the same decisions on every rank, because they observe the same values. A user's function may not,
    and the ranks would then train with different learning rates.
    """

    def __init__(self) -> None:
        self._checked: dict[str, int] = {}  # by name: the first step not compared yet

    def check(self, trainer: Trainer, trace: Trace) -> None:
        """Compare what was recorded since the last call. A collective call.

        Raises:
            TrainingError: two ranks disagree; raised on all ranks, with the step, the series and the values.
        """
        if trainer.world_size == 1:
            return
        shared = trace.hyperparameters  # what each rank measures for itself may differ
        new_values = [
            np.array([value for _, value in series.since(self._checked.get(name, 0))])
            for name, series in shared.items()
        ]
        first_steps = [max(self._checked.get(name, 0), series.first_step) for name, series in shared.items()]
        self._checked = {name: series.next_step for name, series in shared.items()}
        checksum = zlib.crc32(b"".join([repr(first_steps).encode(), *(values.tobytes() for values in new_values)]))
        sums = trainer.strategy.all_gather(torch.tensor(checksum, device=trainer.strategy.root_device))
        if len(set(sums.tolist())) > 1:
            raise TrainingError(_difference(list(shared), first_steps, new_values))


def _difference(names: Sequence[str], first_steps: Sequence[int], new_values: Sequence[np.ndarray]) -> str:
    """The message for the first step at which two ranks differ."""
    ranks: list[list[list[float]]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, [values.tolist() for values in new_values])
    differences = [
        (first_step + at, name, values)
        for index, (name, first_step) in enumerate(zip(names, first_steps, strict=True))
        for at, values in enumerate(zip(*(rank[index] for rank in ranks), strict=False))
        if len(set(values)) > 1 and not all(map(math.isnan, values))  # a gap on all ranks
    ]
    where = "the ranks have taken different numbers of steps"
    if differences:
        step, name, values = min(differences)
        by_rank = ", ".join(f"{value!r} on rank {rank}" for rank, value in enumerate(values))
        where = f"at step {step}, {name} was {by_rank}"
    return (
        f"the ranks disagree: {where}. Every rank must compute the same; look for a schedule function that depends on "
        "the rank, on random numbers or on a metric of one rank."
    )
