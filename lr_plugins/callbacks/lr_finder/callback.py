"""The callback that looks for a learning rate before the training, and hands it to the schedule."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.nn.parameter import is_lazy

from lr_plugins import renamed
from lr_plugins._lightning.artifacts import can_draw, hand_to_loggers, make_folder, warn_of_no_picture
from lr_plugins._lightning.callback_order import put_before
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.pickling import state_without_fit
from lr_plugins._lightning.worker_results import bring_back
from lr_plugins.callbacks.learning_rate_scheduler import LearningRateScheduler
from lr_plugins.callbacks.lr_finder.curve import Curve, rates_between
from lr_plugins.callbacks.lr_finder.optimizer_lr import OptimizerLR
from lr_plugins.callbacks.lr_finder.search import search
from lr_plugins.callbacks.lr_finder.suggestion import METHODS, suggest
from lr_plugins.checkpoint_state import ChecksState, StateFormat, count, optional, positive, record, text
from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.paths import from_start
from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn
from lr_plugins.validation import choice, flag, number

MODES = ("exponential", "linear")
ON_FAILURE = {
    "warn": "the run goes on with the learning rate that it has",
    "error": "the run ends",
}
_FEWEST = 10  # steps


@dataclass(frozen=True)
class Found:
    """What a range test has come to; plain values, for checkpoints.

    Args:
        learning_rate: the suggestion; None where there is none.
        method: by which it was found.
        steps: how many learning rates were tried.
        note: what is to be said of the suggestion, or why there is none.
    """

    learning_rate: float | None
    method: str
    steps: int
    note: str = ""

    def __str__(self) -> str:
        """One line.

        Example:
            >>> print(Found(0.0123, "steepest", 87))
            0.0123 (steepest, of 87 learning rates tried)
        """
        if self.learning_rate is None:
            return f"no suggestion: {self.note}"
        note = f"; {self.note}" if self.note else ""
        return f"{self.learning_rate:.6g} ({self.method}, of {self.steps} learning rates tried{note})"


@renamed.arguments
class LearningRateRangeTest(ChecksState, Callback):
    """Look for a learning rate before the training, and let the schedule start from it.

    Some steps are trained, each with a higher learning rate than the one before, and the loss is noted. Then everything
    is put back as if they had never been: weights, optimizer, random numbers, order of the data, counts, loggers. What
    the losses suggest becomes the optimizer's own learning rate (`optimizer.defaults["lr"]`; param groups keep their
    ratio to it), from which a schedule starts that names no initial value. A run that goes on from a checkpoint keeps
    what was found, and does not search again.

    Not undone are streams that were read, random numbers of your own in data sets and samplers, and other objects in
    attributes of the module than tensors, arrays, generators of random numbers, plain values and containers of them.
    The module's `on_train_start` and `on_train_end` run in the search, too, and `train_dataloader()` is called again
    after it.

    `lr_i = min_learning_rate * (max_learning_rate / min_learning_rate) ** (i / (num_training_steps - 1))`; with `mode="linear"`,
    `lr_i = min_learning_rate + (max_learning_rate - min_learning_rate) * i / (num_training_steps - 1)`.

    Args:
        min_learning_rate: the lowest learning rate tried, > 0. Default 1e-8.
        max_learning_rate: the highest, > `min_learning_rate`. Default 1.
        num_training_steps: optimizer steps, one for each learning rate, >= 10; over as many epochs as that takes.
            Default 100.
        mode: `"exponential"` (the default) or `"linear"`.
        early_stop_threshold: end the search when the smoothed loss is so many times its lowest, > 1. Default 4;
            None: only when it is no number any more.
        smoothing: share of the mean loss so far that is kept at each step, >= 0 and < 1; 0 is none. Default 0.9.
        suggestion: `"steepest"`, where the smoothed loss falls fastest on its way to the lowest (the default);
            `"valley"`, half way down its longest fall; `"minimum"`, a tenth of where it is lowest.
        apply: whether the suggestion is used. Default True; False only shows it.
        on_failure: what to do without a suggestion: `"warn"` (the default) goes on with the learning rate that there
            is; `"error"` ends the run.
        dirpath: folder for `lr_finder.csv` and `lr_finder.png`, which are handed to each logger that takes artifacts.
            Default None: no files.
        verbose: 1 prints what is searched and found (the default); 0 nothing.

    Raises:
        InvalidArgument: an argument outside its range; when the fit begins, several optimizers, manual optimization, a
            strategy that shards the model, or `apply` where no schedule starts from the optimizer's learning rate.
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
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        smoothing: float = 0.9,
        suggestion: str = "steepest",
        apply: bool = True,
        on_failure: str = "warn",
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
        if (
            isinstance(num_training_steps, bool)
            or not isinstance(num_training_steps, int)
            or num_training_steps < _FEWEST
        ):
            raise InvalidArgument(_field("num_training_steps"), num_training_steps, f"an integer >= {_FEWEST}")
        self.num_training_steps, self.mode = num_training_steps, choice(_field("mode"), mode, MODES)
        self.early_stop_threshold = early_stop_threshold
        if early_stop_threshold is not None:
            allowed = "a finite number > 1, or null (None) for none"
            self.early_stop_threshold = number(_field("early_stop_threshold"), early_stop_threshold, allowed, above=1.0)
        self.smoothing = number(_field("smoothing"), smoothing, "a number >= 0 and < 1", at_least=0.0)
        if self.smoothing >= 1:
            raise InvalidArgument(_field("smoothing"), smoothing, "a number >= 0 and < 1")
        self.suggestion = choice(_field("suggestion"), suggestion, METHODS)
        self.apply = flag(_field("apply"), apply)
        self.on_failure = choice(_field("on_failure"), on_failure, ON_FAILURE)
        self.dirpath = from_start(dirpath) if dirpath is not None else None
        if not isinstance(verbose, int):
            raise InvalidArgument(_field("verbose"), verbose, "0 (silent) or 1 (what is searched and found)")
        self.verbose = verbose
        self.found: Found | None = None
        self.curve: Curve | None = None  # of a search in this program
        self.outcome = ""  # of the run's begin, in a line
        self._restored: dict[str, Any] | None = None  # a checkpoint's, until the fit begins

    # --- the begin of a fit -----------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take a place before the scheduler, which reads the optimizer's learning rate at the begin of the fit."""
        if stage != "fit":
            return
        self._restored = None  # that of a checkpoint which was only tested; the fit's own comes after this
        put_before(trainer, self, "LearningRateScheduler")
        if self.dirpath is not None:
            make_folder(_field("dirpath"), self.dirpath)
            warn_of_no_picture(type(self).__name__)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, or keep what was found before; and let it be the optimizer's learning rate."""
        restored, self._restored = self._restored, None
        self.outcome = ""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.found = None
            return
        goes_on = trainer.global_step > 0  # in another fit of the same Trainer
        if restored is None and not goes_on and trainer.ckpt_path is not None:
            self.found, self.outcome = None, f"none: the run was begun without {type(self).__name__}"
            self._say(self.outcome)
            return
        _check(trainer, pl_module, self.apply)
        if restored is not None:
            self.found = _found(restored)
        if self.found is None or not (goes_on or restored is not None):
            self.found = self._search(trainer, pl_module)
        self._hand_over(trainer, self.found)

    def _search(self, trainer: Trainer, pl_module: LightningModule) -> Found:
        rates = rates_between(self.min_learning_rate, self.max_learning_rate, self.num_training_steps, self.mode)
        self._say(
            f"{len(rates)} steps with learning rates from {self.min_learning_rate:g} to {self.max_learning_rate:g}"
        )
        self.curve = search(trainer, pl_module, rates, self.smoothing, self.early_stop_threshold)
        suggestion = suggest(self.curve, self.suggestion, self.mode)
        found = Found(suggestion.learning_rate, self.suggestion, len(self.curve), suggestion.note)
        self._save(trainer, self.curve, found.learning_rate)
        if found.learning_rate is None and self.on_failure == "error":
            raise TrainingError(
                f"the learning-rate range test has {found}. Try another range (min_learning_rate, max_learning_rate), more "
                "num_training_steps, or on_failure=warn, to go on with the learning rate that there is."
            )
        return found

    def _hand_over(self, trainer: Trainer, found: Found) -> None:
        """Say what was found, to the loggers, too, and use it if it is to be."""
        own = OptimizerLR(trainer.optimizers[0])
        before, field = own.value, f"{own.name}.lr"
        if found.learning_rate is None:
            applied, then = None, f"{field} stays {before:g}"
        elif self.apply:
            own.become(found.learning_rate)
            applied, then = field, f"{field} is {found.learning_rate:.6g} instead of {before:g}"
        else:
            applied, then = None, f"not applied, {field} stays {before:g}"
        self.outcome = f"{found}; {then}"
        self._say(self.outcome, failure=found.learning_rate is None)
        for logger in trainer.loggers:
            logger.log_hyperparams({"lr_finder": {"suggestion": found.learning_rate, "applied_to": applied}})

    @rank_zero_only
    def _save(self, trainer: Trainer, curve: Curve, suggestion: float | None) -> None:
        """Write the table and the picture."""
        if self.dirpath is None:
            return
        files = [curve.to_csv(self.dirpath / "lr_finder.csv")]
        if can_draw():
            from lr_plugins.plotting.lr_finder import plot_range_test

            picture = self.dirpath / "lr_finder.png"
            linear = self.mode == "linear"
            files.append(
                plot_range_test(curve.rates, curve.losses, curve.smoothed, picture, suggestion, self.suggestion, linear)
            )
        hand_to_loggers(trainer, files)

    @rank_zero_only
    def _say(self, line: str, failure: bool = False) -> None:
        if self.verbose > 0:
            print(f"Learning-rate range test: {line}", flush=True)
        elif failure:
            rank_zero_warn(f"Learning-rate range test: {line}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the process that called `fit` have what was found, too."""
        bring_back(trainer, self, {"found": self.found, "curve": self.curve, "outcome": self.outcome})

    def __getstate__(self) -> dict[str, Any]:
        """Without the module of a fit."""
        return state_without_fit(self)

    # --- the checkpoint ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was found, if the search has come to its end; plain values."""
        if self._restored is not None:  # the fit has not begun
            return self.state_format.stamped(self._restored)
        return self.state_format.stamped({"found": None if self.found is None else dataclasses.asdict(self.found)})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint has until the fit begins."""
        self._restored = self.check_state_dict(state_dict)


def _found(state: dict[str, Any]) -> Found | None:
    return None if state["found"] is None else Found(**state["found"])


def _field(argument: str) -> str:
    return f"LearningRateRangeTest.{argument}"


def _check(trainer: Trainer, pl_module: LightningModule, apply: bool) -> None:
    """Refuse what cannot be searched, and what nothing would come of."""
    who = LearningRateRangeTest.__name__
    if len(trainer.optimizers) != 1 or not trainer.optimizers[0].param_groups:
        raise InvalidArgument(
            "configure_optimizers()", f"{len(trainer.optimizers)} optimizers", f"one that returns one, beside {who}"
        )
    if not pl_module.automatic_optimization:
        raise InvalidArgument(who, "manual optimization", "left out where the module steps its optimizer by itself")
    if trainer.strategy.restore_checkpoint_after_setup:
        raise InvalidArgument(who, type(trainer.strategy).__name__, "left out with a strategy that shards the model")
    if any(is_lazy(one) for one in pl_module.parameters()):
        raise InvalidArgument(who, "lazy modules", "left out until they have seen a batch and know their sizes")
    if apply:
        _check_use(trainer)


def _check_use(trainer: Trainer) -> None:
    """Refuse to apply what no schedule would start from."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    scheduler = next((one for one in callbacks if isinstance(one, LearningRateScheduler)), None)
    if trainer.lr_scheduler_configs and (scheduler is None or scheduler.on_conflict == "theirs"):
        names = ", ".join(type(one.scheduler).__name__ for one in trainer.lr_scheduler_configs)
        hint = "They were built with another learning rate."
        raise InvalidArgument(_field("apply"), True, f"false where schedulers of the module ({names}) drive", hint)
    schedules = [one.schedule for one in scheduler.assignments if one.to == "lr"] if scheduler is not None else []
    if schedules and not any(one.uses_optimizer_lr for one in schedules):
        hint = (
            "apply=false only shows what is found. A schedule that can do without its initial learning rate "
            "(null, None) then starts from the optimizer's, which is what is found."
        )
        allowed = f"false where the schedule names its learning rates itself ({schedules[0]!r})"
        raise InvalidArgument(_field("apply"), True, allowed, hint)
