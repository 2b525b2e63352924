"""Every code block of the README and the pages is run, or listed with the reason why not."""

from __future__ import annotations

import json
import os
import re
import threading
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lr_plugins import LearningRateScheduler, __version__
from tests import preloaded
from tests.docs.commands import COMMANDS, ELSEWHERE, FILES, INSTEAD, NOT_RUN, RUN, Command, commands_of
from tests.docs.pages import BLOCKS, ROOT, of_language

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest installs tomli
    import tomli as tomllib

pytestmark = pytest.mark.timeout(600)  # the commands of all pages run in one go, before the first test of them

# Blocks that other tests look at, by page and language.
BLOCKS_ELSEWHERE = {
    ("schedules.md", "python"): "tests/docs/test_catalogue.py::test_page_matches_the_code",
    ("CONTRIBUTING.md", "yaml"): "tests/package/test_contributing.py::test_sawtooth_option_lists_every_default",
    ("porting_from_keras.md", "python"): "tests/docs/test_porting.py::test_the_learning_rates_are_equal_at_every_epoch",
    ("porting_from_keras.md", "text"): "tests/docs/test_porting.py::test_page_shows_the_output_of_both_scripts",
}
STEP_DECAY = ("README.md", "python train.py schedule=step_decay")
BAR = ("existing_trainer.md", "python train.py callbacks.progress.verbose=1")
ARTICLE = (
    "articles.md",
    "python train.py schedule=function schedule.function.path=lr_plugins.training.recipes.article_mnist",
)
PREVIEW = (
    "preview.md",
    "lr-plugins preview schedule=warmup_step schedule.schedule.every=2ep trainer.max_epochs=20",
)
FINDER = ("lr_finder.md", "python train.py callbacks=lr_finder schedule=warmup_cosine")
# Blocks that show what a command prints: by page and first line, the command's page and text.
OUTPUTS = {
    ("README.md", "Train on 1437 samples, validate on 360 samples"): STEP_DECAY,
    ("index.md", "Epoch 10/10"): STEP_DECAY,
    ("existing_trainer.md", "Epoch 2/10"): BAR,
    ("preview.md", "run  20 epochs of 45 steps, 900 optimizer steps"): PREVIEW,
    ("lr_finder.md", "Learning-rate range test: 100 steps with learning rates from 1e-08 to 1"): FINDER,
    ("articles.md", "Epoch 00004: LearningRateScheduler setting learning rate to 0.001."): ARTICLE,
}
# Packages that are not a dependency, by page and text of the blocks that need them. These blocks run where the package
# is installed. W&B's client needs a dozen packages, and its page says that it was tried by hand.
NEEDED = {("loggers.md", "WandbLogger"): "wandb"}
# Blocks that are not code, by page and first words.
NO_CODE = {
    ("articles.md", "lr(t) = "): "a formula, which the code below it computes",
    ("articles.md", "lrate = "): "a line of the article, which lr_plugins.training.recipes has",
    ("articles.md", "lr = "): "a rule in words, which the code below it states",
    ("articles.md", "eta = "): "a formula, which the code below it computes",
    ("distributed.md", "the ranks disagree: "): "an error, which tests/lifecycle/test_ranks.py compares",
}


def way_of(block) -> str:
    """How a block is tested; empty if it is not."""
    if block.file is not None:
        used = any(block.file in command.words for command in COMMANDS if command.page == block.page)
        return "a file of a command" if used or block.file.startswith("conf/") else ""
    if (block.page, block.language) in BLOCKS_ELSEWHERE:
        return BLOCKS_ELSEWHERE[block.page, block.language]
    if block.language == "bash":
        ways = [command.way for command in commands_of(block)]
        return ", ".join(ways) if all(ways) else ""
    if block.language == "text":
        reasons = (why for (page, begin), why in NO_CODE.items() if block.page == page and block.text.startswith(begin))
        return next(reasons, "output" if (block.page, block.first) in OUTPUTS else "")
    return {"python": "run", "yaml": "composed" if "defaults:" in block.text else ""}.get(block.language, "")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)
