"""Standard output: whole lines, and one that is written again and again while something is under way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from lr_plugins.console.keras_text import Piece, length
from lr_plugins.rank_zero import rank_zero_only


@rank_zero_only
def write(text: str) -> None:
    """Write at once, of several processes in the first; as well as the encoding of standard output can say it."""
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
    """A line that the next one takes the place of.

    On a terminal, and in a notebook, the line is written over. Anywhere else, in a file or a pipe, each is a line of
    its own and there are no control characters but line feeds: what Keras 2.2.4 does there. (Keras 3 writes its
    control characters into files on Linux; elsewhere it begins a new line, too.)
    """

    def __init__(self) -> None:
        self._width = 0  # of what stands there
        self._is_open = False

    def show(self, draw: Callable[[int | None], list[Piece]], final: bool = False) -> None:
        """Write what is drawn for so many columns (None: any number); `final` ends the line."""
        rewrites = _rewrites(sys.stdout)
        pieces = draw(_columns(sys.stdout) if rewrites else None)
        begin = "\b" * self._width + "\r" if rewrites else "\n"
        text = "".join(piece.styled if rewrites else piece.text for piece in pieces)
        rest = " " * (self._width - length(pieces))  # of a longer line before
        write(f"{begin}{text}{rest}" + "\n" * final)
        self._width, self._is_open = length(pieces), not final

    def end(self) -> None:
        """End a line that stays as it is, because something has gone wrong."""
        if self._is_open:
            write("\n")
        self._is_open = False


def _rewrites(stream: Any) -> bool:
    is_a_notebook = type(stream).__module__.partition(".")[0] == "ipykernel"
    return is_a_notebook or (hasattr(stream, "isatty") and stream.isatty())


def _columns(stream: Any) -> int | None:
    """Of the terminal, if it tells."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (AttributeError, OSError, ValueError):
        return None
