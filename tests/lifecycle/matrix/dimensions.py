"""The dimensions of the matrix: kinds of schedules, optimizers, and ways to watch a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from timm.optim import Lookahead
from torch.optim import LBFGS, SGD, Adam, Optimizer, lr_scheduler

from lr_plugins import (
    CosineDecay,
    CycleThrough,
    ExponentialDecay,
    InverseTimeDecay,
    LossDriven,
    OneCycle,
    ReduceLROnPlateau,
    Schedule,
    StepDecay,
)
from tests.lifecycle.matrix.task import BATCHES, EPOCHS, UNEQUAL, Net, Place


class Part(NamedTuple):
    """An `Assign` in the terms of the plan."""

    schedule: Schedule
    to: str = "lr"
    group: str | None = None


@dataclass(frozen=True)
class Kind:
    """A schedule, and the torch scheduler that its user would return to Lightning."""

    name: str
    parts: Callable[[], list[Part]]
    torchs: str
    build: Callable[[Optimizer], Any] | None = None
    interval: str = "step"
    frequency: int = 1
    monitor: str | None = None

    def config(self, optimizer: Optimizer, watch: Watch) -> dict[str, Any]:
        """The configuration that `configure_optimizers` returns."""
        assert self.build is not None
        config = {"scheduler": self.build(optimizer), "interval": self.interval, "frequency": self.frequency}
        if self.monitor is None:
            return config
        # Lightning's documentation asks for this frequency where not every epoch is validated.
        return {**config, "monitor": self.monitor, "frequency": watch.epochs}


def _sequential(optimizer: Optimizer) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=6),
        lr_scheduler.CosineAnnealingLR(optimizer, 34, eta_min=0.001),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[6])


def _one_cycle(optimizer: Optimizer) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, [0.1, 0.05][: len(optimizer.param_groups)], total_steps=64)


HELD, WARM_UP, EVERY_5 = "held within an epoch", "warm-up, then cosine", "every 5 steps"
PLATEAU, SEVERAL = "plateau of val_loss", "one cycle, momentum, a group of its own"
LOSS, LOSS_OF_STEPS = "loss of the epoch before", "loss of the 3 steps before"
SMOOTH = "epochs that move within"
KINDS = [
    Kind(
        HELD,
        lambda: [Part(StepDecay(drop=0.5, every="2ep"))],
        "StepLR, interval=epoch",
        lambda optimizer: lr_scheduler.StepLR(optimizer, 2, 0.5),
        "epoch",
    ),
    Kind(
        WARM_UP,
        lambda: [Part(CosineDecay(decay_steps="34st", end_learning_rate=0.001).with_warmup("6st", start_factor=0.1))],
        "SequentialLR of LinearLR and CosineAnnealingLR, interval=step",
        _sequential,
    ),
    Kind(
        "inverse time, by the step",
        lambda: [Part(InverseTimeDecay(decay_steps=1, decay_rate=0.1))],
        "LambdaLR, interval=step",
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step)),
    ),
    Kind(
        EVERY_5,
        lambda: [Part(StepDecay(drop=0.8, every="5st"))],
        "ExponentialLR, interval=step, frequency=5",
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.8),
        frequency=5,
    ),
    Kind(
        PLATEAU,
        lambda: [Part(ReduceLROnPlateau(factor=0.5, patience=0, rule="torch", min_delta=0.3))],
        "ReduceLROnPlateau, monitor=val_loss",
        lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.3),
        "epoch",
        monitor="val_loss",
    ),
    Kind(SMOOTH, lambda: [Part(ExponentialDecay(decay_steps="1ep", decay_rate=0.5).smooth())], "-"),
    Kind(LOSS, lambda: [Part(LossDriven(k=0.5))], "-"),
    Kind(LOSS_OF_STEPS, lambda: [Part(LossDriven(when="3st", k=0.5))], "-"),
    Kind(
        SEVERAL,
        lambda: [
            Part(OneCycle(0.1, total_steps="64st")),
            Part(CosineDecay(0.05, decay_steps="64st"), group="biases"),
            Part(CycleThrough(0.95, 0.85, 0.95, total_steps="64st"), to="momentum"),
        ],
        "OneCycleLR, interval=step",
        _one_cycle,
    ),
]


@dataclass(frozen=True)
class Setup:
    """A way of training: optimizers, accumulation, who steps."""

    name: str
    optimizers: Callable[[Net], list[Optimizer]]
    accumulate: dict[int, int] = field(default_factory=lambda: {0: 1}, hash=False)  # from an epoch onwards
    manual: bool = False
    scaled: bool = False
    kinds: tuple[str, ...] = ()  # the kinds it applies to; empty: all
    without: tuple[str, ...] = (SMOOTH,)  # the kinds it does not apply to
    sizes: tuple[int, ...] = (BATCHES,) * EPOCHS  # batches of each epoch
    replaced: str = ""  # replaced within an epoch: "groups" or "optimizer"

    def is_last(self, place: Place) -> bool:
        """Whether a batch is the last of its epoch."""
        return place[1] + 1 == self.sizes[place[0]]

    def factor(self, epoch: int) -> int:
        """How many batches make a step."""
        return self.accumulate[max(begin for begin in self.accumulate if begin <= epoch)]

    def precision(self) -> MixedPrecision:
        """The plugin behind `precision="16-mixed"`, which Lightning selects only on a GPU."""
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**6))


def groups(*modules: torch.nn.Module) -> list[dict[str, Any]]:
    """Weights and biases apart, by name."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return [
        {"params": [one for one in parameters if one.ndim > 1], "name": "weights"},
        {"params": [one for one in parameters if one.ndim == 1], "name": "biases"},
    ]


