"""The command `lr-plugins`: which subcommand is run, and what earlier commands answer."""

import os
import subprocess
import sys

import pytest

from lr_plugins import __version__, commands
from lr_plugins.commands import train
from lr_plugins.training import entry_point
from tests.training.test_main import ROOT


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_without_a_command_the_usage_is_printed(words, capsys):
    assert commands.main(words) == 0
    usage = capsys.readouterr().out
    assert usage.startswith("usage: lr-plugins COMMAND ...\n")
    assert [line.split()[0] for line in usage.splitlines() if line.startswith("  ")] == [*commands.COMMANDS]


def test_the_version_is_printed(capsys):
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_an_unknown_command_is_an_error_with_the_usage(capsys):
    assert commands.main(["trian"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("lr-plugins has no command 'trian'.\n\nusage: lr-plugins COMMAND ...\n")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_gets_the_words_after_its_name(name, monkeypatch):
    given = []
    monkeypatch.setattr(f"lr_plugins.commands.{name}.main", lambda words: given.append(words))
    assert commands.main([name, "--help", "x=1"]) == 0
    assert given == [["--help", "x=1"]]


def test_a_process_that_lightning_starts_trains(monkeypatch):
    given = []
    monkeypatch.setattr("lr_plugins.commands.train.main", given.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    commands.main(["data=fake", "hydra.output_subdir=null"])
    assert given == [["data=fake", "hydra.output_subdir=null"]]


@pytest.mark.parametrize("word", ["-h", "--help", "--version"])
def test_process_that_lightning_starts_answers_options_of_the_command(word, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert commands.main([word]) == 0
    assert capsys.readouterr().out.startswith(__version__ if word == "--version" else "usage: lr-plugins COMMAND")


@pytest.mark.parametrize(
    ("words", "absolute"),
    [
        (["--config-path=other", "x=1"], ["--config-path={start}/other", "x=1"]),
        (["--config-path", "other"], ["--config-path", "{start}/other"]),
        (["-cp", "../other", "-m"], ["-cp", "{start}/../other", "-m"]),
        (["-cp=other"], ["-cp={start}/other"]),
        (["--config-path=/etc/conf"], ["--config-path=/etc/conf"]),
        (["--config-path=pkg://mine.conf"], ["--config-path=pkg://mine.conf"]),
        (["--config-path"], ["--config-path"]),
        (["--config-dir=other", "config-path=3"], ["--config-dir=other", "config-path=3"]),
    ],
)
def test_config_path_starts_at_the_folder_of_the_program(words, absolute, tmp_path):
    expected = [word.format(start=tmp_path) for word in absolute]
    assert train._with_absolute_config_path(words, tmp_path) == expected


@pytest.mark.parametrize("command", [["train.py"], ["-m", "lr_plugins", "train"]], ids=["train.py", "lr-plugins"])
def test_relative_config_path_is_found(command, tmp_path):
    relative = os.path.relpath(tmp_path, ROOT)  # the current folder, and that of train.py
    (tmp_path / "train.yaml").write_text("mine: 3\n")
    process = run(*command, f"--config-path={relative}", "--cfg", "job")
    assert (process.returncode, process.stdout.strip(), process.stderr) == (0, "mine: 3", "")


@pytest.mark.parametrize(("module", "command"), [("preview", "preview"), ("report", "compare"), ("tracking", "send")])
def test_an_earlier_command_names_the_one_of_today(module, command):
    process = run("-m", f"lr_plugins.{module}")
    assert process.returncode == 1
    assert f"`lr-plugins {command}`" in process.stderr
    assert "Traceback" not in process.stderr


def test_train_py_and_the_command_share_their_help():
    pages = [run("train.py", "--help"), run("-m", "lr_plugins", "train", "--help")]
    assert [page.returncode for page in pages] == [0, 0]
    assert pages[0].stdout == pages[1].stdout.replace("lr-plugins train", "python train.py")
    assert pages[0].stdout.startswith("python train.py [GROUP=OPTION ...] ")


def test_the_help_imports_no_torch():
    code = "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    code += "sys.argv = ['train.py', '--help']; runpy.run_path('train.py', run_name='__main__')"
    process = run("-c", code)
    assert (process.returncode, process.stderr) == (0, "")
    assert "== Groups and their options" in process.stdout
    assert process.stdout.splitlines()[-1] == "False"


def test_messages_name_the_command_that_was_used(monkeypatch):
    monkeypatch.delenv(entry_point.COMMAND, raising=False)
    assert entry_point.command() == "python train.py"
    monkeypatch.setenv(entry_point.COMMAND, "lr-plugins train")
    assert entry_point.command() == "lr-plugins train"


def test_clone_uses_its_own_configuration_and_extras():
    assert entry_point.conf_folder() == ROOT / "conf"
    assert entry_point.install_extra("train,slurm") == 'pip install -e ".[train,slurm]"'
