"""A schedule of another run than the one it is asked in: the plan of a run that is continued under other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lr_plugins.schedules.combinators.base import Wrapper
from lr_plugins.schedules.numerics import floor, maximum, minimum
from lr_plugins.schedules.observation import Change, Observation
from lr_plugins.schedules.position import Position, RunLength, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.schedules.shapes.function import as_schedule
from lr_plugins.validation import number


class Replanned(Wrapper):
    """A schedule as it was planned for a run of some length, wherever it is asked.

    `lr(t) = schedule(t)` in the run of that length; and from t = `since` on
    `lr(t) = schedule(since + (t - since) / ratio)`: what is left of the plan then takes `ratio` times as long.
    Where its steps per epoch are known, and not those of the run at hand, its epochs are counted by them, from the
    optimizer steps.

    What it remembers is what the schedule remembers: a state of the one fits the other.

    Args:
        schedule: the schedule.
        steps_per_epoch: optimizer steps of an epoch of that run. Default None: unknown; so are the others.
        epochs: its epochs.
        steps: its optimizer steps.
        batch_size: its samples in an optimizer step.
        since: optimizer steps after which `ratio` counts, >= 0. Default 0.
        ratio: how many times as long what is left takes, > 0. Default 1.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: Composer's scale_schedule_ratio, for what is left of a run.

    Example:
        >>> from lr_plugins import LinearDecay, RunLength
        >>> planned = Replanned(LinearDecay(1.0), steps=100, since=50, ratio=3.0)
        >>> run = RunLength.of(steps=200)
        >>> [planned(run.position(step)) for step in (0, 25, 50, 125, 200)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        schedule: Schedule | Callable[..., float],
        *,
        steps_per_epoch: float | None = None,
        epochs: float | None = None,
        steps: float | None = None,
        batch_size: float | None = None,
        since: float | None = 0.0,
        ratio: float = 1.0,
    ) -> None:
        super().__init__(as_schedule(schedule, "Replanned.schedule"))
        self.steps_per_epoch = _length("Replanned.steps_per_epoch", steps_per_epoch)
        self.epochs = _length("Replanned.epochs", epochs)
        self.steps = _length("Replanned.steps", steps)
        self.batch_size = _length("Replanned.batch_size", batch_size)
        # A RunLength has a fifth field, None where its epochs are of one size: Replanned(schedule, *run).
        self.since = 0.0 if since is None else number("Replanned.since", since, "a finite number >= 0", at_least=0.0)
        self.ratio = number("Replanned.ratio", ratio, "a finite number > 0", above=0.0)

    @property
    def _run(self) -> RunLength:
        return RunLength._make((self.steps_per_epoch, self.epochs, self.steps, self.batch_size, None))

    def local_position(self, index: int, position: Position) -> Position:
        """As the run it was planned for has it."""
        step, run = position.step, self._run
        if self.steps_per_epoch == position.run.steps_per_epoch:
            run = run._replace(clock=position.run.clock)
        if step is None:
            return position._replace(run=run)
        if self.ratio != 1.0:
            step = minimum(step, self.since) + maximum(step - self.since, 0.0) / self.ratio
        if self.steps_per_epoch is None or self._counts_as(position):
            return position._replace(step=step, run=run)
        # Its own epochs: those of the run at hand may be of another length.
        epoch = run.epochs_at(step)
        return position._replace(step=step, epoch=epoch if position.smooth else floor(epoch), run=run)

    def _counts_as(self, position: Position) -> bool:
        """Whether the epochs of the run at hand are its own: a gradient scaler may have skipped steps of them."""
        same = self.ratio == 1.0 and self.steps_per_epoch == position.run.steps_per_epoch
        smooth = position.smooth and position.run.clock is None
        return same and position.epoch is not None and not smooth

    # --- what it remembers is the schedule's -------------------------------------------------------------------

    def start(self) -> State:
        """What the schedule remembers."""
        return self.schedule.start()

    def check_state(self, state: Any, where: str = "state") -> None:
        """The schedule's."""
        self.schedule.check_state(state, where)

    @property
    def kind(self) -> str:
        """The schedule's."""
        return self.schedule.kind

    def observe(self, state: State, position: Position, observation: Observation) -> State:
        """Let the schedule observe."""
        return self.schedule.observe(state, self.local_position(0, position), observation)

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """The schedule's."""
        return self.schedule.changes(before, after)

    def of(self, index: int, position: Position, state: State) -> Value:
        """The schedule's value."""
        return self.schedule.value(self.local_position(0, position), state)


def _length(field: str, value: Any) -> float | None:
    if value is None:
        return None
    return number(field, value, "a finite number > 0, or null where it is unknown", above=0.0)
