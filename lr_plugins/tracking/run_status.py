"""How a run has ended, in MLflow's words."""

from __future__ import annotations

import sys


def run_status(status: str) -> str:
    """FINISHED, FAILED or KILLED.

    Args:
        status: as Lightning gives it to its loggers. It says "failed" whatever happened, from within the handler of the
            exception, which tells an interruption from an error.

    Example:
        >>> run_status("success"), run_status("failed"), run_status("interrupted")
        ('FINISHED', 'FAILED', 'KILLED')
    """
    if status in ("success", "finished"):
        return "FINISHED"
    if status == "interrupted" or isinstance(sys.exc_info()[1], (KeyboardInterrupt, SystemExit)):
        return "KILLED"
    return "FAILED"
