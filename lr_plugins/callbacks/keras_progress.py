"""Keras' console lines, one per epoch, from any Lightning training: `model.fit(..., verbose=2)` byte for byte.

The upper half formats numbers, times and lines and knows nothing of Lightning; the callback below decides what
is shown and when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lr_plugins._lightning import Callback, LightningModule, Trainer, rank_zero_only, rank_zero_warn
from lr_plugins.callbacks.observer import logged_since
from lr_plugins.errors import InvalidArgument

__all__ = ["KerasProgress"]

STYLES = ("keras2", "keras3")


# --- text ---------------------------------------------------------------------------------------------------


def format_value(value: float) -> str:
    """A metric as the epoch line shows it: four decimals, or four digits and an exponent when that is small.

    Example:
        >>> [format_value(v) for v in (0.43541, 0.001, -0.5, 0.0)]
        ['0.4354', '1.0000e-03', '-5.0000e-01', '0.0000e+00']
    """
    # Keras compares the value here, not its magnitude: negative numbers always take the second form.
    return f"{value:.4f}" if value > 1e-3 else f"{value:.4e}"


def format_metrics(logs: Mapping[str, float]) -> str:
    """The metrics of a line in the order given, each led by a dash.

    Example:
        >>> format_metrics({"loss": 0.43541, "acc": 0.8625})
        ' - loss: 0.4354 - acc: 0.8625'
    """
    return "".join(f" - {name}: {format_value(value)}" for name, value in logs.items())


def format_step_time(seconds: float) -> str:
    """The mean time of a step in the unit that suits it.

    Example:
        >>> [format_step_time(t) for t in (0, 2.4, 0.0234, 0.00014)]
        ['0s/step', '2s/step', '23ms/step', '140us/step']
    """
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.0f}s/step"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.0f}ms/step"
    return f"{seconds * 1e6:.0f}us/step"


def format_count(step: int, steps: int) -> str:
    """The step reached of all steps, as wide for every step.

    Example:
        >>> format_count(7, 100)
        '  7/100'
    """
    return f"{step:{len(str(steps))}d}/{steps}"


def keras2_line(logs: Mapping[str, float], elapsed: float) -> str:
    """The end of an epoch as Keras 2.2.4 prints it.

    Example:
        >>> keras2_line({"loss": 0.43541, "acc": 0.8625}, elapsed=12.7)
        ' - 13s - loss: 0.4354 - acc: 0.8625'
    """
    return f" - {elapsed:.0f}s{format_metrics(logs)}"


def keras3_line(logs: Mapping[str, float], elapsed: float, step_time: float, step: int, steps: int) -> str:
    """The end of an epoch as Keras 3 prints it.

    Example:
        >>> keras3_line({"loss": 0.99741}, elapsed=0.117, step_time=0.0234, step=5, steps=5)
        '5/5 - 0s - 23ms/step - loss: 0.9974'
    """
    return f"{format_count(step, steps)} - {elapsed:.0f}s - {format_step_time(step_time)}{format_metrics(logs)}"


def format_header(epoch: int, epochs: int | None) -> str:
    """The title of an epoch counted from 0; `epochs` is None or negative when their number is not limited.

    Example:
        >>> format_header(0, 10), format_header(0, -1)
        ('Epoch 1/10', 'Epoch 1')
    """
    return f"Epoch {epoch + 1}" if epochs is None or epochs < 0 else f"Epoch {epoch + 1}/{epochs}"


# --- what a Trainer knows -----------------------------------------------------------------------------------


def _samples(loader: object, batches: float) -> int | None:
    """How many samples `batches` batches of a loader hold in one process; None when it cannot tell.

    A DataLoader tells by its batch sampler; another loader by attributes `num_samples` and `batch_size`.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    source = loader if batch_sampler is None else batch_sampler
    batch_size = getattr(source, "batch_size", None)
    try:
        available = source.num_samples if source is loader else len(source.sampler)  # type: ignore[union-attr,attr-defined]
    except (AttributeError, TypeError):  # batches made elsewhere, or an iterable dataset
        return None
    return int(min(available, batches * batch_size)) if isinstance(batch_size, int) else None


def _samples_of_run(trainer: Trainer) -> tuple[int, int] | None:
    """Samples per epoch for training and for validation, over all processes; None when either is unknown."""
    loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    elif not isinstance(loaders, (list, tuple)):
        loaders = [loaders]
    batches = trainer.num_val_batches
    if not sum(batches) or len(batches) != len(loaders):
        return None
    train = _samples(trainer.train_dataloader, trainer.num_training_batches)
    parts = [_samples(loader, limit) for loader, limit in zip(loaders, batches, strict=True)]
    validation = [part for part in parts if part is not None]
    if train is None or len(validation) < len(parts):
        return None
    return train * trainer.world_size, sum(validation) * trainer.world_size


