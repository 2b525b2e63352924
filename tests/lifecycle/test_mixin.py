"""LearningRateScheduleMixin: the same engine, messages and state as the callback."""

import inspect
import typing

import pytest
import pytorch_lightning as pl
import torch

from lr_plugins import LearningRateScheduleMixin, LearningRateScheduler, LossDriven, StepDecay
from lr_plugins.errors import InvalidArgumentError
from tests.toys import Spy, Toy, fit, loader


class Module(LearningRateScheduleMixin, Toy):
    learning_rate_schedule = StepDecay(0.1, every="1ep")


def test_mixin_drives_the_optimizer_without_a_callback():
    spy = Spy()
    fit(Module(), spy)
    assert spy.at_step == [0.1] * 6 + [0.05] * 6 + [0.025] * 6


def test_a_plain_function_on_the_class_is_not_bound():
    class Plain(LearningRateScheduleMixin, Toy):
        def learning_rate_schedule(epoch):
            return 1.0 / (epoch + 1)

    spy = Spy()
    fit(Plain(), spy, epochs=2)
    assert spy.at_step == [1.0] * 6 + [0.5] * 6


def test_a_schedule_may_be_set_on_the_instance_or_built():
    module, spy = Module(), Spy()
    module.learning_rate_schedule = StepDecay(0.3, every="1ep")
    fit(module, spy, epochs=1)
    assert spy.at_step == [0.3] * 6

    class Built(LearningRateScheduleMixin, Toy):
        def configure_learning_rate_schedule(self):
            return StepDecay(self.layer.weight.numel() / 10)

    spy = Spy()
    fit(Built(), spy, epochs=1)
    assert spy.at_step == [0.3] * 6


def test_mixin_prints_what_the_callback_prints(capsys):
    class Talkative(Module):
        learning_rate_verbose = 1
        learning_rate_style = "keras3"

    fit(Talkative(), epochs=2)
    said = capsys.readouterr().out
    fit(Toy(), LearningRateScheduler(StepDecay(0.1, every="1ep"), verbose=1, style="keras3"), epochs=2)
    assert said == capsys.readouterr().out != ""


def test_mixin_and_callback_share_checkpoints(tmp_path):
    fit(Module(), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["LearningRateScheduler"]["steps"] == [12]
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Toy(), scheduler, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert scheduler.trace["lr"].steps.tolist() == list(range(12, 18))


def test_callbacks_of_other_base_classes_are_kept():
    class Other(pl.Callback):
        pass

    class Base(Toy):
        def configure_callbacks(self):
            return Other()

    class Both(LearningRateScheduleMixin, Base):
        learning_rate_schedule = StepDecay(0.1)

    trainer = fit(Both(), epochs=1)
    assert {Other, LearningRateScheduler} <= {type(callback) for callback in trainer.callbacks}


def test_mixin_overrides_a_scheduler_on_the_trainer():
    spy = Spy()
    fit(Module(), LearningRateScheduler(StepDecay(0.9)), spy, epochs=1)
    assert spy.at_step == [0.1] * 6


def test_module_without_a_schedule_is_refused():
    class Empty(LearningRateScheduleMixin, Toy):
        pass

    with pytest.raises(InvalidArgumentError, match=r"Empty\.learning_rate_schedule must be a schedule, or a function"):
        fit(Empty(), train=loader())


def test_wrong_base_class_order_is_refused_at_class_creation():
    with pytest.raises(
        InvalidArgumentError, match=r"in the order class Net\(LearningRateScheduleMixin, LightningModule\)"
    ):

        class Wrong(Toy, LearningRateScheduleMixin):
            learning_rate_schedule = StepDecay(0.1)


def test_a_property_may_give_the_schedule():
    class Computed(LearningRateScheduleMixin, Toy):
        @property
        def learning_rate_schedule(self):
            return StepDecay(self.layer.weight.numel() / 10)

    spy = Spy()
    fit(Computed(), spy, epochs=1)
    assert spy.at_step == [0.3] * 6


def test_next_fit_continues_after_a_validation(tmp_path):
    class Driven(LearningRateScheduleMixin, Toy):
        learning_rate_schedule = LossDriven(0.001)

    module, spy = Driven(), Spy()
    trainer = fit(module, spy, epochs=2)
    trainer.validate(module, loader(8), verbose=False)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["LearningRateScheduler"]["steps"] == [12]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert len(set(spy.at_step)) == 3


def test_mixin_has_every_option_of_the_callback():
    options = inspect.signature(LearningRateScheduler).parameters
    annotations = typing.get_type_hints(LearningRateScheduleMixin)
    of_callback = typing.get_type_hints(LearningRateScheduler.__init__)
    for name, option in options.items():
        attribute = f"learning_rate_{name}"
        if name == "schedule":  # may also be a method or property that builds it
            assert annotations[attribute] == of_callback[name] | None
            continue
        assert getattr(LearningRateScheduleMixin, attribute) == option.default
        assert annotations[attribute] == of_callback[name]
    named = {name for name in annotations if name.startswith("learning_rate_")}
    assert named == {f"learning_rate_{name}" for name in options}


def test_mixin_options_reach_the_callback():
    told = []

    class Configured(Module):
        learning_rate_on_conflict = "theirs"
        learning_rate_on_resume = "config"

        def learning_rate_advice(line):
            told.append(line)

    [scheduler] = Configured().configure_callbacks()
    assert (scheduler.on_conflict, scheduler.on_resume) == ("theirs", "config")
    scheduler.advice("said")
    assert told == ["said"]
