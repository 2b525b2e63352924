"""Schedules of time alone: constant, step, piecewise constant, inverse time, exponential."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.position import Position, Value, floor
from lr_plugins.schedules.schedule import (
    Schedule,
    State,
    initial_learning_rate,
    learning_rate,
    number,
)


class Constant(Schedule):
    """The same learning rate at every step.

    `lr = initial_learning_rate`

    Args:
        initial_learning_rate: the learning rate, >= 0. Default None: the optimizer's own.

    Raises:
        InvalidArgument: the learning rate is negative or no finite number.

    Example:
        >>> Constant(0.01)(1_000_000)
        0.01
    """

    def __init__(self, initial_learning_rate: float | None = None) -> None:
        self.initial_learning_rate = _initial(self, initial_learning_rate)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate`."""
        if isinstance(position.step, np.ndarray):
            return np.full(position.step.shape, self.initial(position))
        return self.initial(position)


class StepDecay(Schedule):
    """Multiply the learning rate by `drop` once every so often.

    `lr = initial_learning_rate * drop ** floor(t / every)`, with t counted in the unit of `every`. The lower
    value holds from the boundary on: with `every="10ep"`, epoch index 10 is the first with the lower one.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        drop: the factor, > 0. Default 0.5 (halve).
        every: how often, > 0; a plain number counts epochs. Default `"10ep"`.

    Raises:
        InvalidArgument: an argument outside its range.

    Source: "drop-based decay" of the Keras literature; torch calls it StepLR.

    Example:
        >>> halve = StepDecay(0.1, drop=0.5, every="10ep")
        >>> [halve(Position(step=0, epoch=epoch)) for epoch in (0, 9, 10, 20)]
        [0.1, 0.1, 0.05, 0.025]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        drop: float = 0.5,
        every: DurationLike = "10ep",
    ) -> None:
        self.initial_learning_rate = _initial(self, initial_learning_rate)
        self.drop = number("StepDecay.drop", drop, "a finite number > 0 (0.5 halves)", above=0.0)
        self.every = Duration.of(every, unit="ep", field="StepDecay.every")

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate * drop ** floor(t / every)`."""
        return self.initial(position) * self.drop ** floor(self.every.ratio(position))


class PiecewiseConstant(Schedule):
    """Absolute values that hold between boundaries.

    `lr = values[number of boundaries reached]`. A boundary is reached at its own step or epoch: with
    `boundaries=["3ep"]`, epoch index 3 is the first with the second value. (Keras' PiecewiseConstantDecay
    changes one later: it keeps the old value while `step <= boundary`.)

    Args:
        boundaries: where the value changes, increasing, > 0; plain numbers count epochs.
        values: the learning rates, each >= 0; one more than there are boundaries.

    Raises:
        InvalidArgument: values do not fit the boundaries, or one is outside its range.

    Source: the schedule function of the MNIST article; Keras' PiecewiseConstantDecay but for the boundary.

    Example:
        >>> mnist = PiecewiseConstant(boundaries=["3ep", "5ep"], values=[0.002, 0.001, 0.0005])
        >>> [mnist(Position(step=0, epoch=epoch)) for epoch in (0, 2, 3, 5, 99)]
        [0.002, 0.002, 0.001, 0.0005, 0.0005]
    """

    def __init__(self, boundaries: Sequence[DurationLike], values: Sequence[float]) -> None:
        for name, given in (("boundaries", boundaries), ("values", values)):
            if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
                raise InvalidArgument(f"PiecewiseConstant.{name}", given, "a list")
        if len(values) != len(boundaries) + 1:
            raise InvalidArgument(
                "PiecewiseConstant.values",
                list(values),
                f"one longer than boundaries ({len(boundaries) + 1} values for {len(boundaries)} boundaries)",
            )
        self.boundaries = [
            Duration.of(boundary, unit="ep", field=f"PiecewiseConstant.boundaries[{index}]")
            for index, boundary in enumerate(boundaries)
        ]
        self.values = [learning_rate(f"PiecewiseConstant.values[{index}]", value) for index, value in enumerate(values)]
        self._require_order()

    def _require_order(self) -> None:
        for index in range(1, len(self.boundaries)):
            before, after = self.boundaries[index - 1 : index + 1]
            # Different units are ordered by the run, which is not known yet.
            if before.unit == after.unit and before.value >= after.value:
                raise InvalidArgument(
                    f"PiecewiseConstant.boundaries[{index}]",
                    after,
                    f"greater than the one before it, {before}",
                )

    def value(self, position: Position, state: State) -> Value:
        """`values[number of boundaries reached]`."""
        reached = sum(boundary.passed(position) for boundary in self.boundaries)
        if isinstance(position.step, np.ndarray):
            index = np.broadcast_to(np.asarray(reached, dtype=np.int64), position.step.shape)
            return np.asarray(self.values)[index]
        return self.values[reached]


