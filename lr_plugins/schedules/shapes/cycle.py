"""Up and down: once in a run, or again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from lr_plugins.schedules.duration import Duration, DurationLike, measure_all
from lr_plugins.schedules.milestones import END, POINT, Milestone, begins, recurring, share_of
from lr_plugins.schedules.numerics import between, clip, floor, maximum, power, where
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.schedules.shapes.piecewise import Interpolation, interpolate
from lr_plugins.validation import choice, flag, learning_rate, number

Mode = Literal["triangular", "triangular2", "exp_range"]


class CycleThrough(Schedule):
    """From a first value to a peak and on to a last value, once: `OneCycle` with its three values given.

    In two phases, `first -> peak` until `pct_start * total_steps - 1`, and `peak -> last` until `total_steps - 1`; in
    three phases, `first -> peak` until `pct_start * total_steps - 1`, `peak -> first` until `2 * pct_start *
    total_steps - 2`, and `first -> last` until `total_steps - 1`. Each is a line or half a wave of the cosine. Time is
    counted in the unit of `total_steps`, so that `total_steps - 1` is the last optimizer step (or epoch): there it is
    the last value. Without `reach_end`, the phases end at `pct_start * total_steps`, `2 * pct_start * total_steps` and
    `total_steps`: the last value is the one that would follow the last step.

    Before 0 it is the first value, after the end it stays where it is. A phase that would end at 0 or before has
    already passed at the start; with three phases and `pct_start` above 0.5, the end comes before the second has
    ended, and the third never begins. The peak may be below the first: momentum goes from 0.95 to 0.85 and back.

    Args:
        first: the value at the start, >= 0.
        peak: the value the first phase leads to, >= 0.
        last: the value at the end, >= 0.
        total_steps: how long it takes, > 0; a plain number counts optimizer steps. Default `"100%"`: the whole run.
        pct_start: the share of the length that the first phase takes, from 0 to 1. Default 0.3.
        anneal: `"cosine"` or `"linear"`. Default `"cosine"`.
        three_phase: back to the first value, and from there to the last. Default False.
        reach_end: the last step has the last value. Default True; False: the step after it would have it.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: as for `OneCycle`.

    Example:
        >>> momentum = CycleThrough(0.95, 0.85, 0.95, total_steps=101, pct_start=51 / 101, anneal="linear")
        >>> [round(momentum(step), 6) for step in (0, 25, 50, 75, 100)]
        [0.95, 0.9, 0.85, 0.9, 0.95]
    """

    def __init__(
        self,
        first: float,
        peak: float,
        last: float,
        *,
        total_steps: DurationLike = "100%",
        pct_start: float = 0.3,
        anneal: Interpolation = "cosine",
        three_phase: bool = False,
        reach_end: bool = True,
    ) -> None:
        self.first = learning_rate("CycleThrough.first", first)
        self.peak = learning_rate("CycleThrough.peak", peak)
        self.last = learning_rate("CycleThrough.last", last)
        self._phases(total_steps, pct_start, anneal, three_phase, reach_end)

    def _phases(
        self, total_steps: DurationLike, pct_start: float, anneal: Interpolation, three_phase: bool, reach_end: bool
    ) -> None:
        name = type(self).__name__
        self.total_steps = Duration.of(total_steps, field=f"{name}.total_steps")
        self.pct_start = number(f"{name}.pct_start", pct_start, "a number from 0 to 1", at_least=0.0, at_most=1.0)
        self.anneal = choice(f"{name}.anneal", anneal, get_args(Interpolation))
        self.three_phase = flag(f"{name}.three_phase", three_phase)
        self.reach_end = flag(f"{name}.reach_end", reach_end)

    def _through(self, position: Position) -> tuple[float, float, float]:
        """The first value, the peak and the last value."""
        return self.first, self.peak, self.last

    def value(self, position: Position, state: State) -> Value:
        """The way from the last of the values passed to the next."""
        passed, rise, end = self._times(position)
        first, peak, last = self._through(position)
        way = [(rise, peak), (2 * rise, first), (end, last)] if self.three_phase else [(rise, peak), (end, last)]
        times, values = [0.0], [first]
        for time, value in way:
            if time <= 0:
                times, values = [time], [value]
            elif times[-1] < end:
                times.append(time)
                values.append(value)
        return interpolate(clip(passed, 0.0, maximum(end, 0.0)), times, values, self.anneal)

    def _times(self, position: Position) -> tuple[Value, float, float]:
        """How much has passed, and when the first phase and the last one end."""
        passed, length = self.total_steps.measure(position)
        less = 1.0 if self.reach_end else 0.0
        return passed, self.pct_start * length - less, length - less

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """The ends of the phases."""
        passed, rise, end = self._times(position)
        ends = [("first phase ends", rise)] + ([("second phase ends", 2 * rise)] if self.three_phase else [])
        for what, time in ends:
            yield Milestone(what, begins(passed >= min(time, end), position))
        field, share = f"{type(self).__name__}.total_steps={self.total_steps}", share_of(self.total_steps, position.run)
        first, peak, last = self._through(position)
        kind = END if last < max(first, peak) else POINT
        yield Milestone("end value reached", begins(passed >= end, position), field, kind, share, position.run)


class OneCycle(CycleThrough):
    """Up from a fraction of the highest learning rate, and down to far below it, once in a run.

    From `max_learning_rate / div_factor` up to `max_learning_rate`, which is reached at step `pct_start * total_steps -
    1`, and down to `max_learning_rate / div_factor / final_div_factor`, at the last step, `total_steps - 1`. With
    `three_phase` it goes back down to the first value by `2 * pct_start * total_steps - 2`, and from there to the last.
    Each phase is a line or half a wave of the cosine. Time is counted in the unit of `total_steps`; what happens at the
    edges is described at `CycleThrough`, the same shape between values of your own: for a momentum, say.

    fastai's fit_one_cycle divides the *highest* value by `div_final` and counts its phases as percentages of the run,
    without the steps that torch subtracts: it is
    `OneCycle(lr, pct_start=0.25, div_factor=25.0, final_div_factor=div_final / 25.0, reach_end=False)`, with
    `div_final` 1e5.

    Args:
        max_learning_rate: the peak, >= 0. Default None: the optimizer's own.
        total_steps: how long it takes, > 0; a plain number counts optimizer steps, in `"10ep"` a step is an epoch.
            Default `"100%"`: the whole run.
        pct_start: the share of the length in which it rises, from 0 to 1. Default 0.3.
        anneal: `"cosine"` or `"linear"`. Default `"cosine"`.
        div_factor: the peak divided by the first value, > 0. Default 25.
        final_div_factor: the first value divided by the last, > 0. Default 1e4.
        three_phase: down as slowly as up, and then on to the last value. Default False.
        reach_end: the last step has the last value, as in torch. Default True; False: the step after it would have it,
            as in fastai.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: "Super-Convergence", Smith and Topin; torch.optim.lr_scheduler.OneCycleLR, fastai's fit_one_cycle.

    Example:
        >>> cycle = OneCycle(1.0, total_steps=100, pct_start=0.3)
        >>> [round(cycle(step), 6) for step in (0, 29, 64, 99)]
        [0.04, 1.0, 0.500002, 4e-06]
        >>> fastai = OneCycle(1.0, total_steps=100, pct_start=0.25, final_div_factor=1e5 / 25, reach_end=False)
        >>> [round(fastai(step), 6) for step in (0, 25, 100)]
        [0.04, 1.0, 1e-05]
    """

    def __init__(
        self,
        max_learning_rate: float | None = None,
        *,
        total_steps: DurationLike = "100%",
        pct_start: float = 0.3,
        anneal: Interpolation = "cosine",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        reach_end: bool = True,
    ) -> None:
        self.max_learning_rate = (
            None
            if max_learning_rate is None
            else learning_rate("OneCycle.max_learning_rate", max_learning_rate, optional=True)
        )
        self.div_factor = number("OneCycle.div_factor", div_factor, "a finite number > 0", above=0.0)
        self.final_div_factor = number("OneCycle.final_div_factor", final_div_factor, "a finite number > 0", above=0.0)
        self._phases(total_steps, pct_start, anneal, three_phase, reach_end)

    @property
    def uses_optimizer_lr(self) -> bool:
        """Whether its peak is the optimizer's own learning rate."""
        return self.max_learning_rate is None

    def _through(self, position: Position) -> tuple[float, float, float]:
        peak = self.resolve("max_learning_rate", position)
        start = peak / self.div_factor
        return start, peak, start / self.final_div_factor


