"""The files that a callback writes: their folder, and the loggers that receive them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from lr_plugins._lightning.compat import Trainer
from lr_plugins.errors import InvalidArgumentError, install
from lr_plugins.rank_zero import rank_zero_warn


def check_folder(field: str, folder: Path) -> None:
    """Check, before training starts, that files can be written to a folder; create it if necessary.

    Args:
        field: the name of the argument that gives the folder.
        folder: the folder.

    Raises:
        InvalidArgumentError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(field, str(folder), f"a folder ({error})") from error


def has_matplotlib() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def warn_without_matplotlib(who: str) -> None:
    """Warn that only the table will be written if matplotlib is missing."""
    if not has_matplotlib():
        rank_zero_warn(
            f"{who} writes only the table, because matplotlib is not installed. For the plot: {install('plot')}"
        )


def log_artifacts(trainer: Trainer, files: Iterable[Path]) -> None:
    """Pass files to each logger that accepts artifacts."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_artifact"):
            for file in files:
                logger.log_artifact(file)
