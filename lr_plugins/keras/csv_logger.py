"""Keras' CSVLogger: a table with one row per epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from lr_plugins._lightning.artifacts import check_folder
from lr_plugins._lightning.compat import LightningModule, Trainer
from lr_plugins.callbacks.history import History
from lr_plugins.callbacks.last_lr import in_float32
from lr_plugins.console.keras_styles import LEARNING_RATE_NAMES, Style
from lr_plugins.console.keras_text import format_rate
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.paths import from_start


class CSVLogger(History):
    """Write a CSV file with the metrics of each epoch, and its learning rate if that is scheduled.

    The columns are `epoch` (from 0) and the names of the first epoch's metrics, sorted; a metric that an epoch does not
    log is `NA`. Keras 3 adds `val_...` columns if the first epoch has no validation. A row is written once the epoch's
    metrics are complete: at the start of the next epoch, or at the end of training.

    (Lightning's logger of the same name writes a row for each call of `log`, with training and validation in different
    rows.)

    Args:
        filename: the file; its folder is created.
        separator: the character between two columns. Default `","`.
        append: keep the contents of the file and continue below them, in the same columns. Default False: the file is
            replaced; a resumed run writes the rows of the earlier epochs again.
        style: `"keras2"` (default) calls the learning rate `lr`, `"keras3"` `learning_rate`, each with the digits that
            Keras prints.

    Raises:
        InvalidArgumentError: the separator is not a single character, or the style is unknown.

    Source: keras.callbacks.CSVLogger.

    Example:
        >>> callback = CSVLogger("training.csv", append=True)
    """

    def __init__(
        self, filename: str | Path, separator: str = ",", append: bool = False, style: Style = "keras2"
    ) -> None:
        super().__init__(style)
        if not isinstance(separator, str) or len(separator) != 1:
            raise InvalidArgumentError("CSVLogger.separator", separator, "a single character")
        self.filename, self.separator, self.append = from_start(filename), separator, append
        self._columns: list[str] | None = None
        self._written = 0  # rows of this run

    @property
    def state_key(self) -> str:  # type: ignore[override]
        """Loggers of different files have separate states."""
        return f"CSVLogger({self.filename.name})"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the file can be written, before training starts."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        check_folder("CSVLogger.filename", self.filename.parent)
        if self.filename.is_dir():
            raise InvalidArgumentError("CSVLogger.filename", str(self.filename), "a file; it is a folder")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the table; a resumed run first writes the rows of the earlier epochs."""
        super().on_train_start(trainer, pl_module)
        self._columns, self._written = None, 0
        if not trainer.is_global_zero:
            return
        if not self.append:
            self.filename.write_text("")
        elif header := self._header():
            self._columns, self._written = header, len(self.epoch)
        self._write_rows(trainer)

    def _header(self) -> list[str]:
        """The columns after `epoch` in the file; empty if it has no table yet."""
        if not self.filename.is_file():
            return []
        with self.filename.open(newline="") as file:
            return next(csv.reader(file, delimiter=self.separator), [])[1:]

    def _add_epoch(self, trainer: Trainer) -> None:
        super()._add_epoch(trainer)
        if trainer.is_global_zero:
            self._write_rows(trainer)

    def _write_rows(self, trainer: Trainer) -> None:
        """Write the rows of the epochs that are not in the file yet."""
        if self._written == len(self.epoch):
            return
        with self.filename.open("a", newline="") as file:
            table = csv.writer(file, delimiter=self.separator)
            for epoch in self.epoch[self._written :]:
                values = self._row(epoch)
                if self._columns is None:
                    self._columns = self._all_columns(sorted(values))
                    table.writerow(["epoch", *self._columns])
                table.writerow([epoch, *(values.get(name, "NA") for name in self._columns)])
        self._written = len(self.epoch)

    def _row(self, epoch: int) -> dict[str, Any]:
        values: dict[str, Any] = {name: by_epoch[epoch] for name, by_epoch in self.values.items() if epoch in by_epoch}
        if self.is_scheduled and epoch in self.learning_rates:
            rate = self.learning_rates[epoch]
            # Both versions of Keras keep it in float32, and Keras 2 writes the digits of that type.
            digits = format_rate(np.float32(rate), "keras2") if self.style == "keras2" else in_float32(rate)
            values.setdefault(LEARNING_RATE_NAMES[self.style], digits)
        return values

    def _all_columns(self, names: list[str]) -> list[str]:
        if self.style == "keras2" or any(name.startswith("val_") for name in names):
            return names
        return names + [f"val_{name}" for name in names]
