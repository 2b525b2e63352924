"""How a run has ended, as an MLflow status."""

from __future__ import annotations

import sys


def run_status(status: str) -> str:
    """FINISHED, FAILED or KILLED.

    Args:
        status: as Lightning passes it to its loggers. It is "failed" for an interruption as well; the exception that
            is being handled tells the two apart.

    Example:
        >>> run_status("success"), run_status("failed"), run_status("interrupted")
        ('FINISHED', 'FAILED', 'KILLED')
    """
    if status in ("success", "finished"):
        return "FINISHED"
    if status == "interrupted" or isinstance(sys.exc_info()[1], (KeyboardInterrupt, SystemExit)):
        return "KILLED"
    return "FAILED"
