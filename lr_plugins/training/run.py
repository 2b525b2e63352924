"""One run: assemble what the configuration names, fit, and sum up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lr_plugins.callbacks import EpochMetrics, LearningRateScheduler, LearningRateTrace, Trace
from lr_plugins.errors import InvalidArgument, LearningRateError
from lr_plugins.report.summary import summary
from lr_plugins.schedules.schedule import number
from lr_plugins.tracking import MLflowLogger
from lr_plugins.training import _arguments as arguments
from lr_plugins.training.checkpoints import check_checkpoint
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.console import quiet


@dataclass
class Run:
    """What a run leaves behind, for callers and tests to look at."""

    trainer: pl.Trainer
    module: Classifier
    metrics: EpochMetrics
    logger: Logger | None

    @property
    def trace(self) -> Trace:
        """The learning rate used at each optimizer step."""
        keepers = (LearningRateScheduler, LearningRateTrace)
        found = (one.trace for one in self.trainer.callbacks if isinstance(one, keepers))  # type: ignore[attr-defined]
        return next(found, Trace())

    @property
    def checkpoint(self) -> ModelCheckpoint | None:
        """The callback that wrote the checkpoints."""
        found = (one for one in self.trainer.callbacks if isinstance(one, ModelCheckpoint))  # type: ignore[attr-defined]
        return next(found, None)


class RecordConfig(Callback):
    """Hand the configuration to the loggers as the fit begins.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Params by dotted name, and the whole as `config.yaml`."""
        for logger in trainer.loggers:
            logger.log_hyperparams(OmegaConf.to_container(self.config, resolve=True))  # type: ignore[arg-type]
            if hasattr(logger, "log_text"):
                logger.log_text(OmegaConf.to_yaml(self.config, resolve=True), "config.yaml")


def train(config: DictConfig) -> Run:
    """Train as the configuration says and print the summary.

    Raises:
        LearningRateError: a setting that cannot work, or a learning rate that became unknowable.
    """
    quiet()
    _check(config)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    run = _assemble(config, data)
    if config.ckpt_path is not None:
        check_checkpoint(config.ckpt_path, run.module, config.trainer.max_epochs)
    _fit(run, data, config.ckpt_path)
    print(summary(run.metrics.values, run.trace, _places(run)), flush=True)
    return run


def _fit(run: Run, data: Any, ckpt_path: str | None) -> None:
    try:
        run.trainer.fit(run.module, datamodule=data, ckpt_path=ckpt_path)
    except SystemExit as end:  # so Lightning leaves after Ctrl-C and SIGTERM, its callbacks and loggers done
        print("\nInterrupted. What was recorded is kept.", flush=True)
        print(summary(run.metrics.values, run.trace, _places(run)), flush=True)
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        if isinstance(end, SIGTERMException):
            raise SystemExit(128 + signal.SIGTERM) from None
        raise


def _assemble(config: DictConfig, data: Any) -> Run:
    net = instantiate(config.model, input_shape=data.input_shape, num_classes=data.num_classes)
    module = Classifier(net, loss=instantiate(config.loss), optimizer=instantiate(config.optimizer))
    _try_optimizer(module)
    metrics = EpochMetrics()
    # The metrics first: what the scheduler measures at an epoch's begin is that epoch's.
    callbacks = [metrics, *_callbacks(config, data), RecordConfig(config)]
    logger = instantiate(config.logger) if config.logger.get("_target_") else None
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=logger or False, enable_checkpointing=saves)
    return Run(trainer, module, metrics, logger)


def _check(config: DictConfig) -> None:
    """Settings that Lightning or torch would only trip over later."""
    arguments.seed("seed", config.seed)
    if config.num_threads is not None:
        arguments.integer("num_threads", config.num_threads, 1)
    if "lr" in config.optimizer:
        number("optimizer.lr", config.optimizer.lr, "a finite number >= 0", at_least=0.0)
    for name in ("max_epochs", "max_steps"):
        if config.trainer.get(name) is not None:
            arguments.integer(f"trainer.{name}", config.trainer[name], -1)  # -1 means no limit


def _try_optimizer(module: Classifier) -> None:
    """Build the optimizer once for its own checks, before anything is recorded."""
    try:
        module.configure_optimizers()
    except (TypeError, ValueError) as error:
        if isinstance(error, LearningRateError):
            raise
        raise LearningRateError(f"optimizer: {error}") from error


def _callbacks(config: DictConfig, data: Any) -> Iterator[Callback]:
    for name, node in config.callbacks.items():
        if node is None:
            continue
        callback = instantiate(node) if isinstance(node, DictConfig) else node
        if not isinstance(callback, Callback):
            raise InvalidArgument(f"callbacks.{name}", node, "null, or a callback with a _target_")
        if isinstance(callback, ModelCheckpoint) and callback.monitor is None:
            callback.monitor = "val_loss" if data.num_val else "loss"
        yield callback


def _places(run: Run) -> dict[str, str]:
    """Where the run and its checkpoints are, by what they are."""
    places = {}
    if isinstance(run.logger, MLflowLogger):
        # fast_dev_run replaces the loggers: then there is no run.
        places = {"run": run.logger.run_name or "", "to browse": run.logger.page} if run.logger.page else {}
    elif run.logger is not None:
        places = {"run": str(run.logger.log_dir)}
    if run.checkpoint is not None:
        places["best checkpoint"] = _relative(run.checkpoint.best_model_path)
        places["last checkpoint"] = _relative(run.checkpoint.last_model_path)
    return {name: place for name, place in places.items() if place}


def _relative(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd())) if path else ""
    except ValueError:
        return path
