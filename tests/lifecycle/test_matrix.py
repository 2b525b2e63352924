"""Interrupted trainings of all kinds use the planned values, and two pages show the results."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from lr_plugins import LearningRateScheduler, RunLength, StepDecay
from lr_plugins.schedules import Position, Replanned
from tests.toys import fit

from .matrix.dimensions import EVERY_5
from .matrix.interruptions import INTERRUPTIONS, LAST_BATCH, VALIDATION_WITHIN, WITHIN_AN_EPOCH
from .matrix.outcome import Cell, cases, cells
from .matrix.page import TABLES, TOTALS, generated, how_many, tables, totals, versions

DOCS = Path(__file__).parents[2] / "docs"
LIGHTNINGS_WITHIN = (WITHIN_AN_EPOCH, LAST_BATCH, VALIDATION_WITHIN)
OURS = [pytest.param(case, id=f"{case.kind.name}-{case.setup.name}") for case in cases(True)]


@pytest.fixture
def found(tmp_path_factory):
    """The results of `cells`, computed once for all tests and all pytest-xdist workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def find(case):
        name = hashlib.sha256(f"{case.kind.name}, {case.setup.name}, {case.ours}".encode()).hexdigest()
        path = folder / f"matrix-{name}.json"
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(cells(case)))
            draft.replace(path)
        return {name: Cell(*cell) for name, cell in json.loads(path.read_text()).items()}

    return find


@pytest.mark.parametrize("case", OURS)
def test_interrupted_runs_use_the_planned_values(case, found):
    wrong = {name: cell.wrong for name, cell in found(case).items()}
    assert wrong == dict.fromkeys(wrong, 0)


@pytest.mark.parametrize("case", OURS)
def test_interrupted_runs_end_with_the_same_weights(case, found):
    # Lightning resumes with another accumulation from its own checkpoints within an epoch.
    others = LIGHTNINGS_WITHIN if len(case.setup.accumulate) > 1 else ()
    right = {name: cell.weights for name, cell in found(case).items() if cell.wrong == 0 and name not in others}
    assert right == dict.fromkeys(right, True)


UNDISTURBED = [
    pytest.param(case, id=f"{case.kind.name}-{case.setup.name}")
    for case in cases(False)
    if case.kind.name != EVERY_5 and not case.setup.scaled and not case.setup.replaced
]


@pytest.mark.parametrize("case", UNDISTURBED)
def test_plan_matches_lightning_without_interruptions(case, found):
    assert found(case)["none"] == (0, True)


def test_lightning_refuses_a_checkpoint_of_weights_only(tmp_path):
    saver = ModelCheckpoint(tmp_path, "weights", save_weights_only=True)
    fit(None, saver, epochs=1, enable_checkpointing=True)
    with pytest.raises(KeyError, match="contains only the model"):
        fit(None, LearningRateScheduler(StepDecay()), epochs=2, ckpt_path=tmp_path / "weights.ckpt")


def test_steps_skipped_by_a_scaler_do_not_change_the_plan():
    # Longer than planned: after two epochs of 7 batches, in which 3 steps were skipped.
    schedule, longer = StepDecay(0.1, every="2ep"), RunLength.of(steps_per_epoch=7, epochs=4)
    planned = Replanned(schedule, steps_per_epoch=7, epochs=2, steps=14)
    assert planned(Position(11, 2, longer)) == schedule(Position(11, 2, longer)) == 0.05
    # With another epoch length, the planned epochs of 7 batches still count.
    assert planned(Position(11, 2, RunLength.of(steps_per_epoch=5, epochs=4))) == 0.1


def test_pages_show_the_figures_of_these_runs(found):
    matrix = generated((DOCS / "lifecycle_matrix.md").read_text(), TABLES)
    made, _, shown = matrix.partition("\n\n")
    everything = {case: found(case) for ours in (True, False) for case in cases(ours)}
    in_total = generated((DOCS / "reliability.md").read_text(), TOTALS)
    pages = [shown, in_total]
    runs = [tables(everything), f"{made} {how_many(everything)}\n\n{totals(everything)}"]
    if made != versions():  # another Lightning may behave differently: compare only our figures
        pages, runs = map(without_lightnings, pages), map(without_lightnings, runs)
    assert [*pages] == [*runs], "run: python -m tests.lifecycle.matrix docs"


def without_lightnings(tables):
    """Tables with our figures only: "ours / Lightning's" in a cell, or a last column of Lightning's."""
    alone = re.sub(r" / (\d+( of \d+)?|-)(?= \|)", "", tables)
    return re.sub(r" [^|]*\|$", "", alone, flags=re.MULTILINE) if "| ours | Lightning's |" in alone else alone


def test_our_figures_are_compared_for_any_lightning_version():
    cell = "| none | 0 / 19 | 0 / - | 3 of 4 / 1 of 4 |"
    assert without_lightnings(cell) == "| none | 0 | 0 | 3 of 4 |"
    assert without_lightnings("| checkpoint | ours | Lightning's |\n| none | 0 of 9 | 2 of 8 |").endswith(
        "| none | 0 of 9 |"
    )


def test_the_totals_are_the_sums_of_the_tables():
    """The totals agree with the tables, also under other versions than those that made the pages."""
    matrix = generated((DOCS / "lifecycle_matrix.md").read_text(), TABLES)
    in_total = generated((DOCS / "reliability.md").read_text(), TOTALS)
    wrong = {name: [0, 0] for name in INTERRUPTIONS}
    for name, *cells_of_row in rows_of(matrix.partition("### Weights")[0]):
        for cell in cells_of_row:
            for side, count in enumerate(cell.split(" / ")):
                wrong[name][side] += 0 if count == "-" else int(count)
    shown = {name: [int(cell.split(" of ")[0]) for cell in both] for name, *both in rows_of(in_total)}
    assert shown == wrong


def rows_of(tables):
    """The cells of each table row that starts with an interruption."""
    rows = [line.strip("| ").split(" | ") for line in tables.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] in INTERRUPTIONS]
