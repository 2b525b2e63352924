"""The same learning rate at every step."""

from __future__ import annotations

from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of


class Constant(Schedule):
    """The same learning rate at every step.

    `lr = initial_learning_rate`

    Args:
        initial_learning_rate: the learning rate, >= 0. Default None: the optimizer's own.

    Raises:
        InvalidArgumentError: the learning rate is negative or no finite number.

    Example:
        >>> Constant(0.01)(1_000_000)
        0.01
    """

    def __init__(self, initial_learning_rate: float | None = None) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)

    def value(self, position: Position, state: State) -> Value:
        """`initial_learning_rate`."""
        return position.broadcast(self.initial(position))