def _sgd(net: Net) -> list[Optimizer]:
    return [SGD(groups(net), lr=0.1, momentum=0.5)]


def _lookahead(net: Net) -> list[Optimizer]:
    return [Lookahead(optimizer, k=3) for optimizer in _sgd(net)]


def within(optimizer: Optimizer) -> Optimizer:
    """The optimizer that changes the weights if one wraps another."""
    inner = getattr(optimizer, "_base_optimizer", None)
    return optimizer if inner is None else inner


def _two(net: Net) -> list[Optimizer]:
    return [SGD(groups(net.first), lr=0.1, momentum=0.5), Adam(groups(net.second), lr=0.05)]


SETUPS = [
    Setup("SGD", _sgd),
    Setup("SGD, 3 batches a step", _sgd, {0: 3}),
    Setup("SGD, {0: 1, 2: 3}", _sgd, {0: 1, 2: 3}),
    Setup("Adam", lambda net: [Adam(groups(net), lr=0.05)], kinds=(HELD, PLATEAU, SEVERAL)),
    # Under manual optimization the module itself decides when "every 5 steps" is due.
    Setup("two optimizers", _two, manual=True, without=(EVERY_5, SMOOTH)),
    Setup("skipping scaler", _sgd, scaled=True),
    Setup("LBFGS", lambda net: [LBFGS(net.parameters(), lr=0.1, max_iter=2)], kinds=(HELD, WARM_UP, PLATEAU)),
    Setup("groups replaced", _sgd, replaced="groups", kinds=(HELD, WARM_UP, PLATEAU, SEVERAL)),
    Setup("optimizer replaced", _sgd, replaced="optimizer", kinds=(HELD, WARM_UP, PLATEAU, SEVERAL)),
    Setup("wrapping optimizer", _lookahead, kinds=(HELD, WARM_UP, PLATEAU, SEVERAL)),
    Setup(
        "epochs of unequal size",
        _sgd,
        sizes=UNEQUAL,
        kinds=(HELD, WARM_UP, SMOOTH, PLATEAU, LOSS, LOSS_OF_STEPS, SEVERAL),
        without=(),
    ),
]
REPLACED = [(1, 2), (2, 0)]  # the places of the replacements


@dataclass(frozen=True)
class Watch:
    """When validation runs happen."""

    options: tuple[tuple[str, int], ...] = ()
    epochs: int = 1  # from one validated epoch to the next
    every: int | None = None  # batches; None: at the end of the epoch

    def at(self, place: Place, is_last: bool) -> bool:
        """Whether one follows the batch."""
        due = is_last if self.every is None else (place[1] + 1) % self.every == 0
        return due and (place[0] + 1) % self.epochs == 0


AT_THE_END = Watch()
WITHIN = Watch((("val_check_interval", 3),), every=3)
EVERY_OTHER = Watch((("check_val_every_n_epoch", 2),), epochs=2)
