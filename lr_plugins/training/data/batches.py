"""Samples in memory, batched by index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from lr_plugins.checkpoint_state import StateFormat, count
from lr_plugins.training import sizes

Batch = tuple[Tensor, Tensor]
Samples = tuple[Tensor, Tensor]


class Batches:
    """Batches of tensors by index, reshuffled every epoch: a data loader without per-sample work.

    The order of an epoch depends on (`seed`, epoch) and nothing else, so that a run continued from a checkpoint
    gets the batches that the interrupted one would have got, starting with the next one. Lightning
    sets the epoch and saves the position; without Lightning each iteration is the next epoch.

    Lightning distributes only DataLoaders, so each of several processes takes its own part of the order here.

    Args:
        x: inputs (samples, ...), float32, or uint8 that becomes float32 in [0, 1] batch by batch.
        y: int64 targets (samples,).
        batch_size: samples per batch, >= 1; the last batch may be smaller.
        shuffle: whether to reorder. Default False.
        seed: of the order, from 0 to 2**32 - 1. Default 0.
        process: the rank of this process, and how many there are. Default (0, 1).
        even: whether all processes get the same number of samples, for which a few have to come twice in an epoch.
            Otherwise the numbers differ by at most one. Default False.

    Example:
        >>> batches = Batches(torch.arange(3.0), torch.arange(3), batch_size=2)
        >>> [y.tolist() for x, y in batches]
        [[0, 1], [2]]
    """

    state_format = StateFormat("Batches", {"epoch": count, "batch": count})
    batch_sampler = None  # Lightning expects it of every loader that has a `sampler`

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        process: tuple[int, int] = (0, 1),
        even: bool = False,
    ) -> None:
        self.x, self.y = x, y
        self._process, self._even = process, even
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self._next = (0, 0)  # epoch and batch that the next iteration starts with
        self._reached = (0, 0)  # epoch and number of batches handed out in it

    def __len__(self) -> int:
        return sizes.batches(self.num_samples, self.batch_size)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, in this process."""
        rank, processes = self._process
        return sizes.of_process(len(self.y), rank, processes, self._even)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._next
        self._next = (epoch + 1, 0)
        pieces = torch.split(self._part(self._order(epoch)), self.batch_size)
        for index in range(first, len(pieces)):
            self._reached = (epoch, index + 1)
            x = self.x[pieces[index]]
            yield x if x.dtype != torch.uint8 else x.float().div_(255), self.y[pieces[index]]

    def _part(self, order: Tensor) -> Tensor:
        rank, processes = self._process
        if self._even:
            order = torch.cat([order, order[: -len(order) % processes]])
        return order[rank::processes]

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.y))
        # SeedSequence mixes the two numbers: seed 1 at epoch 0 has nothing in common with seed 0 at epoch 1.
        mixed = np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]
        return torch.randperm(len(self.y), generator=torch.Generator().manual_seed(int(mixed)))

    @property
    def sampler(self) -> Batches | SequentialSampler:
        """For Lightning: the object whose `set_epoch` it calls, and whether the order is sequential."""
        return self if self.shuffle else SequentialSampler(range(len(self.y)))

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch` (an index from 0)."""
        if epoch != self._next[0]:
            self._next = (epoch, 0)

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch, as plain numbers."""
        epoch, done = self._reached
        return self.state_format.stamped({"epoch": epoch, "batch": done})

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration start at the position of `state_dict`."""
        checked = self.state_format.read(state)
        self._reached = (checked["epoch"], checked["batch"])
        ended = checked["batch"] >= len(self)
        self._next = (checked["epoch"] + 1, 0) if ended else self._reached
