"""Errors of the scheduler and their messages."""

import math

import pytest

from lr_plugins import (
    Constant,
    LearningRateScheduler,
    LossDriven,
    StepDecay,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError
from tests.toys import Toy, fit


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LearningRateScheduler(0.1), "schedule must be a schedule such as StepDecay"),
        (lambda: LearningRateScheduler(Constant(), verbose="yes"), "LearningRateScheduler.verbose must be 0"),
        (
            lambda: LearningRateScheduler(Constant(), style="keras4"),
            "style must be one of keras2, keras3; got 'keras4'",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build()


def test_two_schedulers_are_refused():
    class Other(LearningRateScheduler):
        pass

    with pytest.raises(InvalidArgumentError, match="a list with only one LearningRateScheduler"):
        fit(None, LearningRateScheduler(Constant()), Other(Constant()))


def test_a_module_without_an_optimizer_is_refused():
    with pytest.raises(InvalidArgumentError, match="a method that returns an optimizer"):
        fit(Toy(lambda parameters: None), LearningRateScheduler(Constant(0.1)))


def test_user_schedule_is_checked_at_every_step():
    class Broken(Constant):
        def value(self, position, state):
            return math.nan if position.step == 4 else 0.1

    with pytest.raises(TrainingError, match="finite number >= 0; the schedule gives nan at step 4"):
        fit(None, LearningRateScheduler(Broken()))


def test_nan_loss_stops_the_run():
    class Diverged(Toy):
        def compute_loss(self, batch):
            return super().compute_loss(batch) * math.nan

    with pytest.raises(TrainingError, match="needs a finite 'loss'; it is nan at the end of epoch 1"):
        fit(Diverged(), LearningRateScheduler(LossDriven(0.1)))


def test_percent_of_an_endless_run_is_refused():
    with pytest.raises(TrainingError, match="the length of the run, which is unknown; set max_steps"):
        fit(None, LearningRateScheduler(StepDecay(0.1, every="5%")), epochs=-1)


def test_schedule_used_as_a_callback_gives_a_hint():
    with pytest.raises(AttributeError, match=r"StepDecay is a schedule, not a callback: callbacks=\[LearningRateSched"):
        fit(Toy(), StepDecay(0.1))
    assert not hasattr(StepDecay(0.1), "setup")
