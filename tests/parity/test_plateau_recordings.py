"""keras.ReduceLROnPlateau against what Keras 2.2.4 did and printed, epoch by epoch."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from lr_plugins import Position
from lr_plugins.callbacks.messages import MESSAGES
from lr_plugins.console.keras_text import format_rate
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.keras import ReduceLROnPlateau
from lr_plugins.schedules import Observation

RECORDED = json.loads((Path(__file__).parent / "recordings/plateau_keras_2_2_4.json").read_text())["data"]["cases"]
# A factor that raises or negates, a mode that does not exist, and an older name.
REFUSED = {"factor_1", "factor_neg", "mode_bogus", "epsilon_kwarg"}
CASES = {name: case for name, case in RECORDED.items() if name not in REFUSED}


def number(value):
    return float(value) if isinstance(value, str) else value


def replay(case):
    """The learning rate and the output after each epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule = ReduceLROnPlateau(**case["args"], rule="keras2")
        state = schedule.start()
        for epoch, value in enumerate(case["seq"], start=case["start_epoch"]):
            position = Position(epoch, epoch, base_learning_rate=case["lr0"])
            metrics = {"lr": float(schedule(position, state))}
            if value is not None:
                metrics[case["key"]] = number(value)
            before, state = state, schedule.observe(state, position, Observation("epoch", metrics, known=list(metrics)))
            lines = [
                MESSAGES["keras2"].format(
                    epoch=epoch + 1,
                    who=change.who,
                    verb=change.verb,
                    what="learning rate",
                    value=format_rate(change.value, "keras2"),
                    why="",
                )
                for change in schedule.changes(before, state)
                if change.asked
            ]
            yield float(schedule(position, state)), "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("name", CASES)
def test_rates_and_messages_of_keras_2(name):
    case = CASES[name]
    found = list(replay(case))
    assert found == [(epoch["lr_after"], epoch["stdout"]) for epoch in case["trace"]]


def test_the_recordings_have_reductions():
    assert sum("reducing" in epoch["stdout"] for case in CASES.values() for epoch in case["trace"]) > 60


@pytest.mark.parametrize("name", ["factor_1", "factor_neg"])
def test_a_factor_that_does_not_reduce_is_rejected(name):
    with pytest.raises(InvalidArgumentError, match=r"ReduceLROnPlateau\.factor must be a number >= 0 and < 1"):
        ReduceLROnPlateau(**RECORDED[name]["args"])
