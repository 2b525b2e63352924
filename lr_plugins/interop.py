"""Schedules for loops without Lightning, and other libraries' schedulers as schedules."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lr_plugins.callbacks.param_groups import names_in_groups, parameter_names
from lr_plugins.callbacks.scheduler import Schedules
from lr_plugins.callbacks.writer import Writer, check_chosen, optimizers_of
from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules import RunLength, Schedule
from lr_plugins.schedules.assign import Assignments
from lr_plugins.schedules.observation import BEGIN, Observation
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import State, choice, start_of


class ScheduleLR(LRScheduler):
    """A schedule as a scheduler of torch: for plain loops, Accelerate, or a `configure_optimizers` return.

    Call `step()` once after each optimizer step. Each call writes absolute values computed from the number of steps,
    so that a state loaded into a fresh optimizer gives the right learning rate at once. Groups keep their ratio to the
    optimizer's default.

    Args:
        optimizer: the optimizer, as it was built.
        schedule: the schedule, or a function of `epoch` or of `(epoch, lr)`; or several, as in
            `LearningRateScheduler`. None that observes metrics.
        run_length: how long the run will be; what the schedule needs of it. Default: unknown.
        module: whose parameters the optimizer has, for assignments by their names. Default None: the names that the
            optimizer was given with the parameters, if it was.

    Raises:
        InvalidArgument: the schedule observes metrics, which torch's interface does not hand on.

    Example:
        >>> from lr_plugins import StepDecay
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> scheduler = ScheduleLR(optimizer, StepDecay(drop=0.5, every="2st"))
        >>> rates = []
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     rates.append(scheduler.get_last_lr()[0])
        ...     scheduler.step()
        >>> rates
        [0.1, 0.1, 0.05, 0.05]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedules,
        run_length: RunLength | None = None,
        module: torch.nn.Module | None = None,
    ) -> None:
        self.assignments = Assignments.of(schedule)
        monitors = [monitor.metric for one in self.assignments for monitor in one.schedule.monitors]
        if monitors:
            allowed = f"one that observes no metrics (it observes {', '.join(monitors)})"
            raise InvalidArgument("ScheduleLR.schedule", schedule, allowed)
        names = names_in_groups(optimizer) if module is None else parameter_names(module)
        (assignments,) = optimizers_of(list(self.assignments), [optimizer])
        self.run_length = run_length or RunLength()
        self._writer = Writer(optimizer, assignments, self.run_length.position, names)
        check_chosen(list(self.assignments), [self._writer], names)
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step (or to a given one) and write its learning rate."""
        follows = epoch is None and self.last_epoch >= 0
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._write(follows)

    def _write(self, follows: bool) -> None:
        self._writer.step = self.last_epoch
        for drive in self._writer.drives:
            if drive.state is not None:
                place = self.run_length.position(self.last_epoch, drive.base)
                known = drive.state
                drive.state = drive.schedule.observe(known, place, Observation(BEGIN))
                follows = follows and drive.state == known
        if follows and self._writer.has_groups:
            self._writer.advance()
        else:
            self._writer.refresh()
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float | torch.Tensor]:
        """The learning rates of the current step."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, under torch's name for it."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a step; this scheduler's own configuration stays."""
        self.last_epoch = state_dict["last_epoch"]
        self._write(follows=False)


class TorchSchedule(Schedule):
    """Any scheduler of torch, Hugging Face or timm as a schedule.

    The scheduler is replayed on an optimizer of its own and its learning rates are remembered, so that it can be asked
    for any position; it costs 8 bytes and one of its steps for each step up to the furthest one asked for.

    Args:
        factory: optimizer -> scheduler, e.g. `lambda optimizer: CosineAnnealingLR(optimizer, 100)`.
        initial_learning_rate: the optimizer's learning rate, >= 0. Default None: the optimizer's own.
        per: what one step of the scheduler is, `"step"` (an optimizer step, the default) or `"epoch"`.

    Raises:
        InvalidArgument: an argument of the wrong kind; when first asked, where the factory makes no scheduler.

    Example:
        >>> schedule = TorchSchedule(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5), 0.1)
        >>> [schedule(step) for step in (4, 0, 2)]
        [0.025, 0.1, 0.05]
    """

    def __init__(
        self, factory: Callable[[Optimizer], Any], initial_learning_rate: float | None = None, per: str = "step"
    ) -> None:
        if not callable(factory):
            raise InvalidArgument("TorchSchedule.factory", factory, "a function of an optimizer that makes a scheduler")
        self.factory = factory
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.per = choice("TorchSchedule.per", per, ("step", "epoch"))
        self._replays: dict[float, _Replay] = {}

    def value(self, position: Position, state: State) -> Value:
        """What the scheduler gives after so many of its steps."""
        passed = position.elapsed("ep" if self.per == "epoch" else "st")
        initial = self.initial(position)
        replay = self._replays.setdefault(initial, _Replay(self.factory, initial))
        if isinstance(passed, np.ndarray):
            steps = np.maximum(passed.astype(np.int64), 0)
            replay.reach(int(steps.max(initial=0)))
            return np.frombuffer(replay.rates, dtype=np.float64)[steps]
        step = max(int(passed), 0)
        replay.reach(step)
        return replay.rates[step]


class _Replay:
    """A scheduler on an optimizer of its own, and the learning rates it has given so far."""

    def __init__(self, factory: Callable[[Optimizer], Any], initial: float) -> None:
        self.rates = array("d")
        self._optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=initial)
        self._scheduler = factory(self._optimizer)
        if not hasattr(self._scheduler, "step"):
            raise InvalidArgument("what TorchSchedule.factory made", self._scheduler, "a scheduler with a method step")
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            hint = 'lr_plugins.ReduceLROnPlateau(rule="torch") does the same.'
            raise InvalidArgument("TorchSchedule.factory", type(self._scheduler).__name__, "one of time alone", hint)

    def reach(self, step: int) -> None:
        while len(self.rates) <= step:
            if self.rates:
                self._optimizer.step()  # torch warns of schedulers that step before their optimizer
                self._advance(len(self.rates))
            self.rates.append(float(self._optimizer.param_groups[0]["lr"]))

    def _advance(self, step: int) -> None:
        # timm's schedulers are told where they are: an update, or an epoch if they count in epochs.
        if hasattr(self._scheduler, "step_update"):
            in_epochs = getattr(self._scheduler, "t_in_epochs", True)
            self._scheduler.step(step) if in_epochs else self._scheduler.step_update(step)
        else:
            self._scheduler.step()
