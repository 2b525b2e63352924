"""Interrupted trainings, ours beside Lightning's schedulers: `python -m tests.lifecycle.matrix docs`.

A case is a kind of schedule, a way of training (optimizers, accumulation) and a side: ours, or a torch scheduler that
`configure_optimizers` returns. Each case is trained and interrupted in every way of `INTERRUPTIONS`. The learning rates
that the optimizers' steps really used, and the weights at the end, are compared with those of `plan`: a training loop
of a few lines, without Lightning, which is never interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import logging
import math
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.exceptions import SIGTERMException
from timm.optim import Lookahead
from torch.optim import LBFGS, SGD, Adam, Optimizer, lr_scheduler

from lr_plugins import (
    Assign,
    CosineDecay,
    CycleThrough,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateScheduler,
    LossDriven,
    OneCycle,
    ReduceLROnPlateau,
    RunLength,
    Schedule,
    StepDecay,
)
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.schedules import Position
from lr_plugins.schedules.observation import EPOCH, Observation, steps_between
from lr_plugins.training.data import Batches
from tests.toys import QUIET

EPOCHS, BATCHES, SAMPLES = 4, 7, 4  # of a run; of an epoch; of a batch
UNEQUAL = (5, 8, 6, 7)  # batches of the epochs, where they differ
Place = tuple[int, int]  # epoch and batch, from 0
Used = tuple[float, ...]  # what one step used: learning rate and momentum of each param group


# --- the task -------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """Two layers that always begin alike; `broken` makes the gradients of the coming step infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
        self.broken = False
        self.second.weight.register_hook(lambda grad: grad * math.inf if self.broken else grad)

    def loss(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.second(self.first(batch[0]).tanh()), batch[1])


def batches(count: int = BATCHES, seed: int = 1) -> Batches:
    """A loader whose place Lightning can save and restore, so that a resumed epoch goes on where it was."""
    x = torch.randn(count * SAMPLES, 3, generator=torch.Generator().manual_seed(seed))
    return Batches(x, x.sum(1, keepdim=True).sin() + 0.3 * x[:, :1], SAMPLES)


def breaks(place: Place) -> bool:
    """Where a gradient scaler has to skip a step: within each epoch, and at the end of one."""
    return place[1] == 2 or place == (1, BATCHES - 1)


def turns(batch: int) -> list[int]:
    """Which of two optimizers steps on a batch, as in a GAN: the first always, the second at every third."""
    return [0] if batch % 3 else [0, 1]


# --- the dimensions -------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """What `Assign` is told, in the words of the plan."""

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
        """As `configure_optimizers` returns it."""
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
    accumulate: dict[int, int] = field(default_factory=lambda: {0: 1}, hash=False)  # from an epoch on
    manual: bool = False
    scaled: bool = False
    kinds: tuple[str, ...] = ()  # those that it is for; none named: all
    without: tuple[str, ...] = (SMOOTH,)  # those that it is not for
    sizes: tuple[int, ...] = (BATCHES,) * EPOCHS  # batches of each epoch
    replaced: str = ""  # what is replaced in the midst of an epoch: "groups", "optimizer"

    def is_last(self, place: Place) -> bool:
        """Whether a batch is the last of its epoch."""
        return place[1] + 1 == self.sizes[place[0]]

    def factor(self, epoch: int) -> int:
        """How many batches make a step."""
        return self.accumulate[max(begin for begin in self.accumulate if begin <= epoch)]

    def precision(self) -> MixedPrecision:
        """The plugin behind `precision="16-mixed"`, which Lightning chooses on a GPU only."""
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
    """What changes the weights, where one optimizer wraps another."""
    inner = getattr(optimizer, "_base_optimizer", None)
    return optimizer if inner is None else inner


def _two(net: Net) -> list[Optimizer]:
    return [SGD(groups(net.first), lr=0.1, momentum=0.5), Adam(groups(net.second), lr=0.05)]


