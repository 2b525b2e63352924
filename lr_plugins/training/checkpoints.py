"""Whether a checkpoint can be resumed from, told before anything is trained or recorded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from lr_plugins.errors import InvalidArgument
from lr_plugins.training.classifier import Classifier


def check_checkpoint(path: str, module: Classifier, max_epochs: int | None) -> None:
    """Check that a checkpoint is one of this model and optimizer, with something left to train.

    Args:
        path: the checkpoint file.
        module: what is to be trained.
        max_epochs: epochs of the run.

    Raises:
        InvalidArgument: it is not; the message says what differs.
    """
    if not Path(path).is_file():
        raise InvalidArgument(
            "ckpt_path", path, "a checkpoint file that exists, e.g. outputs/.../checkpoints/last.ckpt"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        weights, groups = checkpoint["state_dict"], checkpoint["optimizer_states"][0]["param_groups"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, IndexError, TypeError, EOFError) as error:
        raise InvalidArgument("ckpt_path", path, "a checkpoint of a Lightning run") from error
    if _shapes(weights) != _shapes(module.state_dict()):
        raise InvalidArgument(
            "ckpt_path", path, "a checkpoint of the same model", "Its weights have other names or sizes."
        )
    optimizer = module.configure_optimizers()
    missing = sorted(set(optimizer.param_groups[0]) - set(groups[0]))
    if missing:
        hint = f"It knows no {', '.join(missing)}, which {type(optimizer).__name__} needs."
        raise InvalidArgument("ckpt_path", path, "a checkpoint of the same optimizer", hint)
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if max_epochs is not None and 0 <= max_epochs <= done:
        raise InvalidArgument("trainer.max_epochs", max_epochs, f"above {done}, the epochs that the checkpoint has")


def _shapes(weights: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
