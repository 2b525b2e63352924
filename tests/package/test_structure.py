"""Which parts of the package may import which, asserted from the imports in the code.

Every import counts: at the top of a file, under `TYPE_CHECKING`, and inside a function.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lr_plugins"
ARCHITECTURE = ROOT / "docs/architecture.md"


class Room(NamedTuple):
    """A folder of the package, or the files of the ground together."""

    name: str
    what: str  # a line of docs/architecture.md
    imports: str  # the rooms that it imports, besides the ground
    packages: str  # third-party imports at the top of its files

    @property
    def allowed(self) -> set[str]:
        return {GROUND, self.name, *self.imports.split()}


GROUND = "ground"
GROUND_FILES = {
    "checkpoint_names",
    "checkpoint_state",
    "errors",
    "metric_direction",
    "paths",
    "rank_zero",
    "renamed",
    "validation",
}
# From the ground up: a room imports only rooms above it in this table.
ROOMS = [
    Room(
        GROUND,
        "the errors, the checks of arguments, and small modules that every package uses",
        "",
        "numpy lightning_utilities",
    ),
    Room("schedules", "what the learning rate should be", "", "numpy"),
    Room("engine", "when it is written and recorded, in any loop", "schedules", "numpy torch"),
    Room("interop", "loops without Lightning, and torch's schedulers as schedules", "schedules engine", "numpy torch"),
    Room("optim", "`KerasSGD`", "engine", "torch"),
    Room(
        "_lightning",
        "everything private or version-dependent in a Trainer",
        "schedules engine",
        "numpy torch lightning",
    ),
    Room("console", "text for a terminal: Keras' lines and progress bars", "", "numpy"),
    Room("constraints", "Keras' constraints on parameters", "engine optim _lightning console", "torch"),
    Room("plotting", "pictures", "", "numpy"),
    Room("simulation", "a run that has not begun: preview and warnings", "schedules plotting", "numpy"),
    Room("tracking", "MLflow: the logger, the spool, and the process that sends it", "_lightning", "torch filelock"),
    Room("comparison", "several runs: statistics and pages", "plotting tracking", "numpy"),
    Room(
        "callbacks",
        "one callback per file; hooks are defined in the order in which they run",
        "schedules engine _lightning console plotting",
        "numpy torch lightning lightning_utilities",
    ),
    Room(
        "training",
        "what `train.py` assembles: data, reference models, one run",
        "schedules engine _lightning constraints simulation tracking comparison callbacks",
        "numpy torch lightning hydra omegaconf packaging",
    ),
    Room(
        "keras",
        "Keras' names, arguments and rules, on the packages above",
        "schedules optim _lightning constraints console callbacks training",
        "numpy torch lightning sklearn",
    ),
    Room(
        "commands",
        "`lr-plugins train`, `preview`, `compare` and `send`",
        "simulation tracking comparison training",
        "numpy filelock",
    ),
]
BY_NAME = {room.name: room for room in ROOMS}
# Optional packages: rooms that work without them may name them for type checkers, or after `errors.require`.
OPTIONAL = {"matplotlib", "mlflow", "pandas", "scipy", "sklearn", "torchvision", "hydra", "omegaconf", "psutil"}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}  # one library under several names

# Required packages that a file imports inside a function only: (file, package) and the reason.
LATE = {("checkpoint_state.py", "torch"): "the ground does without torch; a state that holds tensors does not"}

# Imports of ours inside a function: (file, module) and the reason.
FLUENT = "the methods of `Schedule` (`then`, `*`, `at_least`, ...) build combinators, which are schedules"
OPTIONAL_PICTURE = "needs matplotlib, which is optional"
INSIDE_FUNCTIONS = {
    **{
        ("schedules/schedule.py", f"schedules.combinators.{name}"): FLUENT
        for name in ("bounded", "chain", "epochs", "product", "repeated", "stretched", "warmup")
    },
    ("callbacks/history.py", "plotting.history"): OPTIONAL_PICTURE,
    ("callbacks/learning_rate_trace/callback.py", "plotting.learning_rate"): OPTIONAL_PICTURE,
    ("callbacks/lr_finder/callback.py", "plotting.lr_finder"): OPTIONAL_PICTURE,
    ("constraints/__init__.py", "constraints.callback"): "loops without Lightning constrain weights, too",
    ("tracking/__init__.py", "tracking.mlflow_logger"): "the process that sends does without torch and Lightning",
    ("tracking/model_files.py", "tracking.model"): "imports torch, which only the end of a run needs",
    ("training/sweep.py", "comparison.report"): "loads slowly, and only sweeps need it",
    ("training/sweep.py", "comparison.run_files"): "loads slowly, and only sweeps need it",
    ("training/sweep.py", "tracking"): "loads slowly, and only sweeps with MLflow need it",
    ("commands/preview.py", "simulation.page"): "`--help` answers at once",
    ("commands/preview.py", "simulation.metric_courses"): "`--help` answers at once",
    ("commands/preview.py", "training.planned"): "loads Hydra, which `--help` does without",
    ("commands/preview.py", "training.cli"): "loads Hydra, which `--help` does without",
    ("commands/train.py", "training.run"): "loads Lightning, which `--help` does without",
    ("commands/train.py", "training.cli"): "loads Hydra, which the other commands do without",
}


class Import(NamedTuple):
    """One import in the code."""

    file: str
    module: str  # of ours: without `lr_plugins.`
    is_ours: bool
    for_types: bool  # under `TYPE_CHECKING`
    in_function: bool

    @property
    def room(self) -> str:
        return room_of(self.file.removesuffix(".py").replace("/", "."))

    @property
    def target(self) -> str:
        return room_of(self.module)


def room_of(module: str) -> str:
    """The room of a module of ours."""
    first = module.partition(".")[0]
    return GROUND if first in GROUND_FILES else first


def imports_of(path: Path) -> Iterator[Import]:
    """All imports in a file."""
    file = path.relative_to(PACKAGE).as_posix()

    def visit(node: ast.AST, for_types: bool, in_function: bool) -> Iterator[Import]:
        for name in names_in(node):
            is_ours = name.partition(".")[0] == PACKAGE.name
            yield Import(file, name.removeprefix(f"{PACKAGE.name}."), is_ours, for_types, in_function)
        in_function |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        body = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else ()
        for child in ast.iter_child_nodes(node):
            yield from visit(child, for_types or child in body, in_function)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False, False)


def names_in(node: ast.AST) -> list[str]:
    """The modules that a statement imports; of `from lr_plugins import x`, `lr_plugins.x`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"a relative import: {ast.unparse(node)}"
        assert node.module is not None
        whole = node.module == PACKAGE.name
        return [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]
    return []


