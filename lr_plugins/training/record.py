"""A run's configuration, handed to the loggers and the checkpoints."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.checkpoint_state import ChecksState, StateFormat, WrongStateError, text
from lr_plugins.rank_zero import rank_zero_only
from lr_plugins.tracking import MLflowLogger
from lr_plugins.training.credentials import without_passwords
from lr_plugins.training.data import InMemoryData
from lr_plugins.training.settings import OF_A_START, write_settings

_BESIDE_TRAINING = (*OF_A_START, "output_dir", "logger", "objective")
_NAME_OF_A_PLACE = re.compile(r"(?:.*_)?(?:dir|dirs|dirpath|folder|folders|root|file|files|filename|uri|url)")
_PLACE = re.compile(r"[A-Za-z][\w+.-]*:/.*|~.*|\.{0,2}[/\\].*|[A-Za-z]:\\.*", re.DOTALL)


def _without_places(value: Any) -> Any:
    """Plain values without paths: strings that look like a path, or whose names say that they are one."""
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items() if not _is_place(str(key), item)}
    return [_without_places(item) for item in value if not _is_place("", item)] if isinstance(value, list) else value


def _is_place(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_place(name, item) for item in value)
    return isinstance(value, str) and bool(_PLACE.fullmatch(value) or _NAME_OF_A_PLACE.fullmatch(name))


def _reference(value: Any, where: str) -> None:
    """A reference that `MLflowLogger.continue_run` accepts; empty if there is no run."""
    if not (isinstance(value, str) and re.fullmatch(r"[\w:-][\w:.-]{0,99}|", value)):
        raise WrongStateError(where, value, "the id of a run")


class RecordConfig(ChecksState, Callback):
    """Log the configuration when the fit starts, and keep the MLflow run's ID in the checkpoints.

    Passwords in addresses (`scheme://user:password@host`) are written as `***`.

    A resumed run keeps its params and `config.yaml`. A configuration that has changed is stored as
    `config-resumed-1.yaml`; the tag `resumed_from_step` has the optimizer step.

    Args:
        config: the run's configuration.
        data: the data module it trains on.
    """

    state_format = StateFormat("RecordConfig", {"run_id": _reference, "config": text})

    def __init__(self, config: DictConfig, data: InMemoryData) -> None:
        self.config, self.data = config, data
        self.resumed_at: int | None = None  # the optimizer step at which an MLflow run is resumed
        self.before: str | None = None  # the configuration it had
        self._logger: MLflowLogger | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log params by dotted name, without paths, and the whole configuration as `config.yaml`."""
        for logger in trainer.loggers:
            logger.log_hyperparams(self._params)
            if isinstance(logger, MLflowLogger):
                self._logger = logger
                if self.resumed_at is None:
                    logger.log_text(self._text, "config.yaml")
                    data = self.data
                    profile = {"num_train": data.num_train, "num_val": data.num_val, "num_classes": data.num_classes}
                    name = type(data).__name__
                    logger.log_dataset(name, data.digest, f"{type(data).__module__}.{name}", profile=profile)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the resume and the settings, now that they have proved usable."""
        for logger in trainer.loggers:
            if isinstance(logger, MLflowLogger) and self.resumed_at is not None:
                self._record_resume(logger)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint) and HydraConfig.initialized():
                self._record_settings(callback)

    @rank_zero_only
    def _record_resume(self, logger: MLflowLogger) -> None:
        logger.set_tag("resumed_from_step", self.resumed_at)
        if self._text != self.before:
            logger.log_text(self._text, f"config-resumed-{logger.times_continued}.yaml")

    # Each checkpoint holds the configuration; it takes milliseconds to resolve, and does not change during a run.
    @cached_property
    def _plain(self) -> dict[str, Any]:
        whole: dict[str, Any] = without_passwords(OmegaConf.to_container(self.config, resolve=True))
        return whole

    @property
    def _params(self) -> dict[str, Any]:
        """The configuration without paths and without the logger's settings, which do not affect training."""
        whole = {name: value for name, value in self._plain.items() if name not in _BESIDE_TRAINING}
        params: dict[str, Any] = _without_places(whole)
        return params

    @cached_property
    def _text(self) -> str:
        """The configuration as YAML, without what belongs to a single start."""
        whole = self._plain
        return OmegaConf.to_yaml(OmegaConf.create({name: whole[name] for name in whole if name not in OF_A_START}))

    @rank_zero_only
    def _record_settings(self, callback: LastCheckpoint) -> None:
        hydra = HydraConfig.get()
        write_settings(callback.path.parent, hydra.overrides.task, hydra.runtime.output_dir)

    def state_dict(self) -> dict[str, Any]:
        """The run's reference and its configuration, as plain strings."""
        reference = self._logger.reference if self._logger is not None else None
        return self.state_format.stamped({"run_id": reference or "", "config": self._text})
