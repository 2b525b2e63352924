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
import runpy
import sys
import traceback
from typing import Any


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
            _start(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=err)
        except BaseException:
            traceback.print_exc()
            status = 1
    sys.path[:] = path
    return {"status": status, "out": out.text, "err": err.text}


def _start(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "-c", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    console = sys.stdout
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=console, flush=True)