DOORS = {"__init__.py", "__main__.py"}  # they lead to every room, and no room imports them
IMPORTS = [
    one
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).as_posix() not in DOORS
    for one in imports_of(path)
]
OURS = [one for one in IMPORTS if one.is_ours and one.module != "__version__"]


def test_every_file_belongs_to_a_room_of_the_table():
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    rooms = {room_of(file.removesuffix(".py").replace("/", ".")) for file in files if file not in DOORS}
    assert rooms - {"conf"} == {*BY_NAME}  # conf/ is data


def test_table_has_no_upward_imports():
    for index, room in enumerate(ROOMS):
        above = {other.name for other in ROOMS[:index]}
        assert {*room.imports.split()} <= above, f"{room.name} imports a room that stands below it"


def test_imports_between_rooms_match_the_table():
    wrong = [f"{one.file} imports {one.module}" for one in OURS if one.target not in BY_NAME[one.room].allowed]
    assert not wrong


def test_rooms_have_no_import_cycle():
    arrows = defaultdict(set)
    for one in OURS:
        arrows[one.room].add(one.target)
    left = {room.name for room in ROOMS}
    while free := {room for room in left if not (arrows[room] - {room}) & left}:
        left -= free
    assert not left, f"a circle among {sorted(left)}"


def test_packages_imported_by_rooms_match_the_table():
    wrong = []
    for one in IMPORTS:
        package = one.module.partition(".")[0]
        package = "lightning" if package in LIGHTNING else package
        if one.is_ours or package in sys.stdlib_module_names:
            continue
        known = package in BY_NAME[one.room].packages.split()
        optional = package in OPTIONAL and (one.in_function or one.for_types)
        if not known and not optional and (one.file, package) not in LATE:
            wrong.append(f"{one.file} imports {one.module}")
    assert not wrong


def reached_from(room: str) -> set[str]:
    """The rooms that a room imports, directly or through others, and itself."""
    return {GROUND, room}.union(*(reached_from(other) for other in BY_NAME[room].imports.split()))


def packages_of(room: str) -> set[str]:
    """What has to be installed for a room: its own packages, and those of the rooms that it imports."""
    return {package for other in reached_from(room) for package in BY_NAME[other].packages.split()}


@pytest.mark.parametrize("room", ["schedules", "simulation", "plotting", "console"])
def test_numeric_rooms_need_no_torch(room):
    assert not packages_of(room) & {"torch", "lightning"}


@pytest.mark.parametrize("room", ["engine", "interop", "optim"])
def test_rooms_for_any_loop_need_no_lightning(room):
    assert "lightning" not in packages_of(room)


def test_imports_inside_functions_match_the_list():
    found = {(one.file, one.module) for one in OURS if one.in_function}
    assert found == {*INSIDE_FUNCTIONS}


# --- the same table on a page ---------------------------------------------------------------------------------------


def table() -> str:
    """The rooms as docs/architecture.md shows them."""
    lines = ["| package | what it is for | imports | third-party |", "|---|---|---|---|"]
    for room in ROOMS:
        name = "base modules" if room.name == GROUND else f"`{room.name}/`"
        imports = ", ".join(f"`{one}`" for one in room.imports.split()) or "-"
        packages = ", ".join(room.packages.split())
        lines.append(f"| {name} | {room.what} | {imports} | {packages} |")
    return "\n".join(lines)


def test_the_architecture_page_shows_this_table():
    assert table() in ARCHITECTURE.read_text(encoding="utf-8"), f"docs/architecture.md has to show:\n{table()}"


def test_engine_does_not_import_lightning():
    code = (
        "import sys, lr_plugins.engine.driven_optimizers, lr_plugins.engine.audit, lr_plugins.engine.recorder\n"
        "print([name for name in ('pytorch_lightning', 'lightning') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "[]")