SETUPS = [
    Setup("SGD", _sgd),
    Setup("SGD, 3 batches a step", _sgd, {0: 3}),
    Setup("SGD, {0: 1, 2: 3}", _sgd, {0: 1, 2: 3}),
    Setup("Adam", lambda net: [Adam(groups(net), lr=0.05)], kinds=(HELD, PLATEAU, SEVERAL)),
    # How often "every 5 steps" is to come is the module's own business under manual optimization.
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
REPLACED = [(1, 2), (2, 0)]  # where something is replaced


@dataclass(frozen=True)
class Watch:
    """When there is a validation run."""

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


# --- what a run did -------------------------------------------------------------------------------------------------


class Steps:
    """What each real step of some optimizers has used, by hooks of its own."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.used: list[list[Used]] = [[] for _ in optimizers]
        self._handles = []
        for optimizer, used in zip(optimizers, self.used, strict=True):
            self._follow(optimizer, used)

    def replace(self, optimizer: Optimizer) -> None:
        """Follow another one in the place of the first."""
        self.detach()
        self._handles = []
        self._follow(optimizer, self.used[0])

    def _follow(self, optimizer: Optimizer, used: list[Used]) -> None:
        coming: list[Used] = []
        optimizer = within(optimizer)
        self._handles += [
            optimizer.register_step_pre_hook(lambda *_: coming.append(_hypers(optimizer))),
            optimizer.register_step_post_hook(lambda *_: used.append(coming.pop())),
        ]

    @property
    def counts(self) -> list[int]:
        return [len(used) for used in self.used]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()


def _hypers(optimizer: Optimizer) -> Used:
    momenta = [group.get("momentum", group.get("betas", (0.0,))[0]) for group in optimizer.param_groups]
    return (*(float(group["lr"]) for group in optimizer.param_groups), *map(float, momenta))


@dataclass(frozen=True)
class Result:
    """What a run, with those that it went on from, has done."""

    used: list[list[Used]]
    weights: list[list[float]]
    factors: dict[Place, int] = field(default_factory=dict)  # the accumulation at each batch
    lost: frozenset[Place] = frozenset()  # where the optimizers' states were left out of a checkpoint
    begun: list[int] = field(default_factory=list)  # steps before its own
    end: Callable[[Path], Path] | None = None  # saves a checkpoint

    def then(self, other: Result) -> Result:
        """Of the run that was interrupted and the one that went on."""
        used = [mine[:begun] + its for mine, its, begun in zip(self.used, other.used, other.begun, strict=True)]
        return Result(used, other.weights, {**self.factors, **other.factors}, self.lost | other.lost)


class Recorder(pl.Callback):
    """Follows a training; put it behind the scheduler, to see what is used."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.factors: dict[Place, int] = {}
        self.place: Place = (0, 0)
        self.steps = Steps([])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps = Steps(trainer.optimizers)
        self.begun = self.begun or [0] * len(trainer.optimizers)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.place = (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx)
        self.factors[self.place] = trainer.accumulate_grad_batches

    def state_dict(self) -> dict[str, Any]:
        counts = [begun + count for begun, count in zip(self.begun, self.steps.counts, strict=True)]
        return {"steps": counts, "place": list(self.place)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.begun = state_dict["steps"]


class Replaces(pl.Callback):
    """Puts other param groups, or another optimizer, in the place of those that there are."""

    def __init__(self, what: str, recorder: Recorder) -> None:
        self._what, self._recorder = what, recorder

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) not in REPLACED:
            return
        (old,) = trainer.optimizers
        if self._what == "groups":
            old.param_groups[:] = [{**group, "lr": 0.7} for group in old.param_groups]
        else:
            groups = [{name: value for name, value in group.items() if name != "lr"} for group in old.param_groups]
            new = type(old)(groups, **{name: old.defaults[name] for name in ("lr", "momentum")})
            trainer.strategy.optimizers = [new]
            self._recorder.steps.replace(new)


# --- the plan -------------------------------------------------------------------------------------------------------


class _Ours:
    """A schedule as a function of the position, with what it remembers, for one optimizer."""

    def __init__(self, case: Case, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._bases = [float(group["lr"]) for group in optimizer.param_groups]
        self._parts = case.kind.parts()
        self._states = [part.schedule.start() for part in self._parts]
        # A step's loss is observed every so many steps, as a mean over the batches since.
        self._whens = [monitor.when for part in self._parts for monitor in part.schedule.monitors]
        self._every = next((steps_between(when) for when in self._whens), None)
        self._losses: list[torch.Tensor] = []
        sizes, accumulate = case.setup.sizes, case.setup.accumulate
        per_epoch = math.ceil(sizes[0] / accumulate[0]) if len(accumulate) == 1 else None
        known = per_epoch is not None and not case.setup.manual
        self._run = RunLength.of(per_epoch if known else None, EPOCHS)
        self._smooth, self._sizes = case.kind.name == SMOOTH, sizes

    def _place(self, step: int, epoch: int, at: int = 0) -> Position:
        return Position(step, epoch, self._run, self._bases[at])

    def write(self, step: int, epoch: int) -> None:
        for part, state in zip(self._parts, self._states, strict=True):
            for at, group in enumerate(self._optimizer.param_groups):
                if part.group in (None, group.get("name")):
                    value = self._value(part, state, step, epoch, at)
                    if part.to == "lr":
                        group["lr"] = value
                    elif "betas" in group:
                        group["betas"] = (value, group["betas"][1])
                    else:
                        group["momentum"] = value

    def _value(self, part: Part, state: Any, step: int, epoch: int, at: int) -> Any:
        place = self._place(step, epoch, at)
        if not self._smooth:
            return part.schedule(place, state)
        # The schedule that is smoothed, at the share of this epoch that is over.
        share = (step - sum(self._sizes[:epoch])) / self._sizes[epoch]
        return part.schedule.schedule(place._replace(epoch=epoch + share), state)  # type: ignore[attr-defined]

    def _observe(self, step: int, epoch: int, when: str, metrics: dict[str, float]) -> None:
        seen = Observation(when, metrics, known=frozenset(["loss", "val_loss"]))  # not every epoch is validated
        self._states = [
            part.schedule.observe(state, self._place(step, epoch), seen) if state is not None else None
            for part, state in zip(self._parts, self._states, strict=True)
        ]

    def after_batch(self, step: int, epoch: int, stepped: bool, loss: torch.Tensor) -> None:
        if self._every is None:
            return
        self._losses.append(loss.double())
        if stepped and step % self._every == 0:
            mean = float(sum(self._losses[1:], start=self._losses[0])) / len(self._losses)
            self._losses = []
            self._observe(step, epoch, self._whens[0], {"loss": mean})

    def after_epoch(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        self._observe(step, epoch + 1, EPOCH, metrics)


class _Torchs:
    """A torch scheduler, stepped as its user intends: at the steps that are taken, at the epochs that are validated."""

    def __init__(self, case: Case, optimizer: Optimizer) -> None:
        self._config = case.kind.config(optimizer, case.watch)

    def write(self, step: int, epoch: int) -> None:
        """It has written when it was stepped."""

    def after_batch(self, step: int, epoch: int, stepped: bool, loss: torch.Tensor) -> None:
        if self._config["interval"] == "step" and stepped and step % self._config["frequency"] == 0:
            self._config["scheduler"].step()

    def after_epoch(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        if self._config["interval"] == "epoch" and "monitor" not in self._config:
            self._config["scheduler"].step()
        elif "monitor" in self._config and self._config["monitor"] in metrics:
            self._config["scheduler"].step(metrics[self._config["monitor"]])


class _Loop:
    """A training without Lightning.

    Args:
        case: what is trained.
        factors: accumulation, where it is not the setup's.
        lost: where the optimizers' states are lost.
    """

    def __init__(self, case: Case, factors: dict[Place, int], lost: frozenset[Place]) -> None:
        self.setup, self.watch, self.factors, self.lost = case.setup, case.watch, factors, lost
        self.net, self.validation = Net(), next(iter(validation()))
        self.optimizers = self.setup.optimizers(self.net)
        self.steps = Steps(self.optimizers)
        self.drivers = [(_Ours if case.ours else _Torchs)(case, optimizer) for optimizer in self.optimizers]
        self.scaler = self.setup.precision().scaler

    def run(self) -> Result:
        for epoch in range(EPOCHS):
            self._epoch(epoch)
        return Result(self.steps.used, weights(self.net))

    def _epoch(self, epoch: int) -> None:
        metrics: dict[str, float] = {}
        total, data = torch.zeros(()), list(batches(self.setup.sizes[epoch]))
        for index, batch in enumerate(data):
            renewed = self.setup.replaced == "optimizer" and (epoch, index) in REPLACED
            if (epoch, index) in self.lost or renewed:
                for optimizer in map(within, self.optimizers):
                    optimizer.state.clear()
                    for group in optimizer.param_groups:
                        group.update({"lookahead_step": 0} if "lookahead_step" in group else {})
            before = self.steps.counts
            for driver, step in zip(self.drivers, before, strict=True):
                driver.write(step, epoch)
            loss = self._batch((epoch, index), batch)
            total += loss * SAMPLES
            for driver, old, step in zip(self.drivers, before, self.steps.counts, strict=True):
                driver.after_batch(step, epoch, step > old, loss)
            if self.watch.at((epoch, index), self.setup.is_last((epoch, index))):
                with torch.no_grad(), self._precision():
                    metrics["val_loss"] = float(self.net.loss(self.validation))
        metrics["loss"] = float(total / (SAMPLES * len(data)))
        for driver, step in zip(self.drivers, self.steps.counts, strict=True):
            driver.after_epoch(step, epoch, metrics)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return self.setup.precision().forward_context() if self.setup.scaled else contextlib.nullcontext()

    def _batch(self, place: Place, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """The loss of a batch, as Lightning hands it out: divided by the accumulation."""
        if self.setup.manual:
            return take_turns(self.net, self.optimizers, batch, place[1], torch.Tensor.backward)
        factor = self.factors.get(place, self.setup.factor(place[0]))
        begin, end = place[1] % factor == 0, (place[1] + 1) % factor == 0 or self.setup.is_last(place)
        losses: list[torch.Tensor] = []

        def closure() -> torch.Tensor:
            self.net.broken = self.setup.scaled and breaks(place)
            with self._precision():
                loss = self.net.loss(batch)
            if begin:
                self.optimizers[0].zero_grad()
            scaled = loss / factor
            (self.scaler.scale(scaled) if self.setup.scaled else scaled).backward()
            losses.append(scaled.detach() * factor)
            return scaled

        self._step(closure, end)
        return losses[0]

    def _step(self, closure: Callable[[], torch.Tensor], end: bool) -> None:
        if not end or self.setup.scaled:
            closure()
        if end and self.setup.scaled:
            self.scaler.unscale_(self.optimizers[0])
            self.scaler.step(self.optimizers[0])
            self.scaler.update()
        elif end:
            self.optimizers[0].step(closure)


def take_turns(
    net: Net,
    optimizers: Sequence[Any],
    batch: Sequence[torch.Tensor],
    index: int,
    backward: Callable[[torch.Tensor], None],
    after: Callable[[int], None] = lambda which: None,
) -> torch.Tensor:
    """A batch under manual optimization; the loss that the last of the optimizers had."""
    for which in turns(index):
        optimizers[which].zero_grad()
        loss = net.loss(batch)
        backward(loss)
        optimizers[which].step()
        after(which)
    return loss.detach()


def validation() -> Batches:
    return batches(1, seed=2)


def weights(net: Net) -> list[list[float]]:
    return [parameter.detach().flatten().tolist() for parameter in net.parameters()]


# --- the training with Lightning ------------------------------------------------------------------------------------


class Data(pl.LightningDataModule):
    """The batches of each epoch, in loaders that are made anew where the epochs differ."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup_of = setup

    def train_dataloader(self) -> Batches:
        assert self.trainer is not None
        return batches(self.setup_of.sizes[min(self.trainer.current_epoch, EPOCHS - 1)])

    def val_dataloader(self) -> Batches:
        return validation()


class Module(pl.LightningModule):
    """The same task for Lightning; with a torch scheduler where it is not ours."""

    def __init__(self, case: Case, lose: bool) -> None:
        super().__init__()
        self.net, self.case, self.lose = Net(), case, lose
        self.automatic_optimization = not case.setup.manual

    def configure_optimizers(self) -> Any:
        optimizers = self.case.setup.optimizers(self.net)
        if self.case.ours:
            return optimizers
        return optimizers, [self.case.kind.config(optimizer, self.case.watch) for optimizer in optimizers]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.net.broken = self.case.setup.scaled and breaks((self.current_epoch, batch_idx))
        if self.case.setup.manual:
            loss = take_turns(self.net, self.optimizers(), batch, batch_idx, self.manual_backward, self._after_turn)
            if not self.case.ours and self.case.kind.interval == "epoch" and self.trainer.is_last_batch:
                self._step_schedulers(monitored=False)
        else:
            loss = self.net.loss(batch)
        if self.case.kind.name == LOSS:
            self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=SAMPLES)
        return loss

    def _after_turn(self, which: int) -> None:
        """Lightning leaves schedulers to the module under manual optimization."""
        if not self.case.ours and self.case.kind.interval == "step":
            self.lr_schedulers()[which].step()

    def _step_schedulers(self, monitored: bool) -> None:
        for scheduler in self.lr_schedulers():
            if monitored != isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                continue
            if not monitored:
                scheduler.step()
            elif (self.current_epoch + 1) % self.case.watch.epochs == 0 and "val_loss" in self.trainer.callback_metrics:
                scheduler.step(self.trainer.callback_metrics["val_loss"])

    def on_train_epoch_end(self) -> None:
        if self.case.setup.manual and not self.case.ours:
            self._step_schedulers(monitored=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net.loss(batch), batch_size=SAMPLES)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.lose:
            checkpoint["optimizer_states"] = []


@dataclass(frozen=True)
class Case:
    """One kind of schedule, one way of training, one side."""

    kind: Kind
    setup: Setup
    ours: bool
    watch: Watch = AT_THE_END

    def watched(self, watch: Watch) -> Case:
        """With other validation runs."""
        return Case(self.kind, self.setup, self.ours, watch)

    def plan(self, of: Result) -> Result:
        """What an uninterrupted run does, with the accumulation that was used."""
        others = {place: factor for place, factor in of.factors.items() if factor != self.setup.factor(place[0])}
        return _plan(self, tuple(sorted(others.items())), of.lost)

    def train(
        self,
        *callbacks: pl.Callback,
        ckpt_path: Path | None = None,
        epochs: int = EPOCHS,
        lose: bool = False,
        last: LastCheckpoint | None = None,
    ) -> Result:
        """Train with Lightning, from the begin or from a checkpoint, until the end or until it is interrupted."""
        recorder, module = Recorder(), Module(self, lose)
        scheduler = LearningRateScheduler(
            [Assign(part.schedule, to=part.to, group=part.group) for part in self.kind.parts()]
        )
        mine = ([last] if last else []) + ([scheduler] if self.ours else [])
        accumulation = [] if len(self.setup.accumulate) == 1 else [GradientAccumulationScheduler(self.setup.accumulate)]
        options = {**QUIET, "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in callbacks)}
        options |= {"num_sanity_val_steps": 0, **dict(self.watch.options)}
        if len(self.setup.accumulate) == 1:
            options["accumulate_grad_batches"] = self.setup.factor(0)
        if self.setup.scaled:
            options["plugins"] = [self.setup.precision()]
        if len(set(self.setup.sizes)) > 1:
            options["reload_dataloaders_every_n_epochs"] = 1
        mine += [Replaces(self.setup.replaced, recorder)] if self.setup.replaced else []
        trainer = pl.Trainer(max_epochs=epochs, callbacks=[*accumulation, *mine, recorder, *callbacks], **options)
        with contextlib.suppress(Breakdown, SIGTERMException):
            trainer.fit(module, datamodule=Data(self.setup), ckpt_path=ckpt_path)
        recorder.steps.detach()
        if self.ours:
            self._check_trace(scheduler, recorder)
        return self._result(trainer, module, recorder)

    def _check_trace(self, scheduler: LearningRateScheduler, recorder: Recorder) -> None:
        """What our trace says is what the optimizers used."""
        columns = [list(zip(*used, strict=True)) for used in recorder.steps.used]
        rates = [list(column) for used in columns for column in used[: len(used) // 2]]
        momenta = [list(column) for used in columns for column in used[len(used) // 2 :]]
        traced = {name: series.values.tolist() for name, series in scheduler.trace.items()}
        assert [values for name, values in traced.items() if name.startswith("lr")] == rates, self
        assert all(values in momenta for name, values in traced.items() if name.startswith("momentum")), self

    def _result(self, trainer: pl.Trainer, module: Module, recorder: Recorder) -> Result:
        def end(path: Path) -> Path:
            trainer.save_checkpoint(path)
            return path

        lost = frozenset([min(recorder.factors)] if module.lose else [])
        return Result(recorder.steps.used, weights(module.net), recorder.factors, lost, recorder.begun, end)


@functools.lru_cache(maxsize=64)
def _plan(case: Case, factors: tuple[tuple[Place, int], ...], lost: frozenset[Place]) -> Result:
    return _Loop(case, dict(factors), lost).run()


# --- the interruptions ----------------------------------------------------------------------------------------------


class Breakdown(Exception):
    """What ends a training."""


class At(pl.Callback):
    """Does something at the begin of one batch."""

    def __init__(self, place: Place, act: Callable[[], None]) -> None:
        self._place, self._act = place, act

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self._place:
            self._act()


class AfterBatch(pl.Callback):
    """Saves a checkpoint when all others are done with one batch."""

    def __init__(self, place: Place, path: Path) -> None:
        self._place, self._path = place, path

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self._place:
            trainer.save_checkpoint(self._path)


def _break_down() -> None:
    raise Breakdown


def _sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


def within_epochs(case: Case, folder: Path) -> list[Path]:
    """The checkpoints that were not taken at the end of an epoch: the first, one amid them, the last."""
    places = {path: torch.load(path)["callbacks"]["Recorder"]["place"] for path in sorted(folder.glob("*.ckpt"))}
    inside = [path for path, place in places.items() if not case.setup.is_last(tuple(place))]
    return sorted({inside[0], inside[len(inside) // 2], inside[-1]})


def every_steps(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step:03d}", every_n_train_steps=4, save_top_k=-1)


def every_epochs(folder: Path, epochs: int, at_the_end: bool | None = None) -> ModelCheckpoint:
    """At the end of epochs, or after their validation; where that is not said, as ModelCheckpoint does by itself."""
    return ModelCheckpoint(
        folder, "{step:03d}", every_n_epochs=epochs, save_top_k=-1, save_on_train_epoch_end=at_the_end
    )


@functools.lru_cache(maxsize=1)
def _uninterrupted(case: Case, folder: Path) -> Result:
    """One run for all that only look at its checkpoints."""
    after_validation = every_epochs(folder / "after", 2, at_the_end=False)
    savers = [every_steps(folder / "steps"), every_epochs(folder / "ends", 1, at_the_end=True), after_validation]
    return case.train(AfterBatch((1, case.setup.sizes[1] - 1), folder / "batch.ckpt"), *savers)


def _no_interruption(case: Case, folder: Path) -> Iterator[Result]:
    yield _uninterrupted(case, folder)


def _within_an_epoch(case: Case, folder: Path) -> Iterator[Result]:
    first = _uninterrupted(case, folder)
    for path in within_epochs(case, folder / "steps"):
        yield first.then(case.train(ckpt_path=path))


def _after_the_last_batch(case: Case, folder: Path) -> Iterator[Result]:
    yield _uninterrupted(case, folder).then(case.train(ckpt_path=folder / "batch.ckpt"))


def _at_the_end_of_an_epoch(case: Case, folder: Path) -> Iterator[Result]:
    first = _uninterrupted(case, folder)
    for path in sorted((folder / "ends").glob("*.ckpt"))[:4:2]:
        yield first.then(case.train(ckpt_path=path))


def _after_the_validation(case: Case, folder: Path) -> Iterator[Result]:
    path = min((folder / "after").glob("*.ckpt"))
    yield _uninterrupted(case, folder).then(case.train(ckpt_path=path))


def _after_validation_within(case: Case, folder: Path) -> Iterator[Result]:
    case = case.watched(WITHIN)
    first = case.train(every_epochs(folder / "within", 1))
    yield first
    for path in sorted((folder / "within").glob("*.ckpt"))[2:6:3]:
        yield first.then(case.train(ckpt_path=path))


def _every_other_validated(case: Case, folder: Path) -> Iterator[Result]:
    case = case.watched(EVERY_OTHER)
    first = case.train(every_epochs(folder / "other", 1, True))
    yield first
    for path in sorted((folder / "other").glob("*.ckpt"))[1:3]:
        yield first.then(case.train(ckpt_path=path))


def _trained_longer(case: Case, folder: Path) -> Iterator[Result]:
    first = case.train(epochs=2)
    assert first.end is not None
    yield first.then(case.train(ckpt_path=first.end(folder / "end.ckpt")))


def _last(case: Case, folder: Path) -> LastCheckpoint | None:
    return LastCheckpoint(folder, None, every_n_steps=4) if case.ours else None


def _until(
    case: Case, folder: Path, end: At, saver: ModelCheckpoint, ckpt_path: Path | None = None
) -> tuple[Result, Path]:
    """Train until it is interrupted; the newest checkpoint that there is then: ours, or Lightning's `saver`'s."""
    result = case.train(end, *([] if case.ours else [saver]), last=_last(case, folder), ckpt_path=ckpt_path)
    return result, folder / "last.ckpt" if case.ours else max(folder.glob("*.ckpt"))


def _on_sigterm(case: Case, folder: Path) -> Iterator[Result]:
    for place in ((1, 3), (3, 1)):
        here = folder / f"signal {place}"
        first, path = _until(case, here, At(place, _sigterm), ModelCheckpoint(here, save_on_exception=True))
        yield first.then(case.train(ckpt_path=path, last=_last(case, here)))


@functools.lru_cache(maxsize=1)
def _broken_down(case: Case, folder: Path) -> tuple[Result, Path]:
    return _until(case, folder / "error", At((3, 5), _break_down), every_steps(folder / "error"))


def _on_an_error(case: Case, folder: Path, lose: bool = False) -> Iterator[Result]:
    first, path = _broken_down(case, folder)
    yield first.then(case.train(ckpt_path=path, last=_last(case, folder / f"error {lose}"), lose=lose))


def _on_two_errors(case: Case, folder: Path) -> Iterator[Result]:
    here = [folder / "first", folder / "second"]
    first, path = _until(case, here[0], At((1, 5), _break_down), every_steps(here[0]))
    second, path = _until(case, here[1], At((3, 5), _break_down), every_steps(here[1]), path)
    yield first.then(second).then(case.train(ckpt_path=path, last=_last(case, here[1])))


class Interruption(NamedTuple):
    """A way to interrupt a case and to go on, and when it is validated meanwhile."""

    results: Callable[[Case, Path], Iterator[Result]]
    watch: Watch = AT_THE_END


WITHIN_AN_EPOCH, LAST_BATCH = "within an epoch", "after an epoch's last batch"
VALIDATION_WITHIN = "after a validation run within an epoch"
INTERRUPTIONS = {
    "none": Interruption(_no_interruption),
    WITHIN_AN_EPOCH: Interruption(_within_an_epoch),
    LAST_BATCH: Interruption(_after_the_last_batch),
    VALIDATION_WITHIN: Interruption(_after_validation_within, WITHIN),
    "after an epoch's validation": Interruption(_after_the_validation),
    "at an epoch's end": Interruption(_at_the_end_of_an_epoch),
    "at an epoch's end, every other validated": Interruption(_every_other_validated, EVERY_OTHER),
    "after the last epoch, trained longer": Interruption(_trained_longer),
    "SIGTERM between two batches": Interruption(_on_sigterm),
    "an error": Interruption(_on_an_error),
    "two errors": Interruption(_on_two_errors),
    "an error, optimizers' state lost": Interruption(functools.partial(_on_an_error, lose=True)),
}


# --- the outcome ----------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """What an interruption of a case came to, at its worst."""

    wrong: int  # steps
    weights: bool  # whether they are those of the uninterrupted run


@functools.cache
def cells(case: Case) -> dict[str, Cell]:
    """A case in all interruptions."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        return {name: _cell(case, interruption, Path(folder)) for name, interruption in INTERRUPTIONS.items()}


def _cell(case: Case, interruption: Interruption, folder: Path) -> Cell:
    seen = case.watched(interruption.watch)
    found = [Cell(_wrong(seen, one), _same_weights(seen, one)) for one in interruption.results(case, folder)]
    return Cell(max(one.wrong for one in found), all(one.weights for one in found))


def _wrong(case: Case, result: Result) -> int:
    """Steps that used something else than planned; those that are missing or too many are wrong as well."""
    wrong = 0
    for expected, used in zip(case.plan(result).used, result.used, strict=True):
        wrong += abs(len(expected) - len(used))
        wrong += sum(not _equal(one, other, case.ours) for one, other in zip(expected, used, strict=False))
    return wrong


def _equal(one: Used, other: Used, exactly: bool) -> bool:
    """Ours bit for bit; torch's schedulers may round otherwise where they are resumed."""
    return one == other if exactly else all(map(functools.partial(math.isclose, rel_tol=1e-9), one, other))


def _same_weights(case: Case, result: Result) -> bool:
    return result.weights == _plan(case, (), result.lost).weights


def steps(setup: Setup) -> int:
    """Of an uninterrupted run."""
    return sum(len(used) for used in _plan(Case(KINDS[0], setup, True), (), frozenset()).used)


def cases(ours: bool) -> list[Case]:
    """All there are of one side."""
    return [
        Case(kind, setup, ours)
        for kind in KINDS
        for setup in SETUPS
        if (not setup.kinds or kind.name in setup.kinds) and kind.name not in setup.without and (ours or kind.build)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's words on devices and checkpoints, and on trainings that are resumed within an epoch."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# --- the page -------------------------------------------------------------------------------------------------------

TABLES, TOTALS = "matrix", "totals"  # what lifecycle_matrix.md and reliability.md show between two comments
Found = dict[Case, dict[str, Cell]]


def versions() -> str:
    """What the figures were made with."""
    names = ("torch", "pytorch-lightning")
    return "Made with " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names) + "."


def tables(found: Found) -> str:
    """The tables of docs/lifecycle_matrix.md."""
    parts = [
        how_many(found),
        *(part for kind in KINDS for part in _of_kind(kind, found)),
        "### Weights",
        "Cases that end with the weights of the uninterrupted run, bit for bit: ours / Lightning's.",
        _weights(found),
    ]
    return "\n\n".join(parts)


def how_many(found: Found) -> str:
    """The number of cases and of scenarios, as a sentence."""
    scenarios = len(found) * len(INTERRUPTIONS)
    return f"{len(found)} cases, each with {len(INTERRUPTIONS)} interruptions: {scenarios} scenarios."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def totals(found: Found) -> str:
    """The table of docs/reliability.md."""
    rows = []
    for name in INTERRUPTIONS:
        sides = []
        for ours in (True, False):
            mine = [case for case in found if case.ours == ours]
            wrong = sum(found[case][name].wrong for case in mine)
            sides.append(f"{wrong} of {sum(steps(case.setup) for case in mine)}")
        rows.append([name, *sides])
    return _table(["checkpoint, interruption", "ours", "Lightning's"], rows)


def _of_kind(kind: Kind, found: Found) -> list[str]:
    setups = [setup for setup in SETUPS if Case(kind, setup, True) in found]
    head = ["checkpoint, interruption", *(f"{setup.name} ({steps(setup)})" for setup in setups)]
    rows = []
    for name in INTERRUPTIONS:
        sides = [[found.get(Case(kind, setup, ours)) for ours in (True, False)] for setup in setups]
        wrong = [[one[name].wrong if one else "-" for one in both] for both in sides]
        rows.append([name, *(f"{mine} / {its}" for mine, its in wrong)])
    ours = ", ".join(_told(part) for part in kind.parts())
    return [
        f"### {kind.name[0].upper()}{kind.name[1:]}",
        f"Ours: {ours}. Lightning's: {kind.torchs}.",
        _table(head, rows),
    ]


def _told(part: Part) -> str:
    what = [f"to={part.to!r}"] * (part.to != "lr") + [f"group={part.group!r}"] * (part.group is not None)
    return f"`{_short(part.schedule)}`" if not what else f"`Assign({', '.join([_short(part.schedule), *what])})`"


def _short(schedule: Schedule) -> str:
    """As one would write it: without the arguments that are as by default."""
    defaults = {name: one.default for name, one in inspect.signature(type(schedule)).parameters.items()}
    given = {name: getattr(schedule, name) for name in defaults}
    differing = {name: value for name, value in given.items() if str(value) != str(defaults[name])}
    told = {name: repr(one if isinstance(one, (int, float)) else str(one)) for name, one in differing.items()}
    told |= {name: _short(one) for name, one in differing.items() if isinstance(one, Schedule)}
    return f"{type(schedule).__name__}({', '.join(f'{name}={text}' for name, text in told.items())})"


def _weights(found: Found) -> str:
    rows = []
    for name in INTERRUPTIONS:
        row = [name]
        for setup in SETUPS:
            sides = [
                [found[case][name].weights for case in found if (case.setup, case.ours) == (setup, ours)]
                for ours in (True, False)
            ]
            row.append(" / ".join(f"{sum(same)} of {len(same)}" for same in sides))
        rows.append(row)
    return _table(["checkpoint, interruption", *(setup.name for setup in SETUPS)], rows)


def generated(page: str, part: str) -> str:
    """The part of a page that this module writes."""
    return page.partition(_begin(part))[2].partition(_end(part))[0].strip()


def _begin(part: str) -> str:
    return f"<!-- {part}: begin -->"


def _end(part: str) -> str:
    return f"<!-- {part}: end -->"


def _write(path: Path, part: str, text: str) -> None:
    page = path.read_text(encoding="utf-8")
    before, after = page.partition(_begin(part))[0], page.partition(_end(part))[2]
    path.write_text(f"{before}{_begin(part)}\n{text}\n\n{_end(part)}{after}", encoding="utf-8")


def main(docs: Path) -> None:
    """Run everything, and write the tables into the pages."""
    torch.set_num_threads(1)
    found = {case: cells(case) for ours in (True, False) for case in cases(ours)}
    _write(docs / "lifecycle_matrix.md", TABLES, f"{versions()}\n\n{tables(found)}")
    _write(docs / "reliability.md", TOTALS, f"{versions()} {how_many(found)}\n\n{totals(found)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
