"""Schedules for loops without Lightning, and other libraries' schedulers as schedules."""

from __future__ import annotations

import copy
import math
import pickle
import sys
import warnings
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lr_plugins._lightning import rank_zero_warn
from lr_plugins.callbacks.audit import Audit
from lr_plugins.callbacks.known_groups import KnownGroup, remember
from lr_plugins.callbacks.param_groups import names_in_groups, parameter_names
from lr_plugins.callbacks.scheduler import Schedules
from lr_plugins.callbacks.writer import Writer, check_chosen, optimizers_of
from lr_plugins.checkpoint_state import StateFormat, count
from lr_plugins.errors import InvalidArgument, TrainingError
from lr_plugins.schedules import RunLength, Schedule
from lr_plugins.schedules.assign import Assign, Assignments
from lr_plugins.schedules.observation import BEGIN, Observation
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import State, choice, start_of


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
        others = [(other, other._targets()) for other in _watch(optimizer).schedulers()]
        writer = self._make_writer()
        self._writer: _LoopWriter | None = writer
        check_chosen(list(self.assignments), [writer], self._names)
        super().__init__(optimizer)  # writes the first value
        for other, targets in others:
            self._report_shared(targets & self._targets(), other)
        _watch(optimizer).add(self)

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
        others = [one for one in _watch(self.optimizer).schedulers() if one is not self and one._steps_since < 2]
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
            "one wins. Use a single ScheduleLR with a combined schedule (first.then(second, ...), first * second) or a "
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
        return {**state, "assignments": _Portable(self.assignments), "_memory": memory, "_follows": False}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take a state over; the writer is built when it is needed, for what is copied along may not be whole yet."""
        self.__dict__.update(state)
        self.assignments = state["assignments"].assignments
        self._writer = None
        _watch(self.optimizer).add(self)

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


class _Watch:
    """The `ScheduleLR`s of one optimizer, and the hooks that tell them of its steps."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._schedulers: list[weakref.ref[ScheduleLR]] = []
        self._is_stepping = False
        if hasattr(optimizer, "_optimizer_step_pre_hooks"):  # not where Optimizer.__init__ has not been called
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    def add(self, scheduler: ScheduleLR) -> None:
        self._schedulers = [one for one in self._schedulers if one() is not None] + [weakref.ref(scheduler)]

    def schedulers(self) -> list[ScheduleLR]:
        """Those that are still there."""
        return [scheduler for one in self._schedulers if (scheduler := one()) is not None]

    def _before_step(self, *_: Any) -> None:
        if torch.compiler.is_compiling():  # a compiled step would be compiled anew for what is counted
            return
        self._is_stepping = True
        for one in self._schedulers:
            if (scheduler := one()) is not None:
                scheduler._before_optimizer_step()

    def _after_step(self, *_: Any) -> None:
        # The hooks of a step that calls its parent class's run twice.
        if torch.compiler.is_compiling() or not self._is_stepping:
            return
        self._is_stepping = False
        for one in self._schedulers:
            if (scheduler := one()) is not None:
                scheduler._after_optimizer_step()


_WATCHES: weakref.WeakKeyDictionary[Optimizer, _Watch] = weakref.WeakKeyDictionary()


def _watch(optimizer: Optimizer) -> _Watch:
    watch = _WATCHES.get(optimizer)
    if watch is None:
        watch = _WATCHES[optimizer] = _Watch(optimizer)
    return watch


