"""The command `lr-plugins`, with a module for each of its subcommands.

A module is imported when its subcommand is used, so that `preview` answers without torch and `send` without Lightning.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lr_plugins import __version__

COMMANDS = {
    "train": "train a model, configured by Hydra: schedule=step_decay trainer.max_epochs=20",
    "preview": "show what a schedule will do, without training anything",
    "compare": "compare runs, in MLflow or in a folder",
    "send": "send logged data that MLflow does not have yet",
}
"""The subcommands, each in a module of its name, and what they do."""

_OWN = "-h", "--help", "--version"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lr-plugins COMMAND ...` and return its exit status.

    Args:
        arguments: the words after `lr-plugins`. Default: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command not in (*COMMANDS, *_OWN) and "LOCAL_RANK" in os.environ:
        # Lightning starts the processes of the other devices, and repeats only the words that Hydra was given.
        command, rest = "train", words
    if command in COMMANDS:
        status = import_module(f"lr_plugins.commands.{command}").main(rest)
        return 0 if status is None else int(status)
    if command == "--version":
        print(__version__)
        return 0
    if command in ("", "-h", "--help"):
        print(usage())
        return 0
    print(f"lr-plugins has no command {command!r}.\n\n{usage()}", file=sys.stderr)
    return 2


def usage() -> str:
    """The text of `lr-plugins --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lr-plugins COMMAND ...",
            "",
            "Learning-rate schedules as plugins for the PyTorch Lightning training lifecycle.",
            "",
            *lines,
            "",
            "lr-plugins COMMAND --help describes each of them.",
        ]
    )
