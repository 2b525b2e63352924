"""The Python code of the README and the pages in docs runs as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{index}")
    for page in PAGES
    for index, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "block", "exec"), names)
    assert len(names) > 1  # it defined or imported something


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!http)([^)#]+)", prose):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_names_every_option_of_the_groups():
    readme = (ROOT / "README.md").read_text()
    for group in ("schedule", "data", "model", "optimizer", "loss", "trainer", "logger", "callbacks"):
        for option in [*ROOT.glob(f"conf/{group}/*.yaml"), *ROOT.glob(f"lr_plugins/conf/{group}/*.yaml")]:
            if option.stem != "article_exponential":  # a recipe's own
                assert f"`{option.stem}`" in readme, f"{group}={option.stem}"
