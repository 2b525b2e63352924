"""The scheduler in real trainings: every optimizer step gets exactly the schedule's value."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
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
from lr_plugins.callbacks import FullPass
from lr_plugins.errors import InvalidArgumentError, TrainingError
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
def test_every_step_uses_exactly_the_schedules_value(schedule, accumulate):
    scheduler, spy = LearningRateScheduler(schedule), Spy()
    trainer = fit(None, spy, scheduler, epochs=5, accumulate_grad_batches=accumulate)
    run = RunLength.of(steps_per_epoch=math.ceil(6 / accumulate), epochs=5)
    planned = [schedule(run.position(step, 0.1)) for step in range(run.steps)]
    assert trainer.global_step == run.steps == scheduler.run_length.steps
    assert scheduler.trace["lr"].values.tolist() == planned
    assert scheduler.trace["lr"].steps.tolist() == list(range(run.steps))
    assert spy.at_step == planned


def test_other_callbacks_see_the_coming_steps_value_at_batch_start_wherever_they_stand_in_the_list():
    scheduler, before, after = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5)), Spy(), Spy()
    fit(None, before, scheduler, after)
    used = scheduler.trace["lr"].values.tolist()
    assert before.at_batch_start == used
    assert after.at_batch_start == used


def test_lightnings_monitor_records_the_values_used(tmp_path):
    scheduler, monitor = LearningRateScheduler(StepDecay(0.1, every="5st")), LearningRateMonitor("step")
    fit(None, monitor, scheduler, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("lr-SGD")
    logged = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert logged == pytest.approx(scheduler.trace["lr"].values.tolist(), rel=1e-6)


def test_groups_keep_their_ratio_to_the_optimizers_default():
    def make(parameters):
        weight, bias = parameters
        groups = [{"params": [weight], "name": "weight"}, {"params": [bias], "lr": 0.02, "name": "bias"}]
        return torch.optim.SGD(groups, lr=0.1)

    scheduler = LearningRateScheduler(StepDecay(0.4, every="1ep"))
    fit(Toy(make), scheduler, epochs=2)
    assert list(scheduler.trace) == ["lr/weight", "lr/bias"]
    assert scheduler.trace["lr/weight"].values.tolist() == [0.4] * 6 + [0.2] * 6
    assert scheduler.trace["lr/bias"].values == pytest.approx([0.08] * 6 + [0.04] * 6, rel=1e-15)


def test_groups_of_one_name_are_told_apart():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight], "name": "a"}, {"params": [bias], "name": "a"}], lr=0.1)

    scheduler = LearningRateScheduler(Constant())
    fit(Toy(make), scheduler, epochs=1)
    assert list(scheduler.trace) == ["lr/a-0", "lr/a-1"]


def test_groups_with_rates_of_their_own_need_a_default_above_zero():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.1}], lr=0.0)

    with pytest.raises(InvalidArgumentError, match="the default lr of SGD must be greater than 0"):
        fit(Toy(make), LearningRateScheduler(Constant(0.1)))


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


def test_lightning_pytorch_alone_is_not_joined_by_the_other_package():
    import subprocess
    import sys

    code = (
        "import sys, lightning.pytorch as lp; import lr_plugins;"
        "assert issubclass(lr_plugins.LearningRateScheduler, lp.Callback);"
        "print('pytorch_lightning' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_manual_optimization_and_several_optimizers_each_keep_their_own_count():
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


def test_a_second_fit_of_the_trainer_goes_on_and_a_new_trainer_begins_anew():
    scheduler, module = LearningRateScheduler(StepDecay(0.8, every="1ep")), Toy()
    trainer = fit(module, scheduler, epochs=2)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert scheduler.trace["lr"].values.tolist() == [0.8] * 6 + [0.4] * 6 + [0.2] * 6
    fit(module, scheduler, epochs=1)
    assert scheduler.trace["lr"].values.tolist() == [0.8] * 6


class Failing(Toy):
    """Fails at one optimizer step, once."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.at and self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().training_step(batch, batch_idx)


def test_after_an_error_the_callback_is_free_for_a_new_trainer():
    scheduler, module = (
        LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1)),
        Failing(8, KeyError("broken data")),
    )
    with pytest.raises(KeyError):
        fit(module, scheduler)
    assert len(scheduler.trace["lr"]) == 8
    fit(module, scheduler, epochs=1)
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(6)])


def test_after_an_error_the_optimizer_is_the_users_again():
    kept = []

    def make(parameters):
        kept.append(torch.optim.SGD(parameters, lr=0.1))
        return kept[-1]

    module = Failing(8, KeyError("broken data"))
    module.make_optimizer = make
    with pytest.raises(KeyError):
        fit(module, LearningRateScheduler(StepDecay(0.1)))
    kept[0].param_groups[0]["lr"] = 0.9
    kept[0].step()
    assert kept[0].param_groups[0]["lr"] == 0.9


