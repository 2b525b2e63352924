"""Saving a module as an MLflow model, for `mlflow.pytorch.load_model`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch


def saved_model(module: Any, folder: Path) -> Path:
    """Save a LightningModule as an MLflow model, with the signature that its `example_input_array` gives it.

    Args:
        module: the module; it is not changed.
        folder: the folder to create.
    """
    import mlflow.pytorch
    from mlflow.models import infer_signature

    plain = copy.deepcopy(module).cpu().eval()  # Lightning does not copy the Trainer
    example, signature = getattr(plain, "example_input_array", None), None
    if isinstance(example, torch.Tensor):
        with torch.no_grad():
            signature = infer_signature(example.cpu().numpy(), plain(example.cpu()).numpy())
    # Given here, because MLflow would infer them by loading the model in another process.
    needed = [f"torch=={torch.__version__.partition('+')[0]}", "pytorch-lightning", "lr-plugins"]
    mlflow.pytorch.save_model(
        plain, str(folder), signature=signature, pip_requirements=needed, serialization_format="pickle"
    )
    return folder
