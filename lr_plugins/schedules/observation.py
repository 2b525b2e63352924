"""What a schedule sees of training, and what it reports of its decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, SupportsFloat, get_args

import numpy as np

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.duration import Duration, advice

BEGIN = "begin"  # of each epoch: for functions that are called once an epoch and observe no metric
EPOCH, VALIDATION, STEP = "epoch", "validation", "step"

Occasion = Literal["epoch", "validation", "step"]
"""When a schedule observes; `"50st"`, every 50 optimizer steps, is another one."""

OnMissing = Literal["error", "warn"]
"""What a schedule does where its metric is not logged."""

_NOTHING: Mapping[str, SupportsFloat] = MappingProxyType({})


class Monitor(NamedTuple):
    """What a schedule wants to observe, and when.

    Attributes:
        metric: the logged metric, e.g. `"loss"` or `"val_loss"`.
        when: the occasion: `"epoch"` (the start of each epoch, with the metrics of the epoch before), `"validation"`
            (the end of each validation run), `"step"` (each optimizer step), or e.g. `"50st"` (every 50 of them).
        on_missing: `"error"` or `"warn"`: what the schedule does where no such metric is logged.
    """

    metric: str
    when: str = EPOCH
    on_missing: OnMissing = "error"


class Observation(NamedTuple):
    """What has been logged when an occasion comes.

    Attributes:
        when: the occasion, as in `Monitor`. That of the epoch comes at the start of every one, the first included.
        metrics: the metrics logged since the last occasion of this kind, the same on all ranks. Numbers, or anything
            that `float` converts: nothing is converted before a schedule decides.
        known: the names of all metrics logged so far in the run.
        complete: whether an epoch and, if there are any, a validation run have ended, so that a name that is still
            unknown will never be logged.
        in_turn: whether the schedule determines the learning rate now; false for a part of a sequence at other times.

    Example:
        >>> Observation("epoch", {"loss": 2.3}, known=["loss", "acc"]).metrics["loss"]
        2.3
    """

    when: str
    metrics: Mapping[str, SupportsFloat] = _NOTHING
    known: Collection[str] = ()
    complete: bool = True
    in_turn: bool = True


class Change(NamedTuple):
    """A decision, reported as `{who} {verb} learning rate to {value}.` with the reason, if any, in brackets.

    Attributes:
        who: the schedule's name, e.g. `"ReduceLROnPlateau"`.
        verb: `"setting"`, `"reducing"`, `"raising"` or `"resetting"`.
        why: the observation it comes from, e.g. `"loss 2.3026"`.
        warning: whether it is reported even where messages are off.
        value: the number in the message, of the type that was computed. Default None: the learning rate.
        asked: whether the schedule itself turns its messages on.
    """

    who: str
    verb: str
    why: str = ""
    warning: bool = False
    value: float | np.float32 | None = None
    asked: bool = False


SET = Change("LearningRateScheduler", "setting")
"""What is reported at the start of each epoch for a schedule of time."""


def occasion(field: str, when: object) -> str:
    """An occasion in its normal form: `"50st"` for 50 as well, `"step"` for `"1st"`.

    Raises:
        InvalidArgumentError: it is not an occasion.
    """
    if isinstance(when, str) and when in get_args(Occasion):
        return str(when)
    allowed = '"epoch", "validation", "step", or a whole number of optimizer steps such as "50st"'
    try:
        every = Duration.of(when)  # type: ignore[arg-type]
    except InvalidArgumentError:
        meant = advice(when)
        raise InvalidArgumentError(field, when, allowed, meant if 'st"' in meant else "") from None
    if every.unit != "st" or not isinstance(every.value, int):
        raise InvalidArgumentError(field, when, allowed)
    return STEP if every.value == 1 else str(every)


def steps_between(when: str) -> int | None:
    """How many optimizer steps there are from one occasion to the next; None where they are not counted.

    Example:
        >>> [steps_between(when) for when in ("epoch", "step", "50st")]
        [None, 1, 50]
    """
    if when in (BEGIN, EPOCH, VALIDATION):
        return None
    return 1 if when == STEP else int(when.removesuffix("st"))
