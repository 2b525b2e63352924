"""Counts the steps of an optimizer and records the learning rate that each step uses."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from torch.optim import Optimizer

from lr_plugins.engine.hyperparameter import LEARNING_RATE, HyperParameter
from lr_plugins.engine.known_groups import (
    KnownGroup,
    cache_known_groups,
    cached_known_groups,
    find_copies,
    groups_of,
    match_groups,
)
from lr_plugins.engine.naming import name_series
from lr_plugins.engine.real_steps import RealSteps
from lr_plugins.engine.step_hooks import inner_optimizers
from lr_plugins.engine.trace import Series, Trace
from lr_plugins.errors import InvalidArgumentError


class Quantity(Protocol):
    """A number to record at every step beside the hyper-parameters, such as a gradient norm.

    It is read just before the step, when the gradients are complete. If a closure computes them within the step, it is
    read before and after the closure; the last value counts.

    Attributes:
        name: the name of its series.
    """

    name: str

    def __call__(self, optimizer: Any) -> float:
        """The value for the step that an optimizer is about to take."""


class Column(NamedTuple):
    """A value to read before each step, and where to record it."""

    read: Callable[[], float]
    note: Callable[[float], None]


class Recorder(RealSteps):
    """Follows an optimizer: counts its real steps, and records the learning rate that each of them uses.

    It counts inside the optimizer's step, so the count is right under gradient accumulation, in manual optimization and
    with a scaler that skips steps. It reads the values at that moment, from the optimizer's current groups.

    Args:
        optimizer: the optimizer to follow.
        suffix: what follows the hyper-parameter in the names of its series: `""` or `"/SGD-0"`.
        replaces: the recorder of an optimizer that this one replaces during the run. Default None.
    """

    def __init__(self, optimizer: Optimizer, suffix: str = "", replaces: Recorder | None = None) -> None:
        super().__init__(optimizer)
        self._strong_reference = optimizer
        self.step: int = 0 if replaces is None else replaces.step  # steps taken
        self.suffix = suffix
        self.groups: list[KnownGroup] = []
        self._removed: list[KnownGroup] = []  # they may be added again
        self._trace = Trace()
        self._bound: list[tuple[Any, list[Any]]] = []  # the optimizers and their groups
        self._sizes: list[list[int]] = []  # the number of parameters in each of these groups
        self._has_untracked_steps = False  # an optimizer that cannot be followed steps within its steps
        self._recorded = [LEARNING_RATE.name]
        self._quantities: list[Quantity] = [] if replaces is None else list(replaces._quantities)
        self._columns: list[Column] | None = None
        self._used: list[float] = []  # by the current step
        if replaces is not None:
            cache_known_groups(optimizer, replaces.known_groups())
        else:
            for known in cached_known_groups(optimizer):
                known.series, known.added_at = None, (0, 0)

    def known_groups(self) -> list[KnownGroup]:
        """The known groups, for an optimizer that replaces this one."""
        return [known.as_group(known.group) for known in self.groups]

    def attach(self, trace: Trace, step: int = 0, is_detached: Callable[[], bool] | None = None) -> None:
        """Start to follow the optimizer after `step` steps, and to record in `trace`.

        Steps taken while `is_detached` returns true are not part of the run.
        """
        self._trace, self.step, self._columns = trace, step, None
        self.follow(is_detached)

    def measure(self, quantity: Quantity) -> None:
        """Record another quantity from the coming step on; the recorder of a replacing optimizer continues it.

        Raises:
            InvalidArgumentError: the name is recorded already.

        Example:
            >>> import torch
            >>> class GradientNorm:
            ...     name = "gradient_norm"
            ...     def __call__(self, optimizer):
            ...         gradients = [one.grad for group in optimizer.param_groups for one in group["params"]]
            ...         return float(torch.linalg.vector_norm(torch.stack([each.norm() for each in gradients])))
            >>> weight = torch.nn.Parameter(torch.ones(4))
            >>> optimizer, trace = torch.optim.SGD([weight], lr=0.1), Trace()
            >>> recorder = Recorder(optimizer)
            >>> recorder.measure(GradientNorm())
            >>> recorder.attach(trace)
            >>> weight.sum().backward()
            >>> optimizer.step()
            >>> recorder.detach()
            >>> {name: series.values.tolist() for name, series in trace.items()}
            {'lr': [0.1], 'gradient_norm': [2.0]}
        """
        taken = [*self._recorded, *(other.name for other in self._quantities)]
        if quantity.name in taken or quantity.name.partition("/")[0] in self._recorded:
            allowed = f"a name of its own ({', '.join(taken)} are recorded already)"
            raise InvalidArgumentError("the name of a measured quantity", quantity.name, allowed)
        self._quantities.append(quantity)
        self._columns = None

    def follow_inner(self) -> None:
        """Follow the current inner optimizers as well."""
        super().follow_inner()
        self._unbind_groups()  # new inner optimizers have groups of their own

    def note_untracked_steps(self) -> None:
        """Note that an optimizer that cannot be followed changes the weights within its steps."""
        self._has_untracked_steps = self._has_untracked_steps or bool(self._under_way)

    @property
    def recorded(self) -> Sequence[str]:
        """The hyper-parameters that are recorded."""
        return self._recorded

    def learning_rates(self) -> Iterator[tuple[str, Series]]:
        """The learning-rate series of the current groups, by name."""
        for known in self.groups:
            name = f"{LEARNING_RATE.name}{self.suffix}{known.series}"
            if name in self._trace:
                yield name, self._trace[name]

    # --- param groups -----------------------------------------------------------------------------------------

    @property
    def has_groups(self) -> bool:
        """Whether the optimizer still has the groups that are bound."""
        for optimizer, groups in self._bound:
            now = optimizer.param_groups
            if len(now) != len(groups) or not all(map(operator.is_, now, groups)):
                return False
        return bool(self._bound)

    def _take_groups(self) -> None:
        """Bind to the current groups: groups may have been added or replaced."""
        inner, known = inner_optimizers(self.optimizer), self.groups or cached_known_groups(self.optimizer)
        self.groups = match_groups(groups_of(self.optimizer, inner), [*known, *self._removed])
        self._removed = [group for group in [*known, *self._removed] if group not in self.groups]
        find_copies(self.groups, inner)
        cache_known_groups(self.optimizer, self.groups)
        self._bind()

    def _unbind_groups(self) -> None:
        """Bind to the groups again before the next step."""
        self._bound, self._sizes = [], []

    def _bind(self) -> None:
        optimizers = [self.optimizer, *inner_optimizers(self.optimizer)]
        self._bound = [(optimizer, list(optimizer.param_groups)) for optimizer in optimizers]
        self._sizes = [[len(group["params"]) for group in groups] for _, groups in self._bound]
        self._columns = None

    # --- a step -----------------------------------------------------------------------------------------------

    def new_batch(self) -> None:
        """Discard steps that have raised, and detect parameters added to a group."""
        self._under_way.clear()
        for (_, groups), sizes in zip(self._bound, self._sizes, strict=True):
            for group, size in zip(groups, sizes, strict=True):
                if len(group["params"]) != size:
                    self._unbind_groups()
                    return

    def _begin_step(self) -> None:
        if not self.has_groups:
            self._take_groups()
        self._read()

    def _read(self) -> None:
        if self._columns is None:
            self._columns = [*self._open(), *self._open_measured()]
        self._used = [read() for read, _ in self._columns]

    def _open(self) -> Iterator[Column]:
        """The values to read before each step, and where to record them."""
        name_series(self.groups)
        for name in self._recorded:
            for known in self.groups:
                hyper = HyperParameter.of(name, known.group)
                if hyper is not None:
                    yield self._column_of(hyper, known)

    def _open_measured(self) -> Iterator[Column]:
        for quantity in self._quantities:
            series = self._trace.series(f"{quantity.name}{self.suffix}", self.step, is_measured=True)
            yield Column(functools.partial(quantity, self.optimizer), series.append)

    def _column_of(self, hyper: HyperParameter, known: KnownGroup) -> Column:
        series = self._trace.series(self._name(hyper, known), self.step)
        series.part()  # a schedule may have driven it in a shared column before
        return Column(self._as_used(hyper, lambda: hyper.read(known.used)), series.append)

    def _as_used(self, hyper: HyperParameter, read: Callable[[], float]) -> Callable[[], float]:
        """Read what a step uses: an optimizer may decay its learning rates itself, as Keras' SGD does."""
        optimizers = [self.optimizer, *inner_optimizers(self.optimizer)] if hyper == LEARNING_RATE else []
        factors = [optimizer.learning_rate_factor for optimizer in optimizers if decays_by_itself(optimizer)]
        return (lambda: read() * factors[-1]()) if factors else read

    def _name(self, hyper: HyperParameter, known: KnownGroup) -> str:
        return f"{hyper.name}{self.suffix}{known.series}"

    def _end_step(self) -> None:
        # Recorded only after the step has been taken.
        for column, value in zip(self._columns or (), self._used, strict=True):
            column.note(value)
        self.step += 1


def decays_by_itself(optimizer: Any) -> bool:
    """Whether an optimizer multiplies the learning rates of its groups by its own factor at each step."""
    return callable(getattr(optimizer, "learning_rate_factor", None))
