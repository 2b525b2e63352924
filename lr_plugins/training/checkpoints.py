"""Checks whether a run can be resumed from a checkpoint, before anything is trained or recorded."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from packaging.version import Version
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from lr_plugins.checkpoint_names import LAST, PREVIOUS
from lr_plugins.checkpoint_state import (
    ChecksState,
    WrongStateError,
    anything,
    count,
    dict_of,
    flag,
    list_of,
    mapping,
    record,
    tensor,
    text,
)
from lr_plugins.errors import InvalidArgumentError, LearningRateError, described
from lr_plugins.training.classifier import EPOCH_MEANS, Classifier
from lr_plugins.training.data import Batches

_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,  # RecursionError is one
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    ValueError,
)
_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


def _version(value: Any, where: str) -> None:
    text(value, where)
    Version(value)


_FORM = record(
    {
        "state_dict": dict_of(tensor()),
        "optimizer_states": list_of(
            record({"state": dict_of(anything, keys=anything), "param_groups": list_of(mapping)}, others=True)
        ),
        "lr_schedulers": list_of(anything),
        "loops": record({"fit_loop": mapping}, others=True),
        "epoch": count,
        "global_step": count,
        "pytorch-lightning_version": _version,
    },
    {"callbacks": mapping},
    others=True,
)
"""The layout of Lightning's checkpoints."""


def read_checkpoint(path: str) -> tuple[str, dict[str, Any]]:
    """Read a checkpoint, or the previous one if it is broken; the file and its contents.

    Args:
        path: the checkpoint file.

    Raises:
        InvalidArgumentError: neither can be read.
    """
    first = Path(path)
    candidates = [first, first.with_name(PREVIOUS)] if first.name == LAST else [first]
    if not any(file.is_file() for file in candidates):
        raise InvalidArgumentError(
            "ckpt_path", path, "a checkpoint file that exists, e.g. outputs/.../checkpoints/last.ckpt"
        )
    errors: list[Exception] = []
    for file in candidates:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            _FORM(checkpoint, "the checkpoint")
            checkpoint["optimizer_states"][0]["param_groups"][0]
        except _UNREADABLE as error:
            errors.append(error)
            continue
        if errors:
            print(f"{first} cannot be read ({type(errors[0]).__name__}): resuming from {file.name} instead", flush=True)
        return str(file), checkpoint
    raise InvalidArgumentError("ckpt_path", path, "a checkpoint of a Lightning run") from errors[0]


def check_checkpoint(
    path: str, checkpoint: dict[str, Any], module: Classifier, max_epochs: int | None, continues: bool = True
) -> None:
    """Check that a checkpoint fits this model and optimizer, and is not longer than the run.

    Args:
        path: the checkpoint file.
        checkpoint: what is in it.
        module: the module to be trained.
        max_epochs: epochs of the run.
        continues: whether the checkpoint's own run continues, which may be complete. Default True.

    Raises:
        InvalidArgumentError: it does not; the message says what differs.
    """
    if _shapes(checkpoint["state_dict"]) != _shapes(module.state_dict()):
        raise InvalidArgumentError(
            "ckpt_path", path, "a checkpoint of the same model", "Its weights have other names or sizes."
        )
    optimizer = module.configure_optimizers()
    missing = sorted(set(optimizer.param_groups[0]) - set(checkpoint["optimizer_states"][0]["param_groups"][0]))
    if missing:
        hint = f"It knows no {', '.join(missing)}, which {type(optimizer).__name__} needs."
        raise InvalidArgumentError("ckpt_path", path, "a checkpoint of the same optimizer", hint)
    done = epochs_done(checkpoint)
    if max_epochs is not None and 0 <= max_epochs < done + (not continues):
        bound = "at least" if continues else "above"
        raise InvalidArgumentError(
            "trainer.max_epochs", max_epochs, f"{bound} {done}, the epochs that the checkpoint has"
        )


def check_states(path: str, checkpoint: dict[str, Any], trainer: pl.Trainer, module: Classifier) -> None:
    """Check everything that a resumed run takes from a checkpoint, before any of it is used.

    Args:
        path: the checkpoint file.
        checkpoint: what is in it.
        trainer: the Trainer of the run, with its callbacks.
        module: the module to be trained.

    Raises:
        LearningRateError: a part of it cannot be loaded.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = states.get(callback.state_key)
        if state and isinstance(callback, ChecksState):
            callback.check_state_dict(state)
        elif state:
            _check_lightning_state(path, callback, state)
    EPOCH_MEANS(checkpoint.get("epoch_means", []), "epoch_means in the checkpoint")
    loops = checkpoint["loops"]["fit_loop"]
    _check_same_form(loops, trainer.fit_loop.state_dict(), "loops.fit_loop in the checkpoint")
    loaders = loops.get("state_dict", {}).get("combined_loader", [])
    list_of(Batches.state_format.as_part)(loaders, "the loaders in the checkpoint")
    try:
        module.configure_optimizers().load_state_dict(copy.deepcopy(checkpoint["optimizer_states"][0]))
    except LearningRateError:
        raise
    except Exception as error:
        hint = f"The state of its optimizer cannot be loaded ({type(error).__name__}: {error})."
        raise InvalidArgumentError("ckpt_path", path, "a checkpoint of the same optimizer", hint) from error


def _check_lightning_state(path: str, callback: Callback, state: Any) -> None:
    """Try a state on a copy of the callback, and check the files that ModelCheckpoint would delete."""
    name = type(callback).__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are given again when the state is really loaded
            copy.copy(callback).load_state_dict(copy.deepcopy(state))
        if isinstance(callback, ModelCheckpoint):
            named = [*state.get("best_k_models", {}), *(state.get(key, "") for key in _PATHS)]
            if any("://" in path or ".." in Path(path).parts for path in named):
                raise ValueError("it names files elsewhere")
    except LearningRateError:
        raise
    except Exception as error:
        hint = f"The state of {name} in it cannot be loaded ({type(error).__name__}: {error})."
        raise InvalidArgumentError("ckpt_path", path, "an intact checkpoint", hint) from error


def _check_same_form(value: Any, own: Any, where: str, depth: int = 0) -> None:
    """Check that there are counts where Lightning has counts; keys that only one side has are left to Lightning."""
    if isinstance(own, Mapping):
        mapping(value, where)
        missing = set(own) - set(value) if depth > 1 else set()
        if missing:
            raise WrongStateError(
                where, described(f"one without {', '.join(sorted(missing))}"), "a dictionary with them"
            )
        for name in set(own) & set(value):
            _check_same_form(value[name], own[name], f"{where}.{name}", depth + 1)
    elif isinstance(own, bool):
        flag(value, where)
    elif isinstance(own, int):
        count(value, where)


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """The epochs that a checkpoint's training has completed."""
    done: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return done


def _shapes(weights: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
