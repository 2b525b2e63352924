"""Other code that writes the learning rate: how it is reported, overridden or given priority."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, StochasticWeightAveraging

from lr_plugins import (
    Assign,
    Constant,
    LearningRateAudit,
    LearningRateScheduler,
    LearningRateTrace,
    LinearDecay,
    RunLength,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError
from tests.toys import Toy, Used, fit

PLAN = [LinearDecay(0.1)(RunLength.of(steps=18).position(step)) for step in range(18)]


class Returns(Toy):
    """Returns a torch scheduler."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Meddles(pl.Callback):
    """Writes the learning rate at some steps."""

    def __init__(self, steps=(3, 4), name="lr", value=0.7):
        self.steps, self.name, self.value = steps, name, value

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step in self.steps:
            trainer.optimizers[0].param_groups[-1][self.name] = self.value


def used(scheduler, name="lr"):
    return scheduler.trace[name].values.tolist()


def told(record):
    return [str(one.message) for one in record if "LearningRateScheduler: " in str(one.message)]


def test_undisturbed_run_follows_the_plan(capsys, recwarn):
    scheduler = LearningRateScheduler(LinearDecay(0.1))
    fit(None, scheduler, LearningRateAudit())
    assert capsys.readouterr().out == "lr followed the plan at 18 of 18 steps\n"
    assert scheduler.audit.foreign == {}
    assert told(recwarn) == []


def test_a_foreign_value_is_named_once_and_overridden(capsys):
    scheduler = LearningRateScheduler(LinearDecay(0.1))
    with pytest.warns(UserWarning, match="other code has set lr") as record:
        fit(None, scheduler, Meddles(), LearningRateAudit())
    (line,) = told(record)
    assert line.startswith(
        f"LearningRateScheduler: before step 3, other code has set lr to 0.7; the plan has {PLAN[3]:.6g}."
    )
    assert used(scheduler) == PLAN
    assert capsys.readouterr().out == ("lr followed the plan at 18 of 18 steps; overwritten by other code 2 times\n")


def test_the_group_and_the_hyper_parameter_are_named():
    schedules = [Constant(0.1), Assign(Constant(0.5), to="momentum")]
    module = Toy(lambda parameters: torch.optim.SGD([{"params": [one], "name": f"p{one.dim()}"} for one in parameters]))
    with pytest.warns(UserWarning, match="other code has set momentum/p1 to 0.7; the plan has 0.5"):
        fit(module, LearningRateScheduler(schedules), Meddles(name="momentum"))


@pytest.mark.parametrize("lr", [torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64)])
def test_tensors_are_compared_in_their_precision(lr, recwarn):
    module = Toy(lambda parameters: torch.optim.Adam(parameters, lr=lr, foreach=False))
    scheduler = LearningRateScheduler(LinearDecay(0.1))
    fit(module, scheduler)
    assert told(recwarn) == []
    assert str(scheduler.audit) == "lr followed the plan at 18 of 18 steps"


@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_before_zero_grad", "training_step"])
def test_value_written_in_the_closure_is_overridden_before_use(hook):
    class Writes(Toy):
        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def write(self, *_):
            if self.rate is not None:
                self.trainer.optimizers[0].param_groups[0]["lr"] = self.rate

        def training_step(self, batch, batch_idx):
            if hook == "training_step":
                self.write()
            return super().training_step(batch, batch_idx)

    if hook != "training_step":
        setattr(Writes, hook, Writes.write)
    undisturbed, disturbed = Writes(None), Writes(7.0)
    fit(undisturbed, LearningRateScheduler(LinearDecay(0.1)))
    scheduler = LearningRateScheduler(LinearDecay(0.1))
    with pytest.warns(UserWarning, match=r"before step 0, other code has set lr to 7"):
        fit(disturbed, scheduler)
    assert torch.equal(disturbed.layer.weight, undisturbed.layer.weight)
    assert used(scheduler) == PLAN
    assert str(scheduler.audit).startswith("lr followed the plan at 18 of 18 steps")


@pytest.mark.filterwarnings("ignore")
def test_on_conflict_theirs_records_values_of_the_closure():
    class Writes(Returns):
        def on_before_optimizer_step(self, optimizer):
            optimizer.param_groups[0]["lr"] = 0.01

    scheduler = LearningRateScheduler(LinearDecay(0.1), on_conflict="theirs")
    fit(Writes(), scheduler)
    assert used(scheduler) == [0.01] * 18


def test_value_the_optimizer_writes_in_its_step_is_not_followed():
    class Restless(torch.optim.Optimizer):
        def __init__(self, parameters, lr):
            super().__init__(parameters, {"lr": lr})

        def step(self, closure=None):
            loss = closure()
            self.param_groups[0]["lr"] = 0.3
            return loss

    scheduler = LearningRateScheduler(LinearDecay(0.1))
    with pytest.warns(UserWarning, match=r"during step 0, other code has set lr to 0\.3"):
        fit(Toy(lambda parameters: Restless(parameters, lr=0.1)), scheduler)
    assert str(scheduler.audit).startswith("lr followed the plan at 0 of 18 steps")


