"""The benchmarks named on the page about the articles, with one seed of every recipe and script."""

import re
import runpy
import subprocess
import sys

from tests.docs.pages import ROOT

SCRIPT = ROOT / "benchmarks/recipes.py"
RECIPES = list(runpy.run_path(str(SCRIPT))["RECIPES"])


def test_every_recipe_is_bit_identical_in_both_engines(tmp_path):
    """The documented command as it is for many seeds: both engines compared, then the loop; of fewer epochs."""
    options = ["--seeds", "1", "--engine", "loop", "--epochs", "2", "--processes", "1", "--experiment", *RECIPES]
    command = [sys.executable, str(SCRIPT), *options]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    agreed = r"loop = lightning\? (\S+): .* bit for bit in 1 of 1 seeds, loss and accuracy of the last epoch equal\n"
    assert re.findall(agreed, process.stdout) == RECIPES
    rows = re.findall(r"^\| (\S+) \| (\S+) / \S+ / \S+ \|.*\| no bands \|$", process.stdout, re.MULTILINE)
    assert [recipe for recipe, _ in rows] == RECIPES
    assert all(0 < float(loss) < 10 for _, loss in rows)
    assert {"iris_exponential", "iris_loss_driven"} < {*RECIPES}


def test_the_scripts_of_the_article_are_run(tmp_path):
    """The documented command for another seed, with fewer epochs."""
    command = [sys.executable, str(ROOT / "benchmarks/article_scripts.py"), "--seeds", "1", "--epochs", "2"]
    process = subprocess.run([*command, "--processes", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    rows = re.findall(r"^\| (\S+) \| (\S+) / \S+ / \S+ \|.*\| no bands \|$", process.stdout, re.MULTILINE)
    assert [recipe for recipe, _ in rows] == ["iris_inverse_time", "iris_exponential"]
    assert all(0 < float(loss) < 10 for _, loss in rows)
