"""Seeded noise on a schedule."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.combinators.base import Wrapper
from lr_plugins.schedules.duration import Duration, DurationLike
from lr_plugins.schedules.milestones import POINT, Milestone, one_time
from lr_plugins.schedules.numerics import clip, floor, where
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.validation import choice, number

Distribution = Literal["normal", "uniform"]

_NORMAL = NormalDist()
_MOST = 2.0**53  # numbers; floats above it skip integers
_BLOCK = 256  # draws made at once where one is asked for: the next steps use the others


class Noise(Wrapper):
    """A schedule with seeded noise on it.

    `lr = schedule * (1 + noise_k)`, where k = floor(t / every) and t is counted in the unit of `every`: one number
    that holds for the time `every`, then another. It is drawn within (-limit, limit), from a normal distribution of
    standard deviation `std` cut off there, or evenly. Number k depends on `seed` and k and on nothing else, so that
    any position can be asked for, in any order, and a resumed run sees the same noise.

    Args:
        schedule: the schedule.
        every: how long each number holds, > 0; a plain number counts optimizer steps, 1 draws at each.
            Default `"1ep"`.
        after: when the noise starts, >= 0; a plain number counts optimizer steps. Default None: at once.
        until: when it stops (exclusive), > 0; a plain number counts optimizer steps. Default None: never.
        limit: the largest noise, as a share of the learning rate, > 0 and <= 1. Default 0.67.
        std: the standard deviation before it is cut off, as a share of the learning rate, > 0. Default 1.
        distribution: `"normal"`, or `"uniform"`, which has no use for `std`. Default `"normal"`.
        seed: an integer >= 0 and < 2 ** 64; the same seed gives the same noise at the same place. Default 42.

    Raises:
        InvalidArgumentError: an argument outside its range.

    Source: timm's schedulers with noise_range_t = (after, until), noise_pct = limit, noise_std, noise_type and
    noise_seed. The distributions are timm's; the random numbers are not, for they come from NumPy's Philox generator
    and timm's from torch's.

    Example:
        >>> from lr_plugins import Constant
        >>> noisy = Noise(Constant(0.1), every="10st", after="20st", limit=0.5)
        >>> [noisy(step) for step in (0, 19)], 0.05 < noisy(20) < 0.15, noisy(20) == noisy(29) != noisy(30)
        ([0.1, 0.1], True, True)
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        every: DurationLike = "1ep",
        after: DurationLike | None = None,
        until: DurationLike | None = None,
        limit: float = 0.67,
        std: float = 1.0,
        distribution: Distribution = "normal",
        seed: int = 42,
    ) -> None:
        super().__init__(schedule)
        self.every = Duration.of(every, field="Noise.every")
        self.after = self._bound("after", after, allow_zero=True)
        self.until = self._bound("until", until)
        self.limit = number("Noise.limit", limit, "a number > 0 and <= 1", above=0.0, at_most=1.0)
        self.std = number("Noise.std", std, "a finite number > 0", above=0.0)
        self.distribution = choice("Noise.distribution", distribution, get_args(Distribution))
        self.seed = _seed("Noise.seed", seed)

    def _bound(self, name: str, length: DurationLike | None, *, allow_zero: bool = False) -> Duration | None:
        if length is None:
            return None
        return Duration.of(length, field=f"Noise.{name}", allow_zero=allow_zero)

    def value(self, position: Position, state: State) -> Value:
        """`schedule * (1 + noise)` between `after` and `until`, the schedule outside."""
        value = self.of(0, position, state)
        count = clip(floor(self.every.ratio(position)), 0.0, _MOST)
        factor = 1.0 + (self._many(count) if isinstance(count, np.ndarray) else self._one(int(count)))
        if self.after is not None:
            factor = where(self.after.passed(position), factor, 1.0)
        if self.until is not None:
            factor = where(self.until.passed(position), 1.0, factor)
        return value * factor

    def milestones_in(self, position: Position) -> Iterator[Milestone]:
        """Those of the schedule, and the start and the end of the noise."""
        yield from super().milestones_in(position)
        if self.after is not None:
            yield one_time("noise begins", "Noise.after", self.after, position)
        if self.until is not None:
            yield one_time("noise ends", "Noise.until", self.until, position, POINT)

    def _one(self, count: int) -> float:
        block, index = divmod(count, _BLOCK)
        return float(_draws(self._law(), block * _BLOCK, _BLOCK)[index])

    def _many(self, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if counts.size == 0:
            return counts
        whole = counts.astype(np.int64)
        first, last = int(whole.min()), int(whole.max())
        if last - first < 4 * whole.size + _BLOCK:
            return _draw(self._law(), first, last - first + 1)[whole - first]
        different, places = np.unique(whole, return_inverse=True)
        numbered = np.array([self._one(count) for count in different.tolist()], np.float64)
        return np.take(numbered, places.reshape(whole.shape))

    def _law(self) -> tuple[str, float, float, int]:
        return self.distribution, self.limit, self.std, self.seed


def _draw(law: tuple[str, float, float, int], first: int, count: int) -> npt.NDArray[np.float64]:
    """The random numbers `first` to `first + count - 1`."""
    distribution, limit, std, seed = law
    # Each value of the generator's counter gives four words of 64 bits. Of each word 52 bits are used, and half of
    # the last is added: all numbers lie between 0 and 1, neither of which is among them.
    skipped = first % 4
    words = np.random.Philox(key=seed, counter=first // 4).random_raw(skipped + count)[skipped:]
    even: npt.NDArray[np.float64] = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    if distribution == "uniform":
        return limit * (2.0 * even - 1.0)
    # The inverse of the distribution function, on the part of its range that lies within the limit.
    least, most = _NORMAL.cdf(-limit / std), _NORMAL.cdf(limit / std)
    # One by one, which only a preview of a long run notices: 0.3 s for a million numbers (benchmarks/shapes.py).
    shares = (least + (most - least) * even).tolist()
    normal = np.fromiter(map(_NORMAL.inv_cdf, shares), np.float64, len(shares))
    within: npt.NDArray[np.float64] = np.clip(std * normal, -limit, limit)
    return within


_draws = lru_cache(maxsize=64)(_draw)


def _seed(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < 2**64:
        raise InvalidArgumentError(field, value, "an integer >= 0 and < 2 ** 64")
    return int(value)
