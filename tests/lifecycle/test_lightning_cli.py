"""Callbacks and schedules in LightningCLI: from YAML, from the command line, and back to YAML."""

import os
import subprocess
import sys
import textwrap

import jsonargparse
import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.cli import LightningCLI

import lr_plugins as lp
from docs_tools.catalogue import EXAMPLES
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.schedules.serialization import TARGET, to_config
from tests import preloaded
from tests.toys import Toy, loader

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
RUN = lp.RunLength.of(steps_per_epoch=6, epochs=2)


class Model(Toy):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=lr))


class WithSchedule(lp.LearningRateScheduleMixin, Model):
    def __init__(self, schedule: lp.Schedule, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.learning_rate_schedule = schedule


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return loader()


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Fit by LightningCLI with a YAML text and arguments; return the scheduler."""

    monkeypatch.setattr(sys, "argv", ["train.py"])

    def fit(config="", *arguments, model=Model):
        (tmp_path / "config.yaml").write_text(textwrap.dedent(config) or "{}")
        args = ["fit", *QUIET, "--trainer.max_epochs=2", f"--trainer.default_root_dir={tmp_path}"]
        logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}"]
        cli = LightningCLI(model, Data, args=[*args, *logger, f"--config={tmp_path / 'config.yaml'}", *arguments])
        (scheduler,) = (one for one in cli.trainer.callbacks if isinstance(one, lp.LearningRateScheduler))
        return scheduler

    return fit


def expected(schedule, base=0.1):
    return [schedule(RUN.position(step, base)) for step in range(12)]


ALONE = """
    trainer:
      callbacks:
        - class_path: lr_plugins.LearningRateScheduler
          init_args:
            schedule:
              class_path: lr_plugins.CosineDecay
              init_args:
                initial_learning_rate: 0.3
                decay_steps: 50%
            verbose: 1
"""

NESTED = """
    trainer:
      callbacks:
        - class_path: lr_plugins.KerasProgress
        - class_path: lr_plugins.LearningRateTrace
        - class_path: lr_plugins.LearningRateScheduler
          init_args:
            schedule:
              class_path: lr_plugins.Chain
              init_args:
                lengths: [1ep]
                schedules:
                  - class_path: lr_plugins.Warmup
                    init_args:
                      warmup_steps: 4
                      schedule: {class_path: lr_plugins.MultiStepDecay, init_args: {milestones: [5st, 1ep]}}
                  - class_path: lr_plugins.Product
                    init_args:
                      schedules:
                        - {class_path: lr_plugins.StepDecay, init_args: {every: 2st}}
                        - class_path: lr_plugins.PiecewiseInterpolation
                          init_args: {points: [[0, 1], [3st, 0.5], [100%, 0]]}
                        - 0.5
"""


def test_schedule_from_yaml_trains_and_prints(fit, capsys):
    scheduler = fit(ALONE)
    assert scheduler.trace["lr"].values.tolist() == expected(lp.CosineDecay(0.3, decay_steps="50%"))
    assert "Epoch 00002: LearningRateScheduler setting learning rate to 0.0." in capsys.readouterr().out


def test_nested_schedules_next_to_other_callbacks(fit):
    factors = lp.StepDecay(every="2st") * lp.PiecewiseInterpolation([[0, 1], [3, 0.5], ["100%", 0]])
    parts = [lp.MultiStepDecay(milestones=["5st", "1ep"]).with_warmup(4), lp.Product([*factors.schedules, 0.5])]
    scheduler = fit(NESTED)
    chain = lp.Chain(parts, lengths=["1ep"])
    assert scheduler.assignments == lp.Assignments([chain])
    assert scheduler.trace["lr"].values.tolist() == expected(chain)


# Short names work for classes that the program has already imported.
@pytest.mark.parametrize("prefix", ["lr_plugins.", ""])
def test_the_command_line_alone(fit, prefix):
    scheduler = fit(
        "",
        f"--trainer.callbacks+={prefix}LearningRateScheduler",
        f"--trainer.callbacks.schedule={prefix}StepDecay",
        "--trainer.callbacks.schedule.every=3st",
        "--trainer.callbacks.schedule.drop=0.1",
        "--trainer.callbacks.verbose=1",
    )
    step = lp.StepDecay(drop=0.1, every="3st")
    assert scheduler.assignments == lp.Assignments([step])
    assert scheduler.trace["lr"].values.tolist() == expected(step)


def test_several_schedules(fit):
    scheduler = fit(r"""
    trainer:
      callbacks:
        - class_path: lr_plugins.LearningRateScheduler
          init_args:
            schedule:
              - {class_path: lr_plugins.CosineDecay}
              - class_path: lr_plugins.Assign
                init_args:
                  params: bias$
                  schedule: {class_path: lr_plugins.Constant, init_args: {initial_learning_rate: 1e-3}}
    """)
    assert scheduler.trace["lr/others"].values.tolist() == expected(lp.CosineDecay())
    assert scheduler.trace["lr/bias"].values.tolist() == [1e-3] * 12


def test_several_schedules_by_name(fit):
    scheduler = fit(r"""
    trainer:
      callbacks:
        - class_path: lr_plugins.LearningRateScheduler
          init_args:
            schedule:
              class_path: lr_plugins.Assignments
              init_args:
                assignments:
                  all: {class_path: lr_plugins.CosineDecay}
                  low:
                    class_path: lr_plugins.Assign
                    init_args: {params: bias$, schedule: {class_path: lr_plugins.CosineDecay}}
    """)
    assert set(scheduler.trace) == {"lr/others", "lr/low"}


def test_a_function_by_its_name(fit):
    scheduler = fit(
        "trainer: {callbacks: [{class_path: lr_plugins.LearningRateScheduler, init_args: {schedule: math.exp}}]}"
    )
    assert scheduler.trace["lr"].values.tolist() == pytest.approx([1.0] * 6 + [2.718281828459045] * 6)


def test_a_measured_quantity(fit):
    scheduler = fit("""
    trainer:
      callbacks:
        - class_path: lr_plugins.LearningRateScheduler
          init_args:
            schedule: {class_path: lr_plugins.LossDriven, init_args: {monitor: full}}
            measure: {full: {class_path: lr_plugins.callbacks.FullPass}}
    """)
    first, *_, last = scheduler.trace["lr"].values.tolist()
    assert first > last > 0.1


def test_module_with_a_schedule_argument(fit):
    nested = """
    model:
      lr: 0.2
      schedule:
        class_path: lr_plugins.Warmup
        init_args:
          warmup_steps: 50%
          schedule: {class_path: lr_plugins.CosineDecay}
    """
    traced = fit(nested, model=WithSchedule).trace["lr"].values.tolist()
    assert traced == expected(lp.CosineDecay().with_warmup("50%"), 0.2)
    words = ["--model.schedule=StepDecay", "--model.schedule.every=1ep"]
    assert fit("", *words, model=WithSchedule).trace["lr"].values.tolist() == [0.1] * 6 + [0.05] * 6


@pytest.mark.parametrize("config", [ALONE, NESTED], ids=["alone", "nested"])
def test_printed_and_saved_configs_can_be_reused(fit, config, tmp_path, capsys):
    first = fit(config)
    (saved,) = tmp_path.rglob("lightning_logs/version_0/config.yaml")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        fit(config, "--print_config")
    for text in (capsys.readouterr().out, saved.read_text()):
        yaml.safe_load(text)
        again = fit(text)
        assert again.assignments == first.assignments
        assert again.trace["lr"].values.tolist() == first.trace["lr"].values.tolist()


# --- every schedule -----------------------------------------------------------------------------------------

CATALOGUE = {name: schedule for examples in EXAMPLES.values() for name, schedule in examples.items()}
CATALOGUE |= {
    "cooldown": lp.Cooldown(0.1, shape="1-sqrt"),
    "annealed by a schedule": lp.Annealed(lp.CosineDecay(0.1), decay_steps=3, shape=lp.PolynomialDecay(k_decay=2.0)),
    "warm-up by a schedule": lp.Warmup(
        lp.LossDriven(0.1), warmup_steps="5%", shape=lp.StepDecay(drop=0.5, every="3ep")
    ),
}
del CATALOGUE["function"]  # a lambda cannot be written as plain data


def in_words_of_the_cli(value):
    """A configuration with `class_path` and `init_args`."""
    if isinstance(value, list):
        return [in_words_of_the_cli(one) for one in value]
    if not isinstance(value, dict):
        return value
    arguments = {name: in_words_of_the_cli(one) for name, one in value.items() if name != TARGET}
    return {"class_path": value[TARGET], "init_args": arguments}


@pytest.mark.parametrize("schedule", CATALOGUE.values(), ids=CATALOGUE)
def test_every_schedule_is_read_and_written(schedule):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--schedule", type=lp.Schedule)
    config = parser.parse_object({"schedule": in_words_of_the_cli(to_config(schedule))})
    build = getattr(parser, "instantiate", parser.instantiate_classes)  # the latter before jsonargparse 4.49
    assert build(config).schedule == schedule
    assert build(parser.parse_string(parser.dump(config))).schedule == schedule


def test_help_of_a_schedule_lists_its_arguments(capsys):
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--schedule", type=lp.Schedule)
    with pytest.raises(SystemExit):
        parser.parse_args(["--schedule.help=lr_plugins.StepDecay"])
    assert "how often, > 0; a plain number counts optimizer steps" in " ".join(capsys.readouterr().out.split())


# --- errors ------------------------------------------------------------------------------------------------

ON_THE_TRAINER = [
    "--trainer.callbacks+=lr_plugins.LearningRateScheduler",
    "--trainer.callbacks.schedule=lr_plugins.StepDecay",
]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("drop=-1", r"StepDecay\.drop must be a finite number > 0 \(0\.5 halves\); got -1\.0\."),
        (
            "every=3eps",
            r"StepDecay\.every must be a number > 0, or a text like .*; got '3eps'\."
            r" Did you mean \"3ep\"\?",
        ),
    ],
)
def test_invalid_value_is_reported_with_the_allowed_ones(fit, argument, message):
    with pytest.raises(ValueError, match=message):
        fit("", *ON_THE_TRAINER, f"--trainer.callbacks.schedule.{argument}")
    with pytest.raises(InvalidArgumentError, match=f"^{message}$"):  # only the message
        fit("", "--model.schedule=StepDecay", f"--model.schedule.{argument}", model=WithSchedule)


def test_unknown_argument_is_refused(fit, capsys):
    with pytest.raises(SystemExit):
        fit("", *ON_THE_TRAINER, "--trainer.callbacks.schedule.evry=3ep")
    assert "Problem with given class_path 'lr_plugins.StepDecay'" in (said := capsys.readouterr().err)
    assert "'evry' is not accepted" in said


# --- the lightning package ---------------------------------------------------------------------------------

OTHER = """
import sys
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
import torch, lr_plugins

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, index):
        return self.layer(batch).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Data(LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(2, 1))

cli = LightningCLI(Net, Data, args=sys.argv[1:], save_config_callback=None)
for one in cli.trainer.callbacks:
    if isinstance(one, lr_plugins.LearningRateScheduler):
        print("used", one.trace["lr"].values.tolist())
"""


@pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "beside the first"])
def test_lightning_pytorch(is_alone):
    words = ["--trainer.callbacks.schedule.every=1ep", "--trainer.max_epochs=2", "--trainer.logger=false"]
    words = ["fit", *QUIET, *ON_THE_TRAINER, *words]
    if is_alone:
        out = preloaded.run(["-c", OTHER, *words], preloaded.ROOT, os.environ, 100, preloaded.OTHER_LIGHTNING)
    else:  # which has been imported before
        program = "import pytorch_lightning; " + OTHER
        out = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert "used [0.1, 0.1, 0.05, 0.05]" in out.stdout, out.stderr
