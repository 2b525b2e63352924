"""The callback that finds a learning rate before training, from which the schedule starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch.nn.parameter import is_lazy

from lr_plugins import renamed
from lr_plugins._lightning.artifacts import check_folder, has_matplotlib, log_artifacts, warn_without_matplotlib
from lr_plugins._lightning.callback_order import put_before
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.unused_hooks import skip_unused_hooks
from lr_plugins._lightning.worker_results import send_to_main_process
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
from lr_plugins.callbacks.lr_finder.curve import LossCurve, Mode, rates_between
from lr_plugins.callbacks.lr_finder.optimizer_lr import OptimizerLR
from lr_plugins.callbacks.lr_finder.search import search
from lr_plugins.callbacks.lr_finder.suggestion import Method, suggest
from lr_plugins.checkpoint_state import KeepsState, StateFormat, count, optional, positive, record, text
from lr_plugins.errors import InvalidArgumentError, TrainingError, UnsupportedError
from lr_plugins.paths import from_start
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.validation import choice, flag, integer, number, verbosity

OnFailure = Literal["warn", "error"]

_MIN_STEPS = 10


@dataclass(frozen=True)
class RangeTestResult:
    """The result of a range test; plain values, for checkpoints.

    Args:
        learning_rate: the suggested learning rate, or None.
        method: the method of the suggestion.
        steps: the number of learning rates tried.
        note: a remark on the suggestion, or the reason for its absence.
    """

    learning_rate: float | None
    method: str
    steps: int
    note: str = ""

    def __str__(self) -> str:
        """One line.

        Example:
            >>> print(RangeTestResult(0.0123, "steepest", 87))
            0.0123 (steepest, of 87 learning rates tried)
        """
        if self.learning_rate is None:
            return f"no suggestion: {self.note}"
        note = f"; {self.note}" if self.note else ""
        return f"{self.learning_rate:.6g} ({self.method}, of {self.steps} learning rates tried{note})"


@renamed.arguments
class LearningRateRangeTest(KeepsState, Callback):
    """Find a learning rate before training, and start the schedule from it.

    Trains some steps with increasing learning rates and records the loss. Then everything is restored: weights,
    optimizer, random numbers, the order of the data, counters, loggers. The learning rate that the losses suggest
    becomes the optimizer's own (`optimizer.defaults["lr"]`; param groups keep their ratio to it), and a schedule
    without an initial value starts from it. A run that resumes from a checkpoint keeps the result and does not search
    again.

    It does not restore streams that were read, your own random number generators in datasets and samplers, or
    attributes of the module other than tensors, arrays, random number generators, plain values and containers of these.
    The module's `on_train_start` and `on_train_end` run in the search as well, and `train_dataloader()` is called again
    after it.

    `lr_i = min_learning_rate * (max_learning_rate / min_learning_rate) ** (i / (num_training_steps - 1))`, or
    `lr_i = min_learning_rate + (max_learning_rate - min_learning_rate) * i / (num_training_steps - 1)` with
    `mode="linear"`.

    `found`, `curve` and `outcome` hold the result; the other attributes are the arguments.

    Args:
        min_learning_rate: the lowest learning rate, > 0. Default 1e-8.
        max_learning_rate: the highest learning rate, > `min_learning_rate`. Default 1.
        num_training_steps: optimizer steps, one per learning rate, >= 10; over as many epochs as that takes.
            Default 100.
        mode: `"exponential"` (the default) or `"linear"`.
        early_stop_threshold: stop when the smoothed loss is this many times its lowest, > 1. Default 4; None: only when
            it is NaN or infinite.
        smoothing: share of the mean loss that is kept at each step, >= 0 and < 1. Default 0.9; 0 for no smoothing.
        suggestion: `"steepest"`, where the smoothed loss falls fastest on its way to the lowest (the default);
            `"valley"`, halfway down its longest fall; `"minimum"`, a tenth of where it is lowest.
        apply: whether the suggestion is used. Default True; False only shows it.
        on_failure: what to do without a suggestion: `"warn"` (the default) continues with the current learning rate;
            `"error"` ends the run.
        dirpath: folder for `lr_finder.csv` and `lr_finder.png`, which are handed to each logger that takes artifacts.
            Default None: no files.
        verbose: 1 prints the range and the result (the default); 0 nothing.

    Raises:
        InvalidArgumentError: an argument outside its range.
        UnsupportedError: when the fit starts, several optimizers, manual optimization, lazy modules, a strategy that
            shards the model, or `apply` where no schedule starts from the optimizer's learning rate.
        TrainingError: there is no suggestion, and `on_failure="error"`.

    Source: "Cyclical Learning Rates for Training Neural Networks", Smith; Lightning's LearningRateFinder, fastai's
    `lr_find`.

    Example:
        >>> from lr_plugins import CosineDecay, LearningRateRangeTest, LearningRateScheduler
        >>> schedule = CosineDecay().with_warmup("5%")
        >>> callbacks = [LearningRateRangeTest(max_learning_rate=10.0), LearningRateScheduler(schedule)]
    """

    state_format = StateFormat(
        "LearningRateRangeTest",
        {
            "found": optional(
                record({"learning_rate": optional(positive), "method": text, "steps": count, "note": text})
            )
        },
    )

    def __init__(
        self,
        *,
        min_learning_rate: float = 1e-8,
        max_learning_rate: float = 1.0,
        num_training_steps: int = 100,
        mode: Mode = "exponential",
        early_stop_threshold: float | None = 4.0,
        smoothing: float = 0.9,
        suggestion: Method = "steepest",
        apply: bool = True,
        on_failure: OnFailure = "warn",
        dirpath: str | Path | None = None,
        verbose: int = 1,
    ) -> None:
        self.min_learning_rate = number(
            _field("min_learning_rate"), min_learning_rate, "a finite number > 0", above=0.0
        )
        self.max_learning_rate = number(
            _field("max_learning_rate"),
            max_learning_rate,
            f"a finite number > min_learning_rate ({self.min_learning_rate:g})",
            above=self.min_learning_rate,
        )
        self.num_training_steps = integer(_field("num_training_steps"), num_training_steps, _MIN_STEPS)
        self.mode = choice(_field("mode"), mode, get_args(Mode))
        self.early_stop_threshold = early_stop_threshold
        if early_stop_threshold is not None:
            allowed = "a finite number > 1, or null (None) for no limit"
            self.early_stop_threshold = number(_field("early_stop_threshold"), early_stop_threshold, allowed, above=1.0)
        self.smoothing = number(_field("smoothing"), smoothing, "a number >= 0 and < 1", at_least=0.0)
        if self.smoothing >= 1:
            raise InvalidArgumentError(_field("smoothing"), smoothing, "a number >= 0 and < 1")
        self.suggestion = choice(_field("suggestion"), suggestion, get_args(Method))
        self.apply = flag(_field("apply"), apply)
        self.on_failure = choice(_field("on_failure"), on_failure, get_args(OnFailure))
        self.dirpath = from_start(dirpath) if dirpath is not None else None
        self.verbose = verbosity(_field("verbose"), verbose, "0 (nothing) or 1 (the range and the result)")
        self.found: RangeTestResult | None = None
        self.curve: LossCurve | None = None  # if this process has run the search
        self.outcome = ""  # of the last search, in one line

    # --- the start of a fit -----------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Move in front of the scheduler, which reads the optimizer's learning rate at the start of the fit."""
        if stage != "fit":
            return
        super().setup(trainer, pl_module, stage)
        skip_unused_hooks(self, trainer)
        put_before(trainer, self, "LearningRateScheduler")
        if self.dirpath is not None:
            check_folder(_field("dirpath"), self.dirpath)
            warn_without_matplotlib(type(self).__name__)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, or keep an earlier result, and use it as the optimizer's learning rate."""
        restored = self.take_restored()
        self.outcome = ""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.found = None
            return
        continues_fit = trainer.global_step > 0  # of the same Trainer
        if restored is None and not continues_fit and trainer.ckpt_path is not None:
            self.found, self.outcome = None, f"none, because the run was started without {type(self).__name__}"
            self._report(self.outcome)
            return
        _check_supported(trainer, pl_module, self.apply)
        if restored is not None:
            self.found = _result(restored)
        if self.found is None or not (continues_fit or restored is not None):
            self.found = self._search(trainer, pl_module)
        self._apply_result(trainer, self.found)

    def _search(self, trainer: Trainer, pl_module: LightningModule) -> RangeTestResult:
        rates = rates_between(self.min_learning_rate, self.max_learning_rate, self.num_training_steps, self.mode)
        self._report(
            f"{len(rates)} steps with learning rates from {self.min_learning_rate:g} to {self.max_learning_rate:g}"
        )
        self.curve = search(trainer, pl_module, rates, self.smoothing, self.early_stop_threshold)
        suggestion = suggest(self.curve, self.suggestion, self.mode)
        result = RangeTestResult(suggestion.learning_rate, self.suggestion, len(self.curve), suggestion.note)
        self._save(trainer, self.curve, result.learning_rate)
        if result.learning_rate is None and self.on_failure == "error":
            raise TrainingError(
                f"The learning-rate range test has {result}. Try another range (min_learning_rate, max_learning_rate), "
                "more num_training_steps, or on_failure=warn to continue with the current learning rate."
            )
        return result

    def _apply_result(self, trainer: Trainer, result: RangeTestResult) -> None:
        """Use the suggestion if it is to be applied; report it, to the loggers as well."""
        optimizer_lr = OptimizerLR(trainer.optimizers[0])
        before, field, applied_to = optimizer_lr.value, f"{optimizer_lr.name}.lr", None
        if result.learning_rate is None:
            effect = f"{field} stays {before:g}"
        elif self.apply:
            optimizer_lr.set(result.learning_rate)
            applied_to, effect = field, f"{field} is {result.learning_rate:.6g} instead of {before:g}"
        else:
            effect = f"not applied, {field} stays {before:g}"
        self.outcome = f"{result}; {effect}"
        self._report(self.outcome, is_failure=result.learning_rate is None)
        for logger in trainer.loggers:
            logger.log_hyperparams({"lr_finder": {"suggestion": result.learning_rate, "applied_to": applied_to}})

    @rank_zero_only
    def _save(self, trainer: Trainer, curve: LossCurve, suggestion: float | None) -> None:
        """Write the table and the picture."""
        if self.dirpath is None:
            return
        files = [curve.to_csv(self.dirpath / "lr_finder.csv")]
        if has_matplotlib():
            from lr_plugins.plotting.lr_finder import plot_range_test

            picture = self.dirpath / "lr_finder.png"
            linear = self.mode == "linear"
            files.append(
                plot_range_test(curve.rates, curve.losses, curve.smoothed, picture, suggestion, self.suggestion, linear)
            )
        log_artifacts(trainer, files)

    @rank_zero_only
    def _report(self, line: str, is_failure: bool = False) -> None:
        if self.verbose > 0:
            print(f"Learning-rate range test: {line}", flush=True)
        elif is_failure:
            rank_zero_warn(f"Learning-rate range test: {line}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the result to the process that called `fit`."""
        send_to_main_process(trainer, self, {"found": self.found, "curve": self.curve, "outcome": self.outcome})

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the module of a fit."""
        return state_without_fit(self)

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The result, if the search is complete; plain values."""
        if self._restored is not None:  # the fit has not started
            return self.state_format.stamped(self._restored)
        return self.state_format.stamped({"found": None if self.found is None else dataclasses.asdict(self.found)})


def _result(state: dict[str, Any]) -> RangeTestResult | None:
    return None if state["found"] is None else RangeTestResult(**state["found"])


def _field(argument: str) -> str:
    return f"LearningRateRangeTest.{argument}"


def _check_supported(trainer: Trainer, pl_module: LightningModule, apply: bool) -> None:
    """Reject a fit that cannot be searched, or in which the suggestion could not be applied."""
    optimizers = [optimizer for optimizer in trainer.optimizers if optimizer.param_groups]
    if len(optimizers) != 1 or len(trainer.optimizers) != 1:
        raise UnsupportedError(
            "LearningRateRangeTest needs exactly one optimizer, but configure_optimizers() returned "
            f"{len(optimizers) or 'none'}."
        )
    if not pl_module.automatic_optimization:
        raise UnsupportedError("LearningRateRangeTest does not support manual optimization.")
    if trainer.strategy.restore_checkpoint_after_setup:
        strategy = type(trainer.strategy).__name__
        raise UnsupportedError(f"LearningRateRangeTest does not support {strategy}, which shards the model.")
    if any(is_lazy(parameter) for parameter in pl_module.parameters()):
        raise UnsupportedError(
            "LearningRateRangeTest does not support lazy modules, whose parameters have no shape before the first "
            "batch. Pass a batch through the model before the fit."
        )
    if apply:
        _check_applicable(trainer)


def _check_applicable(trainer: Trainer) -> None:
    """Reject a suggestion that no schedule would start from."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    scheduler = next((callback for callback in callbacks if isinstance(callback, LearningRateScheduler)), None)
    if trainer.lr_scheduler_configs and (scheduler is None or scheduler.on_conflict == "theirs"):
        names = ", ".join(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs)
        raise UnsupportedError(
            "LearningRateRangeTest cannot apply its suggestion to the module's LR schedulers "
            f"({names}), which were built with another learning rate. Set apply=False to only show it."
        )
    schedules = (
        [callback.schedule for callback in scheduler.assignments if callback.to == "lr"]
        if scheduler is not None
        else []
    )
    if schedules and not any(schedule.uses_optimizer_lr for schedule in schedules):
        raise UnsupportedError(
            "LearningRateRangeTest cannot apply its suggestion, because the schedule has its own learning rates "
            f"({schedules[0]!r}). Leave out its initial learning rate (None), so that it starts from the optimizer's, "
            "or set apply=False to only show the suggestion."
        )
