"""The position of each step in a Trainer's run, and whether the run is as long as planned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

from lr_plugins._lightning.compat import Trainer
from lr_plugins._lightning.epoch_results import is_at_last_batch, is_within_epoch
from lr_plugins._lightning.run_length import run_length
from lr_plugins.engine.driven_groups import sampled_steps
from lr_plugins.engine.driven_optimizers import DrivenOptimizers
from lr_plugins.engine.epoch_starts import EpochStarts
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules import Position, RunLength
from lr_plugins.schedules.position import Count


class RunClock:
    """Maps optimizer steps to positions in a Trainer's run.

    Attributes:
        run_length: the length of the run as planned when training started. It outlasts the fit.
        epoch_batches: the number of batches in the current epoch, as last announced by Lightning.
    """

    def __init__(self) -> None:
        self.run_length = RunLength()
        self._trainer: Trainer | None = None  # while training
        self._optimizers: Sized = ()
        self._epochs = EpochStarts()
        self.epoch_batches: float = -1  # of the current epoch
        self._epochs_ahead = 0  # of the coming step, relative to Lightning's count
        self._is_as_planned = True  # as far as is known

    def start(self, trainer: Trainer, optimizers: Sized) -> None:
        """Start a training.

        Args:
            trainer: the Trainer of the run.
            optimizers: the driven optimizers. With several, the length of an epoch is unknown, because Lightning counts
                their steps together.
        """
        self._trainer, self._optimizers = trainer, optimizers
        self.run_length, self._is_as_planned = run_length(trainer), True

    def stop(self) -> None:
        """Release the Trainer; keep the length of the run."""
        self._trainer, self._optimizers = None, ()

    def position_at(self, step: Count, base: float) -> Position:
        """The position of a step (or steps), for a schedule that starts from the optimizer's own value `base`."""
        assert self._trainer is not None
        return Position(step, self._trainer.current_epoch + self._epochs_ahead, self.run_length, base)

    @contextlib.contextmanager
    def at_coming_step(self) -> Iterator[None]:
        """Within this context, positions are those of the coming step.

        After the last batch of an epoch, it belongs to the next epoch, which Lightning has not counted yet.
        """
        assert self._trainer is not None
        self._epochs_ahead = int(is_at_last_batch(self._trainer))
        try:
            yield
        finally:
            self._epochs_ahead = 0

    # --- epochs -----------------------------------------------------------------------------------------------

    @property
    def epoch_starts(self) -> list[int]:
        """The steps at which the epochs started, for a checkpoint; empty if all are as long as planned."""
        return self._epochs.begins if self.run_length.clock is not None else []

    def restore(self, epoch_starts: Sequence[int], planned: RunLength | None, step: int) -> None:
        """Resume the run at a step.

        Args:
            epoch_starts: the steps at which the epochs so far started, from the checkpoint.
            planned: the length of the run in the checkpoint, if it has one.
            step: the coming step.
        """
        trainer, self._epochs = self._trainer, EpochStarts(epoch_starts)
        assert trainer is not None
        if self._epochs.begins and planned is not None:
            # With epochs of different sizes, the size of the current one says nothing about the plan.
            steps = trainer.max_steps if trainer.max_steps >= 0 else None
            now = self.run_length
            self.run_length = RunLength.of(planned.steps_per_epoch, now.epochs, steps, now.batch_size)
        within = is_within_epoch(trainer) or is_at_last_batch(trainer)
        self.take_epoch_size(trainer, None if within else step)

    def restart(self, trainer: Trainer) -> None:
        """Restart the run at step 0 of epoch 0."""
        self._epochs = EpochStarts()
        self.take_epoch_size(trainer, 0)

    def start_epoch(self, trainer: Trainer, driven: DrivenOptimizers) -> None:
        """Note where an epoch starts, and its size; warn, once, if the run is not as long as the schedules assume."""
        now = run_length(trainer)
        self._check_at_epoch_start(trainer, driven, now)
        self.take_epoch_size(trainer, driven.writers[0].step, now)

    def take_epoch_size(self, trainer: Trainer, step: int | None, now: RunLength | None = None) -> None:
        """Note the size of the current epoch.

        Args:
            trainer: the Trainer of the run.
            step: the step at which the epoch starts; None if it is already under way.
            now: the current length of the run. Default None: it is computed.
        """
        self.epoch_batches = trainer.num_training_batches
        planned, size = self.run_length.steps_per_epoch, (now or run_length(trainer)).steps_per_epoch
        if planned is None or size is None or len(self._optimizers) > 1:
            return
        self._epochs.begin(trainer.current_epoch, step, planned)
        clock = self._epochs.clock(size, planned)
        if clock is not None or self.run_length.clock is not None:
            self.run_length = self.run_length._replace(clock=clock)

    # --- the length of the run --------------------------------------------------------------------------------

    def _check_at_epoch_start(self, trainer: Trainer, driven: DrivenOptimizers, now: RunLength) -> None:
        planned = self.run_length
        if now.steps_per_epoch != planned.steps_per_epoch:
            what = f"epoch {trainer.current_epoch} has {now.steps_per_epoch} steps, unlike the first one"
        elif now.epochs != planned.epochs:
            what = f"max_epochs is {now.epochs} now; it was {planned.epochs} when the run began"
        else:
            what = f"the run now has {now.steps} steps (max_steps={trainer.max_steps})"
        self._report(now, what, driven, rank_zero_warn)

    def check_at_end(self, trainer: Trainer, driven: DrivenOptimizers, report: Callable[[str], None]) -> None:
        """Report, once, if the run has ended earlier or later than the schedules assume."""
        # Including the steps that a gradient scaler has skipped.
        length = self.run_length._replace(steps=trainer.global_step)
        self._report(length, f"the run has ended after {trainer.global_step} steps", driven, report)

    def _report(self, now: RunLength, what: str, driven: DrivenOptimizers, report: Callable[[str], None]) -> None:
        total = self.run_length.steps
        if not self._is_as_planned or total is None or now.steps in (None, total):
            return
        if driven.depends_on(now, sampled_steps(0, total - 1)):
            self._is_as_planned = False
            report(
                f"LearningRateScheduler: {what}; lengths in percent still refer to the {total:g} steps planned at "
                "the start. Lengths in epochs or steps do not depend on it."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the Trainer and the optimizers of a fit."""
        return {**vars(self), "_trainer": None, "_optimizers": ()}
