"""The param groups of an optimizer in which a schedule drives a hyper-parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from lr_plugins.engine.hyperparameter import HyperParameter
from lr_plugins.engine.known_groups import Group, KnownGroup
from lr_plugins.errors import ImpossibleValueError, TrainingError, shown
from lr_plugins.schedules import Position, RunLength, Schedule
from lr_plugins.schedules.ahead import Ahead
from lr_plugins.schedules.position import Count, Value
from lr_plugins.validation import ENDS

PositionAt = Callable[[Count, float], Position]
"""Maps an optimizer step (or steps) and the optimizer's own value to the position in the run."""

_SAMPLES = 64
_FEW = 8  # groups: a plain loop is faster for fewer
_FIRST_BLOCK, _LARGEST_BLOCK = 16, 4096  # steps; a block is discarded when the epoch or the state changes


def sampled_steps(first: float, last: float) -> list[int]:
    """Sample optimizer steps from `first` to `last`, both included, at which to compare schedules.

    Example:
        >>> sampled_steps(0, 4)
        [0, 1, 2, 3, 4]
    """
    return sorted({round(first + (last - first) * index / _SAMPLES) for index in range(_SAMPLES + 1)})


class DrivenGroups:
    """Writes the values of a schedule, step by step.

    Values are computed in blocks, because a NumPy call for many steps costs little more than one for a single step. A
    block is valid while the epoch and the state stay the same: call `write` again when one of them changes. An argument
    of a schedule that is set during a run applies from the next step on.

    Args:
        assignment: the index of the assignment.
        number: its index among the instances for this assignment; there is one for each base value and start.
        schedule: the schedule.
        hyper: the hyper-parameter that it drives.
        base_value: the optimizer's own value, which a schedule without an initial value starts from.
        position_at: the position of a step in the run.
        start: the optimizer step and the epoch from which its schedule counts. Default (0, 0): those of the run.
    """

    def __init__(
        self,
        assignment: int,
        number: int,
        schedule: Schedule,
        hyper: HyperParameter,
        base_value: float,
        position_at: PositionAt,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.assignment, self.number = assignment, number
        self.schedule, self.hyper, self.base_value = schedule, hyper, base_value
        self.state = schedule.start()
        self.value = math.nan  # of the coming step; NaN before the first is written
        self.scales: dict[KnownGroup, float] = {}  # a group's value is its scale times the schedule's
        self.start = start
        self.position_at = position_at if start == (0, 0) else lambda step, base: position_at(step, base).since(*start)
        self._plain: list[Group] = []
        self._scaled: list[tuple[Group, float]] = []
        self._special: list[tuple[Callable[[float], None], Group, float]] = []
        self._largest = hyper.largest  # value of the schedule that all groups can hold when scaled

    def bind(self, optimizer: Optimizer) -> None:
        """Bind to the current dictionaries of the param groups; call `write` afterwards."""
        self._plain, self._scaled, self._special = [], [], []
        self._largest = self.hyper.largest
        for known, scale in self.scales.items():
            for group in (known.group, *known.copies):
                self._largest = min(self._largest, _largest(self.hyper.largest_in(group), scale))
                write = _special_writer(self.hyper, optimizer, group, scale)
                if write is not None:
                    self._special.append((write, group, scale))
                elif scale == 1.0:
                    self._plain.append(group)
                else:
                    self._scaled.append((group, scale))

    @property
    def is_plain(self) -> bool:
        """Whether all groups hold the unscaled value as a plain number."""
        return not self._scaled and not self._special

    def write(self, step: int, total_steps: float | None = None) -> Callable[[], object]:
        """Write the value of a step. The returned function writes the value of the next step at each call.

        Args:
            step: the optimizer step, from 0.
            total_steps: the number of steps in the run, if known.

        Raises:
            TrainingError: the hyper-parameter cannot have the schedule's value.
        """
        following = self._values_from(step, math.inf if total_steps is None else total_steps).__next__
        following()
        return following

    def value_at(self, step: int) -> float:
        """The schedule's value at a step; NaN if it has none there."""
        try:
            return float(self.schedule(self.position_at(step, self.base_value), self.state))
        except TrainingError:
            return math.nan

    def _positions(self, run: RunLength, steps: Iterable[int]) -> Iterator[Position]:
        """The positions of some steps, each in its own epoch; sampled epochs if the steps per epoch are unknown."""
        for step in steps:
            position = self.position_at(step, self.base_value)
            if position.run.steps_per_epoch is not None and isinstance(position.step, int):
                yield position._replace(epoch=position.run.position(position.step).epoch)
                continue
            lengths = [length for length in (run.epochs, position.run.epochs) if length is not None]
            if lengths and isinstance(position.epoch, int):
                yield from (position._replace(epoch=epoch) for epoch in sampled_steps(position.epoch, max(lengths)))
            yield position

    def depends_on(self, run: RunLength, steps: Iterable[int]) -> bool:
        """Whether the value at one of the steps would differ with this length of the run."""
        positions = list(self._positions(run, steps))
        others = [
            position._replace(run=position.run._replace(epochs=run.epochs, steps=run.steps)) for position in positions
        ]
        return any(
            self._value_or_none(position) != self._value_or_none(other)
            for position, other in zip(positions, others, strict=True)
        )

    def _value_or_none(self, position: Position) -> Value | None:
        """The schedule's value; None if no hyper-parameter can have it."""
        try:
            return self.schedule(position, self.state)
        except ImpossibleValueError:
            return None

    @property
    def value_range(self) -> str:
        """The range of values over the param groups, as a text; empty if no group is scaled."""
        if all(scale == 1.0 for scale in self.scales.values()):
            return ""
        values = sorted({self.value * scale for scale in self.scales.values()})
        return " to ".join(f"{value:.6g}" for value in dict.fromkeys((values[0], values[-1]))) + " by param group"

    def moved(self) -> tuple[dict[str, Any], float, float] | None:
        """(group, written value, current value) of the first group that no longer holds what was written, if any."""
        key, value = self.hyper.key, self.value
        plain = self._plain
        if len(plain) < _FEW or [group[key] for group in plain].count(value) != len(plain):
            for group in plain:
                if group[key] is not value and float(group[key]) != value:
                    return group, value, float(group[key])
        for group, scale in self._scaled:
            if group[key] != value * scale:
                return group, value * scale, float(group[key])
        for _, group, scale in self._special:
            current = self.hyper.read_without_waiting(group)
            if current is not None and not math.isclose(current, value * scale, rel_tol=1e-6):  # it may be of float32
                return group, value * scale, current
        return None

    def _write_scaled(self, value: float) -> None:
        key = self.hyper.key
        for group, scale in self._scaled:
            group[key] = value * scale
        for write, _, _ in self._special:
            write(value)

    # A generator keeps its local variables between steps. A method would spend more time on attribute lookups than on
    # writing: in benchmarks/update.py, an update costs about as much as a bare loop.
    def _values_from(self, step: int, total_steps: float) -> Iterator[None]:
        key, count, ahead = self.hyper.key, 1, self.schedule.is_pure
        first, *others = self._plain or [{}]  # usually one group: a loop would double the cost
        has_scaled = bool(self._scaled or self._special)
        while True:
            values = self._block(step, count) if count > 1 else [self._single(step)]
            coming, changes = iter(values), Ahead.changes
            for value in coming:
                self.value = first[key] = value
                if others:
                    for group in others:
                        group[key] = value
                if has_scaled:
                    self._write_scaled(value)
                yield
                if Ahead.changes != changes:  # an argument of a schedule has been set
                    break
            ahead, left = ahead and len(values) == count, length_hint(coming)
            step, count = step + len(values) - left, 1 if left else count
            count = int(max(1, min(max(_FIRST_BLOCK, 4 * count), _LARGEST_BLOCK, total_steps - step))) if ahead else 1

    def _block(self, step: int, count: int) -> list[float]:
        """The values of several steps; only the first if they cannot all be computed."""
        try:
            computed = self.schedule(self.position_at(np.arange(step, step + count), self.base_value), self.state)
            values = np.broadcast_to(np.asarray(computed, dtype=np.float64), (count,))
        except Exception:  # an error at a later step is raised at that step
            return [self._single(step)]
        if not values.max() <= self._largest:  # the schedule itself refuses negative values and NaN
            return [self._single(step)]
        block: list[float] = values.tolist()
        return block

    def _single(self, step: int) -> float:
        try:
            value = float(self.schedule(self.position_at(step, self.base_value), self.state))
        except ImpossibleValueError as error:
            raise error.meant_for(self.hyper.label, self.hyper.allowed) from error
        if not value <= self._largest:
            raise self._too_large(value, step)
        return value

    def _too_large(self, value: float, step: int) -> ImpossibleValueError:
        """The error for a value that the hyper-parameter cannot have, or that is too large for a param group."""
        allowed, times, end = self.hyper.allowed, "", ""
        if value <= self.hyper.largest:
            for known, scale in self.scales.items():
                for group in (known.group, *known.copies):
                    largest = self.hyper.largest_in(group)
                    if not value * scale <= largest:
                        allowed = f"at most {largest:.9g}, the largest that a param group can hold"
                        times = "" if scale == 1.0 else f"times {scale:g}, a param group's share of it, "
        elif self.hyper.largest > 1:
            end = f", and {ENDS}"
        when = f"{times}at step {step}{end}"
        return ImpossibleValueError(self.hyper.label, allowed, repr(value), when, shown(self.schedule))


def _largest(limit: float, scale: float) -> float:
    """The largest value that does not exceed `limit` when scaled."""
    if scale <= 1.0:
        return limit
    largest = limit / scale
    while largest * scale > limit:
        largest = math.nextafter(largest, 0.0)
    return largest


def _special_writer(
    hyper: HyperParameter, optimizer: Optimizer, group: Group, scale: float
) -> Callable[[float], None] | None:
    """A function that writes a scaled value to a group that keeps a tuple or a tensor; None for a plain number."""
    if hyper.own_tensor(optimizer, group) is not None:

        def write(value: float) -> None:  # in place: compiled and captured optimizers keep the tensor
            tensor = hyper.kept(group)
            if isinstance(tensor, torch.Tensor):
                tensor.fill_(value * scale)
            else:  # it has been replaced by a number
                group[hyper.key] = value * scale

        return write
    return None if hyper.at is None else lambda value: hyper.write_within(group, value * scale)
