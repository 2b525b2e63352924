"""A schedule as a module argument, saved by `save_hyperparameters()`: checkpoints load and keep the plan."""

import copy
import io
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

import lr_plugins as lp
from docs_tools.catalogue import EXAMPLES
from lr_plugins import keras
from lr_plugins.engine.safe_globals import safe_classes
from lr_plugins.schedules.combinators.base import Wrapper
from tests.toys import QUIET, Toy, Used, loader

RUN = lp.RunLength.of(steps_per_epoch=6, epochs=4)
KERAS = {
    "keras exponential": keras.ExponentialDecay(0.1, 10, 0.9),
    "keras inverse": keras.InverseTimeDecay(0.1, 10, 0.9),
    "keras piecewise": keras.PiecewiseConstantDecay([6, 12], [0.1, 0.05, 0.025]),
    "keras polynomial": keras.PolynomialDecay(0.1, 20),
    "keras cosine": keras.CosineDecay(0.1, 20, warmup_target=0.2, warmup_steps=3),
    "keras restarts": keras.CosineDecayRestarts(0.1, 10),
}
NUMPY = {
    "numpy step": lp.StepDecay(np.float32(0.1), drop=np.float64(0.5), every=np.int64(3)),
    "numpy piecewise": lp.PiecewiseConstant(list(np.array([3, 5])), list(np.array([0.1, 0.2, 0.3]))),
    "numpy points": lp.PiecewiseInterpolation([list(point) for point in np.array([[0, 0.1], [5, 0.2]])]),
    "numpy multi": lp.MultiStepDecay(0.1, milestones=list(np.array([3, 5]))),
    "numpy plateau": lp.ReduceLROnPlateau(
        0.1, monitor="val_loss", factor=np.float32(0.5), patience=np.int64(3), when=np.str_("validation")
    ),
    "numpy duration": lp.Repeated(lp.CosineDecay(0.1), every=lp.Duration(np.float64(3), "ep")),
    "numpy noise": lp.Noise(lp.CosineDecay(0.1), std=np.float64(0.2), seed=3),
    "numpy run": lp.Replanned(lp.StepDecay(0.1), steps_per_epoch=np.int64(3), epochs=np.float64(4)),
}
OTHERS = {
    "nested": lp.Chain([lp.Constant(0.1), lp.CosineDecay(0.1) * lp.StepDecay(drop=0.5)], lengths=["5%"]).with_warmup(
        "2st"
    ),
    "mixed units": lp.PiecewiseConstant(["1ep", "50%"], [0.1, 0.05, 0.01]),
    "assignment": lp.Assign(lp.CosineDecay(0.1), params="bias", layer_decay=0.5, layers=["weight", "bias"]),
    "assignments": lp.Assignments({"a": lp.OneCycle(0.1), "b": lp.Assign(lp.Constant(0.9), to="momentum")}),
    "run length": RUN,
    "list": [lp.OneCycle(0.1), lp.Assign(lp.CycleThrough(0.95, 0.85, 0.95), to="momentum")],
}
CATALOGUE = {name: schedule for page in EXAMPLES.values() for name, schedule in page.items() if name != "function"}
ALL = {**CATALOGUE, **KERAS, **NUMPY, **OTHERS}


class Net(Toy):
    """A module by the user."""

    def __init__(self, schedule, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.compute_loss(batch))

    def configure_callbacks(self):
        return [lp.LearningRateScheduler(self.hparams.schedule)]


class WithMixin(lp.LearningRateScheduleMixin, Net):
    def __init__(self, schedule):
        super().__init__(schedule)
        self.learning_rate_schedule = schedule

    def configure_callbacks(self):
        return lp.LearningRateScheduleMixin.configure_callbacks(self)[1:]  # without the mixin's callback


def of_epoch(epoch):
    return 0.1 / (1 + epoch)


class Mine(lp.Schedule):
    """A schedule class by the user."""

    def __init__(self, peak):
        self.peak = peak

    def value(self, position, state):
        return self.peak / (1 + position.elapsed("st"))


def loaded(value):
    """The value after saving and loading it with torch's defaults."""
    file = io.BytesIO()
    torch.save({"hyper_parameters": {"schedule": value}}, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)["hyper_parameters"]["schedule"]


def ask(schedule):
    """Evaluate a schedule, so that it fills its caches."""
    list(schedule.milestones_in(RUN.position(np.arange(24))))
    return [schedule(RUN.position(step)._replace(base_learning_rate=0.1), schedule.start()) for step in range(24)]