def test_every_block_is_run_or_listed(block):
    hint = "is neither run nor named in tests/docs/test_blocks.py or tests/docs/commands.py"
    assert way_of(block), f"this block of {block.page} {hint}:\n{block.text}"


def test_lists_name_only_existing_blocks():
    texts, places = {command.text for command in COMMANDS}, {(command.page, command.text) for command in COMMANDS}
    assert set(NOT_RUN) <= texts
    assert set(INSTEAD) <= places
    assert all(any(text.startswith(begin) for text in texts) for begin in ELSEWHERE)
    assert set(OUTPUTS) <= {(block.page, block.first) for block in BLOCKS}
    assert set(BLOCKS_ELSEWHERE) <= {(block.page, block.language) for block in BLOCKS}
    assert all(any(page == block.page and text in block.text for block in PYTHON) for page, text in NEEDED)
    for test in (*ELSEWHERE.values(), *BLOCKS_ELSEWHERE.values()):
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(), test


# --- Python and yaml ----------------------------------------------------------------------------------------

PYTHON = [block for block in of_language("python") if way_of(block) == "run"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.id)
def test_python_runs(block, tmp_path, monkeypatch):
    for (page, text), package in NEEDED.items():
        if page == block.page and text in block.text:
            why = f"{page} shows {package}, which nothing of this project installs"
            pytest.importorskip(package, reason=why)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block.text, block.id, "exec"), names)
    assert len(names) > 1  # it defined or imported something


@pytest.mark.parametrize("block", of_language("yaml"), ids=lambda block: block.id)
def test_hydra_configuration_builds_its_targets(block, tmp_path):
    if way_of(block) != "composed":
        assert way_of(block) == BLOCKS_ELSEWHERE[block.page, block.language]
        return
    (tmp_path / "config.yaml").write_text(block.text)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config")
    callbacks = [instantiate(one) for one in config.callbacks.values()]
    assert [type(one) for one in callbacks] == [LearningRateScheduler]
    assert callbacks[0].assignments.assignments[0].schedule == instantiate(config.schedule)


# --- commands -----------------------------------------------------------------------------------------------


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of all commands in page order, each page in its own folder."""
    home = tmp_path_factory.mktemp("pages")
    folders = {command.page: home / command.page.removesuffix(".md") for command in RUN}
    for folder in folders.values():
        folder.mkdir()
    for block in FILES:
        file = folders[block.page] / block.file
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text)
    # A user has neither our test settings nor a tracking server named.
    own = ("MLFLOW_", "PYTEST_", "HYDRA_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    child, said = preloaded.Program(["-m", "tests.docs.interpreter"], ROOT, environment, asks=True), []
    threading.Thread(target=lambda: said.append(child.stderr.read()), daemon=True).start()
    found: dict[Command, Result] = {}
    for command in RUN:
        known = [result.out for one, result in found.items() if one.page == command.page]
        words = _known(command.shortened, "".join(known), folders[command.page])
        child.stdin.write(json.dumps({"words": words, "folder": str(folders[command.page])}) + "\n")
        child.stdin.flush()
        found[command] = Result(**json.loads(child.stdout.readline()))
    child.stdin.close()
    assert child.wait(60) == 0, said
    return found


def _known(words, output, folder):
    """The words with what a reader would put in: ids of runs that the page's commands have named; files of ours."""
    ids = re.findall(r"/runs/([0-9a-f]{32})", output)
    if "--parent" in words:  # the sweep is named last
        ids.reverse()
    words = [ids.pop(0) if word == "RUN_ID" else word for word in words]
    return [str(ROOT / word) if word.endswith(".py") and not (folder / word).exists() else word for word in words]


@pytest.mark.parametrize("command", RUN, ids=lambda command: f"{command.page} {command.text}")
def test_command_succeeds_and_prints_the_expected_output(results, command):
    result = results[command]
    assert result.status == 0, result.err
    assert "Traceback" not in result.err
    expected, count = command.prints
    assert len(re.findall(expected, result.out)) >= count, result.out


