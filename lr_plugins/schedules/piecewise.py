"""Absolute values between boundaries."""

from __future__ import annotations

from collections.abc import Sequence

from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.ops import where
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, learning_rate


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
        current = position.like(self.values[0])
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            current = where(boundary.passed(position), value, current)
        return current