def _traced_learning_rate(trainer: Trainer) -> float | None:
    """The learning rate of the last optimizer step, where a callback keeps a `trace` of it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        last = getattr(getattr(callback, "trace", None), "last", None)
        value = last() if callable(last) else None
        if value is not None:
            return float(value)
    return None


def _optimizer_learning_rate(trainer: Trainer) -> float | None:
    # A module without an optimizer gets a stand-in from Lightning that has no groups.
    groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
    return float(groups[0]["lr"]) if groups else None


def _without_forks(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out `loss_step` and `loss_epoch` where Lightning made them of one `loss` logged for both."""
    kept = dict(metrics)
    for name in metrics:
        base, slash, loader = name.partition("/dataloader_idx_")
        plain = f"{base.removesuffix('_epoch')}{slash}{loader}"
        # Lightning puts one tensor under both names; a user's own `loss_epoch` is another tensor.
        if base.endswith("_epoch") and metrics.get(plain) is metrics[name]:
            del kept[name]
            kept.pop(f"{base.removesuffix('_epoch')}_step{slash}{loader}", None)
    return kept


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)


# --- the callback -------------------------------------------------------------------------------------------


@dataclass
class _Epoch:
    """The epoch under way, or over with its line still to be printed."""

    index: int  # from 0
    started: float
    earlier: dict[str, Tensor]  # metrics as earlier epochs left them
    header_due: bool = True
    before_validation: dict[str, Tensor] = field(default_factory=dict)
    validated: dict[str, Tensor] = field(default_factory=dict)  # logged by the validations of this epoch
    batches: int = 0  # trained on here
    position: int = 0  # batches of the epoch that are done, those before an interruption included
    learning_rate: float | None = None
    elapsed: float | None = None  # known once the epoch is over

    def is_validation(self, name: str, value: Tensor) -> bool:
        return name.startswith("val_") or self.validated.get(name) is value


