"""The task: a small network, its batches, and which of them come when."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lr_plugins.training.data import Batches

EPOCHS, BATCHES, SAMPLES = 4, 7, 4  # epochs per run, batches per epoch, samples per batch
UNEQUAL = (5, 8, 6, 7)  # batches of the epochs, where they differ
Place = tuple[int, int]  # epoch and batch, from 0
Used = tuple[float, ...]  # what one step used: learning rate and momentum of each param group


class Net(torch.nn.Module):
    """Two layers with fixed initial weights; `broken` makes the gradients of the next step infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
        self.broken = False
        self.second.weight.register_hook(lambda grad: grad * math.inf if self.broken else grad)

    def loss(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.second(self.first(batch[0]).tanh()), batch[1])


def batches(count: int = BATCHES, seed: int = 1) -> Batches:
    """A loader whose position Lightning saves and restores, so that a resumed epoch continues where it was."""
    x = torch.randn(count * SAMPLES, 3, generator=torch.Generator().manual_seed(seed))
    return Batches(x, x.sum(1, keepdim=True).sin() + 0.3 * x[:, :1], SAMPLES)


def breaks(place: Place) -> bool:
    """Whether a gradient scaler has to skip the step: within each epoch, and at the end of one."""
    return place[1] == 2 or place == (1, BATCHES - 1)


def turns(batch: int) -> list[int]:
    """Which of two optimizers step on a batch, as in a GAN: the first always, the second at every third."""
    return [0] if batch % 3 else [0, 1]


def validation() -> Batches:
    return batches(1, seed=2)


def weights(net: Net) -> list[list[float]]:
    return [parameter.detach().flatten().tolist() for parameter in net.parameters()]


class Breakdown(Exception):
    """The error that ends a training."""
