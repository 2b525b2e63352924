"""Part of the hyperbolic tangent."""

from __future__ import annotations

from collections.abc import Iterator

from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, final
from lr_plugins.schedules.numerics import between, clip, tanh, where
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import learning_rate, number


class TanhDecay(Schedule):
    """Stay high for long and fall late, along the hyperbolic tangent.

    `lr = end_learning_rate + (initial_learning_rate - end_learning_rate) * (1 - tanh(x)) / 2`, where x goes from
    `lower` at 0 in a straight line to `upper` at `decay_steps`, with t counted in the unit of `decay_steps`. Before 0
    it is as at 0, and from `decay_steps` on the end value. The tangent comes only close to either: with the default
    bounds it begins 8e-7 of the height below the initial value, and at `decay_steps` jumps down the last 0.25 %.

    Args:
        initial_learning_rate: where it starts, nearly, >= 0. Default None: the optimizer's own.
        decay_steps: the length of time it takes, > 0; a plain number counts optimizer steps, `"10ep"` makes it a
            schedule of epochs. Default `"100%"`: the whole run.
        end_learning_rate: where it ends, >= 0; may be above the start. Default 0.
        lower: where on the tangent it starts, finite. Default -7.
        upper: where on the tangent it ends, > lower. Default 3. A larger part makes a steeper fall.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: timm's tanh; "Stochastic Gradient Descent with Hyperbolic-Tangent Decay on Classification", Hsueh et al.

    Example:
        >>> late = TanhDecay(0.1, decay_steps=100)
        >>> [round(late(step), 6) for step in (0, 50, 70, 99, 100)]
        [0.1, 0.098201, 0.05, 0.000302, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        decay_steps: DurationLike = "100%",
        end_learning_rate: float = 0.0,
        lower: float = -7.0,
        upper: float = 3.0,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="TanhDecay.decay_steps")
        self.end_learning_rate = learning_rate("TanhDecay.end_learning_rate", end_learning_rate)
        self.lower = number("TanhDecay.lower", lower, "a finite number")
        self.upper = number(
            "TanhDecay.upper", upper, f"a finite number greater than lower ({self.lower:g})", above=self.lower
        )

    def value(self, position: Position, state: State) -> Value:
        """`end + (initial - end) * (1 - tanh(x)) / 2`, and the end value from `decay_steps` on."""
        share = clip(self.decay_steps.ratio(position), 0.0, 1.0)
        left = 0.5 * (1.0 - tanh(self.lower * (1.0 - share) + self.upper * share))
        return between(self.end_learning_rate, self.initial(position), where(share < 1.0, left, 0.0))

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The end."""
        falls = self.initial(position) > self.end_learning_rate
        yield final("TanhDecay.decay_steps", self.decay_steps, position, falls)
