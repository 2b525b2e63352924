"""An exact resume point for an interrupted run, including state that Lightning's checkpoints lack."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lr_plugins import validation
from lr_plugins._lightning.artifacts import check_folder
from lr_plugins._lightning.compat import Callback, LightningModule, Trainer
from lr_plugins._lightning.distributed import gather_objects
from lr_plugins._lightning.epoch_results import SUMS, epoch_sums, restore_epoch_sums, validation_follows
from lr_plugins._lightning.run_length import is_a
from lr_plugins._lightning.unused_hooks import skip_unused_hooks
from lr_plugins.checkpoint_names import LAST, PREVIOUS
from lr_plugins.checkpoint_state import (
    KeepsState,
    StateFormat,
    dict_of,
    flag,
    list_of,
    one_of,
    tensor,
)
from lr_plugins.errors import InvalidArgumentError, described

BETWEEN, WITHIN = "between epochs", "within an epoch"


class LastCheckpoint(KeepsState, Callback):
    """Keep `last.ckpt`, an exact resume point: training continues as if it had never stopped.

    It is written at the start of epochs (the first, and each that starts `min_seconds` after a save), when the loggers
    have received everything that the previous epoch logged; periodically within an epoch; at the end of training; and
    on SIGTERM or Ctrl-C, as soon as the current batch is complete (a validation is completed first; a second Ctrl-C
    stops at once). The file is either complete or absent: it is renamed to its final name only after it is written and
    the loggers have stored everything before it. The previous checkpoint is kept as `previous.ckpt`.

    Put it behind callbacks that collect an epoch's metrics, and in front of those that act on them. Within an epoch it
    saves after all callbacks have seen the batch.

    With several processes, the clock of the first one decides, a signal to any process is a signal to all, and both
    take effect when an optimizer step is complete. A checkpoint from within an epoch can be resumed only with the same
    number of processes.

    Args:
        dirpath: folder for the checkpoints.
        min_seconds: the shortest time between checkpoints at the start of epochs, >= 0. Default 1, so that saving costs
            little if epochs take milliseconds; 0: at the start of every epoch.
        every_seconds: time between checkpoints within an epoch, > 0. Default 60; None: not by time.
        every_n_steps: optimizer steps between checkpoints within an epoch, >= 1. Default None: not by steps.

    Raises:
        InvalidArgumentError: an argument outside its range; when training starts, a checkpoint from within an epoch
            that was written by another number of processes.

    Example:
        >>> LastCheckpoint("outputs/checkpoints", every_n_steps=500).path.name
        'last.ckpt'
    """

    # Its attributes are the four arguments, the two files, and what is known of the last save and of signals.

    state_format = StateFormat(
        "LastCheckpoint",
        {"place": one_of(BETWEEN, WITHIN, ""), "stopped_early": flag},
        {"epoch_sums": list_of(SUMS), "gradients": dict_of(tensor())},
    )

    def __init__(
        self,
        dirpath: str | Path,
        every_seconds: float | None = 60.0,
        every_n_steps: int | None = None,
        *,
        min_seconds: float = 1.0,
    ) -> None:
        if every_seconds is not None:
            validation.number("LastCheckpoint.every_seconds", every_seconds, "a finite number > 0", above=0.0)
        if every_n_steps is not None:
            validation.integer("LastCheckpoint.every_n_steps", every_n_steps, 1)
        self.path = validation.folder("LastCheckpoint.dirpath", dirpath) / LAST
        self.every_seconds, self.every_n_steps = every_seconds, every_n_steps
        self.min_seconds = validation.number(
            "LastCheckpoint.min_seconds", min_seconds, "a finite number >= 0", at_least=0.0
        )
        self.interrupted = False  # by Ctrl-C
        self._part = self.path.with_suffix(".part")
        self._pending = False  # a checkpoint is written, but not renamed yet
        self._saved_at, self._saved_step = 0.0, 0
        self._has_saved = False  # in this fit
        self._stopped_early = False  # of the checkpoint being saved
        self._signals: _Signals | None = None
        self._signal_received = False  # by one of several processes
        self._place = ""  # of the checkpoint being saved; empty for checkpoints of other callbacks

    # --- the run ------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the files can be written, before training starts."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            check_folder("LastCheckpoint.dirpath", self.path.parent)
            skip_unused_hooks(self, trainer)
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks[:] = [
                *(callback for callback in callbacks if not isinstance(callback, _AfterOthers)),
                _AfterOthers(self),
            ]
            skip_unused_hooks(callbacks[-1], trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a checkpoint that cannot be resumed; stop if early stopping has ended its run."""
        restored = self._restored or {}
        if restored.get("stopped_early") and _stops_early(trainer):
            trainer.should_stop = True
        processes = len(restored.get("epoch_sums", ()))
        if processes and processes != trainer.world_size:
            raise InvalidArgumentError(
                "the number of processes",
                trainer.world_size,
                f"{processes}, as in the run that is resumed, since its checkpoint is from within an epoch",
                "A checkpoint from between two epochs can be resumed with any number.",
            )
        parameters = {name: parameter.shape for name, parameter in pl_module.named_parameters()}
        for name, gradient in restored.get("gradients", {}).items():
            if parameters.get(name) != gradient.shape:
                allowed = "one whose gradients are of the sizes of the module's parameters"
                raise InvalidArgumentError("the checkpoint", described(f"another for {name!r}"), allowed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers; start a whole epoch after a checkpoint from between two epochs."""
        restored = self.take_restored() or {}
        if restored.get("place") == BETWEEN:
            # With a limit of steps, Lightning assumes that every checkpoint is from within an epoch.
            loop = trainer.fit_loop
            loop.epoch_loop.restarting, loop._restarting = False, False
        by_process = restored.get("epoch_sums")
        restore_epoch_sums(trainer, by_process[trainer.global_rank] if by_process else [])
        for name, gradient in restored.get("gradients", {}).items():
            parameter = pl_module.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self._pending, self._saved_at, self._saved_step = False, time.monotonic(), trainer.global_step
        self._has_saved = False
        self.interrupted = False
        self._signal_received = False
        if threading.current_thread() is threading.main_thread():
            self._signals = _Signals(trainer, self._interrupt)

    def _interrupt(self) -> None:
        self.interrupted = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if it is time: the previous epoch is complete, and nothing of this one has been done."""
        if self._is_due_between_epochs(trainer):
            self._save(trainer, BETWEEN)
        self._commit(trainer)

    def _is_due_between_epochs(self, trainer: Trainer) -> bool:
        due = not self._has_saved or time.monotonic() - self._saved_at >= self.min_seconds
        return bool(trainer.strategy.broadcast(due)) if trainer.world_size > 1 else due  # saving is a collective call

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Commit the checkpoint of the previous batch: the loggers now have what its step logged."""
        self._commit(trainer)

    def after_batch(self, trainer: Trainer) -> None:
        """Save within an epoch, if a checkpoint is due."""
        is_distributed = trainer.world_size > 1
        if is_distributed and trainer.fit_loop._should_accumulate():
            return  # each process has its own gradients
        due = self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        if is_distributed:
            due = self._agree(trainer, due)
        if self.every_n_steps is not None and trainer.global_step - self._saved_step >= self.every_n_steps:
            due = True
        if due and not _followed_by_more_than_a_batch(trainer):
            self._save(trainer, WITHIN)

    def _agree(self, trainer: Trainer, due: bool) -> bool:
        """Whether a checkpoint is due by the first process's clock; all processes act on a signal at the same batch."""
        signalled = self._signals is not None and self._signals.waiting
        local = [float(due and trainer.is_global_zero), float(signalled)]
        totals = trainer.strategy.reduce(torch.tensor(local, device=trainer.strategy.root_device), reduce_op="sum")
        assert isinstance(totals, torch.Tensor)
        is_time, signals = totals.tolist()
        self._signal_received = self._signal_received or signals > 0
        if self._signal_received and not validation_follows(trainer):  # Lightning would abort it
            _stop_after_batch(trainer)
        return bool(is_time)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act on a signal that arrived during the validation."""
        if self._signal_received:
            _stop_after_batch(trainer)
        elif self._signals is not None and trainer.world_size == 1:
            self._signals.deliver()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run."""
        self._save(trainer, BETWEEN, stopped_early=trainer.should_stop and _stops_early(trainer))
        self._commit(trainer)
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save on SIGTERM, which Lightning raises between batches; any other error may have interrupted a step."""
        try:
            if is_a("SIGTERMException", exception):
                self._save_between_batches(trainer)
        finally:
            self._release()

    def _save_between_batches(self, trainer: Trainer) -> None:
        epochs: Any = trainer.fit_loop.epoch_progress.current
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if epochs.completed == epochs.started:
            self._save(trainer, BETWEEN)
        elif 0 < batches.completed == batches.processed and not trainer.is_last_batch:
            self._save(trainer, WITHIN)
        self._commit(trainer)

    def _release(self) -> None:
        if self._signals is not None:
            self._signals.release()
        self._signals = None

    # --- the file -----------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, place: str, stopped_early: bool = False) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._place, self._stopped_early = place, stopped_early
        try:
            trainer.save_checkpoint(self._part)
        finally:
            self._place = ""
        self._pending = self._has_saved = True
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _commit(self, trainer: Trainer) -> None:
        """Rename the checkpoint, after the loggers have stored everything that a resumed run will not log again."""
        if not self._pending:
            return
        self._pending = False
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            if self.path.is_file():
                _link(self.path, self.path.with_name(PREVIOUS))
            self._part.replace(self.path)

    # --- the state ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct Lightning's counts so that it resumes at the right place, and add the sums of the current epoch."""
        progress = checkpoint["loops"]["fit_loop"]
        if self._place == BETWEEN:
            for epochs in progress["epoch_progress"].values():
                epochs["ready"] = epochs["started"]  # the epoch that has just started will start again
        elif self._place == WITHIN:
            state: dict[str, Any] = checkpoint["callbacks"][self.state_key]
            state["epoch_sums"] = gather_objects(trainer, epoch_sums(trainer))
            if trainer.fit_loop._should_accumulate():
                parameters = pl_module.named_parameters()
                state["gradients"] = {
                    name: parameter.grad for name, parameter in parameters if parameter.grad is not None
                }
            batches = progress["epoch_loop.batch_progress"]
            if batches["current"]["completed"] == batches["current"]["processed"]:
                # Saved on a signal, after the end of the batch. Store the counts as they were within the batch: from
                # those Lightning continues without validating again.
                for count in (batches["current"], batches["total"]):
                    count["completed"] -= 1
                stepped = not trainer.fit_loop._should_accumulate()
                progress["epoch_loop.state_dict"]["_batches_that_stepped"] -= stepped

    def state_dict(self) -> dict[str, Any]:
        """The place in the run at which this checkpoint was saved."""
        return self.state_format.stamped({"place": self._place, "stopped_early": self._stopped_early})


class _AfterOthers(Callback):
    """The last callback: calls a LastCheckpoint at the end of each batch.

    Args:
        last: the LastCheckpoint.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self._last = last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the gradient accumulation of the current epoch: Lightning's scheduler would wait for the next one."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if is_a("GradientAccumulationScheduler", callback):
                callback.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if due: all other callbacks have seen the batch."""
        self._last.after_batch(trainer)


def _followed_by_more_than_a_batch(trainer: Trainer) -> bool:
    """Whether a validation or the epoch's end comes next: Lightning would skip it when it resumes from here."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached() or validation_follows(trainer)


def _stop_after_batch(trainer: Trainer) -> None:
    """Let Lightning stop the run when the current batch is complete; all processes call it at the same batch.

    Lightning's own signal handler communicates with the other processes immediately, possibly in the middle of their
    collectives.
    """
    trainer._signal_connector.received_sigterm = True


def _stops_early(trainer: Trainer) -> bool:
    return any(is_a("EarlyStopping", callback) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _link(path: Path, name: Path) -> None:
    """Give a file a second name, atomically."""
    part = name.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:  # a file system without links
        shutil.copyfile(path, part)
    part.replace(name)


class _Signals:
    """Passes SIGTERM and Ctrl-C to Lightning when they interrupt nothing; it then stops after the current batch.

    With several processes, signals wait here until all processes have agreed.

    Args:
        trainer: the Trainer, in training.
        interrupted: called on Ctrl-C.
    """

    def __init__(self, trainer: Trainer, interrupted: Callable[[], None]) -> None:
        self._trainer, self._interrupted = trainer, interrupted
        self.waiting = False
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if self._before[signal.SIGINT] is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_ctrl_c)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.waiting = True
        # Lightning would abort a validation, and its results so far would be lost.
        if not self._trainer.validating and self._trainer.world_size == 1:
            self.deliver()

    def _on_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        self._interrupted()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one stops at once
        self._on_sigterm(signal.SIGTERM, frame)

    def deliver(self) -> None:
        """Pass a waiting signal to Lightning."""
        handler = self._before[signal.SIGTERM]
        if self.waiting and callable(handler):
            self.waiting = False
            handler(signal.SIGTERM, None)

    def release(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
