"""The scheduler in real trainings: every optimizer step gets exactly the schedule's value."""

import math
import os

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger

from lr_plugins import (
    Constant,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateScheduler,
    LossDriven,
    PiecewiseConstant,
    RunLength,
    StepDecay,
)
from tests import preloaded
from tests.toys import QUIET, Spy, Toy, fit, loader

SCHEDULES = [
    Constant(0.05),
    Constant(),
    StepDecay(0.1, drop=0.5, every="2ep"),
    StepDecay(drop=0.5, every="5st"),
    StepDecay(0.1, drop=0.5, every="10%"),
    PiecewiseConstant(["1ep", "2ep"], [0.3, 0.2, 0.1]),
    InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5),
    InverseTimeDecay(0.1, decay_steps="1ep", decay_rate=0.5),
    ExponentialDecay(0.1, decay_steps=4, decay_rate=0.5),
    ExponentialDecay(0.1, decay_steps="2ep", decay_rate=0.5, staircase=True),
]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_step_uses_the_value_of_the_schedule(schedule, accumulate):
    scheduler, spy = LearningRateScheduler(schedule), Spy()
    trainer = fit(None, spy, scheduler, epochs=5, accumulate_grad_batches=accumulate)
    run = RunLength.of(steps_per_epoch=math.ceil(6 / accumulate), epochs=5)
    planned = [schedule(run.position(step, 0.1)) for step in range(run.steps)]
    assert trainer.global_step == run.steps == scheduler.run_length.steps
    assert scheduler.trace["lr"].values.tolist() == planned
    assert scheduler.trace["lr"].steps.tolist() == list(range(run.steps))
    assert spy.at_step == planned


def test_callbacks_see_the_upcoming_value_at_batch_start():
    scheduler, before, after = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5)), Spy(), Spy()
    fit(None, before, scheduler, after)
    used = scheduler.trace["lr"].values.tolist()
    assert before.at_batch_start == used
    assert after.at_batch_start == used


