"""What a preview shows of one schedule: its values, and the events of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lr_plugins.schedules.position import RunLength
from lr_plugins.simulation.plan import Plan


class Event(NamedTuple):
    """Something that happens.

    Attributes:
        step: the first optimizer step that shows it, from 0.
        epoch: epochs that have passed before this step, with a fraction; None if unknown.
        value: the learning rate of this step.
        what: what happens.
    """

    step: int
    epoch: float | None
    value: float
    what: str


@dataclass(frozen=True)
class Line:
    """What one schedule will do.

    Args:
        name: as the trace will name it: `"lr"`, `"lr/backbone"`, `"momentum"`.
        plan: its values at the steps of the run.
        events: what happens when, in order; the first and the last step among them.
        run: how long the run will be.
    """

    name: str
    plan: Plan
    events: tuple[Event, ...]
    run: RunLength

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The optimizer steps that were looked at, shape (n,); all of them in a run of up to 131,072."""
        return self.plan.steps

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The value of each of these steps, shape (n,)."""
        return self.plan.values

    @property
    def first(self) -> float:
        """The value of the first step."""
        return float(self.values[0])

    @property
    def last(self) -> float:
        """The value of the last step."""
        return float(self.values[-1])

    @property
    def peak(self) -> float:
        """The highest value."""
        return float(self.values.max())

    @property
    def area(self) -> float:
        """The area under the curve: the sum of the values of all steps; about that where it is `sampled`."""
        return self.plan.area

    @property
    def sampled(self) -> bool:
        """Whether the area is that of a sample: of a run above 4,000,000 steps, of a function one above 131,072."""
        return self.plan.sampled
