"""Sends the results of a fit that runs in worker processes back to the process that called `fit`.

With `strategy="ddp_spawn"`, `"ddp_fork"` and `"ddp_notebook"`, `Trainer.fit` trains in worker processes. The callbacks
of the main process never see the fit: Lightning returns the weights, `callback_metrics` and `trainer.state` only. The
code that depends on how Lightning does that is in this file. The worker attaches a `_Parcel` to its `trainer.state`,
and the parcel is delivered when the main process unpickles that state.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lr_plugins._lightning.compat import Callback, Trainer
from lr_plugins._lightning.run_length import is_a

_ATTRIBUTE = "_lr_plugins_results"  # of Lightning's TrainerState, which is a plain dataclass


def send_to_main_process(trainer: Trainer, callback: Callback, state: Mapping[str, Any]) -> None:
    """Set attributes of a callback in the main process as well; to be called in the callback's `teardown`.

    Does nothing if the fit runs in the main process. If the fit raises in a worker, `teardown` is not called, and the
    main process keeps what it had.

    Args:
        trainer: the Trainer of the run.
        callback: one of the Trainer's callbacks.
        state: the attributes by name. They are pickled, and set on the corresponding callback of the main process.
    """
    strategy: Any = trainer.strategy
    if not is_a("_MultiProcessingLauncher", strategy.launcher) or trainer.state.fn != "fit" or strategy.local_rank:
        return
    parcel = getattr(trainer.state, _ATTRIBUTE, None)
    if parcel is None:
        parcel = _Parcel()
        setattr(trainer.state, _ATTRIBUTE, parcel)
    parcel.results[callback.state_key] = dict(state)


class _Parcel:
    """Results that are delivered by being unpickled in the main process."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, Any]] = {}  # by the callbacks' `state_key`

    def __deepcopy__(self, memo: dict[int, Any]) -> _Parcel:
        return self  # Lightning copies the state before sending it

    def __reduce__(self) -> tuple[Any, ...]:
        # Through a file, as Lightning sends the weights: Lightning joins the workers before it reads their queue, so a
        # worker that puts more into the queue than a pipe holds (64 KiB) would block forever.
        handle, path = tempfile.mkstemp(prefix="lr_plugins_", suffix=".results")
        with os.fdopen(handle, "wb") as file:
            pickle.dump(self.results, file)
        return _deliver, (path,)


def _deliver(path: str) -> None:
    """Set what a worker has sent; the Trainer's state keeps none of it."""
    trainer = _fitting_trainer()
    if trainer is None:
        return
    results: dict[str, dict[str, Any]] = pickle.loads(Path(path).read_bytes())
    Path(path).unlink()
    _attach_callbacks_of_module(trainer, set(results))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name, value in results.get(callback.state_key, {}).items():
            setattr(callback, name, value)


def _fitting_trainer() -> Trainer | None:
    """The Trainer that waits for its workers: its launcher unpickles the state, so its `fit` is among the callers."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        owner: Any = frame.f_locals.get("self")
        if frame.f_code.co_name == "fit" and is_a("Trainer", owner):
            trainer: Trainer = owner
            return trainer
        frame = frame.f_back
    return None


def _attach_callbacks_of_module(trainer: Trainer, keys: set[str]) -> None:
    """Let the module's callbacks with these keys override the Trainer's, as Lightning did in the workers."""
    configured = trainer.lightning_module.configure_callbacks()
    callbacks: list[Any] = list(configured) if isinstance(configured, Sequence) else [configured]
    own = [callback for callback in callbacks if callback.state_key in keys]
    overridden = {type(callback) for callback in own}
    others = [callback for callback in trainer.callbacks if type(callback) not in overridden]  # type: ignore[attr-defined]
    trainer.callbacks = [*own, *others]  # type: ignore[attr-defined]
