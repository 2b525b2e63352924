"""KerasProgress: the learning rate in the lines of Keras 3."""

from __future__ import annotations

from types import SimpleNamespace

import pytorch_lightning as pl
import torch

from lr_plugins.callbacks.keras_progress.callback import KerasProgress
from tests.callbacks.keras_progress.helpers import Logs, Module, Scheduled, learning_rates


class Tracing(pl.Callback):
    """The part of a scheduler that the line relies on."""

    def __init__(self, *values: float | None) -> None:
        remaining = list(values)
        self.trace = SimpleNamespace(last=lambda: remaining.pop(0))


def test_learning_rate_comes_from_the_trace(console):
    out = console(Scheduled(), Tracing(0.25, 0.001), progress=KerasProgress("keras3"))
    # In float32, where Keras keeps it, 0.001 is above 1e-3 and so not in exponent form.
    assert learning_rates(out) == ["0.2500", "0.0010"]


def test_empty_trace_falls_back_to_the_optimizer(console):
    other = pl.Callback()
    other.trace = "something else"
    out = console(Scheduled(), other, Tracing(None, None), progress=KerasProgress("keras3"))
    assert learning_rates(out) == ["0.5000", "0.5000"]


def test_the_learning_rate_is_the_one_used_not_the_next(console):
    class Decaying(Module):
        def configure_optimizers(self) -> object:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    out = console(Decaying(), progress=KerasProgress("keras3"))
    assert learning_rates(out) == ["0.5000", "0.2500"]


def test_without_an_optimizer_there_is_no_learning_rate(console):
    class Still(Module):
        def configure_optimizers(self) -> None:
            return None

    out = console(Still(), progress=KerasProgress("keras3"))
    assert "learning_rate" not in out
    assert out.count("5/5") == 2


def test_a_learning_rate_the_module_logs_is_not_shown_twice(console):
    out = console(Logs({"learning_rate": 0.0}), progress=KerasProgress("keras3"))
    assert learning_rates(out) == ["2.0000", "2.0000"]
