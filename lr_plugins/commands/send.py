"""Send logged data that MLflow does not have yet: `lr-plugins send [FOLDER] [--to URI]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import Timeout

from lr_plugins.tracking.destination import absolute, address_problem
from lr_plugins.tracking.private_files import ForeignFileError
from lr_plugins.tracking.secrets import MaskedStream, masked
from lr_plugins.tracking.sender import Sender, send
from lr_plugins.tracking.sender_program import ask_once
from lr_plugins.tracking.spool import (
    DEFAULT,
    REFUSED,
    SENDING,
    clean_up,
    default_folder,
    own_lock,
    redirect,
    remove,
    spools,
    strange_spools,
)
from lr_plugins.tracking.state import State


def main(arguments: Sequence[str]) -> int:
    """Send each spool; 1 if something was not sent, or is lost.

    Args:
        arguments: the words after `lr-plugins send`.
    """
    parser = argparse.ArgumentParser(prog="lr-plugins send", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=DEFAULT, help=f"the folder of the spools; default {DEFAULT}"
    )
    parser.add_argument("--to", metavar="URI", help="send everything to this server or database, as new runs")
    parser.epilog = "Without --to each run is sent to its original destination, regardless of MLFLOW_TRACKING_URI."
    options = parser.parse_args(list(arguments))
    to = absolute(options.to, Path.cwd())
    if to is not None and (not to.strip() or address_problem(to)):
        parser.error(f"--to: {masked(to)!r}: {address_problem(to) or 'it is empty'}")
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    ask_once()
    if not options.folder.is_dir() and options.folder != DEFAULT:
        sys.exit(f"Error: there is no folder {options.folder}")
    parent = default_folder(Path.cwd()) if options.folder == DEFAULT else options.folder.absolute()
    folders, strange = spools(parent), strange_spools(parent)
    for reason in strange:
        print(f"Error: {reason}. It is not sent.", file=sys.stderr)
    if not folders and not strange:
        print(f"Nothing waits in {options.folder}.")
    return max([_send(folder, to) for folder in folders] + [1] * bool(strange), default=0)


def _send(folder: Path, to: str | None) -> int:
    try:
        with own_lock(folder.with_suffix(SENDING)).acquire(timeout=0):
            if to is not None:
                redirect(folder, to)
            state = State.read(folder)
            state.error = ""  # it may have been fixed
            state.write(folder)
            sender = send(folder, "", time.sleep, lambda: True)
            status = _report(folder, sender)
            clean_up(folder)
    except Timeout:
        print(f"{folder}: its training is sending it.")
        return 0
    except (OSError, ForeignFileError) as error:
        print(f"{folder}: not sent: {error}", file=sys.stderr)
        return 1
    return status


def _report(folder: Path, sender: Sender) -> int:
    """Report whether a spool was sent; 1 if MLflow does not have all of it."""
    state, lost = sender.state, sender.lost
    where = f"run {state.run_id}" if state.run_id is not None else "a new run"
    where += f" at {masked(state.tracking_uri)}" if state.tracking_uri is not None else ""
    if state.before:
        files = f"; {state.left_files} files are only there" if state.left_files else ""
        print(f"{folder}: {state.before} has what was sent there before{files}.")
    if sender.was_shortened:
        print(
            f"{folder}: the log was truncated after part of it had been sent. What is left was sent again from the "
            "start.",
            file=sys.stderr,
        )
    why = state.error or state.trouble
    if not folder.is_dir():
        print(f"{folder}: sent to {where}.")
        return 0
    if why:
        elsewhere = "" if state.run_id is not None else ". To send it elsewhere: --to URI"
        print(f"{folder}: not sent to {where}: {why}{elsewhere}", file=sys.stderr)
        return 1
    if state.refused:
        print(
            f"{folder}: {where} has everything except {state.refused} entries that MLflow does not accept; the last "
            f"one: {state.refusal}. They are kept in {folder / REFUSED}; delete the folder if they are not needed.",
            file=sys.stderr,
        )
        return 1
    if lost:
        print(
            f"{folder}: {where} has everything that reached the disk. At least {lost} points are lost: the disk was "
            "full, and the training was killed.",
            file=sys.stderr,
        )
        remove(folder)
        return 1
    print(f"{folder}: not sent to {where}: another process is still writing to it.", file=sys.stderr)
    return 1
