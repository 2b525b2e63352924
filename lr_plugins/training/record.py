"""What a run tells the loggers, and the checkpoints, of itself."""

from __future__ import annotations

import re
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.checkpoint_state import ChecksState, StateFormat, WrongState, text
from lr_plugins.rank_zero import rank_zero_only
from lr_plugins.tracking import MLflowLogger
from lr_plugins.training.credentials import without_passwords
from lr_plugins.training.data import InMemoryData
from lr_plugins.training.settings import OF_A_START, write_settings

_BESIDE_TRAINING = (*OF_A_START, "output_dir", "logger", "objective")
_NAME_OF_A_PLACE = re.compile(r"(?:.*_)?(?:dir|dirs|dirpath|folder|folders|root|file|files|filename|uri|url)")
_PLACE = re.compile(r"[A-Za-z][\w+.-]*:/.*|~.*|\.{0,2}[/\\].*|[A-Za-z]:\\.*", re.DOTALL)


def _without_places(value: Any) -> Any:
    """Plain values without paths: texts that look like a path, or whose names say that they are one."""
    if isinstance(value, dict):
        return {key: _without_places(one) for key, one in value.items() if not _is_place(str(key), one)}
    return [_without_places(one) for one in value if not _is_place("", one)] if isinstance(value, list) else value


def _is_place(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_place(name, one) for one in value)
    return isinstance(value, str) and bool(_PLACE.fullmatch(value) or _NAME_OF_A_PLACE.fullmatch(name))


def _reference(value: Any, where: str) -> None:
    """What `MLflowLogger.continue_run` finds a run by; empty where there is none."""
    if not (isinstance(value, str) and re.fullmatch(r"[\w:-][\w:.-]{0,99}|", value)):
        raise WrongState(where, value, "the id of a run")


class RecordConfig(ChecksState, Callback):
    """Hand the configuration to the loggers as the fit begins, and the MLflow run's id to the checkpoints.

    Passwords in addresses (`scheme://user:password@host`) are written as `***`.

    A run that goes on keeps its params and `config.yaml`. Where the configuration is another one now, it becomes
    `config-resumed-1.yaml`; the tag `resumed_from_step` tells at which optimizer step.

    Args:
        config: the run's configuration.
        data: what it trains on.
    """

    state_format = StateFormat("RecordConfig", {"run_id": _reference, "config": text})

    def __init__(self, config: DictConfig, data: InMemoryData) -> None:
        self.config, self.data = config, data
        self.goes_on_at: int | None = None  # the optimizer step from which an MLflow run goes on
        self.before: str | None = None  # the configuration that it had
        self._logger: MLflowLogger | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Params by dotted name, without places; and the whole as `config.yaml`."""
        for logger in trainer.loggers:
            logger.log_hyperparams(self._params)
            if isinstance(logger, MLflowLogger):
                self._logger = logger
                if self.goes_on_at is None:
                    logger.log_text(self._text, "config.yaml")
                    data = self.data
                    profile = {"num_train": data.num_train, "num_val": data.num_val, "num_classes": data.num_classes}
                    name = type(data).__name__
                    logger.log_dataset(name, data.digest, f"{type(data).__module__}.{name}", profile=profile)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how the run goes on, and its settings: by now nobody has refused them."""
        for logger in trainer.loggers:
            if isinstance(logger, MLflowLogger) and self.goes_on_at is not None:
                self._note_going_on(logger)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint) and HydraConfig.initialized():
                self._note_settings(callback)

    @rank_zero_only
    def _note_going_on(self, logger: MLflowLogger) -> None:
        logger.set_tag("resumed_from_step", self.goes_on_at)
        if self._text != self.before:
            logger.log_text(self._text, f"config-resumed-{logger.times_continued}.yaml")

    @property
    def _plain(self) -> dict[str, Any]:
        whole: dict[str, Any] = without_passwords(OmegaConf.to_container(self.config, resolve=True))
        return whole

    @property
    def _params(self) -> dict[str, Any]:
        """The configuration without paths and without the logger's settings, which do not affect training."""
        whole = {name: value for name, value in self._plain.items() if name not in _BESIDE_TRAINING}
        found: dict[str, Any] = _without_places(whole)
        return found

    @property
    def _text(self) -> str:
        """The configuration as yaml, without what belongs to a single start."""
        whole = self._plain
        return OmegaConf.to_yaml(OmegaConf.create({name: whole[name] for name in whole if name not in OF_A_START}))

    @rank_zero_only
    def _note_settings(self, callback: LastCheckpoint) -> None:
        hydra = HydraConfig.get()
        write_settings(callback.path.parent, hydra.overrides.task, hydra.runtime.output_dir)

    def state_dict(self) -> dict[str, Any]:
        """Where the run is recorded, and its configuration; plain strings."""
        reference = self._logger.reference if self._logger is not None else None
        return self.state_format.stamped({"run_id": reference or "", "config": self._text})
