"""Console output: the run's own lines, and warnings that a user can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Warnings of libraries that are of no use to somebody who runs a training, each with the reason.
_NOT_FOR_USERS = (
    r".*does not have many workers.*",  # the data is in memory: workers would only cost time
    r".*smaller than the logging interval.*",  # epoch metrics are logged whatever the interval
    r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",  # between Lightning and torch
    r".*`?_pytree\..*deprecated.*",  # the same
    r"The dirpath has changed from.*",  # a resumed run has a folder of its own
    r"Total length of `list` across ranks is zero.*",  # a recipe without a validation set means it
    r"Params of MLflow run .* have another value now",  # the summary lists them
    r".*Checkpoint directory .* exists and is not empty.*",  # resuming in the folder of the run
)


_LOGGERS = tuple(
    logging.getLogger(name)
    for name in (
        "pytorch_lightning",
        "lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "lightning_fabric",
        "lightning_utilities",
    )
)


def quiet() -> None:
    """Silence accelerator reports and product tips; leave warnings that a user can do something about."""
    for logger in _LOGGERS:
        logger.setLevel(max(logger.level, logging.WARNING))
    for pattern in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=pattern)


@contextmanager
def quietly() -> Iterator[None]:
    """The same for a part of another program, whose settings are restored afterwards.

    Example:
        >>> with quietly():
        ...     logging.getLogger("pytorch_lightning").isEnabledFor(logging.INFO)
        False
    """
    levels = [logger.level for logger in _LOGGERS]
    try:
        with warnings.catch_warnings():
            quiet()
            yield
    finally:
        for logger, level in zip(_LOGGERS, levels, strict=True):
            logger.setLevel(level)
