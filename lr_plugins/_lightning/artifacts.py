"""Files that a callback writes: where they go, and to whom they are handed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from lr_plugins._lightning.compat import Trainer
from lr_plugins.errors import InvalidArgumentError, install
from lr_plugins.rank_zero import rank_zero_warn


def check_folder(field: str, folder: Path) -> None:
    """Make sure that files can be written, before anything is trained.

    Args:
        field: the name of the folder's setting.
        folder: the folder.

    Raises:
        InvalidArgumentError: there can be no such folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(field, str(folder), f"a folder ({error})") from error


def has_matplotlib() -> bool:
    """Whether there is what pictures are drawn with."""
    return find_spec("matplotlib") is not None


def warn_without_matplotlib(who: str) -> None:
    """Tell that there will be a table only, if that is so."""
    if not has_matplotlib():
        rank_zero_warn(
            f"{who} writes only the table, because matplotlib is not installed. For the plot: {install('plot')}"
        )


def log_artifacts(trainer: Trainer, files: Iterable[Path]) -> None:
    """Give files to each logger that takes artifacts."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_artifact"):
            for file in files:
                logger.log_artifact(file)
