"""Checkpoint files that are either complete or absent, and that are loaded without running code."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO


class AtomicFiles(TorchCheckpointIO):
    """Write each checkpoint to a temporary file beside its path and rename it; load it without running code from it.

    A process that is killed leaves no partial checkpoint. Lightning uses the system's temporary folder, which may be on
    another disk; from there a file is copied, not renamed.
    """

    def load_checkpoint(self, path: str | Path, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """Read a checkpoint file: tensors, plain values, and classes registered as safe."""
        if "weights_only" in inspect.signature(TorchCheckpointIO.load_checkpoint).parameters:
            return super().load_checkpoint(path, *arguments, **{**settings, "weights_only": True})
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint file."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)  # otherwise a link would be followed
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
