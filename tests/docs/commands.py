"""The commands of the pages, and how each is tested.

A command of Python runs as it stands, with `SHORT` appended to a training, in a folder of its page's own. What cannot
be run here is in one of the tables below, with the test that does it or the reason.
"""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass

from lr_plugins.commands import COMMANDS as COMMANDS_OF_OURS
from tests.docs.pages import BLOCKS, Block, of_language

# What makes a training short. Everything else is as the page has it.
SHORT = ["trainer.max_epochs=1", "trainer.limit_train_batches=3", "logger=none"]
IN_MLFLOW = SHORT[:2]
ONLY_COMPOSED = ["--cfg", "job"]
# Parallel runs would need one process each.
AS_ONE = ["hydra.launcher.n_jobs=1"]
FEW = ["hydra.sweeper.params.schedule='constant,cosine'", "hydra.sweeper.params.seed=1"]
# Words appended instead of SHORT, by page and command.
INSTEAD = {
    ("README.md", "python train.py schedule=step_decay"): [],  # in full, because the page shows its output
    ("existing_trainer.md", "python train.py callbacks.progress.verbose=1"): ["trainer.max_epochs=2", "logger=none"],
    ("lr_finder.md", "python train.py callbacks=lr_finder schedule=warmup_cosine"): [
        "trainer.max_epochs=1",
        "logger=none",
    ],
    ("reliability.md", "python train.py ckpt_path=last"): ["trainer.max_epochs=2"],
    ("reliability.md", "python train.py ckpt_path=last trainer.max_epochs=20"): ["trainer.max_epochs=3"],
    ("tracking.md", "python train.py -m data=iris model=mlp schedule=step_decay,cosine seed=1,2,3"): IN_MLFLOW,
    (
        "tracking.md",
        "python train.py -m hydra/sweeper=optuna optimizer.lr=interval(0.001,0.1) hydra.sweeper.n_trials=20 "
        "objective=val_acc hydra.sweeper.direction=maximize",
    ): [*IN_MLFLOW, "hydra.sweeper.n_trials=2"],
    ("shootout.md", "python train.py experiment=schedule_shootout"): [*SHORT, *AS_ONE, *FEW],
    ("articles.md", "python train.py experiment=mnist_piecewise"): ONLY_COMPOSED,  # downloads MNIST
    ("articles.md", "python train.py experiment=mnist_loss_driven"): ONLY_COMPOSED,
    (
        "articles.md",
        "python train.py schedule=function schedule.function.path=lr_plugins.training.recipes.article_mnist",
    ): ["trainer.max_epochs=4", *SHORT[1:]],  # the page shows its fourth epoch
}

# What other tests run, by the start of the command.
ELSEWHERE = {
    "mlflow ui": "tests/training/test_main.py::test_mlflow_ui_without_flags_shows_the_run",
    "pip wheel": "tests/package/test_wheel.py::test_the_wheel_has_what_it_needs_and_nothing_else",
    "python benchmarks/recipes.py --seeds": (  # 100 of them take 20 minutes
        "tests/docs/test_recipes_benchmark.py::test_every_recipe_is_bit_identical_in_both_engines"
    ),
    "python benchmarks/article_scripts.py --seeds": (  # 30 of them take half an hour or more
        "tests/docs/test_recipes_benchmark.py::test_the_scripts_of_the_article_are_run"
    ),
    "pip install dist/": "tests/package/test_wheel.py::test_the_library_by_itself",
}

# What no test runs, and why.
NOT_RUN = {
    "mlflow server --host 0.0.0.0 --backend-store-uri postgresql://USER:PASSWORD@HOST/mlflow"
    " --artifacts-destination s3://BUCKET": "needs a PostgreSQL server and an object store",
    "export MLFLOW_TRACKING_URI=http://HOST:5000": "names that server",
    "python train.py -m launcher=slurm hydra.launcher.partition=gpu schedule=step_decay,cosine seed=1,2,3": (
        "needs a cluster"
    ),
}

# What a command has to print, by the start of the command; of a sweep, once for each run.
PRINTS = {
    "python train.py": r"plan +followed at (\d+) of \1 steps",
    "lr-plugins train": r"plan +followed at (\d+) of \1 steps",
    "python app.py": r"LearningRateScheduler: 32 steps, lr ",
    "python main.py": r"Epoch 00002: LearningRateScheduler setting learning rate to \d",
    "lr-plugins preview": r"(?m)^ +step 0 ",
    "lr-plugins compare": r"\| schedule \| runs \| best val_acc",
}
SUBCOMMANDS = tuple(COMMANDS_OF_OURS)  # of `lr-plugins`
OF_AN_OPTION = {"--help": "== Groups and their options", "--cfg": "schedule:", "--info": "pkg://lr_plugins.conf"}


@dataclass(frozen=True)
class Command:
    """One command of a block: its page, and its words."""

    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def way(self) -> str:
        """How it is tested; empty if it is not."""
        if self.text in NOT_RUN:
            return "not run: " + NOT_RUN[self.text]
        for begin, test in ELSEWHERE.items():
            if self.text.startswith(begin):
                return test
        if re.match(r"python3 -m venv|\. |pip |pytest|ruff|mypy", self.text):
            return "gate"
        ours = rf"lr-plugins ({'|'.join(SUBCOMMANDS)})\b"
        return "interpreter" if re.match(rf"python (\w+\.py|-c )|{ours}", self.text) else ""

    @property
    def is_training(self) -> bool:
        """Whether it is Hydra's command line, which `SHORT` makes short."""
        return self.text.startswith(("python train.py", "lr-plugins train")) and not OF_AN_OPTION.keys() & {*self.words}

    @property
    def shortened(self) -> list[str]:
        """The words after `python` that are run: `lr-plugins` is `python -m lr_plugins`, installed or not."""
        words = list(self.words[1:]) if self.words[0] == "python" else ["-m", "lr_plugins", *self.words[1:]]
        if not self.is_training:
            return words
        if "-m" in self.words:
            words = [re.sub(r"^seed=.*", "seed=1", word) for word in words]
        return words + INSTEAD.get((self.page, self.text), SHORT + (AS_ONE if _side_by_side(words) else []))

    @property
    def prints(self) -> tuple[str, int]:
        """An expression that its output has to match, and how often at least."""
        for option, text in OF_AN_OPTION.items():
            if option in self.shortened:
                return re.escape(text), 1
        expected = next((text for begin, text in PRINTS.items() if self.text.startswith(begin)), None)
        assert expected is not None, f"say in PRINTS of tests/docs/commands.py what this prints: {self.text}"
        if not (self.is_training and "-m" in self.words):
            return expected, 1
        swept = [word.partition("=")[2].split(",") for word in self.shortened if "[" not in word]
        return expected, len(list(itertools.product(*swept)))


def _side_by_side(words: list[str]) -> bool:
    return "launcher=joblib" in words or "experiment=schedule_shootout" in words


def commands_of(block: Block) -> list[Command]:
    """The commands of a block: a line each, or several joined by `&&`."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for is_joint, part in itertools.groupby(words, lambda word: word == "&&"):
            if not is_joint:
                found.append(Command(block.page, tuple(part)))
    return found


COMMANDS = [command for block in of_language("bash") for command in commands_of(block)]
RUN = list(dict.fromkeys(command for command in COMMANDS if command.way == "interpreter"))
FILES = [block for block in BLOCKS if block.file is not None]
