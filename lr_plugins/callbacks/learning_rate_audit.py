"""Say at the end of training whether every step got what the schedule says."""

from __future__ import annotations

from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins.engine.audit import Audit
from lr_plugins.rank_zero import rank_zero_only


class LearningRateAudit(Callback):
    """Say at the end of training whether every step got what the schedule says.

    `lr followed the plan at 12,000 of 12,000 steps`, and who else has written. The counting is the
    LearningRateScheduler's own, in its `audit`.

    Example:
        >>> callback = LearningRateAudit()
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            audit = getattr(callback, "audit", None)
            if isinstance(audit, Audit):
                _say(str(audit))


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
