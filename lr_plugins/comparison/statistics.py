"""Which schedule is best, and whether the differences could be due to chance.

Schedules are ranked by the final values of their runs: choosing the best epoch means choosing by the validation set,
which favours schedules with noisy curves.
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
_EXCHANGES = 20_000  # permutations at most; all of them if there are fewer


@dataclass(frozen=True)
class Standing:
    """The final values of a schedule's runs, and how far they are behind the best schedule's.

    Args:
        schedule: its name.
        runs: how many there are.
        ended: how many of them have a finite value at the end.
        mean: the mean of these; NaN without any.
        deviation: their standard deviation; NaN with fewer than two.
        low: lower end of the 95 % confidence interval of the mean (Student's t); NaN with fewer than two.
        high: its upper end.
        behind: how much worse the mean is than the best schedule's, over the common seeds, or over all runs
            if these are fewer than two; 0 for the best.
        p: the probability of a difference at least as large if the schedules are equal; NaN for the best, and if it
            cannot be computed.
        least_p: the smallest p that this number of runs can give, whatever their values.
        pairs: how many seeds they have in common; 0 if all runs were compared.
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
            return f"not compared: {self.runs - self.ended} of {self.runs} runs diverged or did not finish"
        if math.isnan(self.p):
            return "best" if self.behind == 0.0 else "not compared: it takes two runs of each"
        over = f" (over the {self.pairs} seeds in common)" if 0 < self.pairs < self.runs else ""
        if self.p < LEVEL and self.behind > 0:
            return f"worse{over}"
        if self.p < LEVEL:
            return f"better{over}"
        return f"too few runs to tell{over}" if self.least_p >= LEVEL else f"no significant difference{over}"


def final_value(run: Run, metric: str) -> float:
    """The last value of a metric; NaN if it was not logged or is not finite, or if the run did not finish."""
    points = run.curves.get(metric) if run.status == "FINISHED" else None
    last = float(points.values[-1]) if points is not None and points.values.size else math.nan
    return last if math.isfinite(last) else math.nan


def standings(groups: dict[str, list[Run]], metric: str) -> list[Standing]:
    """The schedules ranked by the final values of a metric, the best first.

    Each is compared with the best by a permutation test: paired by seed (the same seed means the same initial weights
    and the same batches), or unpaired if they have fewer than two seeds in common. All permutations are tried, or
    20,000 of them. The p-values are corrected for the number of comparisons by Holm's procedure, but not for the best
    schedule having been chosen by the same runs.

    Args:
        groups: runs by schedule.
        metric: the metric to compare by.

    Returns:
        One standing per schedule. Schedules with a run that has no final value come last, without a comparison.
    """
    sign = 1.0 if higher_is_better(metric) else -1.0
    values = {name: _by_seed(runs, metric) for name, runs in groups.items()}
    unranked = [_standing(name, _all(by_seed)) for name, by_seed in values.items()]
    means = _means([standing.schedule for standing in unranked if standing.ended == standing.runs], values)
    complete = [standing for standing in unranked if standing.schedule in means]
    complete.sort(key=lambda standing: -sign * means[standing.schedule])
    incomplete = [standing for standing in unranked if standing.ended < standing.runs]
    if not complete:
        return incomplete
    best, others = complete[0], complete[1:]
    tests = [_compared(values[best.schedule], values[other.schedule], sign) for other in others]
    corrected = _holm([test.p for test in tests])
    behind = [
        dataclasses.replace(
            other, behind=test.behind, p=p, least_p=min(1.0, test.least_p * len(others)), pairs=test.pairs
        )
        for other, test, p in zip(others, tests, corrected, strict=True)
    ]
    return [best, *behind, *incomplete]


def _means(schedules: Sequence[str], values: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """The means that rank the schedules: over the seeds that all of them have, or over all runs if there are none."""
    common = set.intersection(*(set(values[name]) for name in schedules)) if schedules else set()
    return {
        name: statistics.mean(
            value for seed, finals in values[name].items() if seed in common or not common for value in finals
        )
        for name in schedules
    }


def _all(by_seed: dict[str, list[float]]) -> list[float]:
    return [value for values in by_seed.values() for value in values]


def _by_seed(runs: Sequence[Run], metric: str) -> dict[str, list[float]]:
    """The final values by seed, by which runs of different schedules are paired."""
    values: dict[str, list[float]] = {}
    for run in runs:  # a run without a seed is paired with none
        values.setdefault(run.seed or run.run_id, []).append(final_value(run, metric))
    return values


def _standing(schedule: str, values: Sequence[float]) -> Standing:
    ended = [value for value in values if not math.isnan(value)]
    mean = statistics.mean(ended) if ended else math.nan
    deviation = statistics.stdev(ended) if len(ended) > 1 else math.nan
    half = _half_width(len(ended)) * deviation if len(ended) > 1 else math.nan
    return Standing(schedule, len(values), len(ended), mean, deviation, mean - half, mean + half)


def _half_width(count: int) -> float:
    """Half the width of the confidence interval of a mean, in standard deviations of the values."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) / math.sqrt(count)


class _Comparison(NamedTuple):
    behind: float
    p: float
    least_p: float
    pairs: int


def _compared(best: dict[str, list[float]], other: dict[str, list[float]], sign: float) -> _Comparison:
    """Compare a schedule with the best one."""
    import numpy as np
    from scipy.stats import permutation_test

    common = [seed for seed in best if seed in other]
    paired = len(common) > 1
    if paired:  # several runs with the same seed count as their mean
        first, second = (np.array([statistics.mean(by_seed[seed]) for seed in common]) for by_seed in (best, other))
    else:
        first, second = np.array(_all(best)), np.array(_all(other))
    behind = sign * float(first.mean() - second.mean())
    if len(first) < 2 or len(second) < 2:
        return _Comparison(math.nan, math.nan, math.nan, 0)
    # Values that differ only in the last digits are a tie.
    scale = float(max(np.abs(first).max(), np.abs(second).max())) or 1.0
    exchanges = 2 ** len(first) if paired else math.comb(len(first) + len(second), len(first))
    result = permutation_test(
        (first / scale, second / scale),
        lambda a, b, axis: np.round(a.mean(axis) - b.mean(axis), 12),
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=_EXCHANGES,
        random_state=np.random.default_rng(0),  # the same runs give the same verdict
    )
    return _Comparison(
        behind if abs(behind) > 1e-12 * scale else 0.0,
        float(result.pvalue),
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
