"""`lr-plugins preview` as a user runs it."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from tests import preloaded
from tests.training.test_main import ROOT


def run(*arguments, folder=ROOT, **environment):
    known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "HYDRA_FULL_ERROR")}
    environment = {**known, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    return preloaded.run(["-m", "lr_plugins", "preview", *arguments], folder, environment, 60)


def test_the_page_of_the_main_job():
    process = run("schedule=warmup_cosine", "trainer.max_epochs=10")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("run  10 epochs of 45 steps, 450 optimizer steps\n     1,437 training samples in ")
    assert "⠉" in process.stdout
    assert max(map(len, process.stdout.splitlines())) == 80
    assert " 23   0.51  0.00199999  warm-up ends; peak\n" in process.stdout
    assert "warning" not in process.stdout


def test_where_the_encoding_has_no_other_characters_it_is_ascii():
    process = run("schedule=cosine", PYTHONIOENCODING="ascii")
    assert process.returncode == 0
    assert process.stdout.isascii()
    assert run("schedule=cosine", "--ascii").stdout == process.stdout


def test_options_mix_with_overrides_and_draw_a_picture(tmp_path):
    process = run(
        *["--metric", "val_loss=1:0.5", "schedule=plateau", "--width", "60", "schedule.patience=2", "--log"],
        *["--png", str(tmp_path / "lr")],
    )
    assert process.returncode == 0, process.stderr
    assert "assumed: val_loss goes from 1 to 0.5 in a straight line over the run" in process.stdout
    assert process.stdout.endswith(f"picture  {tmp_path}/lr.png\n")
    with Image.open(tmp_path / "lr.png") as picture:
        assert picture.size == (960, 540)


def test_a_sweep_is_one_chart_of_what_differs():
    process = run("-m", "schedule=step_decay,cosine", "seed=1,2,3", "--metric", "loss=1")
    assert process.returncode == 0, process.stderr
    assert re.findall(r"^ +([A-Z]  .*)$", process.stdout, re.MULTILINE) == [
        "A  schedule=step_decay",
        "B  schedule=cosine",
    ]
    alone = run("-m", "seed=1,2").stdout
    assert alone == run().stdout


def test_it_finds_the_configuration_of_its_clone_from_anywhere(tmp_path):
    process = run("experiment=iris_step", folder=tmp_path)
    assert process.stdout.startswith("run  200 epochs of 30 steps, 6,000 optimizer steps")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--nope"], 2, r"unrecognized arguments: --nope"),
        (["--steps-per-epoch", "many"], 2, r"argument --steps-per-epoch: invalid int value: 'many'"),
        (["--steps-per-epoch", "0"], 1, r"^Error: --steps-per-epoch must be an integer >= 1; got 0\.$"),
        (["--width", "10"], 1, r"^Error: --width must be an integer >= 40; got 10\.$"),
        (["--conf", "nope"], 1, r"^Error: --conf must be a folder with train\.yaml in it; got 'nope'\. Without --conf"),
        (["--metric", "loss"], 1, r"^Error: --metric must be NAME=VALUE, .*; got 'loss'\.$"),
        (["--png", "no/such/folder.png"], 1, r"^Error: --png must be a file to write a picture to \(.*No such file"),
        (["--png", "lr.nope"], 1, r"^Error: --png must be a file to write a picture to \(Format 'nope' is not supp"),
        (["schedule=nope"], 1, r"^Error: schedule=nope: schedule is chosen by the name of an option: "),
        (["schedule.dorp=1"], 1, r"^Error: schedule\.dorp: no such field\. schedule has: initial_learning_rate, drop"),
        (["schedule.drop=-1"], 1, r"^Error: StepDecay\.drop must be a finite number > 0 \(0\.5 halves\); got -1\.$"),
        (["schedule=plateau"], 1, r"^Error: the course of val_loss must be given, .*--metric val_loss=2\.3:0\.1"),
        (["schedule=plateau", "--metric", "loss=1"], 1, r"^Error: the course of val_loss must be given"),
        (["schedule=cosine,linear"], 1, r"add --multirun to your command line"),
        (["seed"], 1, r"^Error: seed: Hydra cannot read this override"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_misuse_is_one_clear_message(arguments, status, message):
    process = run(*arguments)
    assert process.returncode == status
    assert re.search(message, process.stderr, re.MULTILINE | re.DOTALL), process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def test_a_reader_that_leaves_is_no_error():
    words = f"{sys.executable} -m lr_plugins preview schedule=cosine | true"
    process = subprocess.run(words, cwd=ROOT, shell=True, capture_output=True, text=True)
    assert (process.stdout, process.stderr) == ("", "")


def test_the_page_in_the_documentation_is_what_the_command_says():
    text = (ROOT / "docs" / "preview.md").read_text(encoding="utf-8")
    [(words, page)] = re.findall(r"```bash\nlr-plugins preview (.*)\n```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert run(*words.split()).stdout == page
