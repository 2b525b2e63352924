"""What `mkdocs build` does beyond its plugins: pages from the repository's root, and the examples of docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
PAGES = {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md", "changelog.md": "CHANGELOG.md"}
"""Pages that GitHub wants in the root of a repository, by their place in the site."""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages of the root."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Make links from and to the pages of the root relative to the site."""
    up = "../" * page.file.src_uri.count("/")
    for name, source in PAGES.items():
        markdown = re.sub(rf"\]\((\.\./)*{re.escape(source)}(?=[)#])", f"]({up}{name}", markdown)
    return markdown.replace("](docs/", "](")


class ExampleSections(griffe.Extension):
    """Takes an `Example:` of a docstring for what griffe knows as `Examples:`, or it would be plain text.

    And `__new__` for the signature of a class that has no `__init__`, where griffe looks for it.
    """

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Show the arguments of `__new__`."""
        new = cls.members.get("__new__")
        if isinstance(new, griffe.Function) and "__init__" not in cls.members:
            cls.members["__init__"] = new

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section, before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