def test_a_fit_with_nothing_to_do_keeps_the_position(tmp_path):
    scheduler, module = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1)), Toy()
    trainer = fit(module, scheduler, epochs=2)
    trainer.fit(module, loader())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(18)])


def test_resuming_a_finished_run_and_saving_it_again_keeps_the_position(tmp_path):
    fit(None, LearningRateScheduler(LossDriven(0.001)), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    trainer = fit(None, LearningRateScheduler(LossDriven(0.001)), epochs=2, ckpt_path=tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    first, second = (torch.load(tmp_path / name, weights_only=True)["callbacks"] for name in ("a.ckpt", "b.ckpt"))
    assert first["LearningRateScheduler"]["steps"] == second["LearningRateScheduler"]["steps"] == [12]


def test_testing_a_checkpoint_does_not_move_the_next_fit(tmp_path):
    class Testable(Toy):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.compute_loss(batch))

    scheduler, module = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1)), Testable()
    trainer = fit(module, scheduler, epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    trainer.test(module, loader(8), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(18)])


def test_the_callback_can_be_copied_and_pickled():
    import copy
    import pickle

    scheduler = LearningRateScheduler(StepDecay(0.1))
    fit(None, scheduler, epochs=1)
    for copied in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        copied.trace["lr"].append(0.5)
        assert len(scheduler.trace["lr"]) == 6
        assert copied.state_dict()["steps"] == [6]