@pytest.mark.parametrize("name", ALL)
def test_every_schedule_reloads_unchanged_after_use(name):
    schedule = ALL[name]
    for copied in (loaded(schedule), copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert type(copied) is type(schedule)
        assert copied == schedule
    if isinstance(schedule, lp.Schedule):
        values = ask(schedule)
        again = loaded(schedule)
        assert again == schedule
        assert ask(again) == values


@pytest.mark.parametrize("length", ["10ep", 3, "5%", lp.Duration(np.float64(2.5), "ep")])
def test_length_reloads_unchanged(length):
    duration = lp.Duration.of(length)
    assert loaded(duration) == duration == copy.copy(duration) == copy.deepcopy(duration)
    assert type(loaded(duration).value) in (int, float)


def test_every_concrete_schedule_class_is_registered():
    def below(kind):
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    home = ("lr_plugins.schedules", "lr_plugins.keras")
    ours = {one for one in below(lp.Schedule) if one.__module__.startswith(home)}
    assert {one for one in ours if not one.__abstractmethods__} - set(safe_classes()) <= {Wrapper}  # a base class
    assert set(safe_classes()) <= set(torch.serialization.get_safe_globals())


def test_registered_classes_run_no_code_on_load():
    for kind in safe_classes():
        assert not hasattr(kind, "__setstate__"), kind
        assert not hasattr(kind, "__del__"), kind


def run(folder, module, epochs, ckpt_path=None):
    used, saver = Used(), ModelCheckpoint(folder, "{step}", every_n_epochs=2, save_top_k=-1)
    options = {**QUIET, "enable_checkpointing": True, "logger": CSVLogger(folder)}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[used, saver], **options)
    trainer.fit(module, loader(), loader(8), ckpt_path=ckpt_path)
    return trainer, used.values


@pytest.mark.parametrize("kind", [Net, WithMixin])
@pytest.mark.parametrize("name", ["nested", "mixed units", "list", "keras piecewise", "numpy plateau", "noise"])
def test_checkpoint_resumes_tests_and_loads_the_module(name, kind, tmp_path):
    schedule = ALL[name]
    _, planned = run(tmp_path / "whole", kind(schedule), 4)
    run(tmp_path / "half", kind(schedule), 4)
    checkpoint = tmp_path / "half" / "step=12.ckpt"
    trainer, used = run(tmp_path / "again", kind(schedule), 4, ckpt_path=checkpoint)
    assert used == planned[12:]
    trainer.test(kind(schedule), loader(8), ckpt_path=checkpoint, verbose=False)

    module = kind.load_from_checkpoint(checkpoint)
    assert module.hparams.schedule == schedule
    assert run(tmp_path / "loaded", module, 4, ckpt_path=checkpoint)[1] == planned[12:]


def test_user_function_loads_once_declared_safe(tmp_path):
    run(tmp_path, Net(of_epoch), 2)
    checkpoint = tmp_path / "step=12.ckpt"
    with pytest.raises(pickle.UnpicklingError, match="of_epoch"):
        torch.load(checkpoint, weights_only=True)
    with torch.serialization.safe_globals([of_epoch]):
        assert Net.load_from_checkpoint(checkpoint).hparams.schedule is of_epoch
    with torch.serialization.safe_globals([Mine]):
        assert loaded(lp.Chain([Mine(0.1), lp.Constant(0.1)], lengths=["1ep"])).schedules[0].peak == 0.1
    with torch.serialization.safe_globals([of_epoch]):
        assert loaded(lp.FunctionSchedule(of_epoch))(lp.Position(0, 1)) == 0.05
    with pytest.raises(pickle.UnpicklingError, match="sqrt"):
        loaded(lp.FunctionSchedule(math.sqrt, of="step"))


def test_ignored_schedule_may_hold_anything(tmp_path):
    class Ignoring(Net):
        def __init__(self, schedule, width=3):
            super(Net, self).__init__()
            self.save_hyperparameters(ignore=["schedule"])
            self.schedule = schedule

        def configure_callbacks(self):
            return [lp.LearningRateScheduler(self.schedule)]

    def schedule(epoch):
        return 0.1 / (1 + epoch)

    run(tmp_path, Ignoring(schedule), 2)
    checkpoint = tmp_path / "step=12.ckpt"
    assert run(tmp_path / "again", Ignoring(schedule), 3, ckpt_path=checkpoint)[1] == [0.1 / 3] * 6
    module = Ignoring.load_from_checkpoint(checkpoint, schedule=schedule)
    assert (dict(module.hparams), module.schedule) == ({"width": 3}, schedule)


PROGRAMS = {
    "torch first": "import torch, lr_plugins",
    "torch last": "import lr_plugins, torch; lr_plugins.LearningRateScheduler",
    "an optimizer": "import lr_plugins, torch; lr_plugins.KerasSGD",
    "by hand": "import lr_plugins, torch; from lr_plugins.engine import safe_globals as s; s.register_schedules()",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_schedules_load_in_a_program_that_only_imports(name, tmp_path):
    torch.save(ALL["nested"], tmp_path / "a.pt")
    program = f"{PROGRAMS[name]}; print(torch.load({str(tmp_path / 'a.pt')!r}, weights_only=True))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == repr(ALL["nested"]), said.stderr
