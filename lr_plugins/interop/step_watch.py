"""The step hooks of an optimizer that a `ScheduleLR` drives."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from lr_plugins.interop.schedule_lr import ScheduleLR


class StepWatch:
    """Notifies every `ScheduleLR` of one optimizer before and after each of its steps."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._schedulers: list[weakref.ref[ScheduleLR]] = []
        self._is_stepping = False
        if hasattr(optimizer, "_optimizer_step_pre_hooks"):  # missing until Optimizer.__init__ has run
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    def add(self, scheduler: ScheduleLR) -> None:
        """Notify a scheduler for as long as it exists."""
        self._schedulers = [weakref.ref(known) for known in self.schedulers()] + [weakref.ref(scheduler)]

    def schedulers(self) -> list[ScheduleLR]:
        """The schedulers that still exist."""
        return [scheduler for reference in self._schedulers if (scheduler := reference()) is not None]

    def _before_step(self, *_: Any) -> None:
        if torch.compiler.is_compiling():  # torch.compile would recompile the step whenever a counter changes
            return
        self._is_stepping = True
        for scheduler in self.schedulers():
            scheduler._before_optimizer_step()

    def _after_step(self, *_: Any) -> None:
        # A `step` that calls `super().step()` runs the hooks twice.
        if torch.compiler.is_compiling() or not self._is_stepping:
            return
        self._is_stepping = False
        for scheduler in self.schedulers():
            scheduler._after_optimizer_step()


_WATCHES: weakref.WeakKeyDictionary[Optimizer, StepWatch] = weakref.WeakKeyDictionary()


def watch(optimizer: Optimizer) -> StepWatch:
    """The watch of an optimizer; created, with its hooks, on the first call."""
    if optimizer not in _WATCHES:
        _WATCHES[optimizer] = StepWatch(optimizer)
    return _WATCHES[optimizer]
