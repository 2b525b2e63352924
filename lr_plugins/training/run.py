"""One run: build what the configuration names, fit, and print the summary."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
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
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lr_plugins import validation
from lr_plugins._lightning.artifacts import make_folder
from lr_plugins._lightning.atomic_checkpoints import AtomicFiles
from lr_plugins._lightning.length_check import check_end
from lr_plugins.callbacks import History, LearningRateRangeTest, LearningRateScheduler, LearningRateTrace, Trace
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.comparison.runs import OVERRIDES
from lr_plugins.constraints import Constraints
from lr_plugins.errors import InvalidArgumentError, LearningRateError, TrackingError
from lr_plugins.metric_direction import better
from lr_plugins.paths import from_start, start_folder
from lr_plugins.rank_zero import rank_zero_only
from lr_plugins.tracking import MLflowLogger
from lr_plugins.tracking.destination import NOTE, PARENT
from lr_plugins.tracking.secrets import masked
from lr_plugins.training.checkpoints import check_checkpoint, check_states, epochs_done, read_checkpoint
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.console import quiet
from lr_plugins.training.credentials import check_tracking_uri, mask_files, revealed
from lr_plugins.training.entry_point import command
from lr_plugins.training.objective import objective
from lr_plugins.training.record import RecordConfig
from lr_plugins.training.resume import newest_checkpoint
from lr_plugins.training.run_file import RunFile
from lr_plugins.training.settings import SETTINGS, masked_overrides
from lr_plugins.training.summary import summary
from lr_plugins.training.sweep import PARENT_RUN, SWEEP
from lr_plugins.validation import number

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
        return _first(self.trainer, ModelCheckpoint)

    @property
    def last(self) -> LastCheckpoint | None:
        """The callback that keeps the last checkpoint."""
        return _first(self.trainer, LastCheckpoint)


def _callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _first(trainer: pl.Trainer, kind: type[AnyCallback]) -> AnyCallback | None:
    """The Trainer's first callback of a class; None without one."""
    return next((callback for callback in _callbacks_of(trainer) if isinstance(callback, kind)), None)


def train(config: DictConfig) -> Run:
    """Train as the configuration says and print the summary.

    Raises:
        LearningRateError: a setting cannot work, or the next learning rate cannot be computed.
    """
    quiet()
    _mask_what_hydra_wrote()
    shown, config = config, _from_start(revealed(config))
    _check(config)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    run = _assemble(config, shown, data)
    _check_end(run, config)
    ckpt_path = None if config.ckpt_path is None else _resume(run, config)
    try:
        _fit(run, data, ckpt_path)
    finally:
        if torch.distributed.is_initialized():  # its threads would outlive what they use when the process ends
            torch.distributed.destroy_process_group()
    _print(summary(run.history.values, run.trace, _places(run)))
    _check_recorded(run)
    if run.trainer.is_global_zero:
        run.objective = objective(config.objective, run.history.values)
    return run


def _from_start(config: DictConfig) -> DictConfig:
    """The configuration with absolute paths of the run, if Hydra has changed the working directory."""
    if Path.cwd() == start_folder():
        return config
    config = config.copy()
    for name in ("output_dir", "ckpt_path"):
        if config[name] is not None:
            config[name] = str(from_start(config[name]))
    return config


def _check_recorded(run: Run) -> None:
    """Raise an error if MLflow will never have what was logged."""
    if not isinstance(run.logger, MLflowLogger):
        return
    if run.logger.lost_points:
        raise TrackingError(
            f"The training is complete, but {run.logger.lost_points} points of its MLflow run are lost: no disk had "
            f"room for them."
        )
    if run.logger.error:
        raise TrackingError(f"The training is complete, but it is not recorded: {run.logger.error}.")


def _resume(run: Run, config: DictConfig) -> str:
    """Check the checkpoint, have the logger continue its run, and print what is resumed; the checkpoint's file."""
    path, checkpoint = read_checkpoint(str(config.ckpt_path))
    check_checkpoint(path, checkpoint, run.module, config.trainer.max_epochs, continues=not config.new_run)
    check_states(path, checkpoint, run.trainer, run.module)
    if not config.new_run:
        run.file.resume()
    recorded = checkpoint.get("callbacks", {}).get(RecordConfig.__qualname__, {})
    where, recorder = "", run.recorder
    if isinstance(run.logger, MLflowLogger) and not config.new_run and recorded.get("run_id"):
        if run.logger.continue_run(recorded["run_id"]):
            recorder.resumed_at, recorder.before = checkpoint["global_step"], recorded["config"]
            where = f", MLflow run {run.logger.run_name}"
        else:
            _print("The MLflow run of this checkpoint is not where this run logs: a new one is started.")
    done, steps = epochs_done(checkpoint), checkpoint["global_step"]
    _print(f"Resuming {_relative(str(from_start(path)))}: {done} epochs and {steps} optimizer steps are done{where}")
    if not config.new_run and HydraConfig.initialized() and not (Path(path).parent / SETTINGS).is_file():
        _print(f"There is no {SETTINGS} beside it: only the settings on this command line apply.")
    if done == config.trainer.max_epochs:
        _print(f"Nothing is left to train. To train longer: trainer.max_epochs={2 * done}")
    return path


