"""The record of a Trainer that has no LearningRateScheduler."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from lr_plugins._lightning.compat import Callback, Trainer
from lr_plugins._lightning.run_length import is_detached
from lr_plugins._lightning.stepping_optimizers import OptimizerChanges, stepping_optimizers
from lr_plugins.engine.naming import series_suffixes
from lr_plugins.engine.recorder import Recorder
from lr_plugins.engine.trace import Trace


class OwnRecord:
    """Records the learning rates that the optimizers of a Trainer use, until `stop`.

    Args:
        trainer: the Trainer of the run.
        callback: the callback that records; steps taken while it is removed from the Trainer do not count.
        trace: where the learning rates are recorded.
    """

    def __init__(self, trainer: Trainer, callback: Callback, trace: Trace) -> None:
        self._trainer, self._callback, self._trace = trainer, callback, trace
        self.recorders: list[Recorder] = []
        optimizers = stepping_optimizers(trainer)
        self.recorders = self._recorders_of(optimizers, first_step=trainer.global_step // len(optimizers))
        self._changes = OptimizerChanges(trainer, self.recorders, self._replace)

    def start_batch(self) -> None:
        """Follow the current optimizers, at the start of a batch."""
        self._changes.check()
        for recorder in self.recorders:
            recorder.new_batch()

    def stop(self) -> None:
        """Stop following the optimizers."""
        for recorder in self.recorders:
            recorder.detach()
        self._changes.stop()

    def _recorders_of(self, optimizers: Sequence[Optimizer], first_step: int = 0) -> list[Recorder]:
        """A recorder for each optimizer; an optimizer that is already followed keeps its own."""
        recorders = []
        for index, (optimizer, suffix) in enumerate(zip(optimizers, series_suffixes(optimizers), strict=True)):
            old = self.recorders[index] if index < len(self.recorders) else None
            if old is not None and old.optimizer is optimizer:
                recorders.append(old)
                continue
            recorder = Recorder(optimizer, suffix, replaces=old)
            step = first_step if old is None else old.step
            recorder.attach(self._trace, step, is_detached(self._callback, self._trainer))
            recorders.append(recorder)
        return recorders

    def _replace(self, optimizers: list[Optimizer]) -> None:
        """Follow these optimizers from now on."""
        recorders = self._recorders_of(optimizers)
        for old in self.recorders:
            if old not in recorders:
                old.detach()
        self.recorders[:] = recorders  # in place, because OptimizerChanges shares the list
