"""What values are at a moment, so that they can be put back."""

from __future__ import annotations

import operator
import random
from collections import deque
from collections.abc import Callable, Collection
from functools import partial, singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Restore = Callable[[], Any]
_FIXED = frozenset((type(None), bool, int, float, complex, str, bytes))  # nobody can change them


class Snapshot:
    """What modules, optimizers and plain values are now: all that is in them, however deep.

    Each container is copied once and flatly, and refilled with the very objects that it had; what is in it and can
    change has a copy of its own. So what shares a tensor goes on to share it. Objects of unknown kinds are not looked
    into: they are only put back to where they were.

    Args:
        *roots: where to begin.

    Example:
        >>> values = {"sum": torch.zeros(2), "seen": [1]}
        >>> before = Snapshot(values)
        >>> values["sum"] += 1; values["seen"].append(2); values["new"] = 3
        >>> before.restore()
        >>> values
        {'sum': tensor([0., 0.]), 'seen': [1]}
    """

    def __init__(self, *roots: Any) -> None:
        self._restores: list[Restore] = []
        seen: dict[int, Any] = {}  # with the values, for an id is only one's own as long as one lives
        pending = list(roots)  # not a recursion, which long chains of lists would end
        while pending:
            value = pending.pop()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            restore = _kept(value)
            if restore is not None:
                self._restores.append(restore)
            inside = _inside(value)
            if not _FIXED.issuperset(map(type, inside)):  # numbers alone, however many, need the copy only
                pending.extend(one for one in inside if type(one) not in _FIXED)

    def restore(self) -> None:
        """Put everything back, in place."""
        for restore in self._restores:
            restore()


def _inside(value: Any) -> Collection[Any]:
    if isinstance(value, (nn.Module, Optimizer)):
        return (vars(value),)
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple, deque)) else ()


@singledispatch
def _kept(value: Any) -> Restore | None:
    """Puts back what a value is now; None where it cannot change, or nobody knows how."""
    return None


# --- containers -------------------------------------------------------------------------------------------------


def _same(one: Collection[Any], other: Collection[Any]) -> bool:
    """Whether the very same objects are in both. What is not changed is not written to: some refuse it."""
    return len(one) == len(other) and all(map(operator.is_, one, other))


@_kept.register(dict)
def _dict(value: dict[Any, Any]) -> Restore:
    was = dict(value)

    def restore() -> None:
        if not (_same(value.keys(), was.keys()) and _same(value.values(), was.values())):
            value.clear()
            value.update(was)

    return restore


@_kept.register(list)
@_kept.register(deque)
def _sequence(value: Any) -> Restore:
    was = list(value)

    def restore() -> None:
        if not _same(value, was):
            value.clear()
            value.extend(was)

    return restore


@_kept.register(set)
def _set(value: set[Any]) -> Restore:
    was = set(value)

    def restore() -> None:
        if value != was:
            value.clear()
            value.update(was)

    return restore


# --- numbers ----------------------------------------------------------------------------------------------------


@_kept.register(Tensor)
def _tensor(tensor: Tensor) -> Restore | None:
    if tensor.is_inference() or (tensor.layout == torch.strided and 0 in tensor.stride()):
        return None  # torch lets nobody write to it
    was = tensor.detach().to("cpu", copy=True)  # memory of an accelerator may be short

    def restore() -> None:
        if (tensor.shape, tensor.dtype) != (was.shape, was.dtype):  # it was resized or cast in place
            tensor.data = was.to(tensor.device, copy=True)
        with torch.no_grad():
            tensor.copy_(was)

    return restore


@_kept.register(np.ndarray)
def _array(array: np.ndarray[Any, Any]) -> Restore | None:
    if not array.flags.writeable or isinstance(array, np.memmap):  # a file may be larger than the memory
        return None
    was = array.copy()

    def restore() -> None:
        if array.shape != was.shape:  # it was resized in place
            array.resize(was.shape, refcheck=False)
        np.copyto(array, was)

    return restore


# --- random numbers ---------------------------------------------------------------------------------------------


@_kept.register(torch.Generator)
def _torch_generator(generator: torch.Generator) -> Restore:
    return partial(generator.set_state, generator.get_state())


@_kept.register(np.random.Generator)
def _numpy_generator(generator: np.random.Generator) -> Restore:
    bits = generator.bit_generator
    return partial(setattr, bits, "state", bits.state)


@_kept.register(np.random.RandomState)
def _numpy_random_state(generator: np.random.RandomState) -> Restore:
    return partial(generator.set_state, generator.get_state())


@_kept.register(random.Random)
def _python_random(generator: random.Random) -> Restore | None:
    if isinstance(generator, random.SystemRandom):  # the system's have no state
        return None
    return partial(generator.setstate, generator.getstate())