class KerasProgress(Callback):
    """Print one line per epoch, as Keras' ``fit(..., verbose=2)`` does, to standard output.

    Switch Lightning's own bar off with ``Trainer(enable_progress_bar=False)``. Put this callback before a
    learning-rate scheduler in the list: the scheduler's messages then stand where Keras has them. Nothing is
    printed in ``validate``, ``test`` and ``predict``, in sanity validation, and by processes other than the first.

    Shown are the scalars of ``trainer.callback_metrics`` that were logged in the epoch, those of training
    before those of validation (logged by a validation, or named ``val_...``). A metric logged with both
    ``on_step`` and ``on_epoch`` is shown once, with the value of the epoch; one logged for steps only shows its
    last step, so log with ``on_epoch=True`` to see the mean that Keras shows.

    The line of an epoch appears when its metrics are complete, those logged in a module's own
    ``on_train_epoch_end`` included: at the start of the next epoch, or at the end of training. Its time covers the
    training and the validation of the epoch.

    Args:
        style: ``"keras2"`` (default) prints what Keras 2.2.4 prints: sizes of the data, loss first, other metrics
            in the order they were logged. ``"keras3"`` prints what Keras 3 prints: steps and time per step,
            metrics in alphabetical order, then the learning rate of the epoch's last optimizer step; no title
            when there is one epoch only. An epoch cut short shows the steps it made, where Keras claims all.
        metrics: names of the metrics to show, in this order. Default: all. One that is not logged is left out,
            with one warning that lists what is.

    Raises:
        InvalidArgument: for another style, or metrics that are not a sequence of different names.

    Example:
        >>> trainer = Trainer(callbacks=[KerasProgress()], enable_progress_bar=False)  # doctest: +SKIP
        >>> trainer.fit(module)  # doctest: +SKIP
        Train on 60000 samples, validate on 10000 samples
        Epoch 1/10
         - 13s - loss: 0.4354 - acc: 0.8625 - val_loss: 0.0707 - val_acc: 0.9762
        >>> KerasProgress(style="keras3", metrics=["loss", "val_loss"]).metrics
        ('loss', 'val_loss')
    """

    def __init__(self, style: str = "keras2", metrics: Sequence[str] | None = None) -> None:
        if style not in STYLES:
            raise InvalidArgument("KerasProgress.style", style, f"one of {', '.join(STYLES)}")
        self.style = style
        self.metrics = None if metrics is None else _checked_names(metrics)
        self._epoch: _Epoch | None = None
        self._checked_logged = False

    # The order of the hooks below is that of a run.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the sizes of the data, where Keras does."""
        # Forget what a failed fit, the sanity validation or a call of `validate` left.
        self._epoch, self._checked_logged = None, False
        samples = _samples_of_run(trainer) if self.style == "keras2" else None
        if samples is not None:
            _say(f"Train on {samples[0]} samples, validate on {samples[1]} samples")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the epoch before, now complete, and the title of this one."""
        self._end_epoch(trainer, pl_module)
        epoch = self._open(trainer)
        # Keras 3 lets callbacks speak before the title, so there it waits for the first batch.
        if self.style == "keras2":
            self._print_header(trainer, epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the learning rate of the batch: after it, a torch scheduler has set the next one."""
        epoch = self._open(trainer)
        self._print_header(trainer, epoch)
        epoch.learning_rate = _optimizer_learning_rate(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        epoch = self._open(trainer)
        epoch.batches, epoch.position = epoch.batches + 1, batch_idx + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics are there before the validation."""
        self._open(trainer).before_validation = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics are the validation's."""
        epoch = self._open(trainer)
        epoch.validated.update(logged_since(trainer.callback_metrics, epoch.before_validation))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time and the learning rate; the module may still log, so the line waits."""
        epoch = self._epoch
        if epoch is None:  # resumed behind the last batch of an epoch: it has been reported
            return
        self._print_header(trainer, epoch)  # of an epoch without batches
        epoch.elapsed = perf_counter() - epoch.started
        traced = _traced_learning_rate(trainer)
        epoch.learning_rate = epoch.learning_rate if traced is None else traced

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        self._end_epoch(trainer, pl_module, last=True)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule, last: bool = False) -> None:
        # What callbacks say of an epoch's metrics comes after the epoch's line in Keras 2, and before it in Keras 3.
        if self.style == "keras2":
            self._print_line(trainer, last)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "observe_epoch"):
                callback.observe_epoch(trainer, pl_module, last)
        if self.style == "keras3":
            self._print_line(trainer, last)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print the line of an epoch that was complete."""
        # Otherwise its metrics are not reduced yet, which one process cannot do alone after an error.
        if self._epoch is not None and trainer.current_epoch > self._epoch.index:
            self._print_line(trainer, last=True)

    def _open(self, trainer: Trainer) -> _Epoch:
        """The epoch under way. A run resumed within an epoch enters it by a batch or a validation."""
        if self._epoch is None:
            self._epoch = _Epoch(trainer.current_epoch, perf_counter(), dict(trainer.callback_metrics))
        return self._epoch

    def _print_header(self, trainer: Trainer, epoch: _Epoch) -> None:
        if epoch.header_due and (self.style == "keras2" or trainer.max_epochs != 1):
            _say(format_header(epoch.index, trainer.max_epochs))
        epoch.header_due = False

    def _print_line(self, trainer: Trainer, last: bool = False) -> None:
        """Print the line that is due, if any. Its metrics are reduced by now: reading them costs nothing."""
        epoch, self._epoch = self._epoch, None
        if epoch is None or epoch.elapsed is None:
            return
        logged = logged_since(trainer.callback_metrics, epoch.earlier)
        logged = {name: value for name, value in logged.items() if value.numel() == 1}
        logs = {name: logged[name].item() for name in self._names(logged, epoch)}
        if self.style == "keras2":
            _say(keras2_line(logs, epoch.elapsed))
        else:
            self._print_keras3(trainer, epoch, logs)
        if last or epoch.validated or not trainer.enable_validation:
            self._warn_of_missing(logged)

    def _print_keras3(self, trainer: Trainer, epoch: _Epoch, logs: dict[str, float]) -> None:
        batches = trainer.num_training_batches
        steps = epoch.position if batches == float("inf") else int(batches)
        if not steps:  # Keras is silent about an epoch without steps
            return
        if epoch.learning_rate is not None:
            # Keras keeps it in float32, where 0.001 is just above the limit of the exponent form.
            logs.setdefault("learning_rate", torch.tensor(epoch.learning_rate, dtype=torch.float32).item())
        assert epoch.elapsed is not None
        # With one line per epoch Keras never sees the first step apart: this is the mean over all.
        step_time = epoch.elapsed / epoch.batches if epoch.batches else 0.0
        _say(keras3_line(logs, epoch.elapsed, step_time, epoch.position, steps))

    def _names(self, logged: Mapping[str, Tensor], epoch: _Epoch) -> list[str]:
        """Which metrics the line shows, in order."""
        if self.metrics is not None:
            return [name for name in self.metrics if name in logged]
        shown = _without_forks(logged)
        validation = [name for name, value in shown.items() if epoch.is_validation(name, value)]
        training = [name for name in shown if name not in validation]
        if self.style == "keras3":
            return sorted(training) + sorted(validation)
        return _first(training, "loss", "train_loss") + _first(validation, "val_loss")

    def _warn_of_missing(self, logged: Iterable[str]) -> None:
        logged = list(logged)
        missing = [name for name in self.metrics or () if name not in logged]
        if missing and not self._checked_logged:
            rank_zero_warn(
                f"KerasProgress.metrics has names that are not logged: {', '.join(missing)}."
                f" Logged are: {', '.join(logged) or 'none'}."
            )
        self._checked_logged = True


def _first(names: list[str], *leaders: str) -> list[str]:
    """The names with the leaders in front."""
    return sorted(names, key=lambda name: name not in leaders)


def _checked_names(metrics: Sequence[str]) -> tuple[str, ...]:
    names = None if isinstance(metrics, str) or not isinstance(metrics, Iterable) else tuple(metrics)
    if names is None or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InvalidArgument("KerasProgress.metrics", metrics, "None or a sequence of different metric names")
    return names
