"""A fall from one learning rate to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import Milestone, final
from lr_plugins.schedules.numerics import between, clip, cos, power, sqrt
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, start_of
from lr_plugins.validation import choice, learning_rate

_RATIO = 0.1  # the factor of the exponential fall over its length, before it is made to reach the end

Fall = Literal["linear", "cosine", "1-sqrt", "exponential"]
"""The shapes of a fall."""

FALLS: dict[Fall, Callable[[Value], Value]] = {
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + cos(math.pi * share)),
    "1-sqrt": lambda share: 1.0 - sqrt(share),
    "exponential": lambda share: (power(_RATIO, share) - _RATIO) / (1.0 - _RATIO),
}
"""What is left of the height, from 1 to 0, at a share of the fall."""


class Cooldown(Schedule):
    """A fall from one learning rate to another, in one of the usual shapes.

    `lr = end_learning_rate + (initial_learning_rate - end_learning_rate) * left`, where with p = t / decay_steps, at
    most 1, `left` is `1 - p` (`"linear"`), `(1 + cos(pi * p)) / 2` (`"cosine"`), `1 - sqrt(p)` (`"1-sqrt"`) or `(0.1 **
    p - 0.1) / 0.9` (`"exponential"`: towards a tenth, and stretched so as to arrive). t is counted in the unit of
    `decay_steps`. Before 0 it is the initial value, after the end the end value.

    Args:
        initial_learning_rate: where it starts, >= 0. Default None: the optimizer's own.
        end_learning_rate: where it ends, >= 0. Default 0.
        decay_steps: how long it takes, > 0; a plain number counts optimizer steps. Default `"100%"`: the whole run.
        shape: `"linear"`, `"cosine"`, `"1-sqrt"` or `"exponential"`. Default `"linear"`.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: the decay functions of timm's WSDLRScheduler; "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", Hägele et al., for 1-sqrt.

    Example:
        >>> cooldown = Cooldown(0.1, decay_steps=100, shape="1-sqrt")
        >>> [round(cooldown(step), 6) for step in (0, 25, 100, 999)]
        [0.1, 0.05, 0.0, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        *,
        end_learning_rate: float = 0.0,
        decay_steps: DurationLike = "100%",
        shape: Fall = "linear",
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.end_learning_rate = learning_rate("Cooldown.end_learning_rate", end_learning_rate)
        self.decay_steps = Duration.of(decay_steps, field="Cooldown.decay_steps")
        self.shape = choice("Cooldown.shape", shape, get_args(Fall))

    def value(self, position: Position, state: State) -> Value:
        """`end_learning_rate + (initial_learning_rate - end_learning_rate) * left`."""
        left = FALLS[self.shape](clip(self.decay_steps.ratio(position), 0.0, 1.0))
        return between(self.end_learning_rate, self.initial(position), left)

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The end."""
        yield final("Cooldown.decay_steps", self.decay_steps, position, self.initial(position) > self.end_learning_rate)
