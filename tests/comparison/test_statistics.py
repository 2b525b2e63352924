"""Which schedule is best: checked against exhaustive permutations and simulated equal schedules."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lr_plugins.comparison.histories import Points
from lr_plugins.comparison.runs import Run
from lr_plugins.comparison.statistics import _holm, standings
from lr_plugins.metric_direction import higher_is_better


def runs(values, seeds=None):
    """A run for each value at the end."""
    seeds = seeds or [str(seed) for seed in range(len(values))]
    curves = [{"val_acc": Points(np.arange(2), np.array([0.5, value]))} for value in values]
    return [
        Run(f"{values}{seed}", "", "", seed, "FINISHED", 1.0, curve) for seed, curve in zip(seeds, curves, strict=True)
    ]


def by_hand(first, second):
    """The share of sign changes of the differences that make their sum at least as large; in whole fortieths."""
    differences = np.round(40 * (np.array(first) - np.array(second))).astype(int)
    sums = np.array([np.dot(signs, differences) for signs in itertools.product((1, -1), repeat=len(differences))])
    return float(np.mean(np.abs(sums) >= abs(differences.sum())))


accuracies = st.lists(st.integers(0, 40), min_size=2, max_size=7).map(lambda whole: [one / 40 for one in whole])


@settings(max_examples=40)
@given(accuracies, st.randoms(use_true_random=False))
def test_p_with_equal_seeds_permutes_within_seeds(first, random):
    second = [random.randint(0, 40) / 40 for _ in first]
    found = standings({"a": runs(first), "b": runs(second)}, "val_acc")
    assert found[1].p == pytest.approx(by_hand(first, second))
    assert found[1].behind == pytest.approx(abs(np.mean(first) - np.mean(second)))


def test_p_with_different_seeds_permutes_all_runs():
    first, second = [0.90, 0.94, 0.91, 0.97], [0.80, 0.92, 0.83]
    found = standings({"a": runs(first), "b": runs(second, ["7", "8", "9"])}, "val_acc")[1]
    whole = np.array(first + second)
    gaps = []
    for chosen in itertools.combinations(range(7), 4):
        mask = np.isin(np.arange(7), chosen)
        gaps.append(whole[mask].mean() - whole[~mask].mean())
    gap = np.mean(first) - np.mean(second)
    one_side = min(np.mean(np.array(gaps) >= gap - 1e-12), np.mean(np.array(gaps) <= gap + 1e-12))
    assert found.p == pytest.approx(2 * one_side)


def test_interval_is_students_t():
    values = [0.90, 0.94, 0.91, 0.97]
    found = standings({"a": runs(values)}, "val_acc")[0]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_p_values_are_corrected_as_holm_does():
    assert _holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert _holm([0.6, 0.7]) == [1.0, 1.0]


def test_equal_schedules_are_rarely_called_different():
    """Of experiments with equal schedules, some 5 in 100 find a difference, as they may: 24 of 200 would be 12.

    With three it is 7 in 100, for the best is the best of these very runs.
    """
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        groups = {name: runs(list(random.normal(0.9, 0.01, 8))) for name in "abc"}
        wrong += any(one.verdict == "worse" for one in standings(groups, "val_acc"))
    assert wrong <= 24


def test_a_clear_difference_is_found_and_a_loss_is_best_when_low():
    groups = {"a": runs([0.1 + seed / 100 for seed in range(8)]), "b": runs([0.3 + seed / 100 for seed in range(8)])}
    assert [(one.schedule, one.verdict) for one in standings(groups, "val_acc")] == [("b", "best"), ("a", "worse")]
    for mine in groups.values():
        for run in mine:
            run.curves["val_loss"] = run.curves["val_acc"]
    assert [(one.schedule, one.verdict) for one in standings(groups, "val_loss")] == [("a", "best"), ("b", "worse")]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_schedule_with_a_diverged_run_is_not_compared(value):
    found = standings({"a": runs([0.9, value, 0.9]), "b": runs([0.1, 0.2, 0.3])}, "val_acc")
    assert [(one.schedule, one.verdict) for one in found] == [
        ("b", "best"),
        ("a", "not compared: 1 of 3 runs diverged or did not finish"),
    ]


def test_too_few_runs_are_not_judged():
    assert standings({"a": runs([0.9]), "b": runs([0.1])}, "val_acc")[1].verdict.startswith("not compared")
    assert standings({"a": runs([0.9] * 3), "b": runs([0.1] * 3)}, "val_acc")[1].verdict == "too few runs to tell"


def test_more_schedules_need_more_runs():
    ends = {"a": 0.9, "b": 0.5, "c": 0.1}
    groups = {name: runs([end + seed / 1000 for seed in range(6)]) for name, end in ends.items()}
    assert [one.verdict for one in standings(groups, "val_acc")] == ["best", *["too few runs to tell"] * 2]
    del groups["b"]
    assert [one.verdict for one in standings(groups, "val_acc")] == ["best", "worse"]


def test_permutations_of_many_runs_are_sampled():
    groups = {name: runs([end + seed / 1000 for seed in range(20)]) for name, end in (("a", 0.9), ("b", 0.8))}
    found = standings(groups, "val_acc")[1]
    assert found.least_p == 2 / 20_000
    assert found.p == pytest.approx(2 / 20_001, rel=0.01)


def test_schedules_are_compared_over_their_common_seeds():
    """Otherwise a schedule without its worst seed would be the best."""
    seeds = [str(seed) for seed in range(10)]
    first = [0.1 + seed / 100 for seed in range(9)] + [0.9]
    second = [value + 0.05 for value in first]
    groups = {"a": runs(first, seeds), "b": runs(second[:9], seeds[:9])}
    for run in groups["a"] + groups["b"]:
        run.curves["val_loss"] = run.curves["val_acc"]
    best, other = standings(groups, "val_loss")
    assert (best.schedule, other.schedule, other.pairs) == ("a", "b", 9)
    assert (other.behind, other.p) == (pytest.approx(0.05), pytest.approx(2 / 2**9))
    assert other.verdict == "worse"


@pytest.mark.parametrize("status", ["KILLED", "FAILED", "RUNNING"])
def test_unfinished_run_has_no_final_value(status):
    groups = {"a": runs([0.9] * 8), "b": runs([0.8] * 8)}
    groups["a"][3].status = status
    assert [one.verdict for one in standings(groups, "val_acc")] == [
        "best",
        "not compared: 1 of 8 runs diverged or did not finish",
    ]


def test_repeated_seeds_count_as_their_mean():
    groups = {"a": runs([0.9, 0.8, 0.7], ["1", "1", "2"]), "b": runs([0.1, 0.2], ["1", "2"])}
    best, other = standings(groups, "val_acc")
    assert (best.ended, other.pairs, other.behind) == (3, 2, pytest.approx((0.85 + 0.7 - 0.3) / 2))


def test_values_of_any_magnitude_are_distinguished():
    groups = {name: runs([end * (1 + seed / 100) for seed in range(8)]) for name, end in (("a", 9e-14), ("b", 4e-14))}
    assert standings(groups, "val_acc")[1].p == pytest.approx(2 / 2**8)


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("val_acc", True),
        ("val/f1", True),
        ("val_dice", True),
        ("val_mAP", True),
        ("reward", True),
        ("val_loss", False),
        ("val_f1_loss", False),
        ("val_accumulated", False),
        ("top1_error", False),
        ("cost_sensitive_accuracy", True),
        ("error_detection_f1", True),
        ("accuracy_error", False),
        ("davies_bouldin_score", False),
        ("brier_score", False),
        ("val_my_score", True),
        ("valid/MulticlassF1Score", True),
        ("val_loss/dataloader_idx_0", False),
        ("val_exact_match", True),
    ],
)
def test_metric_name_decides_which_direction_is_best(metric, higher):
    assert higher_is_better(metric) is higher
