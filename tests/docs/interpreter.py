"""Runs Python commands in one interpreter, each as if in its own process.

`python -m tests.docs.interpreter` reads commands from standard input and writes their results to standard output, a
line of JSON each. A command is `{"words": [...], "folder": ...}`: what stands behind `python`, and where it runs.
Importing torch, Lightning and Hydra takes longer than the short trainings of the pages; this way it happens once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any

from tests.preloaded import start


class _Console(io.TextIOWrapper):
    """Captures the output and claims to support any character, like a terminal."""

    def __init__(self) -> None:
        self.kept = io.BytesIO()
        super().__init__(self.kept, encoding="utf-8", write_through=True)

    @property
    def text(self) -> str:
        return self.kept.getvalue().decode()


def run(words: list[str], folder: str) -> dict[str, Any]:
    """Run `python WORDS` in a folder; return its status and output."""
    os.chdir(folder)
    out, err, status = _Console(), _Console(), 0
    path = list(sys.path)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            start(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=err)
        except BaseException:
            traceback.print_exc()
            status = 1
    sys.path[:] = path
    return {"status": status, "out": out.text, "err": err.text}


if __name__ == "__main__":
    console = sys.stdout
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=console, flush=True)