class InverseTimeDecay(Schedule):
    """Divide the learning rate by a number that grows linearly with time.

    `lr = initial_learning_rate / (1 + decay_rate * t / decay_steps)`, with t counted in the unit of
    `decay_steps`; t / decay_steps is rounded down if `staircase`. Keras' old `SGD(decay=d)` is
    `InverseTimeDecay(lr, decay_steps=1, decay_rate=d)`: it counts optimizer steps ("updates"), not epochs.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        decay_steps: the length of time after which `decay_rate` counts once, > 0; a plain number counts
            optimizer steps, `"1ep"` makes it a schedule of epochs. Default 1.
        decay_rate: how strongly it decays, >= 0. Default 0.005.
        staircase: decay in steps instead of smoothly. Default False.

    Raises:
        InvalidArgument: an argument outside its range.

    Source: keras.optimizers.schedules.InverseTimeDecay.

    Example:
        >>> decay = InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005)
        >>> [round(float(decay(step)), 6) for step in (0, 270, 300)]
        [0.1, 0.042553, 0.04]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        decay_steps: DurationLike = 1,
        decay_rate: float = 0.005,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _initial(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, unit="st", field="InverseTimeDecay.decay_steps")
        self.decay_rate = number("InverseTimeDecay.decay_rate", decay_rate, "a finite number >= 0", at_least=0.0)
        self.staircase = _flag("InverseTimeDecay.staircase", staircase)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate / (1 + decay_rate * t / decay_steps)`."""
        ratio = self.decay_steps.ratio(position)
        return self.initial(position) / (1 + self.decay_rate * (floor(ratio) if self.staircase else ratio))


class ExponentialDecay(Schedule):
    """Multiply the learning rate by `decay_rate` over every `decay_steps`, smoothly or in steps.

    `lr = initial_learning_rate * decay_rate ** (t / decay_steps)`, with t counted in the unit of `decay_steps`;
    t / decay_steps is rounded down if `staircase`.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        decay_steps: the length of time over which `decay_rate` applies once, > 0; a plain number counts
            optimizer steps, `"10ep"` makes it a schedule of epochs. Default `"10ep"`.
        decay_rate: the factor, > 0. Default 0.5.
        staircase: decay in steps instead of smoothly. Default False.

    Raises:
        InvalidArgument: an argument outside its range.

    Source: keras.optimizers.schedules.ExponentialDecay.

    Example:
        >>> decay = ExponentialDecay(0.1, decay_steps=1000, decay_rate=0.01)
        >>> [round(float(decay(step)), 6) for step in (0, 500, 1000)]
        [0.1, 0.01, 0.001]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        decay_steps: DurationLike = "10ep",
        decay_rate: float = 0.5,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = _initial(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, unit="st", field="ExponentialDecay.decay_steps")
        self.decay_rate = number("ExponentialDecay.decay_rate", decay_rate, "a finite number > 0", above=0.0)
        self.staircase = _flag("ExponentialDecay.staircase", staircase)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate * decay_rate ** (t / decay_steps)`."""
        ratio = self.decay_steps.ratio(position)
        return self.initial(position) * self.decay_rate ** (floor(ratio) if self.staircase else ratio)


_initial = initial_learning_rate


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(field, value, "true or false")
    return value
