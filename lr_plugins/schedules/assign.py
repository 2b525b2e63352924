"""Which schedule drives which hyper-parameter of which param groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from lr_plugins import renamed
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.schedule import Schedule
from lr_plugins.schedules.shapes.function import as_schedule
from lr_plugins.validation import choice, number, pattern

Parameters = Mapping[str, Any]
Since = Literal["run", "group"]
_USUAL = "since", "run"


@renamed.arguments
class Assign:
    r"""One schedule for one hyper-parameter of some param groups.

    `value of a group = schedule(position) * share * layer_decay ** (layers above the group's)`

    Without `params` and `group`, all groups are meant: the schedule's value is that of a group at the optimizer's
    default, and `share` is a group's own value divided by the default. Chosen by `params` or `group`, a group gets the
    schedule's value itself (share 1), and a schedule that names no initial value starts from the group's own.

    Args:
        schedule: the schedule, or a function of `epoch` or of `(epoch, lr)`.
        to: the hyper-parameter: `"lr"` (the default), `"weight_decay"`, `"momentum"` (beta1 where an optimizer has
            betas instead), `"beta1"`, `"beta2"`, or any other number in the optimizer's param groups.
        params: a regular expression, searched in the names of the module's parameters; `r"^backbone\."` matches
            every name with that prefix. A param group that matches only in part is split. Default None: all.
        group: the `name` of a param group, or its index, from 0. Default None: all.
        optimizer: the index of an optimizer, from 0, or the name of its class. Default None: all.
        layer_decay: factor between one layer and the layer below, > 0; 1 is none. Layers have groups of their own.
            Default 1.
        layers: regular expressions that tell the layers, the lowest first; where one has a group of digits as in
            `r"blocks\.(\d+)"`, each number is a layer. All chosen parameters have to be in one. Default None: the
            numbered modules (`blocks.3`) and those that stand beside their list are the layers, in the order in which
            they were defined; where none is numbered, each module that has parameters.
        name: what the groups are called in the trace. Default None: the group's `name`, or what `params` says.
        since: from when the schedule counts: `"run"` (the default), the start of the run; `"group"`, the step at which
            a param group came to the optimizer, with the rest of the run as its run: a warm-up for what has just been
            unfrozen.

    Raises:
        InvalidArgumentError: an argument of the wrong kind, or not a regular expression.

    Source: ignite's ParamGroupScheduler, timm's layer decay, MMEngine's paramwise_cfg.

    Example:
        >>> from lr_plugins import Constant, CosineDecay, CycleThrough
        >>> slow_backbone = Assign(CosineDecay(1e-5), params=r"^backbone")
        >>> momentum = Assign(CycleThrough(0.95, 0.85, 0.95), to="momentum")
        >>> no_decay = Assign(Constant(0.0), to="weight_decay", params=r"bias$|norm")
        >>> fine_tuning = Assign(CosineDecay(), layer_decay=0.75, layers=[r"embed", r"blocks\.(\d+)", r"head"])
    """

    def __init__(
        self,
        schedule: Schedule | Callable[..., float],
        *,
        to: str = "lr",
        params: str | None = None,
        group: str | int | None = None,
        optimizer: str | int | None = None,
        layer_decay: float = 1.0,
        layers: Sequence[str] | None = None,
        name: str | None = None,
        since: Since = "run",
    ) -> None:
        self.schedule = as_schedule(schedule, "Assign.schedule")
        self.to = _text("Assign.to", to, "the name of a hyper-parameter, e.g. lr, momentum, weight_decay")
        self.params = None if params is None else pattern("Assign.params", params)
        self.group = _key("Assign.group", group, "the name or the index (from 0) of a param group, or null")
        self.optimizer = _key(
            "Assign.optimizer", optimizer, "the class name or index (from 0) of an optimizer, or null"
        )
        self.layer_decay = number("Assign.layer_decay", layer_decay, "a finite number > 0 (1 is none)", above=0.0)
        self.layers = None if layers is None else _patterns(layers)
        if self.layers is not None and self.layer_decay == 1.0:
            raise InvalidArgumentError("Assign.layers", layers, "given together with layer_decay")
        self.name = None if name is None else _text("Assign.name", name, "a name for the groups, or null")
        self.since = choice("Assign.since", since, get_args(Since))

    @property
    def scope(self) -> str:
        """The hyper-parameter and the groups it drives, as a text."""
        parts = {"params": self.params, "group": self.group, "optimizer": self.optimizer}
        chosen = [f"{name}={value}" for name, value in parts.items() if value is not None]
        return " ".join([self.to, *chosen, *(["since=group"] if self.since == "group" else [])])

    @property
    def splits(self) -> bool:
        """Whether it may split param groups."""
        return self.params is not None or self.layer_decay != 1.0

    @property
    def chooses(self) -> bool:
        """Whether it drives some groups rather than all."""
        return self.params is not None or self.group is not None

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, in their normalized form."""
        return dict(vars(self))

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None and (name, value) != _USUAL}
        return f"Assign({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Assign) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class Assignments:
    """Several assignments; of those that fit a group's hyper-parameter, the last one counts.

    Args:
        assignments: a list, or a dictionary whose keys are names for the groups. A schedule (or a function of
            `epoch` or of `(epoch, lr)`) in place of an assignment drives the learning rate of all groups.

    Raises:
        InvalidArgumentError: it is empty, or an item is not an assignment.

    Example:
        >>> from lr_plugins import CosineDecay, StepDecay
        >>> both = Assignments([CosineDecay(0.1), Assign(StepDecay(1e-4), params=r"^backbone")])
        >>> [one.params for one in both]
        [None, '^backbone']
    """

    def __init__(
        self,
        assignments: Sequence[Assign | Schedule | Callable[..., float]]
        | Mapping[str, Assign | Schedule | Callable[..., float]],
    ) -> None:
        allowed = "a list or a dictionary of at least one Assign(schedule, to=...) or schedule"
        if isinstance(assignments, Mapping):
            self.assignments = [_named(name, item) for name, item in assignments.items() if item is not None]
        elif isinstance(assignments, Sequence) and not isinstance(assignments, (str, bytes)):
            self.assignments = [_assign(item) for item in assignments]
        else:
            raise InvalidArgumentError("Assignments.assignments", assignments, allowed)
        if not self.assignments:
            raise InvalidArgumentError("Assignments.assignments", assignments, allowed)

    @classmethod
    def of(cls, schedules: Any) -> Assignments:
        """Assignments of whatever names them: themselves, a list, a dictionary, or one for all."""
        if isinstance(schedules, Assignments):
            return schedules
        return cls(schedules if isinstance(schedules, (Mapping, list, tuple)) else [schedules])

    def __iter__(self) -> Iterator[Assign]:
        return iter(self.assignments)

    def __len__(self) -> int:
        return len(self.assignments)

    def config(self) -> dict[str, Any]:
        """The constructor's argument, in its normalized form."""
        return {"assignments": self.assignments}

    def __repr__(self) -> str:
        return f"Assignments({self.assignments!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Assignments) and self.assignments == other.assignments

    def __hash__(self) -> int:
        return hash(repr(self))


def _assign(item: Any) -> Assign:
    return item if isinstance(item, Assign) else Assign(as_schedule(item))


def _named(name: str, item: Any) -> Assign:
    assignment = _assign(item)
    return assignment if assignment.name is not None else Assign(**{**assignment.config(), "name": name})


def _text(field: str, value: object, allowed: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(field, value, allowed)
    return value


def _patterns(layers: object) -> list[str]:
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise InvalidArgumentError(
            "Assign.layers", layers, "a list of regular expressions, the lowest layer first, or null"
        )
    return [pattern(f"Assign.layers[{index}]", layer) for index, layer in enumerate(layers)]


def _key(field: str, value: object, allowed: str) -> str | int | None:
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(field, value, allowed)
    return value


Schedules = (
    Schedule
    | Assign
    | Assignments
    | Callable[..., float]
    | Sequence[Schedule | Assign | Callable[..., float]]
    | Mapping[str, Schedule | Assign | Callable[..., float]]
)
