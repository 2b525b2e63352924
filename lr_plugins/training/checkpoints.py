"""Whether a checkpoint can be resumed from, told before anything is trained or recorded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from lr_plugins.errors import InvalidArgument
from lr_plugins.training.classifier import Classifier
from lr_plugins.training.resume import LAST, PREVIOUS

_UNREADABLE = (pickle.UnpicklingError, RuntimeError, KeyError, IndexError, TypeError, EOFError, OSError, ValueError)


def read_checkpoint(path: str) -> tuple[str, dict[str, Any]]:
    """A checkpoint, or the one before where it is broken; with the file that it is from.

    Args:
        path: the checkpoint file.

    Raises:
        InvalidArgument: there is none that can be read.
    """
    first = Path(path)
    candidates = [first, first.with_name(PREVIOUS)] if first.name == LAST else [first]
    if not any(file.is_file() for file in candidates):
        raise InvalidArgument(
            "ckpt_path", path, "a checkpoint file that exists, e.g. outputs/.../checkpoints/last.ckpt"
        )
    errors: list[Exception] = []
    for file in candidates:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            checkpoint["state_dict"], checkpoint["optimizer_states"][0]["param_groups"], checkpoint["loops"]["fit_loop"]
        except _UNREADABLE as error:
            errors.append(error)
            continue
        if errors:
            print(f"{first} cannot be read ({type(errors[0]).__name__}): resuming from {file.name} instead", flush=True)
        return str(file), checkpoint
    raise InvalidArgument("ckpt_path", path, "a checkpoint of a Lightning run") from errors[0]


def check_checkpoint(
    path: str, checkpoint: dict[str, Any], module: Classifier, max_epochs: int | None, goes_on: bool = True
) -> None:
    """Check that a checkpoint is one of this model and optimizer, and not longer than the run.

    Args:
        path: the checkpoint file.
        checkpoint: what is in it.
        module: what is to be trained.
        max_epochs: epochs of the run.
        goes_on: whether the checkpoint's own run goes on, which may be complete. Default True.

    Raises:
        InvalidArgument: it is not; the message says what differs.
    """
    if _shapes(checkpoint["state_dict"]) != _shapes(module.state_dict()):
        raise InvalidArgument(
            "ckpt_path", path, "a checkpoint of the same model", "Its weights have other names or sizes."
        )
    optimizer = module.configure_optimizers()
    missing = sorted(set(optimizer.param_groups[0]) - set(checkpoint["optimizer_states"][0]["param_groups"][0]))
    if missing:
        hint = f"It knows no {', '.join(missing)}, which {type(optimizer).__name__} needs."
        raise InvalidArgument("ckpt_path", path, "a checkpoint of the same optimizer", hint)
    done = epochs_done(checkpoint)
    if max_epochs is not None and 0 <= max_epochs < done + (not goes_on):
        bound = "at least" if goes_on else "above"
        raise InvalidArgument("trainer.max_epochs", max_epochs, f"{bound} {done}, the epochs that the checkpoint has")


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """The epochs that a checkpoint's training has completed."""
    done: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return done


def _shapes(weights: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