def test_learning_rate_monitor_records_the_used_values(tmp_path):
    scheduler, monitor = LearningRateScheduler(StepDecay(0.1, every="5st")), LearningRateMonitor("step")
    fit(None, monitor, scheduler, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("lr-SGD")
    logged = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert logged == pytest.approx(scheduler.trace["lr"].values.tolist(), rel=1e-6)


def test_a_tensor_learning_rate_is_written_in_place():
    given = torch.tensor(0.1)
    module = Toy(lambda parameters: torch.optim.Adam(parameters, lr=given, foreach=False))
    scheduler = LearningRateScheduler(StepDecay(0.5, every="1ep"))
    trainer = fit(module, scheduler, epochs=2)
    group = trainer.optimizers[0].param_groups[0]
    assert isinstance(group["lr"], torch.Tensor)
    assert group["lr"].item() == 0.25
    assert scheduler.trace["lr"].values.tolist() == [0.5] * 6 + [0.25] * 6


def test_lightning_pytorch_trainers_and_modules_work(tmp_path):
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    scheduler = LearningRateScheduler(StepDecay(every="1ep"), verbose=1)
    trainer = lightning.Trainer(max_epochs=2, callbacks=[scheduler], **QUIET)
    trainer.fit(Module(), loader())
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 6 + [0.05] * 6


def test_lightning_pytorch_does_not_import_pytorch_lightning():
    code = (
        "import sys, lightning.pytorch as lp; import lr_plugins;"
        "assert issubclass(lr_plugins.LearningRateScheduler, lp.Callback);"
        "print('pytorch_lightning' in sys.modules)"
    )
    out = preloaded.run(["-c", code], preloaded.ROOT, os.environ, 60, preloaded.OTHER_LIGHTNING)
    assert out.stdout.strip() == "False", out.stderr


def test_manual_optimizers_count_their_own_steps():
    class Gan(Toy):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.other = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            first, second = self.optimizers()
            for optimizer in [first] if batch_idx % 2 else [first, second]:
                optimizer.zero_grad()
                self.manual_backward((self.layer(batch[0]) + self.other(batch[0])).square().mean())
                optimizer.step()

        def configure_optimizers(self):
            return [
                torch.optim.SGD(self.layer.parameters(), lr=0.1),
                torch.optim.Adam(self.other.parameters(), lr=0.01),
            ]

    scheduler = LearningRateScheduler(InverseTimeDecay(decay_steps=1, decay_rate=1))
    fit(Gan(), scheduler, epochs=2)
    assert scheduler.trace["lr/SGD-0"].values == pytest.approx([0.1 / (1 + t) for t in range(12)])
    assert scheduler.trace["lr/Adam-1"].values == pytest.approx([0.01 / (1 + t) for t in range(6)])


def test_loss_driven_rate_follows_the_epoch_mean():
    seen = []

    class Keep(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append(trainer.callback_metrics.get("loss"))

    scheduler = LearningRateScheduler(LossDriven(0.001))
    fit(None, Keep(), scheduler, epochs=3)
    assert scheduler.trace["lr"].values[::6].tolist() == [0.001, *(0.001 * math.exp(float(loss)) for loss in seen[1:])]


def test_nothing_is_printed_by_default(capsys):
    fit(None, LearningRateScheduler(StepDecay(0.1)))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("style", "number"), [("keras2", "{:05d}"), ("keras3", "{}")])
def test_message_is_the_keras_line(capsys, style, number):
    fit(None, LearningRateScheduler(PiecewiseConstant(["1ep", "2ep"], [0.002, 1e-05, 1 / 3]), verbose=1, style=style))
    assert capsys.readouterr().out == "".join(
        f"\nEpoch {number.format(epoch)}: LearningRateScheduler setting learning rate to {value}.\n"
        for epoch, value in [(1, "0.002"), (2, "1e-05"), (3, "0.3333333333333333")]
    )


def test_schedule_is_not_evaluated_past_the_end():
    table = [0.1, 0.2, 0.3]

    class Table(Constant):
        def value(self, position, state):
            return table[position.step // 6]

    scheduler = LearningRateScheduler(Table())
    trainer = fit(None, scheduler)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 6 + [0.2] * 6 + [0.3] * 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.3


def test_percent_count_epochs_when_steps_are_unknown():
    scheduler = LearningRateScheduler(StepDecay(0.1, every="50%"))
    trainer = fit(None, pl.callbacks.GradientAccumulationScheduler({0: 3}), scheduler, epochs=4)
    assert (scheduler.run_length.steps, trainer.global_step) == (None, 8)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 4 + [0.05] * 4


def test_steps_skipped_by_the_amp_scaler_are_not_counted():
    class Scaled(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            loss = self.compute_loss(batch) * (math.inf if batch_idx in (1, 3) else 1.0)
            self.scaler.scale(loss).backward()
            self.scaler.step(optimizer)
            self.scaler.update()

    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    fit(Scaled(), scheduler, epochs=1)
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(4)])


def test_lbfgs_counts_one_step_per_batch():
    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    fit(Toy(lambda parameters: torch.optim.LBFGS(parameters, lr=0.1)), scheduler, epochs=1)
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(6)])


def test_last_checkpoint_works_with_lightning_pytorch_alone(tmp_path):
    code = f"""
import sys
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.random_states import RandomStates

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        self.log("loss", 1.0, on_epoch=True)
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def epochs_trained(**options):
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 3)), batch_size=2)
    callbacks = [EarlyStopping("loss", patience=2), LastCheckpoint({str(tmp_path)!r}), RandomStates()]
    trainer = pl.Trainer(max_epochs=9, callbacks=callbacks, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer.fit(Module(), data, **options)
    return trainer.current_epoch

print(epochs_trained(), epochs_trained(ckpt_path={str(tmp_path / "last.ckpt")!r}, weights_only=True),
      "pytorch_lightning" in sys.modules)
"""
    out = preloaded.run(["-c", code], preloaded.ROOT, os.environ, 60, preloaded.OTHER_LIGHTNING)
    assert out.stdout.strip() == "3 3 False", out.stderr
