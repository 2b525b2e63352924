"""What LearningRateScheduler has only during training."""

from __future__ import annotations

from dataclasses import dataclass, field

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.observations import Changes, Observations
from lr_plugins._lightning.progress_bar import ProgressBarLR
from lr_plugins._lightning.rank_agreement import RankAgreement
from lr_plugins._lightning.stepping_optimizers import CountedSteps, OptimizerChanges, UnseenSteps
from lr_plugins.engine.driven_optimizers import DrivenOptimizers


@dataclass
class SchedulerFit:
    """The objects that exist only during training."""

    trainer: Trainer
    driven: DrivenOptimizers
    observations: Observations
    optimizer_changes: OptimizerChanges
    unseen: list[UnseenSteps]  # one for each optimizer
    counted: CountedSteps
    bar: ProgressBarLR
    agreement: RankAgreement = field(default_factory=RankAgreement)
    changes_of_coming_epoch: Changes = ()  # printed below its header
    is_calm: bool = False  # whether a quick check is enough for the coming batch

    @property
    def counts_unseen_steps(self) -> bool:
        """Whether an optimizer is known to step without being seen, so that its batches are compared."""
        return any(unseen.counts for unseen in self.unseen)

    @property
    def needs_batch_ends(self) -> bool:
        """Whether there is something to do at the end of a batch."""
        observes = any(collector.is_of_steps for collector in self.observations.by_writer.values())
        return observes or self.counts_unseen_steps
