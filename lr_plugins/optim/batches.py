"""Batches of tensors for torch's foreach operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

# Elements in a batch of tensors on the CPU. Several passes over a batch find it in the L2 cache: 2**16 float32 weights
# with their gradients and velocities take 768 KiB.
CPU_BATCH_ELEMENTS = 2**16


def spans(tensors: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive tensors to process together: all of them, or on the CPU as many as its cache holds.

    Args:
        tensors: tensors of one device, at least one.

    Example:
        >>> import torch
        >>> list(spans([torch.empty(size) for size in (40_000, 20_000, 10_000)]))
        [(0, 2), (2, 3)]
    """
    start = elements = 0
    if tensors[0].device.type == "cpu":
        for end, tensor in enumerate(tensors):
            elements += tensor.numel()
            if elements > CPU_BATCH_ELEMENTS and end > start:
                yield start, end
                start, elements = end, tensor.numel()
    yield start, len(tensors)
