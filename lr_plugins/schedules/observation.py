"""What a schedule sees of training, and what it says about its decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple, SupportsFloat

import numpy as np

from lr_plugins.errors import InvalidArgument
from lr_plugins.schedules.duration import Duration, advice

BEGIN = "begin"  # of each epoch: for what is asked once an epoch and observes nothing
EPOCH, VALIDATION, STEP = "epoch", "validation", "step"
_NOTHING: Mapping[str, SupportsFloat] = MappingProxyType({})


class Monitor(NamedTuple):
    """What a schedule wants to observe, and when.

    Attributes:
        metric: the logged metric, e.g. `"loss"` or `"val_loss"`.
        when: the occasion: `"epoch"` (the begin of each epoch, with the metrics of the epoch before), `"validation"`
            (the end of each validation run), `"step"` (each optimizer step), or e.g. `"50st"` (every 50 of them).
        on_missing: `"error"` or `"warn"`: what the schedule does where no such metric is logged.
    """

    metric: str
    when: str = EPOCH
    on_missing: str = "error"


class Observation(NamedTuple):
    """What has been logged when an occasion comes.

    Attributes:
        when: the occasion, as in `Monitor`. That of the epoch comes at the begin of every one, the first included.
        metrics: the metrics logged anew since the last occasion of this kind, the same on all ranks. Numbers, or what
            `float` makes one of: nothing is converted before a schedule decides.
        known: the names of all metrics logged so far in the run.
        complete: whether an epoch and, if there are any, a validation run are over, so that a name which is not
            known is none that will be.
        in_turn: whether the schedule that observes has its say now; false for a part of a sequence at other times.

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
    """A decision, to be told as `{who} {verb} learning rate to {value}.` and the reason, if any, in brackets.

    Attributes:
        who: the schedule's name, e.g. `"ReduceLROnPlateau"`.
        verb: `"setting"`, `"reducing"`, `"raising"` or `"resetting"`.
        why: the observation it comes from, e.g. `"loss 2.3026"`.
        warning: whether it is to be told even where messages are not asked for.
        value: the number in the message, of the type that was computed. Default None: the learning rate.
        asked: whether the schedule itself asks for its messages.
    """

    who: str
    verb: str
    why: str = ""
    warning: bool = False
    value: float | np.float32 | None = None
    asked: bool = False


SET = Change("LearningRateScheduler", "setting")
"""What is said of a schedule of time at the start of each epoch."""


def occasion(field: str, when: object) -> str:
    """An occasion in its normal form: `"50st"` for 50 as well, `"step"` for `"1st"`.

    Raises:
        InvalidArgument: it is none.
    """
    if isinstance(when, str) and when in (EPOCH, VALIDATION, STEP):
        return str(when)
    allowed = '"epoch", "validation", "step", or a whole number of optimizer steps such as "50st"'
    try:
        every = Duration.of(when)  # type: ignore[arg-type]
    except InvalidArgument:
        meant = advice(when)
        raise InvalidArgument(field, when, allowed, meant if 'st"' in meant else "") from None
    if every.unit != "st" or not isinstance(every.value, int):
        raise InvalidArgument(field, when, allowed)
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
