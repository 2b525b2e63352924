"""The command `lr-plugins`, with a file for each of its subcommands.

Each is imported when it is asked for, so that `preview` answers without torch and `send` without Lightning.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from lr_plugins import __version__

COMMANDS = {
    "train": "train a model: Hydra's command line, e.g. schedule=step_decay trainer.max_epochs=20",
    "preview": "show what a schedule will do, before anything is trained",
    "compare": "compare runs, in MLflow or in a folder",
    "send": "send to MLflow what trainings have logged and it does not have yet",
}
"""The subcommands, each in the module of its name, and what they do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lr-plugins COMMAND ...`; its exit status.

    Args:
        arguments: the words after `lr-plugins`. Default: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (words[0], words[1:]) if words else ("", [])
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
    """What `lr-plugins --help` prints."""
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
            "lr-plugins COMMAND --help says more about each.",
        ]
    )
