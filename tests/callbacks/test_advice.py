"""The rules of thumb for learning rates, checked at the start of a fit."""

from __future__ import annotations

import logging

import pytest
import torch
from lightning_utilities.core import rank_zero

from lr_plugins import Assign, Constant, CosineDecay, ExponentialDecay, LearningRateScheduler, LinearDecay, StepDecay
from lr_plugins.callbacks import advice
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.rules_of_thumb import fall_line, start_line
from tests.toys import Toy, fit

DEADLY = "lr starts at 0.1; as a rule of thumb it should start between 0.001 and 0.01; at 0.1, 9 of 10 networks"


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(advice, "_LOGGED", set())


def said(schedule, module=None, **options):
    lines = []
    fit(module or Toy(), LearningRateScheduler(schedule, advice=lines.append), **options)
    return lines


def test_schedule_within_the_rules_gives_no_advice():
    assert said(ExponentialDecay(0.01, decay_steps="100%", decay_rate=0.01)) == []
    assert said(CosineDecay(0.01)) == said(LinearDecay(0.001)) == []  # the end value counts, though no step has it
    assert said(StepDecay(0.01, drop=0.01, every="1ep")) == []


def test_a_start_at_a_tenth_gets_a_line_with_the_reason():
    (line,) = said(CosineDecay(0.1))
    assert line.startswith(DEADLY)
    assert line.endswith("stopped learning on raw inputs (dead ReLUs)")


def test_start_and_fall_outside_the_rules_get_a_line_each():
    assert said(StepDecay(0.05, drop=0.5, every="1ep")) == [start_line(0.05, 0.05), fall_line(0.05, 0.0125)]
    assert said(CosineDecay(1e-5)) == ["lr starts at 1e-05; as a rule of thumb it should start between 0.001 and 0.01"]


def test_warmup_is_judged_by_its_end():
    lines = said(CosineDecay(0.1).with_warmup("1ep"))
    assert lines[0].startswith(
        "lr rises to 0.1; as a rule of thumb it should start between 0.001 and 0.01; at 0.1, 9 of 10"
    )


def test_advice_reads_only_the_first_value_of_a_function():
    asked = []
    assert said(lambda epoch: asked.append(epoch) or 0.01) == []
    assert asked == [0, 1, 2]


def test_a_network_with_normalization_may_start_higher():
    class Normalized(Toy):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

    assert said(CosineDecay(0.1), Normalized()) == []


def test_other_hyperparameters_get_no_advice():
    schedules = [CosineDecay(0.01), Assign(Constant(0.9), to="momentum")]
    assert said(schedules, Toy(lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.5))) == []


def test_advice_is_given_in_each_fit_except_resumed_ones(tmp_path):
    assert said(CosineDecay(0.1)) == said(CosineDecay(0.1)) != []
    run = fit(Toy(), LearningRateScheduler(Constant(0.05), advice=False), epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    assert said(Constant(0.05), ckpt_path=tmp_path / "one.ckpt") == []


class Lines(logging.Handler):
    """Keeps the logged lines."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        if "LearningRateScheduler" in record.getMessage():
            self.lines.append(record.getMessage())


def test_advice_is_logged_by_default_and_can_be_disabled():
    log, kept = rank_zero.log, Lines()  # of the package that was imported last
    level = log.level
    log.addHandler(kept)
    try:
        log.setLevel(logging.INFO)
        fit(Toy(), LearningRateScheduler(CosineDecay(0.1), advice=False))
        log.setLevel(logging.WARNING)
        fit(Toy(), LearningRateScheduler(CosineDecay(0.1)))  # below the log level
        assert kept.lines == []
        log.setLevel(logging.INFO)
        for _ in range(2):
            fit(Toy(), LearningRateScheduler(CosineDecay(0.1)))
    finally:
        log.removeHandler(kept)
        log.setLevel(level)
    (line,) = kept.lines  # once in a program
    assert line.startswith(f"LearningRateScheduler: {DEADLY}")
    assert line.endswith("(set advice=False to silence this)")


def test_invalid_advice_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"LearningRateScheduler\.advice must be"):
        LearningRateScheduler(Constant(0.1), advice="yes")
