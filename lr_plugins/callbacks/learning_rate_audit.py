"""Reports at the end of training whether every step followed the schedule."""

from __future__ import annotations

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.unused_hooks import skip_unused_hooks
from lr_plugins.engine.audit import Audit
from lr_plugins.rank_zero import rank_zero_only


class LearningRateAudit(Callback):
    """Print at the end of training whether every step followed the schedule.

    The line is `lr followed the plan at 12,000 of 12,000 steps`, followed by the writes of other code. The counts are
    those of `LearningRateScheduler.audit`.

    Example:
        >>> callback = LearningRateAudit()
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave out the hooks of batches."""
        skip_unused_hooks(self, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            audit = getattr(callback, "audit", None)
            if isinstance(audit, Audit):
                _print(str(audit))


@rank_zero_only
def _print(line: str) -> None:
    print(line, flush=True)
