"""The one writer: puts the learning rate into an optimizer just before each of its steps."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from lr_plugins.callbacks.trace import Series, Trace
from lr_plugins.errors import InvalidArgument, TrainingError

_LARGEST = 3.4028235677973362e38  # rounds to the largest number of the parameters' single precision


class _Driven(NamedTuple):
    base_learning_rate: float
    ratios: list[float]
    written: list[float]


_DRIVEN: weakref.WeakKeyDictionary[Optimizer, _Driven] = weakref.WeakKeyDictionary()


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
        self._used: list[float] | None = None  # by the step under way

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
        self._used = [float(group["lr"]) for group in self.optimizer.param_groups]

    def _after_step(self, *_: Any) -> None:
        # Recorded now that the step has happened. A step that calls its parent class's runs the hooks twice, and
        # is over at the first time.
        if self._used is None:
            return
        if len(self._series) != len(self._used):
            names = series_names(self._prefix, self.optimizer.param_groups)
            self._series = [self._trace.series(name, self.step) for name in names]
        for series, value in zip(self._series, self._used, strict=True):
            series.append(value)
        self.step, self._used = self.step + 1, None
        self._stepped()

    def _stepped(self) -> None:
        """What is to be done once a step has been taken."""


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
        self._ratios: list[float] = []
        self.base_learning_rate = self._read_base()
        self.learning_rate = math.nan  # of the coming step; not known before `refresh`
        self.total_steps: float | None = None  # of the run, where they are known
        self._known_for = -1  # the step that `learning_rate` is of

    def _read_base(self) -> float:
        """The optimizer's own learning rate; the groups' ratios to it are learned on the way."""
        groups = self.optimizer.param_groups
        known = _DRIVEN.get(self.optimizer)
        if known is not None and known.written == [float(group["lr"]) for group in groups]:
            # Driven before, and untouched since: what the groups hold is ours, not theirs.
            self._ratios = list(known.ratios)
            return known.base_learning_rate
        own = [float(group.get("initial_lr", group["lr"])) for group in groups]
        default = float(self.optimizer.defaults.get("lr", own[0]))
        if len(set(own)) == 1:
            self._ratios = [1.0] * len(groups)
            # A torch scheduler has moved the groups already; the default is still what the module asked for.
            return default if "initial_lr" in groups[0] else own[0]
        self._ratios = [self._ratio(value, default, index) for index, value in enumerate(own)]
        return default

    def refresh(self) -> None:
        """Write the value of the coming step.

        Raises:
            TrainingError: the schedule's value is no learning rate.
        """
        try:
            value = self._schedule(self.step, self.base_learning_rate)
        except OverflowError:
            value = math.inf
        if not 0 <= value <= _LARGEST:
            raise TrainingError(
                f"the learning rate must be a finite number >= 0; the schedule gives {value!r} at step {self.step}"
            )
        self.learning_rate, self._known_for = float(value), self.step
        self._write()

    def _write(self) -> None:
        groups = self.optimizer.param_groups
        for index in range(len(self._ratios), len(groups)):  # added since
            self._ratios.append(self._ratio(float(groups[index]["lr"]), self.base_learning_rate, index))
        for index, (group, ratio) in enumerate(zip(groups, self._ratios, strict=True)):
            value = self.learning_rate * ratio
            if isinstance(group["lr"], torch.Tensor):
                self._own_tensor(index).fill_(value)  # in place: compiled and captured optimizers hold on to it
            else:
                group["lr"] = value

    def _own_tensor(self, index: int) -> torch.Tensor:
        """The tensor of a group; torch lets groups share one with each other and with the optimizer's default."""
        groups = self.optimizer.param_groups
        tensor = groups[index]["lr"]
        shared = [group["lr"] for at, group in enumerate(groups) if at != index]
        if any(tensor is other for other in (*shared, self.optimizer.defaults.get("lr"))):
            groups[index]["lr"] = tensor.clone()
        own: torch.Tensor = groups[index]["lr"]
        return own

    def _ratio(self, own: float, base: float, index: int) -> float:
        if own == base:
            return 1.0
        if base > 0:
            return own / base
        raise InvalidArgument(
            f"the default lr of {type(self.optimizer).__name__}",
            base,
            "greater than 0 where param groups have learning rates of their own",
            f"Group {index} has lr {own:g}, and groups keep their ratio to the default.",
        )

    def detach(self) -> None:
        """Stop following, and remember what was read for another fit with the same optimizer."""
        super().detach()
        written = [float(group["lr"]) for group in self.optimizer.param_groups]
        if len(written) == len(self._ratios):
            _DRIVEN[self.optimizer] = _Driven(self.base_learning_rate, list(self._ratios), written)

    def _before_step(self, *_: Any) -> None:
        if self._known_for == self.step:
            self._write()
        else:
            self.refresh()
        super()._before_step()

    def _stepped(self) -> None:
        # Past the end nobody needs a value, and a schedule may have none.
        if self.total_steps is None or self.step < self.total_steps:
            self.refresh()


def series_prefixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """`lr` for one optimizer; `lr/<class>-<index>` for each of several."""
    if len(optimizers) == 1:
        return ["lr"]
    return [f"lr/{type(optimizer).__name__}-{index}" for index, optimizer in enumerate(optimizers)]


def series_names(prefix: str, groups: list[dict[str, Any]]) -> list[str]:
    """`lr` for one param group; `lr/<name>` for several, by their `name` or else their index."""
    if len(groups) == 1:
        return [prefix]
    names = [str(group.get("name", index)) for index, group in enumerate(groups)]
    return [
        f"{prefix}/{name}" if names.count(name) == 1 else f"{prefix}/{name}-{index}" for index, name in enumerate(names)
    ]
