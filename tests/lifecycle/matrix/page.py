"""The tables of docs/lifecycle_matrix.md and the totals of docs/reliability.md."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Sequence
from pathlib import Path

import torch

from lr_plugins import (
    Schedule,
)
from tests.lifecycle.matrix.dimensions import KINDS, SETUPS, Kind, Part
from tests.lifecycle.matrix.interruptions import INTERRUPTIONS
from tests.lifecycle.matrix.outcome import Cell, cases, cells, steps
from tests.lifecycle.matrix.training import Case

TABLES, TOTALS = "matrix", "totals"  # the parts of lifecycle_matrix.md and reliability.md between two comments
Found = dict[Case, dict[str, Cell]]


def versions() -> str:
    """The versions that the figures were made with."""
    names = ("torch", "pytorch-lightning")
    return "Made with " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names) + "."


def tables(found: Found) -> str:
    """The tables of docs/lifecycle_matrix.md."""
    parts = [
        how_many(found),
        *(part for kind in KINDS for part in _of_kind(kind, found)),
        "### Weights",
        "Cases that end with the weights of the uninterrupted run, bit for bit: ours / Lightning's.",
        _weights(found),
    ]
    return "\n\n".join(parts)


def how_many(found: Found) -> str:
    """The number of cases and of scenarios, as a sentence."""
    scenarios = len(found) * len(INTERRUPTIONS)
    return f"{len(found)} cases, each with {len(INTERRUPTIONS)} interruptions: {scenarios} scenarios."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def totals(found: Found) -> str:
    """The table of docs/reliability.md."""
    rows = []
    for name in INTERRUPTIONS:
        sides = []
        for ours in (True, False):
            mine = [case for case in found if case.ours == ours]
            wrong = sum(found[case][name].wrong for case in mine)
            sides.append(f"{wrong} of {sum(steps(case.setup) for case in mine)}")
        rows.append([name, *sides])
    return _table(["checkpoint, interruption", "ours", "Lightning's"], rows)


def _of_kind(kind: Kind, found: Found) -> list[str]:
    setups = [setup for setup in SETUPS if Case(kind, setup, True) in found]
    head = ["checkpoint, interruption", *(f"{setup.name} ({steps(setup)})" for setup in setups)]
    rows = []
    for name in INTERRUPTIONS:
        sides = [[found.get(Case(kind, setup, ours)) for ours in (True, False)] for setup in setups]
        wrong = [[one[name].wrong if one else "-" for one in both] for both in sides]
        rows.append([name, *(f"{mine} / {its}" for mine, its in wrong)])
    ours = ", ".join(_told(part) for part in kind.parts())
    return [
        f"### {kind.name[0].upper()}{kind.name[1:]}",
        f"Ours: {ours}. Lightning's: {kind.torchs}.",
        _table(head, rows),
    ]


def _told(part: Part) -> str:
    what = [f"to={part.to!r}"] * (part.to != "lr") + [f"group={part.group!r}"] * (part.group is not None)
    return f"`{_short(part.schedule)}`" if not what else f"`Assign({', '.join([_short(part.schedule), *what])})`"


def _short(schedule: Schedule) -> str:
    """The schedule in code, without arguments at their defaults."""
    defaults = {name: one.default for name, one in inspect.signature(type(schedule)).parameters.items()}
    given = {name: getattr(schedule, name) for name in defaults}
    differing = {name: value for name, value in given.items() if str(value) != str(defaults[name])}
    told = {name: repr(one if isinstance(one, (int, float)) else str(one)) for name, one in differing.items()}
    told |= {name: _short(one) for name, one in differing.items() if isinstance(one, Schedule)}
    return f"{type(schedule).__name__}({', '.join(f'{name}={text}' for name, text in told.items())})"


def _weights(found: Found) -> str:
    rows = []
    for name in INTERRUPTIONS:
        row = [name]
        for setup in SETUPS:
            sides = [
                [found[case][name].weights for case in found if (case.setup, case.ours) == (setup, ours)]
                for ours in (True, False)
            ]
            row.append(" / ".join(f"{sum(same)} of {len(same)}" for same in sides))
        rows.append(row)
    return _table(["checkpoint, interruption", *(setup.name for setup in SETUPS)], rows)


def generated(page: str, part: str) -> str:
    """The part of a page that this module writes."""
    return page.partition(_begin(part))[2].partition(_end(part))[0].strip()


def _begin(part: str) -> str:
    return f"<!-- {part}: begin -->"


def _end(part: str) -> str:
    return f"<!-- {part}: end -->"


def _write(path: Path, part: str, text: str) -> None:
    page = path.read_text(encoding="utf-8")
    before, after = page.partition(_begin(part))[0], page.partition(_end(part))[2]
    path.write_text(f"{before}{_begin(part)}\n{text}\n\n{_end(part)}{after}", encoding="utf-8")


def main(docs: Path) -> None:
    """Run everything, and write the tables into the pages."""
    torch.set_num_threads(1)
    found = {case: cells(case) for ours in (True, False) for case in cases(ours)}
    _write(docs / "lifecycle_matrix.md", TABLES, f"{versions()}\n\n{tables(found)}")
    _write(docs / "reliability.md", TOTALS, f"{versions()} {how_many(found)}\n\n{totals(found)}")
