"""What metric-driven schedules share: when they observe, how they smooth, and what they do without a number."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, SupportsFloat, get_args

from lr_plugins import metric_direction, renamed
from lr_plugins.checkpoint_state import (
    Check,
    WrongStateError,
    anything,
    finite,
    flag,
    list_of,
    number_or_name,
    optional,
    real,
    record,
    text,
)
from lr_plugins.checkpoint_state import plain as plain_value
from lr_plugins.errors import InvalidArgumentError, TrainingError, shown
from lr_plugins.schedules.metric_driven.bounds import Bound, level
from lr_plugins.schedules.observation import (
    EPOCH,
    VALIDATION,
    Change,
    Monitor,
    Observation,
    OnMissing,
    occasion,
    steps_between,
)
from lr_plugins.schedules.position import Position, Value
from lr_plugins.schedules.schedule import Schedule, State
from lr_plugins.validation import choice, number

SHRINK = 0.5
"""What `on_nonfinite="shrink"` multiplies the learning rate by, each time."""

ThresholdMode = Literal["abs", "rel"]
"""How `min_delta` counts: in units of the metric, or as a share of the best."""

OnNonfinite = Literal["error", "hold", "shrink"]
"""What NaN and infinity do. Some rules know `"compare"` as well: to compare them as the original of the rule does."""

Memory = Mapping[str, Any]


@renamed.attributes
class MetricDriven(Schedule):
    """A schedule that observes one logged metric. Sub-classes define what an observed value does.

    Its state: `observed`, the last value decided on; `smoothed`, what the smoothing needs; `verb`, what the last
    decision did; `inactive`, true where the schedule did not determine the learning rate; and what a sub-class adds.
    """

    non_finite: ClassVar[tuple[str, ...]] = get_args(OnNonfinite)
    bounds: ClassVar[tuple[str, ...]] = ()
    """The arguments that are a learning rate, or a multiple of the initial one: the floor first, then the ceiling."""

    starts_within_bounds: ClassVar[bool] = True
    """Whether a floor above the learning rate that it starts from, or a ceiling below it, is refused."""

    remembers: ClassVar[Mapping[str, Check]] = {
        "observed": number_or_name,
        "verb": optional(text),
        "inactive": flag,
        "smoothed": anything,
    }
    """The fields of the state with their checks; a sub-class adds its own. Any of them may be missing."""

    monitor: str
    when: str
    smoothing: float | int | None
    on_missing: OnMissing
    on_nonfinite: str

    @abstractmethod
    def decide(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        """What to remember of an observed value, in place of what `memory` has under these names."""

    @abstractmethod
    def rescaled(self, memory: Memory, position: Position) -> dict[str, Any]:
        """What to remember for a learning rate that is `SHRINK` times what it was."""

    @abstractmethod
    def reason(self, before: Memory, after: Memory) -> str:
        """Why the learning rate has changed."""

    def _observe_arguments(
        self, monitor: str, when: object, smoothing: object, on_missing: OnMissing, on_nonfinite: str
    ) -> None:
        """Check and keep the arguments that all metric-driven schedules have."""
        name = type(self).__name__
        if not isinstance(monitor, str) or not monitor:
            raise InvalidArgumentError(f"{name}.monitor", monitor, "the name of a logged metric")
        self.monitor, self.when = monitor, occasion(f"{name}.when", when)
        self.smoothing = _smoothing(f"{name}.smoothing", smoothing)
        self.on_missing = choice(f"{name}.on_missing", on_missing, get_args(OnMissing))
        self.on_nonfinite = choice(f"{name}.on_nonfinite", on_nonfinite, self.non_finite)

    @property
    def monitors(self) -> tuple[Monitor, ...]:
        """The metric it observes."""
        return (Monitor(self.monitor, self.when, self.on_missing),)

    @property
    def kind(self) -> str:
        """With the metric: a state of one metric does not fit another."""
        return f"{type(self).__name__}({self.monitor}, {self.when}, {getattr(self, 'mode', '')})"

    def start(self) -> State:
        """Nothing has been observed yet."""
        return {}

    def check_state(self, state: Any, where: str = "state") -> None:
        """Check each field of the state."""
        super().check_state(state, where)
        others = dict.fromkeys(state, plain_value) if "remembers" not in vars(type(self)) else {}
        record({}, {**others, **self.remembers})(state, where)
        if state.get("smoothed") is not None and self.smoothing is not None:
            check = list_of(real) if isinstance(self.smoothing, int) else real
            check(state["smoothed"], f"{where}.smoothed")

    def observe(self, state: State, position: Position, observation: Observation) -> State:
        """Decide, if the occasion is its own and the metric has been logged since the last one."""
        if observation.when != self.when:
            return state
        if self.monitor not in observation.metrics:
            return self._without(state, position, observation)
        observed = self._number(observation.metrics[self.monitor])
        if not math.isfinite(observed):
            if self.on_nonfinite == "hold":
                return state
            if self.on_nonfinite == "error":
                raise self._diverged(observed, position)
        memory = dict(state or {})
        decided = self._decided(memory, position, observed)
        memory.pop("inactive", None)
        return {**memory, **decided, **({} if observation.in_turn else {"inactive": True})}

    def _decided(self, memory: Memory, position: Position, observed: float) -> dict[str, Any]:
        if not math.isfinite(observed) and self.on_nonfinite == "shrink":
            return {"observed": plain(observed), **self.rescaled(memory, position)}
        value, smoothed = self._smooth(memory.get("smoothed"), observed)
        return {"observed": plain(value), **smoothed, **self.decide(memory, position, value)}

    def changes(self, before: State, after: State) -> Iterable[Change]:
        """What the last decision did to the learning rate, if this schedule determines it."""
        if not after or after == before or after.get("inactive") or not after.get("verb"):
            return
        lost = isinstance(after["observed"], str) and self.on_nonfinite == "shrink"
        why = f"{self.monitor} is {after['observed']}" if lost else self.reason(before or {}, after)
        yield Change(type(self).__name__, after["verb"], why)

    # --- the value that is observed -----------------------------------------------------------------------

    def _without(self, state: State, position: Position, observation: Observation) -> State:
        """What to do where the metric has not been logged since the last occasion."""
        # A stale value is not an observation: it does not count.
        if self.monitor in observation.known or (state and "observed" in state) or not observation.complete:
            return state
        logged = f"logged metrics: {', '.join(sorted(observation.known)) or 'none'}"
        what = f"{type(self).__name__}.monitor is {self.monitor!r}, and no metric of that name was logged"
        if self.on_missing == "error":
            raise TrainingError(f"{what} {_since(self.when, position)}; {logged}")
        # Without the time: Python shows a warning of the same words once.
        warnings.warn(f"{what}; {logged}. The learning rate is unchanged.", stacklevel=2)
        return state

    def _number(self, metric: SupportsFloat) -> float:
        try:
            return float(metric)
        except OverflowError:  # an integer beyond all floats
            return math.inf
        except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several numbers
            shape = getattr(metric, "shape", None)
            what = shown(metric) if shape is None else f"a {type(metric).__name__} of shape {tuple(shape)}"
            raise TrainingError(
                f"{type(self).__name__}.monitor is {self.monitor!r}, which must be a single number; it is {what}"
            ) from error

    def _diverged(self, observed: float, position: Position) -> TrainingError:
        name = type(self).__name__
        return TrainingError(
            f"{name} needs a finite {self.monitor!r}; it is {observed} {_at(self.when, position)}. Training has "
            f"diverged: a lower learning rate may help. {name}.on_nonfinite can also be hold or shrink."
        )

    def _smooth(self, past: Any, observed: float) -> tuple[float, dict[str, Any]]:
        """(the smoothed value, what to remember for the next one)."""
        if self.smoothing is None or not math.isfinite(observed):  # NaN would stay in a mean for ever
            return observed, {}
        if isinstance(self.smoothing, int):
            window = [*(past or ()), observed][-self.smoothing :]
            mean = sum(window) / len(window)
            if not math.isfinite(mean):  # the sum is too large for a number, which the mean is not
                mean = sum(value / len(window) for value in window)
            return mean, {"smoothed": window}
        mean = observed if past is None else self.smoothing * past + (1.0 - self.smoothing) * observed
        return mean, {"smoothed": mean}


class Adjusting(MetricDriven):
    """A schedule that starts at its initial learning rate and multiplies it by a factor from time to time.

    Its state has the learning rate and the initial one it came from: for another optimizer (or in a resumed run) with
    another initial learning rate, it is scaled in the same ratio.
    """

    remembers: ClassVar[Mapping[str, Check]] = {**MetricDriven.remembers, "learning_rate": finite, "initial": finite}

    def check_state(self, state: Any, where: str = "state") -> None:
        """The learning rate comes with the initial one."""
        super().check_state(state, where)
        if ("learning_rate" in state) != ("initial" in state):
            raise WrongStateError(where, state, "a dictionary with both or neither of learning_rate, initial")

    def value(self, position: Position, state: State) -> Value:
        """The learning rate that the last decision left."""
        if self.initial_learning_rate is None:
            check_start(self, self.initial(position))
        return position.broadcast(self.current(state or {}, position))

    def current(self, memory: Memory, position: Position) -> float:
        """The same, for a single position."""
        initial = self.initial(position)
        if "learning_rate" not in memory:
            return initial
        rate, begin = float(memory["learning_rate"]), float(memory["initial"])
        return rate if initial == begin or not begin else rate * (initial / begin)

    def left_at(self, memory: Memory, position: Position, rate: float, verb: str | None = None) -> dict[str, Any]:
        """The state for a new learning rate, with what was done to it."""
        old = self.current(memory, position)
        verb = verb or ("reducing" if rate < old else "raising" if rate > old else None)
        if not math.isfinite(rate):
            raise TrainingError(
                f"{type(self).__name__} makes the learning rate {rate} {_at(self.when, position)}, up from {old:g}; "
                "lower its factors, or set a ceiling"
            )
        return {"learning_rate": rate, "initial": self.initial(position), "verb": verb}

    def rescaled(self, memory: Memory, position: Position) -> dict[str, Any]:
        """Half of the learning rate, or the floor."""
        old = self.current(memory, position)
        return self.left_at(memory, position, min(old, max(old * SHRINK, self.floor(position))))

    @abstractmethod
    def floor(self, position: Position) -> float:
        """The lowest learning rate."""


def check_start(schedule: MetricDriven, initial: float | None) -> None:
    """Refuse a floor above the learning rate that a schedule starts from, and a ceiling below it.

    Raises:
        InvalidArgumentError: it starts outside its bounds. An initial learning rate that is unknown may be any.
    """
    if not schedule.starts_within_bounds:
        return
    whose = "" if schedule.initial_learning_rate is not None else "the optimizer's own, "
    for name, sign, words in zip(schedule.bounds, (1, -1), ("at most", "at least"), strict=False):
        given: Bound = getattr(schedule, name)
        if initial is None and not isinstance(given, str):
            continue
        start = 1.0 if initial is None else initial
        limit = level(given, start)
        if limit is not None and sign * limit > sign * start:
            where = "" if initial is None else f" ({whose}{initial:g})"
            allowed = f"{words} the learning rate that it starts from{where}"
            raise InvalidArgumentError(f"{type(schedule).__name__}.{name}", given, allowed)


# --- what is better -----------------------------------------------------------------------------------------


def direction(owner: object, mode: object, monitor: str) -> int:
    """1 where a lower value is better, -1 where a higher one is; `"auto"` goes by the name of the metric.

    Raises:
        InvalidArgumentError: `mode` is not one of `"min"`, `"max"` and `"auto"`, or the name does not show the
            direction.
    """
    field = f"{type(owner).__name__}.mode"
    mode = choice(field, mode, get_args(metric_direction.Mode))
    if mode != "auto":
        return 1 if mode == "min" else -1
    by_name = metric_direction.better(monitor)
    if by_name is not None:
        return 1 if by_name == "min" else -1
    hint = "It cannot be inferred from the name. Is the name spelt as it is logged?"
    raise InvalidArgumentError(field, mode, f'"min" or "max" for {monitor!r}', hint)


def better(observed: float, best: float, sign: int, least: float, relative: bool) -> bool:
    """Whether a value is better than the best by more than `least`, as torch and transformers compare.

    Example:
        >>> better(0.9, 1.0, sign=1, least=0.05, relative=True), better(1.04, 1.0, sign=-1, least=0.05, relative=True)
        (True, False)
    """
    bar = sign * best * (1.0 - sign * least) if relative else sign * best - least
    return sign * observed < bar


# --- small things -------------------------------------------------------------------------------------------


def plain(value: float) -> float | str:
    """A number as strict JSON can hold it: NaN and infinity as their names, which `float` reads."""
    return value if math.isfinite(value) else repr(value)


def counted(times: int, when: str) -> str:
    """So many occasions, in words.

    Example:
        >>> counted(5, "epoch"), counted(1, "validation"), counted(3, "50st")
        ('5 epochs', '1 validation run', '150 steps')
    """
    what = {EPOCH: "epoch", VALIDATION: "validation run"}.get(when, "step")
    times *= steps_between(when) or 1
    return f"{times} {what}{'' if times == 1 else 's'}"


def _smoothing(field: str, value: object) -> float | int | None:
    if value is None:
        return None
    allowed = "a number > 0 and < 1 (the share of the past in the mean), a whole number >= 2 (a window), or null"
    given = number(field, value, allowed, above=0.0)
    if given < 1:
        return given
    if given < 2 or not given.is_integer():
        raise InvalidArgumentError(field, value, allowed)
    return int(given)


def _at(when: str, position: Position) -> str:
    return f"at the end of epoch {position.epoch}" if when == EPOCH else f"at optimizer step {position.step}"


def _since(when: str, position: Position) -> str:
    return f"in epoch {position.epoch}" if when == EPOCH else f"up to optimizer step {position.step}"
