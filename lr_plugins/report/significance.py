"""Which schedule is best, and whether the differences could be chance.

What counts is the value at the end of a run: the best epoch is only known once the validation set has been looked at,
and a schedule whose curve is restless gets more tries at it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lr_plugins.report.runs import Run, higher_is_better

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
        behind: by how much the mean is worse than the best schedule's, over the seeds that both have; 0 for the best.
        p: how probable differences at least as large are if the schedules are equal; NaN for the best, and where that
            cannot be told.
        least_p: the smallest p that so many runs can give, whatever their values are.
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

    @property
    def verdict(self) -> str:
        """Whether it is worse than the best, in words."""
        if self.ended < self.runs:
            return f"not compared: {self.runs - self.ended} of {self.runs} runs have no value at their end"
        if math.isnan(self.p):
            return "best" if self.behind == 0.0 else "not compared: a run each says nothing"
        if self.p < LEVEL:
            return "worse"
        return "too few runs to tell" if self.least_p >= LEVEL else "no significant difference"


def at_the_end(run: Run, metric: str) -> float:
    """The last value of a metric; NaN where it has none, or none that is finite."""
    points = run.curves.get(metric)
    last = float(points.values[-1]) if points is not None and points.values.size else math.nan
    return last if math.isfinite(last) else math.nan


def standings(groups: dict[str, list[Run]], metric: str) -> list[Standing]:
    """Where the schedules stand by a metric at the end of their runs, the best first.

    Each is compared with the best by exchanging the labels of their runs: within each seed where both have the same
    seeds (the same seed means the same first weights and the same batches), among all runs where not. All exchanges
    are tried, or 20,000 of them. The p-values are Holm's, for as many comparisons as there are. That the best was
    chosen by these runs is not corrected for.

    Args:
        groups: runs by schedule.
        metric: what to compare by.

    Returns:
        One for each schedule. Those of which a run has no value at its end stand last, without a comparison.
    """
    sign = 1.0 if higher_is_better(metric) else -1.0
    values = {name: _by_seed(runs, metric) for name, runs in groups.items()}
    found = [_standing(name, list(mine.values())) for name, mine in values.items()]
    whole = sorted((one for one in found if one.ended == one.runs), key=lambda one: -sign * one.mean)
    partly = [one for one in found if one.ended < one.runs]
    if not whole:
        return partly
    best, others = whole[0], whole[1:]
    compared = [_compared(values[best.schedule], values[one.schedule], sign) for one in others]
    corrected = _holm([p for _, p, _ in compared])
    behind = [
        _standing(one.schedule, list(values[one.schedule].values()), distance, p, least * len(others))
        for one, (distance, _, least), p in zip(others, compared, corrected, strict=True)
    ]
    return [best, *behind, *partly]


def _by_seed(runs: Sequence[Run], metric: str) -> dict[str, float]:
    """The values at the end, by what a run has in common with one of another schedule: its seed."""
    values: dict[str, float] = {}
    for run in runs:
        seed = run.seed or run.run_id  # without a seed it has nothing in common with any
        again = sum(1 for known in values if known.partition("#")[0] == seed)
        values[f"{seed}#{again}"] = at_the_end(run, metric)
    return values


def _standing(
    schedule: str, values: Sequence[float], behind: float = 0.0, p: float = math.nan, least_p: float = math.nan
) -> Standing:
    ended = [value for value in values if not math.isnan(value)]
    mean = statistics.mean(ended) if ended else math.nan
    deviation = statistics.stdev(ended) if len(ended) > 1 else math.nan
    half = _half_width(len(ended)) * deviation if len(ended) > 1 else math.nan
    return Standing(
        schedule, len(values), len(ended), mean, deviation, mean - half, mean + half, behind, p, min(1.0, least_p)
    )


def _half_width(count: int) -> float:
    """That of the confidence interval of a mean of so many values, in their standard deviations."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) / math.sqrt(count)


def _compared(best: dict[str, float], other: dict[str, float], sign: float) -> tuple[float, float, float]:
    """(how far another is behind the best, p, the least p there could be)."""
    import numpy as np
    from scipy.stats import permutation_test

    paired = best.keys() == other.keys()
    first = np.array(list(best.values()))
    second = np.array([other[key] for key in best] if paired else list(other.values()))
    distance = max(0.0, sign * float(first.mean() - second.mean()))  # 0 for a mean that differs in its last digits
    if len(first) < 2 or len(second) < 2:
        return math.nan, math.nan, math.nan
    exchanges = 2 ** len(first) if paired else math.comb(len(first) + len(second), len(first))
    least = 2.0 / min(exchanges, _EXCHANGES)
    found = permutation_test(
        (first, second),
        lambda a, b, axis: np.round(a.mean(axis) - b.mean(axis), 12),  # a tie but for the last digits is one
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=_EXCHANGES,
        random_state=np.random.default_rng(0),  # the same runs give the same words
    )
    return distance, float(found.pvalue), least


def _holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for the number of comparisons, by Holm's step-down procedure; NaN stays."""
    order = sorted((at for at, p in enumerate(p_values) if not math.isnan(p)), key=lambda at: p_values[at])
    corrected, so_far = [math.nan] * len(p_values), 0.0
    for rank, at in enumerate(order):
        so_far = max(so_far, min(1.0, (len(order) - rank) * p_values[at]))
        corrected[at] = so_far
    return corrected
