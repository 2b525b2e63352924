"""What a configuration names, put together for one run."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger

from lr_plugins._lightning.atomic_checkpoints import AtomicFiles
from lr_plugins._lightning.unused_hooks import skip_unused_hooks
from lr_plugins.callbacks import History, LearningRateScheduler, LearningRateTrace, Trace
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.comparison.runs import OVERRIDES
from lr_plugins.constraints import Constraints
from lr_plugins.errors import InvalidArgumentError, LearningRateError
from lr_plugins.metric_direction import better
from lr_plugins.rank_zero import rank_zero_only
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.destination import NOTE, PARENT
from lr_plugins.tracking.secrets import masked
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.credentials import check_tracking_uri
from lr_plugins.training.entry_point import command
from lr_plugins.training.record import RecordConfig
from lr_plugins.training.run_file import RunFile
from lr_plugins.training.settings import masked_overrides
from lr_plugins.training.sweep import PARENT_RUN, SWEEP

_OF_LIGHTNING = ("pytorch_lightning.", "lightning.")


AnyCallback = TypeVar("AnyCallback", bound=Callback)


@dataclass
class Run:
    """A finished run, for callers and tests to inspect."""

    trainer: pl.Trainer
    module: Classifier
    history: History
    logger: Logger | None
    recorder: RecordConfig
    file: RunFile
    objective: float | None = None

    @property
    def trace(self) -> Trace:
        """The learning rate used at each optimizer step."""
        recorders = (LearningRateScheduler, LearningRateTrace)
        traces = (callback.trace for callback in _callbacks_of(self.trainer) if isinstance(callback, recorders))
        return next((trace for trace in traces if trace), Trace())

    @property
    def best(self) -> ModelCheckpoint | None:
        """The callback that keeps the best checkpoint."""
        return first_callback(self.trainer, ModelCheckpoint)

    @property
    def last(self) -> LastCheckpoint | None:
        """The callback that keeps the last checkpoint."""
        return first_callback(self.trainer, LastCheckpoint)


def _callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def first_callback(trainer: pl.Trainer, kind: type[AnyCallback]) -> AnyCallback | None:
    """The Trainer's first callback of a class; None without one."""
    return next((callback for callback in _callbacks_of(trainer) if isinstance(callback, kind)), None)


def _advise(line: str) -> None:
    """Print advice on stderr, because Lightning's log is silenced here."""
    print(f"{line} (set callbacks.scheduler.advice=false to silence this)", file=sys.stderr, flush=True)


def assemble(config: DictConfig, shown: DictConfig, data: Any) -> Run:
    net = instantiate(config.model, input_shape=data.input_shape, num_classes=data.num_classes)
    module = Classifier(net, loss=instantiate(config.loss), optimizer=instantiate(config.optimizer))
    module.example_input_array = torch.zeros(1, *data.input_shape)  # gives a logged model its signature
    _try_optimizer(module)
    history = History()
    recorder = RecordConfig(shown, data)
    configured = list(_callbacks(config, data))
    last = [callback for callback in configured if isinstance(callback, LastCheckpoint)]
    others = [callback for callback in configured if callback not in last]
    # The history first, so that what the scheduler measures at the start of an epoch belongs to that epoch. Then the
    # checkpoint, before the others act on the start of the epoch: they do so again when the run is resumed there.
    callbacks = [history, *weight_constraints(config, module), *last, *others, recorder, RandomStates()]
    logger = _logger(config)
    run_file = RunFile(_job_folder(config), _about(config), logger)
    saves_best = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    options = {} if "plugins" in config.trainer else {"plugins": [AtomicFiles()]}
    trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=[logger, run_file] if logger is not None else run_file,
        enable_checkpointing=saves_best,
        **options,
    )
    for callback in trainer.callbacks:
        skip_unused_hooks(callback, trainer)
    return Run(trainer, module, history, logger, recorder, run_file)


def _job_folder(config: DictConfig) -> Path:
    """The job's output folder, which Hydra creates for each job."""
    return Path(HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else config.output_dir)


