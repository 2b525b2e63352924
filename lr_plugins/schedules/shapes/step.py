"""Drops by a factor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.duration import Boundaries, Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, at_passing, passings, recurring
from lr_plugins.schedules.numerics import floor, power
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import number


class StepDecay(Schedule):
    """Multiply the learning rate by `drop` once every so often.

    `lr = initial_learning_rate * drop ** floor(t / every)`, with t counted in the unit of `every`. The lower
    value holds from the boundary on: with `every="10ep"`, epoch index 10 is the first with the lower one.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        drop: the factor, > 0. Default 0.5 (halve).
        every: how often, > 0; a plain number counts optimizer steps. Default `"10ep"`.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: "drop-based decay" of the Keras literature; torch calls it StepLR.

    Example:
        >>> halve = StepDecay(0.1, drop=0.5, every="10ep")
        >>> [halve(Position(step=0, epoch=epoch)) for epoch in (0, 9, 10, 20)]
        [0.1, 0.1, 0.05, 0.025]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        drop: float = 0.5,
        every: DurationLike = "10ep",
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.drop = number("StepDecay.drop", drop, "a finite number > 0 (0.5 halves)", above=0.0)
        self.every = Duration.of(every, field="StepDecay.every")

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate * drop ** floor(t / every)`."""
        return self.initial(position) * power(self.drop, self._drops(position))

    def _drops(self, position: Position) -> Value:
        return floor(self.every.ratio(position))

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each drop."""
        yield recurring(f"times {self.drop:g}", "StepDecay.every", self.every, self._drops(position), position)


class MultiStepDecay(Schedule):
    """Multiply the learning rate by `gamma` at each of some milestones.

    `lr = initial_learning_rate * gamma ** (number of milestones reached)`. A milestone is reached at its own step
    or epoch: with `milestones=["30ep"]`, epoch index 30 is the first with the lower value. Before the first one it
    is the initial value; after the last one nothing changes any more. (timm's scheduler of this name drops one
    earlier, at index 29.)

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        milestones: when to drop, each > 0, in any order; plain numbers count optimizer steps. One that is given twice
            counts twice. Default `["50%", "75%"]`: at half and three quarters of the run.
        gamma: the factor, > 0. Default 0.1.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: torch.optim.lr_scheduler.MultiStepLR.

    Example:
        >>> steps = MultiStepDecay(0.1, milestones=["30ep", "60ep"], gamma=0.5)
        >>> [steps(Position(step=0, epoch=epoch)) for epoch in (0, 29, 30, 60, 99)]
        [0.1, 0.1, 0.05, 0.025, 0.025]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        milestones: Sequence[DurationLike] = ("50%", "75%"),
        gamma: float = 0.1,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        if isinstance(milestones, (str, bytes)) or not isinstance(milestones, Sequence):
            raise InvalidArgumentError("MultiStepDecay.milestones", milestones, "a list")
        self.milestones = [
            Duration.of(milestone, field=f"MultiStepDecay.milestones[{index}]")
            for index, milestone in enumerate(milestones)
        ]
        self.gamma = number("MultiStepDecay.gamma", gamma, "a finite number > 0 (0.1 divides by ten)", above=0.0)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate * gamma ** (number of milestones reached)`."""
        reached = position.broadcast(0)
        for _, count in self._passings.passed(position):
            reached = reached + count
        return self.initial(position) * power(self.gamma, reached)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each milestone."""
        at = passings(self._passings, position)
        for index, milestone in enumerate(self.milestones):
            field = f"MultiStepDecay.milestones[{index}]"
            yield at_passing(f"times {self.gamma:g}", field, milestone, at[index], position.run)

    @cached_property
    def _passings(self) -> Boundaries:
        return Boundaries(self.milestones)
