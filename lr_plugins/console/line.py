"""Standard output: whole lines, and a line that is updated in place."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from lr_plugins.console.keras_text import Piece, length
from lr_plugins.rank_zero import rank_zero_only


@rank_zero_only
def write(text: str) -> None:
    """Write and flush, in the first process only. Characters that the encoding lacks are replaced or left out."""
    stream: Any = sys.stdout
    if stream is None:  # a program without a console
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.replace("━", "=").encode(encoding, "ignore").decode(encoding))
    stream.flush()


class ConsoleLine:
    """A line that each update replaces.

    On a terminal and in a notebook the line is overwritten. In a file or a pipe each update is a line of its own,
    without control characters other than line feeds, as in Keras 2.2.4. (Keras 3 writes its control characters to files
    on Linux; on other systems it also starts a new line.)
    """

    def __init__(self) -> None:
        self._width = 0  # of the current text
        self._is_open = False

    def show(self, draw: Callable[[int | None], list[Piece]], final: bool = False) -> None:
        """Write what `draw` returns for the columns of the terminal (None: no limit); `final` ends the line."""
        rewrites = _rewrites(sys.stdout)
        pieces = draw(_columns(sys.stdout) if rewrites else None)
        start = "\b" * self._width + "\r" if rewrites else "\n"
        text = "".join(piece.styled if rewrites else piece.text for piece in pieces)
        rest = " " * (self._width - length(pieces))  # covers a longer text
        write(f"{start}{text}{rest}" + "\n" * final)
        self._width, self._is_open = length(pieces), not final

    def end(self) -> None:
        """End a line that stays unfinished, after an error."""
        if self._is_open:
            write("\n")
        self._is_open = False


def _rewrites(stream: Any) -> bool:
    is_notebook = type(stream).__module__.partition(".")[0] == "ipykernel"
    return is_notebook or (hasattr(stream, "isatty") and stream.isatty())


def _columns(stream: Any) -> int | None:
    """The columns of the terminal, if known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (AttributeError, OSError, ValueError):
        return None
