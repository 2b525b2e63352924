"""Choices of public constructors are Literals, so that LightningCLI and type checkers know them."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from lr_plugins import History, KerasProgress, LearningRateRangeTest, LearningRateTrace
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.keras import CSVLogger, EarlyStopping
from lr_plugins.keras.constraints import Constraints, NonNeg


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (History, "style"),
        (KerasProgress, "style"),
        (LearningRateRangeTest, "mode"),
        (LearningRateRangeTest, "suggestion"),
        (LearningRateRangeTest, "on_failure"),
        (LearningRateTrace, "names"),
        (partial(CSVLogger, "training.csv"), "style"),
        (EarlyStopping, "mode"),
        (EarlyStopping, "style"),
        (partial(Constraints, {"weight": "max_norm"}), "layout"),
        (NonNeg, "style"),
    ],
)
def test_only_the_choices_of_the_type_are_accepted(build, argument):
    kind = build.func if isinstance(build, partial) else build
    hint = get_type_hints(kind.__init__)[argument]
    assert get_origin(hint) is Literal
    for choice in get_args(hint):
        assert getattr(build(**{argument: choice}), argument) == choice
    with pytest.raises(
        InvalidArgumentError, match=f"{argument} must be one of {', '.join(get_args(hint))}; got 'other'"
    ):
        build(**{argument: "other"})