# --- whose learning rate it starts from -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=18),
    ],
    ids=["LambdaLR", "OneCycleLR"],
)
def test_a_scheduler_that_the_module_returns_is_overridden_with_a_warning(make_scheduler):
    class Both(Toy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [{"scheduler": make_scheduler(optimizer), "interval": "step"}]

    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    with pytest.warns(UserWarning, match=r"Both\.configure_optimizers\(\) returns .*overrides it"):
        fit(Both(), scheduler, epochs=2)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 6 + [0.05] * 6


def test_an_optimizer_that_the_module_keeps_starts_from_its_own_rate_in_every_fit():
    kept = []

    def make(parameters):
        if not kept:
            kept.append(torch.optim.SGD(parameters, lr=0.1))
        return kept[0]

    module, scheduler = Toy(make), LearningRateScheduler(StepDecay(every="1ep"))
    for _ in range(2):
        fit(module, scheduler, epochs=2)
        assert scheduler.trace["lr"].values.tolist() == [0.1] * 6 + [0.05] * 6
    kept[0].param_groups[0]["lr"] = 0.4  # the user's own word counts
    fit(module, scheduler, epochs=1)
    assert scheduler.trace["lr"].values.tolist() == [0.4] * 6


def test_a_tensor_shared_by_groups_and_default_is_not_written_twice():
    rate = torch.tensor(0.1)

    def make(parameters):
        weight, bias = parameters
        return torch.optim.Adam([{"params": [weight]}, {"params": [bias]}], lr=rate, foreach=False)

    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    for _ in range(2):
        trainer = fit(Toy(make), scheduler, epochs=2)
        assert scheduler.trace["lr/0"].values == pytest.approx([0.1] * 6 + [0.05] * 6)
    assert float(rate) == float(trainer.optimizers[0].defaults["lr"]) == pytest.approx(0.1)


def test_the_rate_that_lightnings_finder_leaves_is_the_optimizers_own():
    class Findable(Toy):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            self.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=self.lr)

    class Found(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.optimizers[0].param_groups[0]["lr"] = 0.3

    for schedule, rate in ((StepDecay(), 0.3), (StepDecay(0.2), 0.2)):
        scheduler = LearningRateScheduler(schedule)
        fit(Findable(), Found(), scheduler, epochs=1)
        assert scheduler.trace["lr"].values.tolist() == [rate] * 6


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_schedule",
    [
        lambda: InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.5),
        lambda: lambda epoch, lr: lr * 0.5,
        lambda: LossDriven(0.1, monitor="loss"),
        lambda: LossDriven(0.1, monitor="val_loss"),
    ],
    ids=["time", "function", "loss", "val_loss"],
)
def test_resuming_from_a_checkpoint_gives_the_trace_of_an_uninterrupted_run(tmp_path, make_schedule):
    def run(epochs, ckpt_path=None):
        pl.seed_everything(1, verbose=False)
        scheduler = LearningRateScheduler(make_schedule())
        trainer = fit(Toy(), scheduler, epochs=epochs, val=loader(8), ckpt_path=ckpt_path, num_sanity_val_steps=0)
        return trainer, scheduler.trace["lr"]

    _, whole = run(4)
    trainer, first = run(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, rest = run(4, tmp_path / "half.ckpt")
    assert rest.first_step == len(first) == 12
    assert [*first.values, *rest.values] == whole.values.tolist()


def test_resuming_within_an_epoch(tmp_path):
    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    whole = LearningRateScheduler(lambda epoch, lr: lr * 0.5)
    fit(Toy(), whole, save, epochs=3, enable_checkpointing=True)
    asked = []

    def schedule(epoch, lr):
        asked.append(epoch)
        return lr * 0.5

    resumed = LearningRateScheduler(schedule)
    fit(Toy(), resumed, epochs=3, ckpt_path=tmp_path / "step=8.ckpt")
    assert resumed.trace["lr"].first_step == 8
    assert resumed.trace["lr"].values.tolist() == whole.trace["lr"].values.tolist()[8:]
    assert asked == [2]  # epoch 1 was begun before the interruption


def test_the_state_is_plain_and_loads_weights_only(tmp_path):
    scheduler, saver = LearningRateScheduler(LossDriven(0.1)), ModelCheckpoint(tmp_path, filename="end")
    trainer = fit(None, scheduler, saver, epochs=2, enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    loss = pytest.approx(trainer.callback_metrics["loss"].item())
    states = [
        torch.load(tmp_path / name, weights_only=True)["callbacks"]["LearningRateScheduler"]
        for name in ("end.ckpt", "after.ckpt")
    ]
    assert [state["steps"] for state in states] == [[12], [12]]
    assert states[0]["waiting"][0]["waiting"]["epoch"]["loss"] == loss
    assert states[1]["waiting"][0]["waiting"] == {}
    assert states[1]["schedules"]["0/lr/0"]["state"]["observed"] == loss
    assert json.loads(json.dumps(states, allow_nan=False)) == states


def test_a_checkpoint_of_another_kind_of_schedule_keeps_the_position(tmp_path):
    trainer = fit(None, LearningRateScheduler(LossDriven(0.1)), epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(lambda epoch, lr: lr * 0.5, on_resume="config")
    fit(None, scheduler, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert scheduler.trace["lr"].values.tolist() == [0.1 * 0.5**3] * 6


def test_a_checkpoint_without_the_scheduler_still_tells_the_position(tmp_path):
    trainer = fit(None, epochs=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    fit(None, scheduler, epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + t) for t in range(12, 18)])


def test_a_loss_driven_rate_follows_the_epochs_mean_loss():
    seen = []

    class Keep(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append(trainer.callback_metrics.get("loss"))

    scheduler = LearningRateScheduler(LossDriven(0.001))
    fit(None, Keep(), scheduler, epochs=3)
    assert scheduler.trace["lr"].values[::6].tolist() == [0.001, *(0.001 * math.exp(float(loss)) for loss in seen[1:])]


def test_a_full_pass_measures_the_training_set_as_the_model_is():
    measured, data = [], loader(22, 4)

    class Checked(FullPass):
        def __call__(self, trainer, pl_module):
            x, y = data.dataset.tensors
            with torch.no_grad():
                expected = float(torch.nn.functional.mse_loss(pl_module.layer(x), y))
            measured.append(super().__call__(trainer, pl_module))
            assert measured[-1] == pytest.approx(expected, rel=1e-6)
            assert pl_module.training
            return measured[-1]

    scheduler = LearningRateScheduler(LossDriven(0.001, monitor="whole"), measure={"whole": Checked()})
    trainer = fit(None, scheduler, epochs=3, train=data)
    assert len(measured) == 3
    assert float(trainer.callback_metrics["whole"]) == pytest.approx(measured[-1])
    assert scheduler.trace["lr"].values[::6].tolist() == [0.001 * math.exp(loss) for loss in measured]


def test_a_full_pass_says_what_it_lacks():
    class NoLoss(Toy):
        compute_loss = None

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).sum()

    def run(module, train):
        measure = {"whole": FullPass()}
        fit(module, LearningRateScheduler(LossDriven(0.1, monitor="whole"), measure=measure), train=train)

    with pytest.raises(
        InvalidArgumentError, match=r"FullPass\.loss must be a function of .*NoLoss has no method compute_loss"
    ):
        run(NoLoss(), loader())
    with pytest.raises(InvalidArgumentError, match=r"FullPass\.loader must be given for this training set"):
        run(Toy(), [next(iter(loader()))])


# --- what it says ---------------------------------------------------------------------------------------------


def test_it_says_nothing_by_default(capsys):
    fit(None, LearningRateScheduler(StepDecay(0.1)))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("style", "number"), [("keras2", "{:05d}"), ("keras3", "{}")])
def test_its_message_is_keras_own(capsys, style, number):
    fit(None, LearningRateScheduler(PiecewiseConstant(["1ep", "2ep"], [0.002, 1e-05, 1 / 3]), verbose=1, style=style))
    assert capsys.readouterr().out == "".join(
        f"\nEpoch {number.format(epoch)}: LearningRateScheduler setting learning rate to {value}.\n"
        for epoch, value in [(1, "0.002"), (2, "1e-05"), (3, "0.3333333333333333")]
    )


# --- what it refuses --------------------------------------------------------------------------------------------


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


def test_a_schedule_of_ones_own_is_checked_at_every_step():
    class Broken(Constant):
        def value(self, position, state):
            return math.nan if position.step == 4 else 0.1

    with pytest.raises(TrainingError, match="finite number >= 0; the schedule gives nan at step 4"):
        fit(None, LearningRateScheduler(Broken()))


def test_a_loss_that_is_nan_stops_the_run():
    class Diverged(Toy):
        def compute_loss(self, batch):
            return super().compute_loss(batch) * math.nan

    with pytest.raises(TrainingError, match="needs a finite 'loss'; it is nan at the end of epoch 1"):
        fit(Diverged(), LearningRateScheduler(LossDriven(0.1)))


def test_a_share_of_an_endless_run_is_refused():
    with pytest.raises(TrainingError, match="the length of the run, which is unknown; set max_steps"):
        fit(None, LearningRateScheduler(StepDecay(0.1, every="5%")), epochs=-1)


def test_a_schedule_is_not_asked_past_the_end():
    table = [0.1, 0.2, 0.3]

    class Table(Constant):
        def value(self, position, state):
            return table[position.step // 6]

    scheduler = LearningRateScheduler(Table())
    trainer = fit(None, scheduler)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 6 + [0.2] * 6 + [0.3] * 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.3


def test_where_the_steps_cannot_be_known_percent_count_in_epochs():
    scheduler = LearningRateScheduler(StepDecay(0.1, every="50%"))
    trainer = fit(None, pl.callbacks.GradientAccumulationScheduler({0: 3}), scheduler, epochs=4)
    assert (scheduler.run_length.steps, trainer.global_step) == (None, 8)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 4 + [0.05] * 4


def test_amp_steps_that_the_scaler_skips_are_not_counted():
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


def test_lbfgs_takes_one_step_whatever_its_closure_calls():
    scheduler = LearningRateScheduler(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1))
    fit(Toy(lambda parameters: torch.optim.LBFGS(parameters, lr=0.1)), scheduler, epochs=1)
    assert scheduler.trace["lr"].values == pytest.approx([0.1 / (1 + step) for step in range(6)])


def test_a_full_pass_leaves_modes_and_random_numbers_as_they_are():
    class Frozen(Toy):
        def __init__(self):
            super().__init__()
            self.frozen = torch.nn.Dropout()
            self.frozen.eval()

    def run(measure):
        pl.seed_everything(3, verbose=False)
        module = Frozen()
        fit(module, LearningRateScheduler(Constant(0.1), measure=measure), epochs=2)
        return module, torch.rand(3).tolist()

    plain, numbers = run({})
    measured, same = run({"whole": FullPass()})
    assert same == numbers
    assert torch.equal(plain.layer.weight, measured.layer.weight)
    assert measured.layer.training
    assert not measured.frozen.training


def test_what_is_measured_is_logged_for_every_schedule():
    trainer = fit(None, LearningRateScheduler(Constant(0.1), measure={"whole": FullPass()}), epochs=2)
    assert float(trainer.callback_metrics["whole"]) > 0
    with pytest.raises(InvalidArgumentError, match=r"measure\['a'\] must be a function of"):
        LearningRateScheduler(Constant(), measure={"a": 3})


def test_a_loss_driven_schedule_takes_over_a_run_of_another_kind(tmp_path):
    fit(None, LearningRateScheduler(StepDecay(0.1)), epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    scheduler = LearningRateScheduler(LossDriven(0.001), on_resume="config")
    trainer = fit(None, scheduler, epochs=4, ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step == 24
    assert scheduler.trace["lr"].values[0] == 0.001
    assert scheduler.trace["lr"].values[-1] > 0.001


def test_a_schedule_among_the_callbacks_says_what_to_do():
    with pytest.raises(AttributeError, match=r"StepDecay is a schedule, not a callback: callbacks=\[LearningRateSched"):
        fit(Toy(), StepDecay(0.1))
    assert not hasattr(StepDecay(0.1), "setup")
