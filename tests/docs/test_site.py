"""The site builds without warnings, its links resolve, it fetches nothing, and the API reference is complete."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

import lr_plugins
import lr_plugins.callbacks
import lr_plugins.interop
import lr_plugins.keras
import lr_plugins.keras.constraints
import lr_plugins.schedules
import lr_plugins.tracking
from tests.docs.pages import PAGES, ROOT

FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page of the site refers to, what can be referred to in it, and its text outside of code."""

    def __init__(self, text):
        super().__init__()
        self.links, self.fetched, self.anchors, self.text, self._code = [], [], set(), [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self._code += tag in ("code", "pre", "script", "style")
        self.anchors.update(values[name] for name in ("id", "name") if values.get(name))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in FETCHED and values.get(FETCHED[tag]) and values.get("rel") != "canonical":
            self.fetched.append(values[FETCHED[tag]])

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data):
        if not self._code:
            self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, and its pages by name."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    return folder, {path.relative_to(folder).as_posix(): Page(path.read_text()) for path in folder.rglob("*.html")}


def site_name(path):
    """The file of a page in the site; the pages of the repository's root are there in small letters."""
    if path.parent == ROOT:
        return f"{path.stem.lower()}.html"
    return path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()


def test_every_page_of_the_repository_is_on_the_site(site):
    _, pages = site
    names = {site_name(path) for path in PAGES} - {"readme.html"}
    assert names | {"404.html"} == set(pages)
    navigation = [link for link in pages["index.html"].links if link.endswith(".html")]
    assert names - {"index.html"} <= set(navigation)


def test_links_and_anchors_resolve(site):
    folder, pages = site
    inner = 0
    for name, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or name == "404.html":
                continue
            target = (folder / name).parent / unquote(parts.path) if parts.path not in ("", ".") else folder / name
            target = (target / "index.html" if target.is_dir() else target).resolve()
            assert target.is_file(), f"{name}: {link}"
            if parts.fragment and target.suffix == ".html":
                anchors = pages[target.relative_to(folder.resolve()).as_posix()].anchors
                assert unquote(parts.fragment) in anchors | {"__skip"}, f"{name}: {link}"
                inner += 1
    assert inner > 200


def test_site_fetches_nothing_external(site):
    folder, pages = site
    for name, page in pages.items():
        assert not [one for one in page.fetched if urlsplit(one).scheme in ("http", "https")], name
    for style in folder.rglob("*.css"):
        assert not re.findall(r"@import|url\(['\"]?https?:", style.read_text()), style


def test_no_markup_is_left_over(site):
    _, pages = site
    for name, page in pages.items():
        text = "".join(page.text)
        for left in ("```", "](", "[`", ":::", ":class:", ":math:", "``", "Args:", "Example:", ">>>"):
            assert left not in text, f"{name}: {left}"
        assert not re.search(r"\*\*\S", text), name


def test_the_search_knows_the_pages(site):
    folder, _ = site
    index = json.loads((folder / "search/search_index.json").read_text())
    for words in ("KerasSGD", "on_resume", "Add a schedule in ten lines", "WarmupStableDecay"):
        assert any(words in entry["text"] or words in entry["title"] for entry in index["docs"]), words


PUBLIC = {
    "lr_plugins": set(lr_plugins.__all__),
    "lr_plugins.schedules": set(lr_plugins.schedules.__all__) - set(lr_plugins.__all__),
    "lr_plugins.callbacks": set(lr_plugins.callbacks.__all__) - set(lr_plugins.__all__),
    "lr_plugins.keras": {
        name
        for name in lr_plugins.keras.__all__
        if getattr(lr_plugins.keras, name) is not getattr(lr_plugins, name, None)  # else it is there already
    },
    "lr_plugins.keras.constraints": set(lr_plugins.keras.constraints.__all__),
    "lr_plugins.interop": set(lr_plugins.interop.__all__) - set(lr_plugins.__all__),
    "lr_plugins.tracking": set(lr_plugins.tracking.__all__) - set(lr_plugins.__all__),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(site, module):
    _, pages = site
    home = importlib.import_module(module)
    anchors = set().union(*(page.anchors for file, page in pages.items() if file.startswith("reference/")))
    for name in PUBLIC[module]:
        known = getattr(home, name)
        places = {
            f"{module}.{name}",
            f"{module}.{known.__name__}",
            f"{known.__module__}.{known.__qualname__}",
        }  # where it is imported, also under another name, or defined
        assert name.startswith("_") or places & anchors, name


# --- the same pages on GitHub ----------------------------------------------------------------------------------


def prose(page):
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors_on_github(page):
    """Of each title: small letters, without punctuation, spaces as hyphens."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_resolve(page):
    for target in re.findall(r"\]\(\s*(?!http)([^)]+)\)", prose(page)):
        path, _, anchor = "".join(target.split()).partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.parent.name != "reference":  # whose titles are made when the site is built
            assert anchor in anchors_on_github(file), f"{page.name} links to {target}"


def test_hydra_page_names_every_option():
    page = (ROOT / "docs/hydra.md").read_text()
    folders = [*(ROOT / "conf").iterdir(), *(ROOT / "lr_plugins/conf").iterdir()]
    groups = {folder.name for folder in folders if folder.is_dir()} - {"hydra", "__pycache__"}
    assert len(groups) == 11
    for group in groups:
        for option in [*ROOT.glob(f"conf/{group}/*.yaml"), *ROOT.glob(f"lr_plugins/conf/{group}/*.yaml")]:
            if option.stem != "article_exponential":  # a recipe's own
                assert f"`{option.stem}`" in page, f"{group}={option.stem}"
