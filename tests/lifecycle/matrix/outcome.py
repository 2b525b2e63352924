"""The outcome of a case: the steps that used another value than planned."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.lifecycle.matrix.dimensions import KINDS, SETUPS, Setup
from tests.lifecycle.matrix.interruptions import INTERRUPTIONS, Interruption
from tests.lifecycle.matrix.record import Result
from tests.lifecycle.matrix.task import Used
from tests.lifecycle.matrix.training import Case, plan_of


class Cell(NamedTuple):
    """The worst outcome of an interruption of a case."""

    wrong: int  # steps
    weights: bool  # equal to those of the uninterrupted run


@functools.cache
def cells(case: Case) -> dict[str, Cell]:
    """A case under all interruptions."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        return {name: _cell(case, interruption, Path(folder)) for name, interruption in INTERRUPTIONS.items()}


def _cell(case: Case, interruption: Interruption, folder: Path) -> Cell:
    seen = case.watched(interruption.watch)
    found = [Cell(_wrong(seen, one), _same_weights(seen, one)) for one in interruption.results(case, folder)]
    return Cell(max(one.wrong for one in found), all(one.weights for one in found))


def _wrong(case: Case, result: Result) -> int:
    """The number of steps that differ from the plan, including missing and extra ones."""
    wrong = 0
    for expected, used in zip(case.plan(result).used, result.used, strict=True):
        wrong += abs(len(expected) - len(used))
        wrong += sum(not _equal(one, other, case.ours) for one, other in zip(expected, used, strict=False))
    return wrong


def _equal(one: Used, other: Used, exactly: bool) -> bool:
    """Ours bit for bit; resumed torch schedulers may round differently."""
    return one == other if exactly else all(map(functools.partial(math.isclose, rel_tol=1e-9), one, other))


def _same_weights(case: Case, result: Result) -> bool:
    return result.weights == plan_of(case, (), result.lost).weights


def steps(setup: Setup) -> int:
    """The cell of an uninterrupted run."""
    return sum(len(used) for used in plan_of(Case(KINDS[0], setup, True), (), frozenset()).used)


def cases(ours: bool) -> list[Case]:
    """All cases of one side."""
    return [
        Case(kind, setup, ours)
        for kind in KINDS
        for setup in SETUPS
        if (not setup.kinds or kind.name in setup.kinds) and kind.name not in setup.without and (ours or kind.build)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's messages on devices, checkpoints and trainings resumed within an epoch."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