class _Portable:
    """Assignments within a state: pickle says what is wrong with a function that it cannot take along."""

    def __init__(self, assignments: Assignments) -> None:
        self.assignments = assignments

    def __deepcopy__(self, memo: dict[int, Any]) -> _Portable:
        return _Portable(copy.deepcopy(self.assignments, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        for function in _functions(self.assignments):
            try:
                pickle.dumps(function)
            except Exception as error:
                if _pickles_by_value():
                    break
                raise pickle.PicklingError(
                    f"a ScheduleLR cannot be pickled with {function.__qualname__} in its schedule: pickle finds "
                    "functions by their names in a module. Define it at the top level of one, or save "
                    "scheduler.state_dict() and build the scheduler anew (copy.deepcopy works)"
                ) from error
        return _Portable, (self.assignments,)


def _functions(configured: Any) -> Iterator[FunctionType]:
    """The plain functions in the configuration of assignments and schedules."""
    if isinstance(configured, FunctionType):
        yield configured
    elif isinstance(configured, (Assignments, Assign, Schedule)):
        yield from _functions(configured.config())
    elif isinstance(configured, (Mapping, list, tuple)):
        for part in configured.values() if isinstance(configured, Mapping) else configured:
            yield from _functions(part)


def _pickles_by_value() -> bool:
    """Whether a library is at work that takes along the code of functions."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if {"cloudpickle", "dill"} & set(str(frame.f_globals.get("__name__")).split(".")):
            return True
    return False


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


_DRIVABLE = ("lr", "momentum", "weight_decay")

# They compute each value from their count of steps alone, though they have no method for a count that is given.
_CLOSED_FORMS = (
    lr_scheduler.LambdaLR,
    lr_scheduler.OneCycleLR,
    lr_scheduler.CyclicLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
)


class TorchSchedule(Schedule):
    """Any scheduler of torch, Hugging Face or timm as a schedule.

    The scheduler is replayed on an optimizer of its own and its learning rates are remembered, so that it can be asked
    for any position; it costs 8 bytes and one of its steps for each step up to the furthest one asked for. Between two
    of its steps, as `smooth` and `stretched` ask for them, it is asked by its closed form; one that has none raises.

    A scheduler that cycles the momentum as well needs a second schedule for it:
    `[TorchSchedule(factory), Assign(TorchSchedule(factory, of="momentum"), to="momentum")]`. Where that is missing, it
    is reported.

    Args:
        factory: optimizer -> scheduler, e.g. `lambda optimizer: CosineAnnealingLR(optimizer, 100)`.
        initial_learning_rate: the optimizer's learning rate (or momentum, or weight decay), >= 0. Default None: the
            optimizer's own.
        per: what one step of the scheduler is, `"step"` (an optimizer step, the default) or `"epoch"`.
        of: which of the scheduler's values: `"lr"` (the default), `"momentum"` or `"weight_decay"`.

    Raises:
        InvalidArgument: an argument of the wrong kind; when first asked, where the factory makes no scheduler.
        TrainingError: it is asked between two steps, and computes each value from the one before.

    Example:
        >>> schedule = TorchSchedule(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5), 0.1)
        >>> [schedule(step) for step in (4, 0, 2)]
        [0.025, 0.1, 0.05]
    """

    def __init__(
        self,
        factory: Callable[[Optimizer], Any],
        initial_learning_rate: float | None = None,
        per: str = "step",
        of: str = "lr",
    ) -> None:
        if not callable(factory):
            raise InvalidArgument("TorchSchedule.factory", factory, "a function of an optimizer that makes a scheduler")
        self.factory = factory
        self.initial_learning_rate = start_of(self, initial_learning_rate)
        self.per = choice("TorchSchedule.per", per, ("step", "epoch"))
        self.of = choice("TorchSchedule.of", of, _DRIVABLE)
        self._replays: dict[float, _Replay] = {}
        _KEYS_IN_USE[id(self)] = self

    def __getstate__(self) -> dict[str, Any]:
        """Without the replays, which can be made anew."""
        return {**self.__dict__, "_replays": {}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take a state over."""
        self.__dict__.update(state)
        _KEYS_IN_USE[id(self)] = self

    def value(self, position: Position, state: State) -> Value:
        """What the scheduler gives after so many of its steps."""
        passed = position.elapsed("ep" if self.per == "epoch" else "st")
        replay = self._replay(self.initial(position))
        if not isinstance(passed, np.ndarray):
            return replay.at(passed)
        if np.issubdtype(passed.dtype, np.integer):
            return replay.at_steps(passed)
        return np.array([replay.at(time) for time in passed.ravel().tolist()], dtype=np.float64).reshape(passed.shape)

    def _replay(self, initial: float) -> _Replay:
        if initial not in self._replays:
            self._replays[initial] = replay = _Replay(self.factory, initial, self.of)
            self._report_others(replay)
        return self._replays[initial]

    def _report_others(self, replay: _Replay) -> None:
        """Say what else the scheduler moves, if nothing has been built to drive it."""
        in_use = {schedule.of for schedule in _KEYS_IN_USE.values()}
        for key in replay.moved():
            if self.of == "lr" and key not in in_use:
                rank_zero_warn(
                    f"TorchSchedule: {replay.name} moves the {key.replace('_', ' ')} as well, and only the learning "
                    f"rate is taken from it. Add Assign(TorchSchedule(factory, of={key!r}), "
                    f"to={key!r}), or let the scheduler leave it alone (cycle_momentum=False)."
                )


_KEYS_IN_USE: weakref.WeakValueDictionary[int, TorchSchedule] = weakref.WeakValueDictionary()


class _Replay:
    """A scheduler on an optimizer of its own, and the values it has given so far."""

    def __init__(self, factory: Callable[[Optimizer], Any], initial: float, of: str) -> None:
        self._factory, self._initial, self._of = factory, initial, of
        self._optimizer, self._scheduler = self._make()
        self._other: tuple[Optimizer, Any] | None = None  # a second one, for times between steps
        self._values = array("d")
        self._error: tuple[Exception, Any] | None = None  # with which it has stopped, and where
        self.name = type(self._scheduler).__name__
        if not hasattr(self._scheduler, "step"):
            raise InvalidArgument("what TorchSchedule.factory made", self._scheduler, "a scheduler with a method step")
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            hint = 'lr_plugins.ReduceLROnPlateau(rule="torch") does the same.'
            raise InvalidArgument("TorchSchedule.factory", self.name, "one of time alone", hint)

    def _make(self) -> tuple[Optimizer, Any]:
        values: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, self._of: self._initial}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], **values)
        return optimizer, self._factory(optimizer)

    def moved(self) -> list[str]:
        """What it has moved besides the value that is asked for."""
        group, built = self._optimizer.param_groups[0], self._optimizer.defaults
        return [key for key in _DRIVABLE if key not in ("lr", self._of) and group[key] != built[key]]

    def at_steps(self, steps: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """After whole numbers of its steps."""
        steps = np.maximum(steps, 0)
        self._reach(int(steps.max(initial=0)))
        found: npt.NDArray[np.float64] = np.frombuffer(self._values, dtype=np.float64)[steps]
        return found

    def at(self, time: float) -> float:
        """After a number of its steps."""
        time = max(time, 0)
        step = round(time)
        if abs(time - step) > 1e-9 * max(time, 1.0):  # 49 * (1 / 49) is meant to be 1
            return self._between(time)
        self._reach(step)
        return self._values[step]

    def _reach(self, step: int) -> None:
        while len(self._values) <= step:
            if self._error is not None:
                error, place = self._error
                raise error.with_traceback(place)
            if self._values:
                self._optimizer.step()  # torch warns of schedulers that step before their optimizer
                try:
                    self._advance(len(self._values))
                except Exception as error:  # it may have counted the step: asked again, it would give another's value
                    self._error = error, error.__traceback__
                    raise
            self._values.append(float(self._optimizer.param_groups[0][self._of]))

    def _advance(self, step: int) -> None:
        if not self._advance_timm(self._scheduler, step):
            self._scheduler.step()

    @staticmethod
    def _advance_timm(scheduler: Any, time: float) -> bool:
        # timm's schedulers are told where they are: an update, or an epoch if they count in epochs.
        if not hasattr(scheduler, "step_update"):
            return False
        in_epochs = getattr(scheduler, "t_in_epochs", True)
        scheduler.step(time) if in_epochs else scheduler.step_update(time)
        return True

    def _between(self, time: float) -> float:
        """At a time between two of its steps."""
        if self._other is None:
            self._other = self._make()
        optimizer, scheduler = self._other
        if not self._advance_timm(scheduler, time):
            if not (hasattr(scheduler, "_get_closed_form_lr") or isinstance(scheduler, _CLOSED_FORMS)):
                raise TrainingError(
                    f"{self.name} has no value at its step {time:g}, between two steps: it computes each value from "
                    "the one before. Ask TorchSchedule for whole steps only (no smooth, no stretched), or use a "
                    "schedule of lr_plugins"
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the argument, which torch calls deprecated
                scheduler.step(time)
        return float(optimizer.param_groups[0][self._of])
