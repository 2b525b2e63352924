"""Splits one set of samples into training and validation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lr_plugins.training import sizes
from lr_plugins.training.data.batches import Samples


def stratified_split(targets: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a training and a validation set that have the classes in the same proportions.

    The validation set gets ceil(fraction * samples), at most all but one; each class gives its share rounded
    down or up (the largest remainders up).

    Args:
        targets: int64 tensor (samples,) of classes.
        fraction: share for validation, >= 0 and < 1.
        seed: of the choice within each class.

    Returns:
        Two ascending index tensors, disjoint, together all samples.

    Example:
        >>> train, val = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), 0.5, seed=0)
        >>> len(train), torch.tensor([0, 0, 0, 0, 1, 1])[val].tolist()
        (3, [0, 0, 1])
    """
    labels = targets.numpy()
    wanted = sizes.held_out(len(labels), fraction)
    _, membership, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shares, remainders = np.divmod(counts * wanted, len(labels))
    by_remainder = np.argsort(-remainders, kind="stable")
    shares[by_remainder[: wanted - shares.sum()]] += 1
    random = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(membership == label)
        chosen[random.permutation(members)[:share]] = True
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def split(x: Tensor, y: Tensor, fraction: float, seed: int) -> tuple[Samples, Samples | None]:
    if fraction == 0:
        return (x, y), None
    train, validation = stratified_split(y, fraction, seed)
    return (x[train], y[train]), (x[validation], y[validation])