class Cyclic(Schedule):
    """A rise and a fall between two learning rates, repeated, along lines.

    `lr = min + (max - min) * s * scale`, where s rises from 0 to 1 over `up_steps` and falls back to 0 over
    `down_steps`, and the scale is 1 (`"triangular"`), `0.5 ** i` in cycle i, counted from 0 (`"triangular2"`), or
    `gamma ** t` (`"exp_range"`), with t counted in the unit of `up_steps`. It repeats indefinitely; before
    0 it is `min_learning_rate`. If `min_learning_rate` is above `max_learning_rate`, it falls and rises, as a momentum
    does.

    Args:
        min_learning_rate: where each cycle begins and ends, >= 0.
        max_learning_rate: where the first cycle turns, >= 0.
        up_steps: how long it rises, > 0; a plain number counts optimizer steps. Default 2000.
        down_steps: how long it falls, > 0. Default None: as long as it rises.
        mode: `"triangular"`, equal cycles; `"triangular2"`, each half as high as the one before; `"exp_range"`, lower
            at each step. Default `"triangular"`.
        gamma: the factor over one step (or epoch) of `"exp_range"`, > 0 and <= 1. Default 1.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: "Cyclical Learning Rates for Training Neural Networks", Smith; torch.optim.lr_scheduler.CyclicLR.

    Example:
        >>> cyclic = Cyclic(0.0, 0.1, up_steps=2, down_steps=4, mode="triangular2")
        >>> [cyclic(step) for step in (0, 1, 2, 4, 6, 8, 12)]
        [0.0, 0.05, 0.1, 0.05, 0.0, 0.05, 0.0]
    """

    def __init__(
        self,
        min_learning_rate: float,
        max_learning_rate: float,
        *,
        up_steps: DurationLike = 2000,
        down_steps: DurationLike | None = None,
        mode: Mode = "triangular",
        gamma: float = 1.0,
    ) -> None:
        self.min_learning_rate = learning_rate("Cyclic.min_learning_rate", min_learning_rate)
        self.max_learning_rate = learning_rate("Cyclic.max_learning_rate", max_learning_rate)
        self.up_steps = Duration.of(up_steps, field="Cyclic.up_steps")
        self.down_steps = None if down_steps is None else Duration.of(down_steps, field="Cyclic.down_steps")
        self.mode = choice("Cyclic.mode", mode, get_args(Mode))
        self.gamma = number("Cyclic.gamma", gamma, "a number > 0 and <= 1", above=0.0, at_most=1.0)

    def value(self, position: Position, state: State) -> Value:
        """`min + (max - min) * s * scale`."""
        passed, up, down, cycle = self._cycle(position)
        within = passed - cycle * (up + down)
        # Rounding may put the start of a late cycle a little before 0.
        share = maximum(where(within <= up, within / up, (up + down - within) / down), 0.0)
        if self.mode == "triangular2":
            share = share * power(0.5, cycle)
        elif self.mode == "exp_range":
            share = share * power(self.gamma, passed)
        return between(self.min_learning_rate, self.max_learning_rate, share)

    def _cycle(self, position: Position) -> tuple[Value, float, float, Value]:
        """How much has passed, how long it rises and falls, and which cycle it is."""
        passed, (up, down) = measure_all([self.up_steps, self.down_steps or self.up_steps], position)
        passed = maximum(passed, 0.0)
        return passed, up, down, floor(passed / (up + down))

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Each turn."""
        passed, up, down, cycle = self._cycle(position)
        turned = floor((passed + down) / (up + down))
        yield recurring("turns", "Cyclic.up_steps", self.up_steps, turned, position)
        yield recurring("next cycle", "Cyclic.up_steps", self.up_steps, cycle, position)
