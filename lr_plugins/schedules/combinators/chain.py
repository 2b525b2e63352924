"""One schedule after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.combinators.base import schedules_of
from lr_plugins.schedules.combinators.sequential import Sequential
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone
from lr_plugins.schedules.position import Length, Position, RunLength
from lr_plugins.schedules.schedule import Schedule


class Chain(Sequential):
    """One schedule after another, each counting from its own start.

    `lr(t) = schedules[i](t - start of i)`, where i is the last whose start has been reached. A part sees a run that
    is as long as the part: percent within it are percent of the part, and a shape that fills "the run" fills
    the part. A part observes metrics only in its own time, so that a plateau's patience starts to count with it;
    `LossDriven` observes all the time, so that it does not jump when its turn comes.

    Args:
        schedules: the parts, at least one.
        lengths: how long each part but the last is; the last has the rest of the run. Plain numbers count
            optimizer steps. Whole epochs end with an epoch; `"2.5ep"` ends within one, at the step, where the steps
            per epoch are known.

    Raises:
        InvalidArgumentError: there is not one length for each part but the last, or a part is not a schedule.
        TrainingError: a length is a share of the run, and the length of the run is unknown.

    Source: optax.join_schedules, torch's SequentialLR.

    Example:
        >>> from lr_plugins import Constant, StepDecay
        >>> chain = Chain([Constant(0.1), StepDecay(1.0, drop=0.5, every="10st")], lengths=["20st"])
        >>> [chain(step) for step in (0, 19, 20, 29, 30)]
        [0.1, 0.1, 1.0, 1.0, 0.5]
    """

    def __init__(
        self, schedules: Sequence[Schedule | Callable[..., float] | float], *, lengths: Sequence[DurationLike]
    ) -> None:
        self.schedules = schedules_of("Chain.schedules", schedules)
        if isinstance(lengths, str) or not isinstance(lengths, Sequence) or len(lengths) != len(self.schedules) - 1:
            raise InvalidArgumentError(
                "Chain.lengths", lengths, f"a list of {len(self.schedules) - 1}: one for each schedule but the last"
            )
        self.lengths = [Duration.of(length, field=f"Chain.lengths[{index}]") for index, length in enumerate(lengths)]
        self.parts = tuple(self.schedules)

    def part_length(self, index: int, run: RunLength) -> Length:
        """As given."""
        return self.lengths[index].known(run)

    def begin_of(self, index: int, at: npt.NDArray[np.intp], position: Position) -> Milestone:
        """The milestone, with the lengths of the parts before."""
        start, _ = self._plan(position.run)[index]
        whole = Length(position.run.steps, position.run.epochs)
        pairs = ((start.steps, whole.steps), (start.epochs, whole.epochs))
        share = next((part / run for part, run in pairs if part is not None and run), None)
        lengths = f"Chain.lengths={self.lengths[:index]}"
        what = f"part {index + 1} begins: {type(self.parts[index]).__name__}"
        return Milestone(what, at, lengths, share=share, run=position.run)
