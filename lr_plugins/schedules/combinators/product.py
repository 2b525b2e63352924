"""A learning rate times factors."""

from __future__ import annotations

from collections.abc import Sequence

from lr_plugins.schedules.combinators.base import Combination, schedules_of
from lr_plugins.schedules.combinators.factors import check_factor, warn_of_factors
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State


class Product(Combination):
    """A learning rate times factors.

    `lr = schedules[0] * schedules[1] * ...`. The first gives a learning rate; the others are factors, so that
    where they name no initial learning rate of their own they start at 1. A factor that starts elsewhere and does not
    rise to 1 gets a warning: the product would not start at the learning rate of the first schedule.

    A floor or a ceiling of a factor is a multiple of where it begins (`min_learning_rate="0.01x"`). One for the
    learning rate itself is that of the whole product: `(a * b).at_least(1e-5)`.

    Args:
        schedules: the parts, at least one. A number is a constant factor.

    Raises:
        InvalidArgumentError: a part is neither a schedule nor a number, or a factor has a learning rate as a bound.

    Source: Composer multiplies all schedules it is given.

    Example:
        >>> from lr_plugins import InverseTimeDecay, StepDecay
        >>> product = Product([InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5), StepDecay(drop=0.5, every="10st")])
        >>> product(12) == 0.1 / 7 * 0.5
        True
    """

    def __init__(self, schedules: Sequence[Schedule | float]) -> None:
        self.schedules = schedules_of("Product.schedules", schedules)
        self.parts = tuple(self.schedules)
        for part in self.parts[1:]:
            check_factor(part, self.parts[0])
        warn_of_factors(self)

    def is_factor(self, index: int) -> bool:
        """All but the first."""
        return index > 0

    def local_position(self, index: int, position: Position) -> Position:
        """The factors begin at 1."""
        return position._replace(base_learning_rate=1.0) if self.is_factor(index) else position

    def value(self, position: Position, state: State) -> Value:
        """The product."""
        result = self.of(0, position, state)
        for index in range(1, len(self.parts)):
            result = result * self.of(index, position, state)
        return result
