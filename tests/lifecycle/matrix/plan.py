"""The plan: what each step has to use, from a loop without Lightning."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from lr_plugins import (
    RunLength,
)
from lr_plugins.schedules import Position
from lr_plugins.schedules.observation import EPOCH, Observation, steps_between
from tests.lifecycle.matrix.dimensions import REPLACED, SMOOTH, Part, within
from tests.lifecycle.matrix.record import Result, Steps
from tests.lifecycle.matrix.task import EPOCHS, SAMPLES, Net, Place, batches, breaks, turns, validation, weights

if TYPE_CHECKING:
    from tests.lifecycle.matrix.training import Case


class _Ours:
    """A schedule with its memory, for one optimizer."""

    def __init__(self, case: Case, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._bases = [float(group["lr"]) for group in optimizer.param_groups]
        self._parts = case.kind.parts()
        self._states = [part.schedule.start() for part in self._parts]
        # A loss of steps is observed every few steps, as the mean over the batches since.
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
        # The smoothed schedule, at the elapsed share of this epoch.
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
    """A torch scheduler, stepped as its user intends: at the taken steps, at the validated epochs."""

    def __init__(self, case: Case, optimizer: Optimizer) -> None:
        self._config = case.kind.config(optimizer, case.watch)

    def write(self, step: int, epoch: int) -> None:
        """Nothing to write: the scheduler writes when it is stepped."""

    def after_batch(self, step: int, epoch: int, stepped: bool, loss: torch.Tensor) -> None:
        if self._config["interval"] == "step" and stepped and step % self._config["frequency"] == 0:
            self._config["scheduler"].step()

    def after_epoch(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        if self._config["interval"] == "epoch" and "monitor" not in self._config:
            self._config["scheduler"].step()
        elif "monitor" in self._config and self._config["monitor"] in metrics:
            self._config["scheduler"].step(metrics[self._config["monitor"]])


class Loop:
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
        """The loss of a batch as Lightning returns it: divided by the accumulation."""
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
    """A batch under manual optimization; return the loss of the last optimizer."""
    for which in turns(index):
        optimizers[which].zero_grad()
        loss = net.loss(batch)
        backward(loss)
        optimizers[which].step()
        after(which)
    return loss.detach()
