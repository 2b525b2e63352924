"""A learning rate that follows the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import SupportsFloat

from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State, number, start_of


class LossDriven(Schedule):
    """A learning rate that grows exponentially with the loss, looked at once an epoch.

    `lr = min(initial_learning_rate * exp(loss), max_learning_rate)`, with the loss last observed; until there is
    one, `initial_learning_rate`. Mind the direction: the learning rate *rises* with the loss and falls back to
    `initial_learning_rate` as the loss goes to 0. A loss of 10 gives a factor of 22,026, so a high loss can feed
    itself: `max_learning_rate` is the ceiling.

    Args:
        initial_learning_rate: the learning rate at loss 0, >= 0. Default None: the optimizer's own.
        monitor: the logged metric to observe. Default `"loss"`.
        max_learning_rate: the ceiling, > 0. Default None: no ceiling, the bare rule.

    Raises:
        InvalidArgument: an argument outside its range.
        TrainingError: the metric was never logged, is NaN or infinite, or its exponential is.

    Source: the question "CNN with exponentially decaying learning rate in Keras", `eta = et0 * exp(LossFunction)`.

    Example:
        >>> schedule = LossDriven(0.01, monitor="loss")
        >>> state = schedule.observe(schedule.start(), Position(step=30, epoch=1), {"loss": 1.0})
        >>> round(schedule(30, state), 6)
        0.027183
    """

    def __init__(
        self,
        initial_learning_rate: float | None = None,
        monitor: str = "loss",
        max_learning_rate: float | None = None,
    ) -> None:
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        if not isinstance(monitor, str) or not monitor:
            raise InvalidArgument("LossDriven.monitor", monitor, "the name of a logged metric")
        self.monitor = monitor
        self.max_learning_rate = (
            None
            if max_learning_rate is None
            else number("LossDriven.max_learning_rate", max_learning_rate, "a finite number > 0, or null", above=0.0)
        )

    def value(self, position: Position, state: State) -> Value:
        """`min(initial_learning_rate * exp(loss), max_learning_rate)`."""
        current = self.initial(position) * math.exp(state.get("observed", 0.0) if state else 0.0)
        if self.max_learning_rate is not None:
            current = min(current, self.max_learning_rate)
        return position.like(current)

    @property
    def monitors(self) -> tuple[str, ...]:
        """The metric to observe."""
        return (self.monitor,)

    def start(self) -> State:
        """Nothing has been observed yet."""
        return {}

    def observe(self, state: State, position: Position, metrics: Mapping[str, SupportsFloat]) -> State:
        """Remember the loss last logged."""
        if self.monitor not in metrics:
            if not state:  # the first epoch that it sees begins before anything can have been logged
                return {"waiting": True}
            raise TrainingError(
                f"LossDriven.monitor is {self.monitor!r}, and no metric of that name was logged in epoch "
                f"{position.epoch}; logged are: {', '.join(sorted(metrics)) or 'none'}"
            )
        observed = float(metrics[self.monitor])
        if not math.isfinite(observed):
            raise TrainingError(
                f"LossDriven needs a finite {self.monitor!r}; it is {observed} at the end of epoch {position.epoch}. "
                "Training has diverged: a lower initial_learning_rate, or max_learning_rate as a ceiling, may help."
            )
        return {"observed": self._representable(observed)}

    def _representable(self, observed: float) -> float:
        try:
            math.exp(observed)
        except OverflowError:
            if self.max_learning_rate is None:
                raise TrainingError(
                    f"LossDriven: exp({self.monitor}) is too large for a number at {self.monitor} = {observed:g}. "
                    "Training has diverged: set max_learning_rate as a ceiling, or a lower initial_learning_rate."
                ) from None
            return 700.0  # exp of it is 1e304: far above any ceiling, and a number
        return observed
