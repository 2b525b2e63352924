"""Fixtures of the tests in this folder."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl

from lr_plugins.callbacks.keras_progress import progress as keras_progress
from lr_plugins.callbacks.keras_progress.callback import KerasProgress
from tests.callbacks.keras_progress.helpers import Clock, Module, trainer


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keras_progress, "perf_counter", clock)
    return clock


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> object:
    """Run a fit and return its standard output."""

    def run(module: pl.LightningModule | None = None, *callbacks: pl.Callback, **settings: object) -> str:
        progress = settings.pop("progress", None) or KerasProgress()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            trainer(progress, *callbacks, **settings).fit(module or Module())
        return capsys.readouterr().out

    return run