def without_empty_lines(text: str) -> str:
    """Of which a progress bar has more in a file than on a terminal."""
    return re.sub(r"\n+", "\n", text)


def form(text: str) -> str:
    """A pattern for a text in which numbers may differ, except learning rates; `...` matches anything."""
    lines = []
    for line in without_empty_lines(text).splitlines():
        pattern = re.escape(line)
        if not re.search(r"learning rate( to| +)\S*\d", line):
            pattern = re.sub(r"\\\[=*>?(\\\.)+\\\]", lambda _: r"\[=*>?\.*\]", pattern)  # a progress bar
            pattern = re.sub(r" *\d+(\\\.\d+)?", lambda _: r" *\d+(?:\.\d+)?", pattern)
        lines.append(r"(?:.*\n)*?" if line == "..." else pattern.replace(r"\.\.\.", r"\S+") + r"\n")
    return "".join(lines)


@pytest.mark.parametrize("place", OUTPUTS, ids=str)
def test_shown_output_has_the_form_of_the_real_output(results, place):
    (block,) = (block for block in BLOCKS if (block.page, block.first) == place)
    (result,) = (result for command, result in results.items() if (command.page, command.text) == OUTPUTS[place])
    assert re.search(form(block.text), without_empty_lines(result.out)), result.out


# --- setting up ---------------------------------------------------------------------------------------------

GATE = (ROOT / ".ci/run").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def gate_line() -> str:
    """The line of the README that the gate runs."""
    (pattern,) = re.findall(r"grep -E '(.*)' README\.md", GATE)
    (line,) = re.findall(pattern, (ROOT / "README.md").read_text(), re.MULTILINE)
    return line


def included(extra: str) -> set[str]:
    """An extra, and the extras it includes."""
    found = {extra}
    for needed in EXTRAS[extra]:
        for inner in re.findall(r"^lr-plugins\[(.*)\]", needed):
            found.update(*(included(one) for one in inner.split(",")))
    return found


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.way == "gate"], ids=lambda one: one.text)
def test_setup_and_check_commands_match_the_gate(command):
    done = [" ".join(part.split()).replace('"', "") for part in gate_line().split("&&")]
    done += re.findall(r"^\.venv/bin/(.*)$", GATE, re.MULTILINE)
    extras = re.fullmatch(r"pip install -e \.\[(.*)\]", command.text)
    if extras:
        assert {*extras[1].split(",")} <= included("dev")
        assert "pip install -e .[dev]" in done
    elif command.words[0] == "pytest" and command.text not in done:
        assert all((ROOT / path).is_dir() for path in command.words[1:])
    else:
        assert command.text.replace("ruff format .", "ruff format --check .") in done


def test_named_wheel_is_the_built_wheel():
    named = {name for command in COMMANDS for name in re.findall(r"dist/(\S+\.whl)", command.text)}
    assert named == {f"lr_plugins-{__version__}-py3-none-any.whl"}


def test_every_named_extra_exists():
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    named = {
        one for extras in re.findall(r"(?:-e \"?\.|lr-plugins|\.whl)\[([\w,]+)\]", pages) for one in extras.split(",")
    }
    assert {"train", "docs", "mlflow"} <= named <= set(EXTRAS)
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert set(table) == set(EXTRAS)


def test_options_of_commands_not_run_exist():
    from mlflow.cli import cli

    known = {option for parameter in cli.commands["server"].params for option in parameter.opts}
    (server,) = (command for command in COMMANDS if command.text.startswith("mlflow server"))
    assert {word for word in server.words if word.startswith("--")} <= known
    (slurm,) = (command for command in COMMANDS if "launcher=slurm" in command.words)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = [word for word in slurm.words if "launcher" in word]
        config = compose("train", chosen, return_hydra_config=True)
    assert config.hydra.launcher.partition == "gpu"
    benchmarks = [command for command in COMMANDS if command.text.startswith("python benchmarks/")]
    assert len(benchmarks) == 2
    for benchmark in benchmarks:
        text = (ROOT / benchmark.words[1]).read_text()
        assert all(f'"{word}"' in text for word in benchmark.words if word.startswith("--"))
