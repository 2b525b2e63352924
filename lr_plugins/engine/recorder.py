"""The record of an optimizer's steps, counted where they happen, and of the learning rate that each uses."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from torch.optim import Optimizer

from lr_plugins.engine.hyperparameter import LEARNING_RATE, HyperParameter
from lr_plugins.engine.known_groups import (
    KnownGroup,
    find_copies,
    groups_of,
    match_groups,
    name_series,
    remember,
    remembered,
)
from lr_plugins.engine.real_steps import RealSteps
from lr_plugins.engine.step_hooks import optimizers_within
from lr_plugins.engine.trace import Series, Trace
from lr_plugins.errors import InvalidArgumentError


class Quantity(Protocol):
    """A number to record at every step beside the hyper-parameters, such as a gradient norm.

    It is read just before the step, when the gradients are complete. With a closure, which computes them within the
    step, it is read before the closure as well; the last value counts.

    Attributes:
        name: the name of its series.
    """

    name: str

    def __call__(self, optimizer: Any) -> float:
        """The value for the step that an optimizer is about to take."""


class Column(NamedTuple):
    """What is read before each step, and where it is recorded."""

    read: Callable[[], float]
    note: Callable[[float], None]


class Recorder(RealSteps):
    """Follows one optimizer: counts its real steps, and records the learning rate that each of them uses.

    It counts inside the optimizer's step, so the count is right under gradient accumulation, in manual optimization and
    with a scaler that skips steps. It reads the values at that moment, from the groups that the optimizer has then.

    Args:
        optimizer: the optimizer to follow.
        suffix: follows the hyper-parameter in the names of its series: `""`, or `"/SGD-0"`.
        instead_of: the recorder of an optimizer that this one replaces during the run. Default None.
    """

    def __init__(self, optimizer: Optimizer, suffix: str = "", instead_of: Recorder | None = None) -> None:
        super().__init__(optimizer)
        self._kept = optimizer  # alive
        self.step: int = 0 if instead_of is None else instead_of.step  # steps taken
        self.suffix = suffix
        self.groups: list[KnownGroup] = []
        self._gone: list[KnownGroup] = []  # that may come back
        self._trace = Trace()
        self._bound: list[tuple[Any, list[Any]]] = []  # optimizers, with the groups that they had
        self._sizes: list[list[int]] = []  # and how many parameters those had
        self._doubtful = False  # something steps within its steps that could not be followed
        self._recorded = [LEARNING_RATE.name]
        self._quantities: list[Quantity] = [] if instead_of is None else list(instead_of._quantities)
        self._columns: list[Column] | None = None
        self._used: list[float] = []  # by the step under way
        if instead_of is not None:
            remember(optimizer, instead_of.known_groups())
        else:
            for known in remembered(optimizer):
                known.series, known.begun = None, (0, 0)

    def known_groups(self) -> list[KnownGroup]:
        """What is known of the groups, for an optimizer that replaces this one."""
        return [known.as_group(known.group) for known in self.groups]

    def attach(self, trace: Trace, step: int = 0, away: Callable[[], bool] | None = None) -> None:
        """Start to follow the optimizer after `step` steps, and to record in `trace`.

        Steps that are taken while `away` returns true are not those of the run.
        """
        self._trace, self.step, self._columns = trace, step, None
        self.follow(away)

    def measure(self, quantity: Quantity) -> None:
        """Record another quantity from the coming step on; an optimizer that replaces this one continues it.

        Raises:
            InvalidArgumentError: something of this name is recorded already.

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
        if quantity.name in taken:
            allowed = f"a name of its own ({', '.join(taken)} are recorded already)"
            raise InvalidArgumentError("the name of a measured quantity", quantity.name, allowed)
        self._quantities.append(quantity)
        self._columns = None

    def follow_within(self) -> None:
        """Follow what the optimizer holds by now, too."""
        super().follow_within()
        self._forget_groups()  # those of what has come are to be looked at, too

    def doubt(self) -> None:
        """Note that something that could not be followed changes the weights within its steps."""
        self._doubtful = self._doubtful or bool(self._under_way)

    @property
    def recorded(self) -> Sequence[str]:
        """The hyper-parameters that are recorded."""
        return self._recorded

    def learning_rates(self) -> Iterator[tuple[str, Series]]:
        """What has been recorded of the learning rates of the groups that there are now, by name."""
        for known in self.groups:
            name = f"{LEARNING_RATE.name}{self.suffix}{known.series}"
            if name in self._trace:
                yield name, self._trace[name]

    # --- param groups -----------------------------------------------------------------------------------------

    @property
    def has_groups(self) -> bool:
        """Whether the optimizer's groups are those that were taken."""
        for optimizer, groups in self._bound:
            now = optimizer.param_groups
            if len(now) != len(groups) or not all(map(operator.is_, now, groups)):
                return False
        return bool(self._bound)

    @property
    def has_parameters(self) -> bool:
        """Whether these have as many parameters as they had: more may have been put into one."""
        return all(
            [len(group["params"]) for group in groups] == sizes
            for (_, groups), sizes in zip(self._bound, self._sizes, strict=True)
        )

    def _take_groups(self) -> None:
        """Take the groups as they are: more may have come, others may be in their places."""
        within, known = optimizers_within(self.optimizer), self.groups or remembered(self.optimizer)
        self.groups = match_groups(groups_of(self.optimizer, within), [*known, *self._gone])
        self._gone = [one for one in [*known, *self._gone] if one not in self.groups]
        find_copies(self.groups, within)
        remember(self.optimizer, self.groups)
        self._bind()

    def _forget_groups(self) -> None:
        """Take the groups anew before the next step."""
        self._bound = []

    def _bind(self) -> None:
        everyone = [self.optimizer, *optimizers_within(self.optimizer)]
        self._bound = [(one, list(one.param_groups)) for one in everyone]
        self._sizes = [[len(group["params"]) for group in groups] for _, groups in self._bound]
        self._columns = None

    # --- a step -----------------------------------------------------------------------------------------------

    def new_batch(self) -> None:
        """Forget steps that an error has ended, and notice parameters that were added to a group."""
        self._under_way.clear()
        if self._bound and not self.has_parameters:
            self._forget_groups()

    def _begin_step(self) -> None:
        if not self.has_groups:
            self._take_groups()
        self._read()

    def _read(self) -> None:
        if self._columns is None:
            self._columns = [*self._open(), *self._open_measured()]
        self._used = [read() for read, _ in self._columns]

    def _open(self) -> Iterator[Column]:
        """What to read before each step, and where to record it."""
        name_series(self.groups)
        for what in self._recorded:
            for known in self.groups:
                hyper = HyperParameter.of(what, known.group)
                if hyper is not None:
                    yield self._column_of(hyper, known)

    def _open_measured(self) -> Iterator[Column]:
        for quantity in self._quantities:
            series = self._trace.series(f"{quantity.name}{self.suffix}", self.step, is_measured=True)
            yield Column(functools.partial(quantity, self.optimizer), series.append)

    def _column_of(self, hyper: HyperParameter, known: KnownGroup) -> Column:
        series = self._trace.series(self._name(hyper, known), self.step)
        series.part()  # from whatever a schedule has driven before
        return Column(self._as_used(hyper, lambda: hyper.read(known.used)), series.append)

    def _as_used(self, hyper: HyperParameter, read: Callable[[], float]) -> Callable[[], float]:
        """Read what a step uses: an optimizer may decay its learning rates by itself, as Keras' SGD does."""
        everyone = [self.optimizer, *optimizers_within(self.optimizer)] if hyper == LEARNING_RATE else []
        factors = [one.learning_rate_factor for one in everyone if decays_by_itself(one)]
        return (lambda: read() * factors[-1]()) if factors else read

    def _name(self, hyper: HyperParameter, known: KnownGroup) -> str:
        return f"{hyper.name}{self.suffix}{known.series}"

    def _end_step(self) -> None:
        self._record()
        self.step += 1
        self._stepped()

    def _record(self) -> None:
        # Now that the step has happened.
        for column, value in zip(self._columns or (), self._used, strict=True):
            column.note(value)

    def _stepped(self) -> None:
        """Called once a step has been taken."""


def decays_by_itself(optimizer: Any) -> bool:
    """Whether an optimizer multiplies the learning rates in its groups by a factor of its own at each step."""
    return callable(getattr(optimizer, "learning_rate_factor", None))