def test_a_returned_scheduler_is_overridden_and_named():
    scheduler = LearningRateScheduler(LinearDecay(0.1))
    with pytest.warns(UserWarning, match=r"configure_optimizers\(\) returns ExponentialLR as well") as record:
        fit(Returns(), scheduler)
    (line,) = told(record)
    assert "ExponentialLR has set lr to" in line
    assert used(scheduler) == PLAN


@pytest.mark.filterwarnings("ignore")
def test_returned_scheduler_drives_with_on_conflict_theirs():
    scheduler = LearningRateScheduler(LinearDecay(0.1), verbose=1, on_conflict="theirs")
    fit(Returns(), scheduler, LearningRateTrace())
    assert used(scheduler) == pytest.approx([0.1 * 0.5**step for step in range(18)])
    assert str(scheduler.audit) == "lr followed the plan at 0 of 18 steps"


def test_a_returned_scheduler_is_refused():
    with pytest.raises(TrainingError, match=r"Returns\.configure_optimizers\(\) returns ExponentialLR as well"):
        fit(Returns(), LearningRateScheduler(LinearDecay(0.1), on_conflict="error"))
    with pytest.raises(TrainingError, match=r"before step 3, other code has set lr to 0\.7"):
        fit(None, LearningRateScheduler(LinearDecay(0.1), on_conflict="error"), Meddles())


@pytest.mark.filterwarnings("ignore:.*Swapping|.*SWA")
def test_weight_averaging_is_overridden_or_drives():
    scheduler = LearningRateScheduler(LinearDecay(0.1))
    with pytest.warns(UserWarning, match="SWALR has set lr to"):
        fit(None, scheduler, StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1))
    assert used(scheduler) == PLAN

    scheduler = LearningRateScheduler(LinearDecay(0.1), on_conflict="theirs")
    with pytest.warns(UserWarning, match="SWALR was added in epoch 0"):
        fit(None, StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1), scheduler)
    assert used(scheduler)[12:] == [0.05] * 6


@pytest.mark.filterwarnings("ignore")
def test_unfreezing_is_not_a_conflict_in_driven_groups():
    class Freezing(BackboneFinetuning):
        def on_fit_start(self, trainer, pl_module):
            pass

    class Net(Toy):
        def __init__(self):
            super().__init__(lambda parameters: torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1))
            self.backbone = torch.nn.Linear(3, 3)

    scheduler = LearningRateScheduler(LinearDecay(0.1))
    fit(Net(), Freezing(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1, verbose=False), scheduler)
    assert str(scheduler.audit).startswith("lr followed the plan at 18 of 18 steps")


def test_step_skipped_in_a_fused_kernel_is_not_counted():
    class Scaled(Toy):
        def __init__(self):
            super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True))
            self.automatic_optimization = False
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            loss = self.compute_loss(batch) * (float("inf") if batch_idx in (1, 3) else 1.0)
            self.scaler.scale(loss).backward()
            self.scaler.step(optimizer)
            self.scaler.update()

    scheduler = LearningRateScheduler(LinearDecay(0.1, decay_steps="18st"))
    fit(Scaled(), scheduler)
    assert used(scheduler) == PLAN[:12]
    assert str(scheduler.audit) == "lr followed the plan at 12 of 12 steps"


def test_on_conflict_accepts_three_values():
    with pytest.raises(InvalidArgumentError, match="on_conflict must be one of ours, theirs, error; got 'mine'"):
        LearningRateScheduler(Constant(0.1), on_conflict="mine")


def test_on_conflict_theirs_yields_to_user_code(capsys, recwarn):
    scheduler, seen = LearningRateScheduler(LinearDecay(0.1), on_conflict="theirs"), Used()
    fit(None, Meddles(), scheduler, seen, LearningRateAudit())
    # From the step before which it was written until it is written again.
    assert seen.values == used(scheduler) == [*PLAN[:3], *[0.7] * 15]
    assert capsys.readouterr().out == "lr followed the plan at 3 of 18 steps; overwritten by other code 1 time\n"
    assert len([one for one in told(recwarn) if "From here on it only records" in one]) == 1


def test_on_conflict_theirs_yields_momentum_written_in_a_step():
    class Writes(Toy):
        def on_before_optimizer_step(self, optimizer):
            if self.trainer.global_step == 5:
                optimizer.param_groups[0]["momentum"] = 0.3

    module = Writes(lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    schedules = [LinearDecay(0.1), Assign(Constant(0.8), to="momentum")]
    scheduler = LearningRateScheduler(schedules, on_conflict="theirs")
    fit(module, scheduler)
    assert used(scheduler, "momentum") == [0.8] * 5 + [0.3] * 13
    assert used(scheduler)[:6] == PLAN[:6]
    assert set(used(scheduler)[5:]) == {PLAN[5]}
