"""Which schedule is best, and whether the differences could be chance.

What counts is the value at the end of a run: the best epoch is only known once the validation set has been looked at,
and a schedule whose curve is restless gets more tries at it.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lr_plugins.comparison.runs import Run
from lr_plugins.metric_direction import higher_is_better

CONFIDENCE = 0.95
LEVEL = 0.05  # of significance
_EXCHANGES = 20_000  # of the labels of two schedules; all there are, where they are not more


@dataclass(frozen=True)
class Standing:
    """A schedule's runs at their end, and how far they are behind the best schedule's.

    Args:
        schedule: its name.
        runs: how many there are.
        ended: how many of them have a finite value at the end.
        mean: the mean of these; NaN where there are none.
        deviation: their standard deviation; NaN of fewer than two.
        low: lower end of the 95 % confidence interval of the mean (Student's t); NaN of fewer than two.
        high: its upper end.
        behind: by how much the mean is worse than the best schedule's, over the seeds that both have, or over all runs
            where they have fewer than two in common; 0 for the best.
        p: how probable differences at least as large are if the schedules are equal; NaN for the best, and where that
            cannot be told.
        least_p: the smallest p that so many runs can give, whatever their values are.
        pairs: how many seeds both have; 0 where all runs were compared.
    """

    schedule: str
    runs: int
    ended: int
    mean: float
    deviation: float
    low: float
    high: float
    behind: float = 0.0
    p: float = math.nan
    least_p: float = math.nan
    pairs: int = 0

    @property
    def verdict(self) -> str:
        """Whether it is worse than the best, in words."""
        if self.ended < self.runs:
            return f"not compared: {self.runs - self.ended} of {self.runs} runs diverged or did not come to their end"
        if math.isnan(self.p):
            return "best" if self.behind == 0.0 else "not compared: it takes two runs of each"
        over = f" (over the {self.pairs} seeds in common)" if 0 < self.pairs < self.runs else ""
        if self.p < LEVEL and self.behind > 0:
            return f"worse{over}"
        if self.p < LEVEL:
            return f"better{over}"
        return f"too few runs to tell{over}" if self.least_p >= LEVEL else f"no significant difference{over}"


def at_the_end(run: Run, metric: str) -> float:
    """The last value of a metric; NaN where it has none, none that is finite, or the run has not come to its end."""
    points = run.curves.get(metric) if run.status == "FINISHED" else None
    last = float(points.values[-1]) if points is not None and points.values.size else math.nan
    return last if math.isfinite(last) else math.nan


def standings(groups: dict[str, list[Run]], metric: str) -> list[Standing]:
    """Where the schedules stand by a metric at the end of their runs, the best first.

    Each is compared with the best by exchanging the labels of their runs: within each seed that both have (the same
    seed means the same first weights and the same batches), or among all runs where they have fewer than two in common.
    All exchanges are tried, or 20,000 of them. The p-values are Holm's, for as many comparisons as there are. That the
    best was chosen by these runs is not corrected for.

    Args:
        groups: runs by schedule.
        metric: what to compare by.

    Returns:
        One for each schedule. Those of which a run has no value at its end stand last, without a comparison.
    """
    sign = 1.0 if higher_is_better(metric) else -1.0
    values = {name: _by_seed(runs, metric) for name, runs in groups.items()}
    found = [_standing(name, _all(mine)) for name, mine in values.items()]
    means = _means([one.schedule for one in found if one.ended == one.runs], values)
    whole = sorted((one for one in found if one.schedule in means), key=lambda one: -sign * means[one.schedule])
    partly = [one for one in found if one.ended < one.runs]
    if not whole:
        return partly
    best, others = whole[0], whole[1:]
    compared = [_compared(values[best.schedule], values[one.schedule], sign) for one in others]
    corrected = _holm([one.p for one in compared])
    behind = [
        dataclasses.replace(one, behind=by.behind, p=p, least_p=min(1.0, by.least_p * len(others)), pairs=by.pairs)
        for one, by, p in zip(others, compared, corrected, strict=True)
    ]
    return [best, *behind, *partly]


def _means(schedules: Sequence[str], values: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """What schedules are ranked by: their means over the seeds that all have; over all runs, where there are none."""
    common = set.intersection(*(set(values[one]) for one in schedules)) if schedules else set()
    return {
        one: statistics.mean(
            value for seed, mine in values[one].items() if seed in common or not common for value in mine
        )
        for one in schedules
    }


def _all(by_seed: dict[str, list[float]]) -> list[float]:
    return [value for values in by_seed.values() for value in values]


def _by_seed(runs: Sequence[Run], metric: str) -> dict[str, list[float]]:
    """The values at the end, by what a run has in common with one of another schedule: its seed."""
    values: dict[str, list[float]] = {}
    for run in runs:  # without a seed it has nothing in common with any
        values.setdefault(run.seed or run.run_id, []).append(at_the_end(run, metric))
    return values


def _standing(schedule: str, values: Sequence[float]) -> Standing:
    ended = [value for value in values if not math.isnan(value)]
    mean = statistics.mean(ended) if ended else math.nan
    deviation = statistics.stdev(ended) if len(ended) > 1 else math.nan
    half = _half_width(len(ended)) * deviation if len(ended) > 1 else math.nan
    return Standing(schedule, len(values), len(ended), mean, deviation, mean - half, mean + half)


def _half_width(count: int) -> float:
    """That of the confidence interval of a mean of so many values, in their standard deviations."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) / math.sqrt(count)


class _Comparison(NamedTuple):
    behind: float
    p: float
    least_p: float
    pairs: int


def _compared(best: dict[str, list[float]], other: dict[str, list[float]], sign: float) -> _Comparison:
    """Another schedule and the best."""
    import numpy as np
    from scipy.stats import permutation_test

    common = [seed for seed in best if seed in other]
    paired = len(common) > 1
    if paired:  # several runs with one seed count as their mean
        first, second = (np.array([statistics.mean(one[seed]) for seed in common]) for one in (best, other))
    else:
        first, second = np.array(_all(best)), np.array(_all(other))
    behind = sign * float(first.mean() - second.mean())
    if len(first) < 2 or len(second) < 2:
        return _Comparison(math.nan, math.nan, math.nan, 0)
    # A tie but for the last digits is one.
    scale = float(max(np.abs(first).max(), np.abs(second).max())) or 1.0
    exchanges = 2 ** len(first) if paired else math.comb(len(first) + len(second), len(first))
    found = permutation_test(
        (first / scale, second / scale),
        lambda a, b, axis: np.round(a.mean(axis) - b.mean(axis), 12),
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=_EXCHANGES,
        random_state=np.random.default_rng(0),  # the same runs give the same words
    )
    return _Comparison(
        behind if abs(behind) > 1e-12 * scale else 0.0,
        float(found.pvalue),
        2.0 / min(exchanges, _EXCHANGES),
        len(common) if paired else 0,
    )


def _holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for the number of comparisons, by Holm's step-down procedure; NaN stays."""
    order = sorted((at for at, p in enumerate(p_values) if not math.isnan(p)), key=lambda at: p_values[at])
    corrected, so_far = [math.nan] * len(p_values), 0.0
    for rank, at in enumerate(order):
        so_far = max(so_far, min(1.0, (len(order) - rank) * p_values[at]))
        corrected[at] = so_far
    return corrected
