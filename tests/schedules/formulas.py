"""A run, and what formulas in tests are made of."""

import itertools
import math
import re

import pytest

from lr_plugins import RunLength

RUN = RunLength.of(steps_per_epoch=30, epochs=20)
N = RUN.steps


def line(start, end, share):
    return start + (end - start) * share


def wave(start, end, share):
    return start + (end - start) * (1 - math.cos(math.pi * share)) / 2


def through(t, way, form):
    """The way from knot to knot: [(time, value), ...]."""
    for (begin, start), (end, stop) in itertools.pairwise(way):
        if t <= end:
            return form(start, stop, (t - begin) / (end - begin))
    return way[-1][1]


def each(formulas):
    """A test for each pair of a schedule and its formula of (step, epoch)."""
    ids = [re.sub(r" at 0x\w+", "", repr(schedule))[:80] for schedule, _ in formulas]  # the same in each process
    return pytest.mark.parametrize(("schedule", "formula"), formulas, ids=ids)


def assert_follows(schedule, formula):
    for step in range(N):
        # abs: a rounding of the larger of two numbers, where the formula subtracts them.
        assert schedule(RUN.position(step)) == pytest.approx(formula(step, step // 30), rel=1e-14, abs=4e-16), step


def assert_continues_after_the_end(schedule):
    for step in (N, N + 1, 10 * N):
        assert 0 <= schedule(RUN.position(step)) <= 1
