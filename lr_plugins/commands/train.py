"""Train a model under a learning-rate schedule: `lr-plugins train schedule=step_decay trainer.max_epochs=20`.

The command line is Hydra's. `python train.py` in a clone is the same command.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lr_plugins.commands.imports import without_garbage_collection
from lr_plugins.rank_zero import rank_zero_only
from lr_plugins.tracking.sender_process import stand_by
from lr_plugins.training.entry_point import COMMAND, TRAIN, conf_folder, install_extra, records_in_mlflow

if TYPE_CHECKING:
    from omegaconf import DictConfig

_RUN = "lr_plugins.training.run"
_CONFIG_PATH = "--config-path", "-cp"


def main(arguments: Sequence[str], command: str = TRAIN, conf: Path | None = None) -> None:
    """Run the command; an error of the user's is one message on stderr.

    Args:
        arguments: the words after `lr-plugins train`.
        command: what the user typed before them. Default `lr-plugins train`.
        conf: the folder with `train.yaml`, beside the program. Default: see `conf_folder`.
    """
    try:
        import hydra

        from lr_plugins.training.cli import readable_errors
    except ModuleNotFoundError as error:
        sys.exit(f"{command} needs {error.name}, which is not installed: {install_extra('train')}")
    words = _with_absolute_config_path(arguments, Path.cwd() if conf is None else conf.parent)
    conf = conf_folder() if conf is None else conf
    os.environ[COMMAND] = command
    readable_errors(hydra.main(str(conf), "train", version_base="1.3")(_train), conf, words)


def _with_absolute_config_path(words: Sequence[str], start: Path) -> list[str]:
    """The command line with Hydra's `--config-path` absolute.

    Hydra takes a relative one to start at the file of its task function, which is a module of this package; users
    write it relative to their program, or to the folder they are in.
    """
    completed, is_path = [], False
    for word in words:
        option, equals, path = ("", "", word) if is_path else word.partition("=")
        if is_path or (equals and option in _CONFIG_PATH):
            is_package = path.startswith("pkg:") or not path
            completed.append(f"{option}{equals}{path if is_package else start / path}")
            is_path = False
        else:
            is_path = word in _CONFIG_PATH
            completed.append(word)
    return completed


def _train(config: DictConfig) -> float | None:
    """Hydra's task function, whose result a sweeper optimizes; torch is imported here, so that --help is fast."""
    if records_in_mlflow(config) and getattr(rank_zero_only, "rank", 0) == 0:
        stand_by()
    if _RUN not in sys.modules:
        with without_garbage_collection():
            importlib.import_module(_RUN)
    from lr_plugins.training.run import train

    return train(config).objective