def _fit(run: Run, data: Any, ckpt_path: str | None) -> None:
    try:
        run.trainer.fit(run.module, datamodule=data, ckpt_path=ckpt_path)
    except SystemExit as end:  # Lightning's exit after Ctrl-C and SIGTERM, once its callbacks and loggers are done
        _print("\nInterrupted. What was recorded is kept.")
        places = _places(run)
        if run.last is not None and run.last.path.is_file():
            places["to resume"] = f"{command()} ckpt_path={_ckpt_path(run.last.path)}"
        _print(summary(run.history.values, run.trace, places))
        if not run.trainer.is_global_zero:  # Lightning would kill the first process if another ended with a status
            raise SystemExit(0) from None
        if isinstance(end.__context__, KeyboardInterrupt) or (run.last is not None and run.last.interrupted):
            raise KeyboardInterrupt from None
        if isinstance(end, SIGTERMException):
            raise SystemExit(128 + signal.SIGTERM) from None
        raise


@rank_zero_only
def _print(line: str) -> None:
    """Print a line, on one process only."""
    print(line, flush=True)


def _advise(line: str) -> None:
    """Print advice on stderr, because Lightning's log is silenced here."""
    print(f"{line} (callbacks.scheduler.advice=false leaves this out)", file=sys.stderr, flush=True)


def _mask_what_hydra_wrote() -> None:
    """Mask the passwords that configuration files had, in the copies that Hydra keeps of them."""
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    files = [*(Path(hydra.runtime.output_dir) / (hydra.output_subdir or "")).glob("*.yaml")]
    mask_files([*files, Path(hydra.runtime.cwd) / hydra.sweep.dir / "multirun.yaml"])


def _assemble(config: DictConfig, shown: DictConfig, data: Any) -> Run:
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
    callbacks = [history, *_constraints(config, module), *last, *others, recorder, RandomStates()]
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


def _check(config: DictConfig) -> None:
    """Check settings that Lightning or torch would only reject later."""
    make_folder("output_dir", Path(config.output_dir))
    if not os.access(config.output_dir, os.W_OK):
        raise InvalidArgumentError("output_dir", str(config.output_dir), "a folder that can be written to")
    validation.seed("seed", config.seed)
    if config.num_threads is not None:
        validation.integer("num_threads", config.num_threads, 1)
    if "lr" in config.optimizer:
        number("optimizer.lr", config.optimizer.lr, "a finite number >= 0", at_least=0.0)
    for name in ("max_epochs", "max_steps"):
        if config.trainer.get(name) is not None:
            validation.integer(f"trainer.{name}", config.trainer[name], -1)  # -1 means no limit


def _check_end(run: Run, config: DictConfig) -> None:
    """Reject a share of a run without an end before anything is recorded."""
    scheduler = _first(run.trainer, LearningRateScheduler)
    resumes = config.ckpt_path is not None and scheduler is not None and scheduler.on_resume == "checkpoint"
    if scheduler is not None and not resumes:  # the plan of a checkpoint knows the length of its own run
        check_end(run.trainer, [assignment.schedule for assignment in scheduler.assignments])


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


def _constraints(config: DictConfig, module: Classifier) -> Iterator[Constraints]:
    """The callback for the option of the group `constraint`, if one is chosen, checked against the module."""
    node = config.get("constraint")
    if node is None:
        return
    if not isinstance(node, DictConfig) or not node.get("_target_"):
        raise InvalidArgumentError("constraint", node, "null, or an option of the group, e.g. max_norm")
    arguments = {name: value for name, value in node.items() if name not in ("params", "layout")}
    params = node.get("params")
    if params is None:
        kernels = [name for name, weight in module.named_parameters() if name.endswith("weight") and weight.dim() > 1]
        params = "|".join(rf"^{re.escape(name)}$" for name in kernels)
    constraints = Constraints({params: instantiate(arguments)}, node.get("layout"))
    constraints.check(module)
    yield constraints


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


def _places(run: Run) -> dict[str, str]:
    """The last lines of the summary: where the run and its checkpoints are, by label."""
    places = {}
    if isinstance(run.logger, MLflowLogger):
        # fast_dev_run replaces the loggers: then there is no run.
        places = {"run": run.logger.run_name or "", "to browse": run.logger.page} if run.logger.page else {}
        if run.logger.differing_params:
            places["other params"] = (
                f"{', '.join(run.logger.differing_params)}: the new values are tags, resumed-N.NAME"
            )
    elif run.logger is not None:
        places = {"run": str(run.logger.log_dir)}
    scheduler = _first(run.trainer, LearningRateScheduler)
    if scheduler is not None and scheduler.audit.steps:
        since = " since it was resumed" if run.trainer.global_step > scheduler.audit.steps else ""
        places = {"plan": f"followed {scheduler.audit.summary}{since}", **places}
    finder = _first(run.trainer, LearningRateRangeTest)
    if finder is not None and finder.outcome:
        places = {"range test": finder.outcome, **places}
    if run.best is not None:
        places["best checkpoint"] = _relative(run.best.best_model_path)
    if run.last is not None and run.last.path.is_file():
        places["last checkpoint"] = _relative(str(run.last.path))
    return {name: place for name, place in places.items() if place}


def _ckpt_path(last: Path) -> str:
    """The `ckpt_path` of a checkpoint: `last`, unless that is another one."""
    try:
        is_newest = newest_checkpoint({}, start_folder()).resolve() == last.resolve()
    except LearningRateError:
        is_newest = False
    return "last" if is_newest else _relative(str(last))


def _relative(path: str) -> str:
    try:
        return str(Path(path).relative_to(start_folder())) if path else ""
    except ValueError:
        return path
