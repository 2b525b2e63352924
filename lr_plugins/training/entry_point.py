"""How a training is started: by `python train.py` in a clone, or by `lr-plugins train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lr_plugins.errors import install

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = "LR_PLUGINS_COMMAND"
"""The environment variable with the command that started the training; the processes of launchers inherit it."""

TRAIN_PY, TRAIN = "python train.py", "lr-plugins train"
"""The two commands."""

_MLFLOW_LOGGERS = [f"lr_plugins.{home}MLflowLogger" for home in ("", "tracking.", "tracking.mlflow_logger.")]

_PACKAGED = Path(__file__).with_name("conf")  # only a wheel has it
_OF_A_CLONE = Path(__file__).parents[2] / "conf"


def command() -> str:
    """The command that started the training, for messages that repeat it."""
    return os.environ.get(COMMAND, TRAIN_PY)


def conf_folder() -> Path:
    """The folder with `train.yaml`: the wheel's own, or that of the clone (also of an editable install)."""
    return _PACKAGED if _PACKAGED.is_dir() else _OF_A_CLONE


def records_in_mlflow(config: DictConfig) -> bool:
    """Whether the logger of a configuration is `MLflowLogger`, under any of its names."""
    from omegaconf import OmegaConf

    return OmegaConf.select(config, "logger._target_") in _MLFLOW_LOGGERS


def install_extra(extra: str) -> str:
    """The `pip` command that installs an extra, from the clone if there is one.

    Args:
        extra: its name, or several names separated by commas.
    """
    return install(extra) if _PACKAGED.is_dir() or not _OF_A_CLONE.is_dir() else f'pip install -e ".[{extra}]"'
