"""The one writer: puts the learning rate into an optimizer just before each of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from lr_plugins.callbacks.trace import Series, Trace
from lr_plugins.errors import InvalidArgument, TrainingError


class Recorder:
    """Hooks on one optimizer that count its real steps and record the learning rate each of them uses.

    An optimizer's step hooks run when a step really happens, whoever asks for it: under gradient accumulation,
    manual optimization and with a scaler that skips steps, the count stays that of steps taken.

    Args:
        optimizer: the optimizer to follow.
        prefix: what the names of its series begin with: `"lr"`.
    """

    def __init__(self, optimizer: Optimizer, prefix: str = "lr") -> None:
        self.optimizer = optimizer
        self.step = 0  # steps taken
        self._trace, self._prefix = Trace(), prefix
        self._series: list[Series] = []
        self._handles: list[Any] = []

    def attach(self, trace: Trace, step: int = 0) -> None:
        """Begin to follow the optimizer, `step` steps of which were taken before, and to record in `trace`."""
        self._trace, self.step = trace, step
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]

    def detach(self) -> None:
        """Stop following it."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before_step(self, *_: Any) -> None:
        groups = self.optimizer.param_groups
        if len(self._series) != len(groups):
            self._series = [self._trace.series(name, self.step) for name in series_names(self._prefix, groups)]
        for group, series in zip(groups, self._series, strict=True):
            series.append(float(group["lr"]))

    def _after_step(self, *_: Any) -> None:
        self.step += 1


class Writer(Recorder):
    """A recorder that first writes what the schedule says.

    The value of the coming step is written as soon as the step before it is done, so that whoever looks in
    between sees it; and again just before the step, so that nothing written in between is used. A group's
    learning rate is the schedule's times the group's ratio to the optimizer's default.

    Args:
        optimizer: the optimizer to write to. It must be as it was built: the ratios are read here.
        schedule: optimizer step (and the optimizer's own learning rate) -> the learning rate of a group at the
            optimizer's default.
        prefix: what the names of this optimizer's series begin with.
    """

    def __init__(self, optimizer: Optimizer, schedule: Callable[[int, float], float], prefix: str = "lr") -> None:
        super().__init__(optimizer, prefix)
        self._schedule = schedule
        own = optimizer.defaults if "lr" in optimizer.defaults else optimizer.param_groups[0]
        self.base_learning_rate = float(own["lr"])
        self._ratios: list[float] = []
        self._learn_ratios()
        self.learning_rate = math.nan  # of the coming step; not known before `refresh`

    def refresh(self) -> None:
        """Write the value of the coming step."""
        value = self._schedule(self.step, self.base_learning_rate)
        if not 0 <= value < math.inf:
            raise TrainingError(
                f"the learning rate must be a finite number >= 0; the schedule gives {value!r} at step {self.step}"
            )
        self.learning_rate = float(value)
        self._write()

    def _write(self) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self._ratios):
            self._learn_ratios()
        for group, ratio in zip(groups, self._ratios, strict=True):
            value = self.learning_rate * ratio
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(value)  # in place: compiled and captured optimizers hold on to the tensor
            else:
                group["lr"] = value

    def _learn_ratios(self) -> None:
        for index in range(len(self._ratios), len(self.optimizer.param_groups)):
            own = float(self.optimizer.param_groups[index]["lr"])
            if own == self.base_learning_rate:
                self._ratios.append(1.0)
            elif self.base_learning_rate > 0:
                self._ratios.append(own / self.base_learning_rate)
            else:
                raise InvalidArgument(
                    f"the default lr of {type(self.optimizer).__name__}",
                    self.base_learning_rate,
                    "greater than 0 where param groups have learning rates of their own",
                    f"Group {index} has lr {own:g}, and groups keep their ratio to the default.",
                )

    def _before_step(self, *_: Any) -> None:
        self._write()
        super()._before_step()

    def _after_step(self, *_: Any) -> None:
        super()._after_step()
        self.refresh()


def series_names(prefix: str, groups: list[dict[str, Any]]) -> list[str]:
    """`lr` for one param group; `lr/<name>` for several, by their `name` or else their index."""
    if len(groups) == 1:
        return [prefix]
    names = [str(group.get("name", index)) for index, group in enumerate(groups)]
    return [
        f"{prefix}/{name}" if names.count(name) == 1 else f"{prefix}/{name}-{index}" for index, name in enumerate(names)
    ]
