"""A schedule as a torch scheduler, for loops without Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lr_plugins import renamed
from lr_plugins.checkpoint_state import StateFormat, count
from lr_plugins.engine.audit import Audit
from lr_plugins.engine.driven_optimizers import check_chosen, optimizers_of
from lr_plugins.engine.known_groups import KnownGroup, cache_known_groups
from lr_plugins.engine.param_groups import names_in_groups, parameter_names
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.interop.portable import Portable
from lr_plugins.interop.step_watch import watch
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules import RunLength
from lr_plugins.schedules.assign import Assignments, Schedules
from lr_plugins.schedules.observation import BEGIN, Observation
from lr_plugins.schedules.schedule import State


@renamed.arguments
class ScheduleLR(LRScheduler):
    """A schedule as a torch scheduler: for plain loops, Accelerate, or the return value of `configure_optimizers`.

    Call `step()` once after each optimizer step. Each call computes the learning rate from the number of steps taken,
    never from the previous value, so a state loaded into a new optimizer takes effect at once. Param groups keep
    their ratio to the optimizer's default learning rate.

    Lightning steps a scheduler once per epoch by default: return `{"scheduler": scheduler, "interval": "step"}`. If
    the optimizer takes two steps in a row without a `step()` between them, a warning is issued, once. If one `step()`
    is meant to be one epoch, say so with `RunLength.of(steps_per_epoch=1, epochs=...)`.

    After the last step of a run, a schedule may have no further value, e.g. a function that indexes a list. Its error
    is therefore raised only when the value is needed: by the next optimizer step or the next `step()`.

    A scheduler can be copied (`copy.deepcopy`) and pickled, alone or together with its optimizer; the copy continues
    where the original is. If the schedule holds a lambda, pickle cannot handle it: save `state_dict()` instead.

    Args:
        optimizer: a `torch.optim.Optimizer` that has a learning rate and has not been driven yet.
        schedule: a schedule, or a function of `epoch` or of `(epoch, lr)`; or several, as in `LearningRateScheduler`.
            Metric-driven schedules are not supported.
        run_length: the length of the run, as far as the schedule needs it. Default: unknown.
        module: the module that owns the parameters, for assignments that select them by name. Default None: the
            names that the optimizer was built with, if any.

    Raises:
        InvalidArgumentError: the schedule observes metrics, which torch's interface does not provide; the optimizer is
            not a `torch.optim.Optimizer`; or it has `lr=None`.

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

    state_format = StateFormat("ScheduleLR", {"last_epoch": count}, versioned=False)

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedules,
        *,
        run_length: RunLength | None = None,
        module: torch.nn.Module | None = None,
    ) -> None:
        self.assignments = Assignments.of(schedule)
        monitors = [monitor.metric for assign in self.assignments for monitor in assign.schedule.monitors]
        if monitors:
            allowed = f"one that observes no metrics (it observes {', '.join(monitors)})"
            raise InvalidArgumentError("ScheduleLR.schedule", schedule, allowed)
        _check_optimizer(optimizer, self.assignments)
        self.optimizer, self.run_length = optimizer, run_length or RunLength()
        self._named_parameters = list(_named_parameters(optimizer, module))
        self._error: Exception | None = None  # what the schedule raised for the coming step
        self._steps_since, self._was_reported = 0, False  # optimizer steps since the last `step()`
        self._follows = False  # whether the value of the previous step was written
        others = [(other, other._targets()) for other in watch(optimizer).schedulers()]
        writer = self._make_writer()
        self._writer: _LoopWriter | None = writer
        check_chosen(list(self.assignments), [writer], self._names)
        super().__init__(optimizer)  # writes the first value
        for other, targets in others:
            self._report_shared(targets & self._targets(), other)
        watch(optimizer).add(self)

    # --- stepping ---------------------------------------------------------------------------------------------

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step (or go to a given one) and write the learning rate.

        Args:
            epoch: the optimizer step to go to; torch's name for it. Default None: the next one.

        Raises:
            InvalidArgumentError: `epoch` is not a whole number.
            Exception: whatever the schedule raised for the step just taken.
        """
        if epoch is not None:
            self._go_to(_whole(epoch))
            return
        if self._error is not None:
            raise self._error
        self.last_epoch += 1
        self._write()

    def _go_to(self, step: int) -> None:
        self.last_epoch, self._follows = step, False
        self._write()

    def _write(self) -> None:
        self._steps_since, self._error = 0, None
        is_first = not hasattr(self, "_last_lr")
        try:
            self._write_value()
            self._follows = True
        except Exception as error:
            self._follows = False
            if is_first:
                raise
            self._error = error  # raised when needed: after the last step, no step uses the value
        self._last_lr = _learning_rates(self.optimizer)

    def _write_value(self) -> None:
        writer, follows = self._current_writer(), self._follows
        writer.step = self.last_epoch
        for driven in writer.driven_groups:
            if driven.state is not None:
                position = self.run_length.position(self.last_epoch, driven.base_value)
                previous = driven.state
                driven.state = driven.schedule.observe(previous, position, Observation(BEGIN))
                follows = follows and driven.state == previous
        if follows and writer.has_groups:
            writer.advance()
        else:
            writer.refresh()

    def get_lr(self) -> list[float | torch.Tensor]:
        """The learning rates of the current step."""
        return list(self._last_lr)

    # --- the optimizer's step hooks ---------------------------------------------------------------------------

    def _before_optimizer_step(self) -> None:
        if self._error is not None:
            raise self._error

    def _after_optimizer_step(self) -> None:
        self._steps_since += 1
        if self._steps_since == 2 and not self._was_reported and self._is_late():
            self._was_reported = True
            rank_zero_warn(
                f"ScheduleLR: {type(self.optimizer).__name__} has taken two steps without ScheduleLR.step() between "
                f"them, both with the learning rate of step {self.last_epoch}. ScheduleLR counts optimizer steps: call "
                'step() after each of them, in Lightning by returning {"scheduler": scheduler, "interval": "step"} '
                "without a frequency. If one step() is meant to be one epoch, say so: "
                "RunLength.of(steps_per_epoch=1, epochs=...)."
            )

    def _is_late(self) -> bool:
        """Whether `step()` was forgotten: not if other code writes the learning rate, or a `step()` is an epoch."""
        is_overridden = _learning_rates(self.optimizer) != self._last_lr
        # Replays of a captured CUDA graph do not run the hooks, and its warm-up steps run without the scheduler.
        is_captured = any(group.get("capturable") for group in self.optimizer.param_groups)
        if is_overridden or is_captured or self.run_length.steps_per_epoch == 1:
            return False
        others = [other for other in watch(self.optimizer).schedulers() if other is not self and other._steps_since < 2]
        is_replaced = any(other._targets() & self._targets() for other in others)
        return not is_replaced

    # --- other schedulers of the same optimizer ---------------------------------------------------------------

    def _targets(self) -> set[tuple[str, int]]:
        """What it drives: pairs of a hyper-parameter and the id of a parameter."""
        return {
            (f"{driven.hyper.key} {driven.hyper.at}", parameter)
            for driven in self._current_writer().driven_groups
            for group in driven.scales
            for parameter in group.parameters
        }

    def _report_shared(self, shared: set[tuple[str, int]], other: ScheduleLR) -> None:
        if not shared:
            return
        keys = {key for key, _ in shared}
        driven_groups = self._current_writer().driven_groups
        names = dict.fromkeys(
            driven.hyper.label for driven in driven_groups if f"{driven.hyper.key} {driven.hyper.at}" in keys
        )
        schedules = ", ".join(repr(assign.schedule) for assign in other.assignments)
        rank_zero_warn(
            f"ScheduleLR: another ScheduleLR, of {schedules}, drives the {' and the '.join(names)} of the same "
            f"parameters of this {type(self.optimizer).__name__}. Each of the two writes at its step(), and the last "
            "one wins. Use a single ScheduleLR with a combined schedule (first.then(second, after=...), first * "
            "second) or a list of Assign(...); if this one replaces the other, delete the other first."
        )

    # --- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, by torch's name for it."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a step; the configuration of this scheduler stays."""
        self._go_to(self.state_format.read(state_dict)["last_epoch"])

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the writer, which is bound to this optimizer's groups; instead, the state to rebuild it."""
        state = {name: value for name, value in self.__dict__.items() if name != "_writer"}
        writer_state = self._current_writer().state()
        return {**state, "assignments": Portable(self.assignments), "_writer_state": writer_state, "_follows": False}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore a state. The writer is built on first use, when the optimizer copied along is complete."""
        self.__dict__.update(state)
        self.assignments = state["assignments"].assignments
        self._writer = None
        watch(self.optimizer).add(self)

    def _current_writer(self) -> _LoopWriter:
        if self._writer is None:
            state: _WriterState = self.__dict__.pop("_writer_state")
            state.attach_to(self.optimizer)
            self._writer = self._make_writer()
            self._writer.restore(state)
        return self._writer

    @property
    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self._named_parameters}

    def _make_writer(self) -> _LoopWriter:
        (assignments,) = optimizers_of(list(self.assignments), [self.optimizer])
        audit = Audit(who="ScheduleLR")
        return _LoopWriter(self.optimizer, assignments, self.run_length.position, self._names, audit=audit)


class _WriterState(NamedTuple):
    """The state of a writer that cannot be read back from an optimizer it has written to."""

    groups: list[KnownGroup]  # without the optimizer's dictionaries
    schedule_states: dict[tuple[int, int], State]  # by assignment and number

    def attach_to(self, optimizer: Optimizer) -> None:
        """Make the next writer of this optimizer start from these groups."""
        groups = [known.as_group(group) for known, group in zip(self.groups, optimizer.param_groups, strict=False)]
        for known in groups:
            known.written = {hyper: hyper.read(known.group) for hyper in known.initial_values}
        cache_known_groups(optimizer, groups)


class _LoopWriter(Writer):
    """A writer that can be rebuilt on a copy of its optimizer."""

    def state(self) -> _WriterState:
        schedule_states = {(driven.assignment, driven.number): driven.state for driven in self.driven_groups}
        return _WriterState([group.as_group({}) for group in self.groups], schedule_states)

    def restore(self, state: _WriterState) -> None:
        for driven in self.driven_groups:
            driven.state = state.schedule_states.get((driven.assignment, driven.number), driven.state)


def _check_optimizer(optimizer: Any, assignments: Assignments) -> None:
    """Refuse anything but a torch optimizer, and an optimizer that computes its learning rate itself."""
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        names = ["optimizer", *getattr(optimizer, "__dict__", ())]
        wrapped = next((name for name in names if isinstance(getattr(optimizer, name, None), Optimizer)), None)
        hint = "" if wrapped is None else f"Pass the wrapped optimizer, {kind}.{wrapped}."
        raise InvalidArgumentError("ScheduleLR.optimizer", kind, "a torch.optim.Optimizer", hint)
    drives_lr = any(assign.to == "lr" for assign in assignments)
    if drives_lr and any(group.get("lr") is None for group in optimizer.param_groups):
        raise InvalidArgumentError(
            "ScheduleLR.optimizer",
            f"{kind} with lr=None",
            "an optimizer with a learning rate",
            "It computes its own. Pass an lr (and relative_step=False, if it has that argument).",
        )


def _named_parameters(optimizer: Optimizer, module: torch.nn.Module | None) -> Iterator[tuple[str, torch.nn.Parameter]]:
    names = names_in_groups(optimizer) if module is None else parameter_names(module)
    in_groups = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for parameter in in_groups if module is None else module.parameters():
        if id(parameter) in names:
            yield names[id(parameter)], parameter


def _learning_rates(optimizer: Optimizer) -> list[float | torch.Tensor]:
    return [math.nan if group["lr"] is None else float(group["lr"]) for group in optimizer.param_groups]


def _whole(epoch: Any) -> int:
    is_number = isinstance(epoch, (int, float, np.integer, np.floating)) and not isinstance(epoch, bool)
    if not is_number or epoch < 0 or epoch % 1:
        raise InvalidArgumentError("ScheduleLR.step.epoch", epoch, "a whole number of optimizer steps, >= 0")
    return int(epoch)
