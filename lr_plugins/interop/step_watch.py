"""The hooks that tell the `ScheduleLR`s of an optimizer about its steps."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from lr_plugins.interop.schedule_lr import ScheduleLR


class _Watch:
    """The `ScheduleLR`s of one optimizer, and the hooks that tell them of its steps."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._schedulers: list[weakref.ref[ScheduleLR]] = []
        self._is_stepping = False
        if hasattr(optimizer, "_optimizer_step_pre_hooks"):  # not where Optimizer.__init__ has not been called
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    def add(self, scheduler: ScheduleLR) -> None:
        self._schedulers = [one for one in self._schedulers if one() is not None] + [weakref.ref(scheduler)]

    def schedulers(self) -> list[ScheduleLR]:
        """Those that are still there."""
        return [scheduler for one in self._schedulers if (scheduler := one()) is not None]

    def _before_step(self, *_: Any) -> None:
        if torch.compiler.is_compiling():  # a compiled step would be compiled anew for what is counted
            return
        self._is_stepping = True
        for one in self._schedulers:
            if (scheduler := one()) is not None:
                scheduler._before_optimizer_step()

    def _after_step(self, *_: Any) -> None:
        # The hooks of a step that calls its parent class's run twice.
        if torch.compiler.is_compiling() or not self._is_stepping:
            return
        self._is_stepping = False
        for one in self._schedulers:
            if (scheduler := one()) is not None:
                scheduler._after_optimizer_step()


_WATCHES: weakref.WeakKeyDictionary[Optimizer, _Watch] = weakref.WeakKeyDictionary()


def watch(optimizer: Optimizer) -> _Watch:
    watch = _WATCHES.get(optimizer)
    if watch is None:
        watch = _WATCHES[optimizer] = _Watch(optimizer)
    return watch
