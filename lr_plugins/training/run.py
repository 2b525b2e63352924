"""One run: assemble what the configuration names, fit, and sum up."""

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
from typing import Any

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
from lr_plugins.errors import InvalidArgument, LearningRateError, TrackingError
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
from lr_plugins.training.objective import objective
from lr_plugins.training.record import RecordConfig
from lr_plugins.training.resume import newest_checkpoint
from lr_plugins.training.run_file import RunFile
from lr_plugins.training.settings import SETTINGS, masked_overrides
from lr_plugins.training.summary import summary
from lr_plugins.training.sweep import PARENT_RUN, SWEEP
from lr_plugins.validation import number

_LIGHTNINGS = ("pytorch_lightning.", "lightning.")


@dataclass
class Run:
    """What a run leaves behind, for callers and tests to look at."""

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
        keepers = (LearningRateScheduler, LearningRateTrace)
        found = (one.trace for one in self.trainer.callbacks if isinstance(one, keepers))  # type: ignore[attr-defined]
        return next((trace for trace in found if trace), Trace())

    @property
    def best(self) -> ModelCheckpoint | None:
        """The callback that keeps the best checkpoint."""
        found = (one for one in self.trainer.callbacks if isinstance(one, ModelCheckpoint))  # type: ignore[attr-defined]
        return next(found, None)

    @property
    def last(self) -> LastCheckpoint | None:
        """The callback that keeps the last checkpoint."""
        found = (one for one in self.trainer.callbacks if isinstance(one, LastCheckpoint))  # type: ignore[attr-defined]
        return next(found, None)


def train(config: DictConfig) -> Run:
    """Train as the configuration says and print the summary.

    Raises:
        LearningRateError: a setting that cannot work, or a learning rate that became unknowable.
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
    _say(summary(run.history.values, run.trace, _places(run)))
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
    """End with an error where MLflow will never have what was logged."""
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
    """Find the checkpoint, let the logger go on with its run, and say what goes on; the checkpoint's file."""
    path, checkpoint = read_checkpoint(str(config.ckpt_path))
    check_checkpoint(path, checkpoint, run.module, config.trainer.max_epochs, goes_on=not config.new_run)
    check_states(path, checkpoint, run.trainer, run.module)
    if not config.new_run:
        run.file.resume()
    recorded = checkpoint.get("callbacks", {}).get(RecordConfig.__qualname__, {})
    where, recorder = "", run.recorder
    if isinstance(run.logger, MLflowLogger) and not config.new_run and recorded.get("run_id"):
        if run.logger.continue_run(recorded["run_id"]):
            recorder.goes_on_at, recorder.before = checkpoint["global_step"], recorded["config"]
            where = f", MLflow run {run.logger.run_name}"
        else:
            _say("The MLflow run of this checkpoint is not where this run logs: a new one begins.")
    done, steps = epochs_done(checkpoint), checkpoint["global_step"]
    _say(f"Resuming {_relative(str(from_start(path)))}: {done} epochs and {steps} optimizer steps are done{where}")
    if not config.new_run and HydraConfig.initialized() and not (Path(path).parent / SETTINGS).is_file():
        _say(f"There is no {SETTINGS} beside it: the settings are those of this command line alone.")
    if done == config.trainer.max_epochs:
        _say(f"Nothing is left to train. More: trainer.max_epochs={2 * done}")
    return path


def _fit(run: Run, data: Any, ckpt_path: str | None) -> None:
    try:
        run.trainer.fit(run.module, datamodule=data, ckpt_path=ckpt_path)
    except SystemExit as end:  # so Lightning leaves after Ctrl-C and SIGTERM, its callbacks and loggers done
        _say("\nInterrupted. What was recorded is kept.")
        places = _places(run)
        if run.last is not None and run.last.path.is_file():
            places["to go on"] = f"python train.py ckpt_path={_found_by(run.last.path)}"
        _say(summary(run.history.values, run.trace, places))
        if not run.trainer.is_global_zero:  # Lightning would kill the first process if another ended with a status
            raise SystemExit(0) from None
        if isinstance(end.__context__, KeyboardInterrupt) or (run.last is not None and run.last.interrupted):
            raise KeyboardInterrupt from None
        if isinstance(end, SIGTERMException):
            raise SystemExit(128 + signal.SIGTERM) from None
        raise


@rank_zero_only
def _say(line: str) -> None:
    """Tell the console, of several processes once."""
    print(line, flush=True)


def _advise(line: str) -> None:
    """Tell it beside what the run prints."""
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
    module.example_input_array = torch.zeros(1, *data.input_shape)  # of which a logged model's signature tells
    _try_optimizer(module)
    history = History()
    recorder = RecordConfig(shown, data)
    others = list(_callbacks(config, data))
    last = [one for one in others if isinstance(one, LastCheckpoint)]
    others = [one for one in others if one not in last]
    # The history first: what the scheduler measures at an epoch's begin is that epoch's. Then the checkpoint, before
    # the others act on the epoch's begin: they do it again when the run goes on from there.
    callbacks = [history, *_constraints(config, module), *last, *others, recorder, RandomStates()]
    logger = _logger(config)
    run_file = RunFile(_job_folder(config), _about(config), logger)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    options = {} if "plugins" in config.trainer else {"plugins": [AtomicFiles()]}
    trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        logger=[logger, run_file] if logger is not None else run_file,
        enable_checkpointing=saves,
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
    return (
        f"{what} seed {about['seed']}\n\n    {' '.join(['python train.py', *words])}\n\nFolder: `{config.output_dir}`"
    )


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
        # It would delete what the run has logged before.
        versions = (f"{config.logger.version}-resumed-{count}" for count in itertools.count(1))
        free = (version for version in versions if not (Path(logger.root_dir) / version).exists())
        if Path(logger.log_dir).exists():
            logger = instantiate(config.logger, version=next(free))
    return logger