def _about(config: DictConfig) -> dict[str, str]:
    """The settings that identify a run in comparisons and in MLflow."""
    about = {"seed": str(config.seed), "schedule": "schedule", "sweep": os.environ.get(SWEEP, "")}
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        about |= {name: str(hydra.runtime.choices.get(name)) for name in ("schedule", "model", "data", "optimizer")}
        about |= {OVERRIDES: masked_overrides("\n".join(hydra.overrides.task))}
    name = config.logger.get("run_name")
    return {**about, "name": str(name)} if name else about


def _description(config: DictConfig) -> str:
    """The run's description in MLflow, as Markdown."""
    about = _about(config)
    words = [shlex.quote(word) for word in about.get(OVERRIDES, "").split("\n") if word]
    what = " ".join(f"{name} `{about[name]}`," for name in ("schedule", "data", "model", "optimizer") if name in about)
    return f"{what} seed {about['seed']}\n\n    {' '.join([command(), *words])}\n\nFolder: `{config.output_dir}`"


def _logger(config: DictConfig) -> Logger | None:
    if not config.logger.get("_target_"):
        return None
    if getattr(rank_zero_only, "rank", 0) == 0:  # the others do not log
        check_tracking_uri(config.logger.get("tracking_uri"))
    logger: Logger = instantiate(config.logger)
    parent = os.environ.get(PARENT_RUN)
    if isinstance(logger, MLflowLogger) and parent:
        logger.tags[PARENT] = parent
    if isinstance(logger, MLflowLogger) and HydraConfig.initialized():
        logger.tags[OVERRIDES] = _about(config)[OVERRIDES]
        logger.tags.setdefault(NOTE, masked(_description(config)))
    if isinstance(logger, CSVLogger) and config.ckpt_path is not None:
        # CSVLogger would delete what the run has already logged.
        versions = (f"{config.logger.version}-resumed-{count}" for count in itertools.count(1))
        free = (version for version in versions if not (Path(logger.root_dir) / version).exists())
        if Path(logger.log_dir).exists():
            logger = instantiate(config.logger, version=next(free))
    return logger


def _try_optimizer(module: Classifier) -> None:
    """Build the optimizer once, so that its own checks run before anything is recorded."""
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
        callback = instantiate(_with_direction(str(name), node, data)) if isinstance(node, DictConfig) else node
        if isinstance(callback, LearningRateScheduler) and callback.advice is True:
            callback.advice = _advise
        if not isinstance(callback, Callback):
            raise InvalidArgumentError(f"callbacks.{name}", node, "null, or a callback with a _target_")
        yield callback


_NAMED = 8  # parameters in a message


def weight_constraints(config: DictConfig, module: Classifier) -> Iterator[Constraints]:
    """The callback for the option of the group `constraint`, if one is chosen, checked against the module."""
    node = config.get("constraint")
    if node is None:
        return
    if not isinstance(node, DictConfig) or not node.get("_target_"):
        raise InvalidArgumentError("constraint", node, "null, or an option of the group, e.g. max_norm")
    arguments = {name: value for name, value in node.items() if name not in ("params", "layout")}
    params = node.get("params")
    if params is None:
        names = [name for name, parameter in module.named_parameters() if parameter.dim() > 1]
        if not names:
            raise LearningRateError(
                "constraint: the model has no parameter with 2 or more dimensions. Set constraint.params to a regular "
                f"expression for the names of the parameters to constrain, among {', '.join(_first_names(module))}."
            )
        params = "|".join(rf"^{re.escape(name)}$" for name in names)
    constraints = Constraints({params: instantiate(arguments)}, node.get("layout"))
    constraints.check(module)
    yield constraints


def _first_names(module: Classifier) -> Iterator[str]:
    names = [name for name, _ in module.named_parameters()]
    yield from names[:_NAMED]
    if len(names) > _NAMED:
        yield "..."


def _with_direction(name: str, node: DictConfig, data: Any) -> DictConfig:
    """A callback's configuration with its `monitor` and `mode` filled in."""
    if "monitor" not in node or "mode" not in node or not str(node.get("_target_")).startswith(_OF_LIGHTNING):
        return node
    monitor = node.monitor or ("val_loss" if data.num_val else "loss")
    mode = node.mode or better(str(monitor))
    if mode is None:
        unknown = f"it cannot be inferred from the name {str(monitor)!r}"
        raise LearningRateError(f"set callbacks.{name}.mode to min or max: {unknown}.")
    return OmegaConf.merge(node, {"monitor": monitor, "mode": mode})  # type: ignore[return-value]
