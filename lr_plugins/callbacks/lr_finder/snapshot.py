"""Snapshots of objects, to restore them in place."""

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
_IMMUTABLE = frozenset((type(None), bool, int, float, complex, str, bytes))


class Snapshot:
    """The current contents of modules, optimizers and containers, at any depth.

    Each container is copied once, shallowly, and refilled with the same objects; each mutable object in it has its own
    copy. Objects that share a tensor therefore still share it afterwards. Objects of other types are not copied, only
    put back into the container that held them.

    Args:
        *roots: the objects to restore.

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
        visited: dict[int, Any] = {}  # keeps the objects alive, so that their ids stay unique
        pending = list(roots)  # a loop, because deeply nested lists would exceed the recursion limit
        while pending:
            value = pending.pop()
            if id(value) in visited:
                continue
            visited[id(value)] = value
            restore = _restorer(value)
            if restore is not None:
                self._restores.append(restore)
            contents = _contents(value)
            if not _IMMUTABLE.issuperset(map(type, contents)):  # a quick test for long lists of numbers
                pending.extend(item for item in contents if type(item) not in _IMMUTABLE)

    def restore(self) -> None:
        """Restore everything in place."""
        for restore in self._restores:
            restore()


def _contents(value: Any) -> Collection[Any]:
    if isinstance(value, (nn.Module, Optimizer)):
        return (vars(value),)
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple, deque)) else ()


@singledispatch
def _restorer(value: Any) -> Restore | None:
    """Restores the current contents of a value; None if it is immutable or of an unknown type."""
    return None


# --- containers -------------------------------------------------------------------------------------------------


def _is_unchanged(values: Collection[Any], before: Collection[Any]) -> bool:
    """Whether both contain the same objects. Unchanged containers are not written to, because some refuse writes."""
    return len(values) == len(before) and all(map(operator.is_, values, before))


@_restorer.register(dict)
def _dict(value: dict[Any, Any]) -> Restore:
    before = dict(value)

    def restore() -> None:
        if not (_is_unchanged(value.keys(), before.keys()) and _is_unchanged(value.values(), before.values())):
            value.clear()
            value.update(before)

    return restore


@_restorer.register(list)
@_restorer.register(deque)
def _sequence(value: Any) -> Restore:
    before = list(value)

    def restore() -> None:
        if not _is_unchanged(value, before):
            value.clear()
            value.extend(before)

    return restore


@_restorer.register(set)
def _set(value: set[Any]) -> Restore:
    before = set(value)

    def restore() -> None:
        if value != before:
            value.clear()
            value.update(before)

    return restore


# --- numbers ----------------------------------------------------------------------------------------------------


@_restorer.register(Tensor)
def _tensor(tensor: Tensor) -> Restore | None:
    if tensor.is_inference() or (tensor.layout == torch.strided and 0 in tensor.stride()):
        return None  # torch does not allow writing to it
    before = tensor.detach().to("cpu", copy=True)  # accelerator memory may be scarce

    def restore() -> None:
        if (tensor.shape, tensor.dtype) != (before.shape, before.dtype):  # resized or cast in place
            tensor.data = before.to(tensor.device, copy=True)
        with torch.no_grad():
            tensor.copy_(before)

    return restore


@_restorer.register(np.ndarray)
def _array(array: np.ndarray[Any, Any]) -> Restore | None:
    if not array.flags.writeable or isinstance(array, np.memmap):  # the file may be larger than memory
        return None
    before = array.copy()

    def restore() -> None:
        if array.shape != before.shape:  # resized in place
            array.resize(before.shape, refcheck=False)
        np.copyto(array, before)

    return restore


# --- random numbers ---------------------------------------------------------------------------------------------


@_restorer.register(torch.Generator)
def _torch_generator(generator: torch.Generator) -> Restore:
    return partial(generator.set_state, generator.get_state())


@_restorer.register(np.random.Generator)
def _numpy_generator(generator: np.random.Generator) -> Restore:
    bits = generator.bit_generator
    return partial(setattr, bits, "state", bits.state)


@_restorer.register(np.random.RandomState)
def _numpy_random_state(generator: np.random.RandomState) -> Restore:
    return partial(generator.set_state, generator.get_state())


@_restorer.register(random.Random)
def _python_random(generator: random.Random) -> Restore | None:
    if isinstance(generator, random.SystemRandom):  # it has no state
        return None
    return partial(generator.setstate, generator.getstate())