def _check(config: DictConfig) -> None:
    """Settings that Lightning or torch would only trip over later."""
    make_folder("output_dir", Path(config.output_dir))
    if not os.access(config.output_dir, os.W_OK):
        raise InvalidArgument("output_dir", str(config.output_dir), "a folder that can be written to")
    validation.seed("seed", config.seed)
    if config.num_threads is not None:
        validation.integer("num_threads", config.num_threads, 1)
    if "lr" in config.optimizer:
        number("optimizer.lr", config.optimizer.lr, "a finite number >= 0", at_least=0.0)
    for name in ("max_epochs", "max_steps"):
        if config.trainer.get(name) is not None:
            validation.integer(f"trainer.{name}", config.trainer[name], -1)  # -1 means no limit


def _check_end(run: Run, config: DictConfig) -> None:
    """Refuse percent of a run without an end before anything is recorded."""
    scheduler = next((one for one in run.trainer.callbacks if isinstance(one, LearningRateScheduler)), None)  # type: ignore[attr-defined]
    resumes = config.ckpt_path is not None and scheduler is not None and scheduler.on_resume == "checkpoint"
    if scheduler is not None and not resumes:  # the plan of a checkpoint knows the length of its own run
        check_end(run.trainer, [one.schedule for one in scheduler.assignments])


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
        callback = instantiate(_judged(str(name), node, data)) if isinstance(node, DictConfig) else node
        if isinstance(callback, LearningRateScheduler) and callback.advice is True:
            callback.advice = _advise  # Lightning's log is silenced here
        if not isinstance(callback, Callback):
            raise InvalidArgument(f"callbacks.{name}", node, "null, or a callback with a _target_")
        yield callback


def _constraints(config: DictConfig, module: Classifier) -> Iterator[Constraints]:
    """The callback for the option of the group `constraint`, if one is chosen; it fits the module."""
    node = config.get("constraint")
    if node is None:
        return
    if not isinstance(node, DictConfig) or not node.get("_target_"):
        raise InvalidArgument("constraint", node, "null, or an option of the group, e.g. max_norm")
    arguments = {name: value for name, value in node.items() if name not in ("params", "layout")}
    params = node.get("params")
    if params is None:
        kernels = [name for name, one in module.named_parameters() if name.endswith("weight") and one.dim() > 1]
        params = "|".join(rf"^{re.escape(name)}$" for name in kernels)
    constraints = Constraints({params: instantiate(arguments)}, node.get("layout"))
    constraints.check(module)
    yield constraints


def _judged(name: str, node: DictConfig, data: Any) -> DictConfig:
    """A callback's configuration with its `monitor` and `mode` filled in."""
    if "monitor" not in node or "mode" not in node or not str(node.get("_target_")).startswith(_LIGHTNINGS):
        return node
    monitor = node.monitor or ("val_loss" if data.num_val else "loss")
    mode = node.mode or better(str(monitor))
    if mode is None:
        hint = "The metric's name does not tell which."
        raise InvalidArgument(f"callbacks.{name}.mode", None, f"min or max for {str(monitor)!r}", hint)
    return OmegaConf.merge(node, {"monitor": monitor, "mode": mode})  # type: ignore[return-value]


def _places(run: Run) -> dict[str, str]:
    """Where the run and its checkpoints are, by what they are."""
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
    scheduler = next((one for one in run.trainer.callbacks if isinstance(one, LearningRateScheduler)), None)  # type: ignore[attr-defined]
    if scheduler is not None and scheduler.audit.steps:
        since = " since it was resumed" if run.trainer.global_step > scheduler.audit.steps else ""
        places = {"plan": f"followed {scheduler.audit.summary}{since}", **places}
    finder = next((one for one in run.trainer.callbacks if isinstance(one, LearningRateRangeTest)), None)  # type: ignore[attr-defined]
    if finder is not None and finder.outcome:
        places = {"range test": finder.outcome, **places}
    if run.best is not None:
        places["best checkpoint"] = _relative(run.best.best_model_path)
    if run.last is not None and run.last.path.is_file():
        places["last checkpoint"] = _relative(str(run.last.path))
    return {name: place for name, place in places.items() if place}


def _found_by(last: Path) -> str:
    """What `ckpt_path` finds a checkpoint by: `last`, unless that means another one."""
    try:
        found = newest_checkpoint({}, start_folder()).resolve() == last.resolve()
    except InvalidArgument:
        found = False
    return "last" if found else _relative(str(last))


def _relative(path: str) -> str:
    try:
        return str(Path(path).relative_to(start_folder())) if path else ""
    except ValueError:
        return path
