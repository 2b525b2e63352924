"""One run: build what the configuration names, fit, and print the summary."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lr_plugins import validation
from lr_plugins._lightning.artifacts import check_folder
from lr_plugins._lightning.length_check import check_end
from lr_plugins.callbacks import LearningRateRangeTest, LearningRateScheduler
from lr_plugins.errors import InvalidArgumentError, LearningRateError, TrackingError
from lr_plugins.paths import from_start, start_folder
from lr_plugins.rank_zero import rank_zero_only
from lr_plugins.tracking import MLflowLogger
from lr_plugins.training.assembly import Run, assemble, first_callback
from lr_plugins.training.checkpoints import check_checkpoint, check_states, epochs_done, read_checkpoint
from lr_plugins.training.console import quiet
from lr_plugins.training.credentials import mask_files, revealed
from lr_plugins.training.entry_point import command
from lr_plugins.training.objective import objective
from lr_plugins.training.record import RecordConfig
from lr_plugins.training.resume import newest_checkpoint
from lr_plugins.training.settings import SETTINGS
from lr_plugins.training.summary import summary
from lr_plugins.validation import number


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
    run = assemble(config, shown, data)
    _check_end(run, config)
    ckpt_path = None if config.ckpt_path is None else _resume(run, config)
    try:
        _fit(run, data, ckpt_path)
    finally:
        if torch.distributed.is_initialized():  # its threads would outlive what they use when the process ends
            torch.distributed.destroy_process_group()
    _print(summary(run.history.values, run.trace, _places(run)))
    _check_recorded(run)
    if isinstance(run.logger, MLflowLogger):
        run.logger.release()
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


def _mask_what_hydra_wrote() -> None:
    """Mask the passwords that configuration files had, in the copies that Hydra keeps of them."""
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    files = [*(Path(hydra.runtime.output_dir) / (hydra.output_subdir or "")).glob("*.yaml")]
    mask_files([*files, Path(hydra.runtime.cwd) / hydra.sweep.dir / "multirun.yaml"])


def _check(config: DictConfig) -> None:
    """Check settings that Lightning or torch would only reject later."""
    check_folder("output_dir", Path(config.output_dir))
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
    scheduler = first_callback(run.trainer, LearningRateScheduler)
    resumes = config.ckpt_path is not None and scheduler is not None and scheduler.on_resume == "checkpoint"
    if scheduler is not None and not resumes:  # the plan of a checkpoint knows the length of its own run
        check_end(run.trainer, [assignment.schedule for assignment in scheduler.assignments])


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
    scheduler = first_callback(run.trainer, LearningRateScheduler)
    if scheduler is not None and scheduler.audit.steps:
        since = " since it was resumed" if run.trainer.global_step > scheduler.audit.steps else ""
        places = {"plan": f"followed {scheduler.audit.summary}{since}", **places}
    finder = first_callback(run.trainer, LearningRateRangeTest)
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
