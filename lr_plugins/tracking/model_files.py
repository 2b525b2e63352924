"""What is stored of a model with its run: its checkpoints, and the module as an MLflow model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lr_plugins.rank_zero import rank_zero_only, rank_zero_warn


class ModelFiles:
    """Stores a run's checkpoints and its module.

    Args:
        store: stores a file or folder with the run, in a folder of the run (None: the topmost).
        wanted: False: nothing; True: the checkpoints that are kept at the end, and the module; `"all"`: also each
            checkpoint when it is written.
        prefix: folder within the run for the checkpoints.
    """

    def __init__(self, store: Callable[[Path, str | None], None], wanted: bool | Literal["all"], prefix: str) -> None:
        self._store, self._wanted, self._prefix = store, wanted, prefix
        self.module: Any = None
        """The module of the fit."""
        self._kept: list[str] = []  # by ModelCheckpoint
        self._stored: dict[str, float] = {}  # checkpoints, with the times at which they were written

    def note_checkpoints(self, callback: Any) -> None:
        """Note the checkpoints that a ModelCheckpoint keeps, and store them if each is wanted."""
        kept = [*callback.best_k_models, callback.best_model_path, callback.last_model_path]
        self._kept = [path for path in dict.fromkeys(kept) if path]
        if self._wanted == "all":
            self._store_checkpoints()

    @rank_zero_only
    def store(self) -> None:
        """Store what is wanted after a training that has succeeded."""
        module, self.module = self.module, None
        if not self._wanted:
            return
        self._store_checkpoints()
        if module is None:
            return
        from lr_plugins.tracking.model import saved_model

        with tempfile.TemporaryDirectory() as folder:
            try:
                self._store(saved_model(module, Path(folder) / "model"), None)
            except Exception as error:  # the run is complete without it
                rank_zero_warn(f"MLflowLogger could not store the model: {error}")

    @rank_zero_only
    def _store_checkpoints(self) -> None:
        for path in map(Path, self._kept):
            written = path.stat().st_mtime if path.is_file() else None
            if written is not None and self._stored.get(str(path)) != written:
                self._stored[str(path)] = written
                self._store(path, self._prefix)
