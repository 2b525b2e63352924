"""A schedule as a scheduler of torch, for loops without Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lr_plugins.checkpoint_state import StateFormat, count
from lr_plugins.engine.audit import Audit
from lr_plugins.engine.driven_optimizers import check_chosen, optimizers_of
from lr_plugins.engine.known_groups import KnownGroup, remember
from lr_plugins.engine.param_groups import names_in_groups, parameter_names
from lr_plugins.engine.writer import Writer
from lr_plugins.errors import InvalidArgument
from lr_plugins.interop.portable import Portable
from lr_plugins.interop.step_watch import watch
from lr_plugins.rank_zero import rank_zero_warn
from lr_plugins.schedules import RunLength
from lr_plugins.schedules.assign import Assignments, Schedules
from lr_plugins.schedules.observation import BEGIN, Observation
from lr_plugins.schedules.schedule import State


class ScheduleLR(LRScheduler):
    """A schedule as a scheduler of torch: for plain loops, Accelerate, or a `configure_optimizers` return.

    Call `step()` once after each optimizer step. Each call writes absolute values computed from the number of steps,
    so that a state loaded into a fresh optimizer gives the right learning rate at once. Groups keep their ratio to the
    optimizer's default.

    Lightning steps a scheduler once an epoch unless it is told otherwise: return
    `{"scheduler": scheduler, "interval": "step"}`. An optimizer that takes two steps in a row without a `step()`
    between them is reported, once. If one `step()` is meant to be one epoch, say so with
    `RunLength.of(steps_per_epoch=1, epochs=...)`.

    After the last step of a run a schedule may have no value to give, as a function that looks into a list. An error is
    therefore raised when the value is needed: by the next optimizer step, or by the `step()` after it.

    It can be copied (`copy.deepcopy`) and pickled, alone or together with its optimizer; the copy continues where the
    original stood. Of a schedule that holds a lambda only `state_dict` can be saved.

    Args:
        optimizer: the optimizer, as it was built; a `torch.optim.Optimizer` with a learning rate.
        schedule: the schedule, or a function of `epoch` or of `(epoch, lr)`; or several, as in
            `LearningRateScheduler`. None that observes metrics.
        run_length: how long the run will be; what the schedule needs of it. Default: unknown.
        module: whose parameters the optimizer has, for assignments by their names. Default None: the names that the
            optimizer was given with the parameters, if it was.

    Raises:
        InvalidArgument: the schedule observes metrics, which torch's interface does not hand on; or the optimizer is
            not one of torch, or sets its learning rate itself.

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
        monitors = [monitor.metric for one in self.assignments for monitor in one.schedule.monitors]
        if monitors:
            allowed = f"one that observes no metrics (it observes {', '.join(monitors)})"
            raise InvalidArgument("ScheduleLR.schedule", schedule, allowed)
        _check_optimizer(optimizer, self.assignments)
        self.optimizer, self.run_length = optimizer, run_length or RunLength()
        self._named_parameters = list(_named_parameters(optimizer, module))
        self._error: Exception | None = None  # of the coming step, which has no value
        self._steps_since, self._was_reported = 0, False  # optimizer steps since `step`
        self._follows = False  # the value of the step before has been written
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
        """Go on to the next step (or to a given one) and write its learning rate.

        Raises:
            InvalidArgument: `epoch` is not a whole number.
            Exception: what the schedule raised for the step that has just been taken.
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
            self._error = error  # no step has used the value yet, and after the last one none will
        self._last_lr = _learning_rates(self.optimizer)

    def _write_value(self) -> None:
        writer, follows = self._current_writer(), self._follows
        writer.step = self.last_epoch
        for drive in writer.drives:
            if drive.state is not None:
                place = self.run_length.position(self.last_epoch, drive.base)
                known = drive.state
                drive.state = drive.schedule.observe(known, place, Observation(BEGIN))
                follows = follows and drive.state == known
        if follows and writer.has_groups:
            writer.advance()
        else:
            writer.refresh()

    def get_lr(self) -> list[float | torch.Tensor]:
        """The learning rates of the current step."""
        return list(self._last_lr)

    # --- what the optimizer's hooks tell ----------------------------------------------------------------------

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
        """Whether the optimizer has outrun it; not where others write, nor where a `step` is meant to be an epoch."""
        is_overridden = _learning_rates(self.optimizer) != self._last_lr
        # Of a captured step's replays the hooks see nothing, and before it is captured it is run without the scheduler.
        is_captured = any(group.get("capturable") for group in self.optimizer.param_groups)
        if is_overridden or is_captured or self.run_length.steps_per_epoch == 1:
            return False
        others = [one for one in watch(self.optimizer).schedulers() if one is not self and one._steps_since < 2]
        return not any(one._targets() & self._targets() for one in others)  # one that takes its place, and is called

    # --- other schedulers of the same optimizer ---------------------------------------------------------------

    def _targets(self) -> set[tuple[str, int]]:
        """The hyper-parameters that it drives, each with the identity of a parameter."""
        return {
            (f"{drive.hyper.key} {drive.hyper.at}", parameter)
            for drive in self._current_writer().drives
            for known in drive.shares
            for parameter in known.parameters
        }

    def _report_shared(self, shared: set[tuple[str, int]], other: ScheduleLR) -> None:
        if not shared:
            return
        keys = {key for key, _ in shared}
        drives = self._current_writer().drives
        names = dict.fromkeys(drive.hyper.words for drive in drives if f"{drive.hyper.key} {drive.hyper.at}" in keys)
        schedules = ", ".join(repr(one.schedule) for one in other.assignments)
        rank_zero_warn(
            f"ScheduleLR: another ScheduleLR, of {schedules}, drives the {' and the '.join(names)} of the same "
            f"parameters of this {type(self.optimizer).__name__}. Each of the two writes at its step(), and the last "
            "one wins. Use a single ScheduleLR with a combined schedule (first.then(second, after=...), first * second) or a "
            "list of Assign(...); where this one replaces the other, delete the other before."
        )

    # --- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, under torch's name for it."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a step; this scheduler's own configuration stays."""
        self._go_to(self.state_format.read(state_dict)["last_epoch"])

    def __getstate__(self) -> dict[str, Any]:
        """All but the writer, which is bound to this optimizer's groups: what it takes to build it anew."""
        state = {name: value for name, value in self.__dict__.items() if name != "_writer"}
        memory = self._current_writer().memory()
        return {**state, "assignments": Portable(self.assignments), "_memory": memory, "_follows": False}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take a state over; the writer is built when it is needed, for what is copied along may not be whole yet."""
        self.__dict__.update(state)
        self.assignments = state["assignments"].assignments
        self._writer = None
        watch(self.optimizer).add(self)

    def _current_writer(self) -> _LoopWriter:
        if self._writer is None:
            memory: _Memory = self.__dict__.pop("_memory")
            memory.prepare(self.optimizer)
            self._writer = self._make_writer()
            self._writer.take_states(memory)
        return self._writer

    @property
    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self._named_parameters}

    def _make_writer(self) -> _LoopWriter:
        (assignments,) = optimizers_of(list(self.assignments), [self.optimizer])
        audit = Audit(who="ScheduleLR")
        return _LoopWriter(self.optimizer, assignments, self.run_length.position, self._names, audit=audit)


class _Memory(NamedTuple):
    """What a writer knows of an optimizer that the optimizer does not tell, once it has been written to."""

    groups: list[KnownGroup]  # without their dictionaries
    states: dict[tuple[int, int], State]  # of the schedules

    def prepare(self, optimizer: Optimizer) -> None:
        """Let a writer of this optimizer find it."""
        groups = [known.as_group(group) for known, group in zip(self.groups, optimizer.param_groups, strict=False)]
        for known in groups:
            known.written = {hyper: hyper.read(known.group) for hyper in known.owns}
        remember(optimizer, groups)


class _LoopWriter(Writer):
    """A writer of a plain loop, which can be built anew on a copy of its optimizer."""

    def memory(self) -> _Memory:
        states = {(drive.assignment, drive.number): drive.state for drive in self.drives}
        return _Memory([known.as_group({}) for known in self.groups], states)

    def take_states(self, memory: _Memory) -> None:
        for drive in self.drives:
            drive.state = memory.states.get((drive.assignment, drive.number), drive.state)


def _check_optimizer(optimizer: Any, assignments: Assignments) -> None:
    """Refuse what is not an optimizer of torch, and one whose learning rate cannot be set."""
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        names = ["optimizer", *getattr(optimizer, "__dict__", ())]
        wrapped = next((name for name in names if isinstance(getattr(optimizer, name, None), Optimizer)), None)
        hint = "" if wrapped is None else f"Give it the one that is wrapped, {kind}.{wrapped}."
        raise InvalidArgument("ScheduleLR.optimizer", kind, "a torch.optim.Optimizer", hint)
    drives_rate = any(one.to == "lr" for one in assignments)
    if drives_rate and any(group.get("lr") is None for group in optimizer.param_groups):
        raise InvalidArgument(
            "ScheduleLR.optimizer",
            f"{kind} with lr=None",
            "an optimizer with a learning rate",
            "It computes one by itself. Give it an lr (and relative_step=False, if it has that argument).",
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
        raise InvalidArgument("ScheduleLR.step.epoch", epoch, "a whole number of optimizer steps, >= 0")
    return int(epoch)
