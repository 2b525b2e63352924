"""The pages of the documentation and their code blocks, as a Markdown parser sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
ROOT_PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")]
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").rglob("*.md"))]
_NAME = re.compile(r"`([\w./]+)`:")


@dataclass(frozen=True)
class Block:
    """A code block: its place, language and text, and the file name if it is a file."""

    page: str
    number: int  # within the page, from 0
    language: str
    text: str
    file: str | None

    @property
    def id(self) -> str:
        return f"{self.page}-{self.number}-{self.language}"

    @property
    def first(self) -> str:
        return self.text.partition("\n")[0]


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page. A line with a name in backquotes and a colon names the next block's file."""
    found: list[Block] = []
    said = ""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type == "inline":
            said = token.content.rpartition("\n")[2]
        elif token.type in ("fence", "code_block"):
            name = _NAME.fullmatch(said)
            language = token.info.strip() if token.type == "fence" else "indented"
            found.append(Block(page.name, len(found), language, token.content, name and name[1]))
            said = ""
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of_language(language: str) -> list[Block]:
    """All blocks of a language that are not files."""
    return [block for block in BLOCKS if block.language == language and block.file is None]
