"""Send what trainings have logged and MLflow does not have yet: `python -m lr_plugins.tracking [FOLDER]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from lr_plugins.tracking.sender import ask_once, send
from lr_plugins.tracking.spool import DEFAULT, SENDING, State, spools


def main() -> int:
    """Send each spool; 1 if something still waits."""
    parser = argparse.ArgumentParser(prog="python -m lr_plugins.tracking", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT, help=f"where they wait; default {DEFAULT}")
    parser.epilog = "Each run goes to the place it was meant for, whatever MLFLOW_TRACKING_URI says now."
    options = parser.parse_args()
    ask_once()
    if not options.folder.is_dir() and options.folder != DEFAULT:
        sys.exit(f"Error: there is no folder {options.folder}")
    found = spools(options.folder.absolute())
    if not found:
        print(f"Nothing waits in {options.folder}.")
    return max([_send(folder) for folder in found], default=0)


def _send(folder: Path) -> int:
    try:
        with FileLock(folder.with_suffix(SENDING), timeout=0):
            state = State.read(folder)
            state.error = ""  # it may have been mended
            state.write(folder)
            state = send(folder, "", time.sleep, lambda: True)
            if not folder.is_dir():
                folder.with_suffix(SENDING).unlink(missing_ok=True)
    except Timeout:
        print(f"{folder}: its training sends it.")
        return 0
    where = f"run {state.run_id}" if state.run_id is not None else "a new run"
    where += f" at {state.tracking_uri}" if state.tracking_uri is not None else ""
    if folder.is_dir():
        print(f"{folder}: not sent to {where}: {state.error or state.trouble or state.refusal}", file=sys.stderr)
        return 1
    print(f"{folder}: sent to {where}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
