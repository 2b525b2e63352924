"""Optimizers replaced during a run: the one that steps uses the planned value."""

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD, Adam, AdamW

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    LearningRateAudit,
    LearningRateScheduler,
    LearningRateTrace,
    LossDriven,
    ReduceLROnPlateau,
    RunLength,
    StepDecay,
)
from tests.toys import Toy, fit, loader

FOUR = loader(16, 4)  # batches per epoch
HALVED = [0.1] * 4 + [0.05] * 4 + [0.025] * 4


def noting(used, lr=0.1):
    """Makes optimizers that record into one list."""

    class Noted(SGD):
        def __init__(self, parameters, lr=lr):
            super().__init__(parameters, lr=lr)

        def step(self, closure=None):
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            used.append(float(self.param_groups[0]["lr"]))
            super().step()
            return loss

    return Noted


class Does(pl.Callback):
    """Acts once, at a hook of an epoch (and batch)."""

    def __init__(self, act, hook="on_train_epoch_start", epoch=1, batch=0):
        self.act, self.at, self.done = act, (epoch, batch), False
        setattr(self, hook, self._do)

    def _do(self, trainer, module, *args):
        batch = trainer.fit_loop.epoch_loop.batch_idx if args else 0
        if not self.done and (trainer.current_epoch, batch) >= self.at:
            self.done = True
            self.act(trainer, module)


def by_strategy(make):
    def act(trainer, module):
        trainer.strategy.optimizers = [make(module.parameters())]

    return act


def by_setup(make):
    def act(trainer, module):
        module.make_optimizer = make
        trainer.strategy.setup_optimizers(trainer)

    return act


def from_its_groups(make):
    """From the groups of the old optimizer, which hold the last written values."""

    def act(trainer, module):
        trainer.strategy.optimizers = [make(trainer.optimizers[0].param_groups)]

    return act


def from_copied_groups(make):
    def act(trainer, module):
        groups = [dict(group) for group in trainer.optimizers[0].param_groups]
        trainer.strategy.optimizers = [make(groups)]

    return act


HOOKS = ["on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward"]


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("swap", [by_strategy, by_setup, from_its_groups, from_copied_groups])
def test_new_optimizer_continues_the_plan(swap, hook, where):
    used = []
    make = noting(used)
    scheduler, swapping = LearningRateScheduler(StepDecay(0.1, every="1ep")), Does(swap(make), hook)
    callbacks = [swapping, scheduler] if where == "before" else [scheduler, swapping]
    fit(Toy(make), *callbacks, train=FOUR)
    assert swapping.done
    assert used == HALVED
    assert scheduler.trace["lr"].values.tolist() == HALVED
    assert str(scheduler.audit).startswith("lr followed the plan at 12 of 12 steps")


def test_audit_counts_the_steps_of_both_optimizers(capsys):
    swapping = Does(lambda trainer, module: setattr(trainer.strategy, "optimizers", [SGD(module.parameters(), lr=0.1)]))
    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"), verbose=1)
    fit(None, scheduler, LearningRateAudit(), swapping, train=FOUR)
    out = capsys.readouterr().out
    assert "Epoch 00002: LearningRateScheduler setting learning rate to 0.05." in out
    assert "lr followed the plan at 12 of 12 steps" in out


def test_optimizer_replaced_twice_within_epochs():
    used = []
    scheduler = LearningRateScheduler(CosineDecay(0.1))
    first = Does(by_strategy(noting(used, 0.3)), "on_train_batch_start", 0, 2)
    second = Does(by_strategy(noting(used, 0.01)), "on_train_batch_start", 1, 1)
    fit(Toy(noting(used)), scheduler, first, second, train=FOUR)
    run = RunLength.of(steps_per_epoch=4, epochs=3)
    assert used == scheduler.trace["lr"].values.tolist() == [CosineDecay(0.1)(run.position(step)) for step in range(12)]


def test_schedule_without_its_own_rate_takes_the_new_one():
    used = []
    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    fit(Toy(noting(used)), Does(by_strategy(noting(used, 0.8))), scheduler, train=FOUR)
    assert used == [0.1] * 4 + [0.4] * 4 + [0.2] * 4


def test_groups_and_hyperparameters_continue():
    def make(parameters):
        weight, bias = parameters
        return AdamW([{"params": [weight]}, {"params": [bias], "lr": 0.02}], lr=0.1)

    seen = []

    class Watches(pl.Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            groups = trainer.optimizers[0].param_groups
            seen.append([groups[0]["lr"], groups[1]["lr"], groups[0]["weight_decay"]])

    schedules = [StepDecay(0.1, every="1ep"), Assign(StepDecay(0.01, every="1ep"), to="weight_decay")]
    fit(Toy(make), LearningRateScheduler(schedules), Does(by_setup(make)), Watches(), train=FOUR)
    expected = [[0.1 * half, 0.1 * half * (0.02 / 0.1), 0.01 * half] for half in (1, 0.5, 0.25) for _ in range(4)]
    assert [[pytest.approx(value) for value in row] for row in expected] == seen


def test_memory_of_a_metric_driven_schedule_is_kept():
    def trained(*callbacks):
        scheduler = LearningRateScheduler(
            ReduceLROnPlateau(0.01, monitor="loss", factor=0.5, patience=1, min_delta=10.0)
        )
        fit(Toy(lambda parameters: SGD(parameters, lr=0.01)), scheduler, *callbacks, train=FOUR, epochs=6)
        return scheduler.trace["lr"].values.tolist()

    swapped = trained(
        Does(lambda trainer, module: setattr(trainer.strategy, "optimizers", [SGD(module.parameters(), 1.0)]), epoch=3)
    )
    assert swapped == trained()
    assert len(set(swapped)) > 3


def test_one_of_two_optimizers_is_replaced():
    used = []

    class Gan(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.other = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward((self.layer(batch[0]) + self.other(batch[0])).square().mean())
                optimizer.step()

        def configure_optimizers(self):
            return [Adam(self.layer.parameters(), lr=0.1), noting(used, 0.01)(self.other.parameters())]

    def act(trainer, module):
        trainer.strategy.optimizers = [trainer.optimizers[0], noting(used, 0.01)(module.other.parameters())]

    scheduler = LearningRateScheduler(StepDecay(every="1ep"))
    fit(Gan(), Does(act, epoch=2), scheduler, train=FOUR, epochs=4)
    assert used == [0.01] * 4 + [0.005] * 4 + [0.0025] * 4 + [0.00125] * 4
    assert [values.values.tolist() for name, values in scheduler.trace.items() if "Adam" in name] == [
        [0.1] * 4 + [0.05] * 4 + [0.025] * 4 + [0.0125] * 4
    ]


def test_optimizer_rebuilt_by_the_module_within_a_batch():
    used = []

    class Renews(Toy):
        def __init__(self):
            super().__init__(noting(used))
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                self.trainer.strategy.optimizers = [noting(used)(self.parameters())]
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            optimizer.step()

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    fit(Renews(), scheduler, train=FOUR)
    assert used == scheduler.trace["lr"].values.tolist() == HALVED


def test_replacement_that_bypasses_the_lightning_wrapper():
    used = []

    class Raw(Toy):
        def __init__(self):
            super().__init__(noting(used))
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            if (self.current_epoch, batch_idx) == (1, 0):
                self.trainer.optimizers[0] = noting(used)(self.parameters())
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.compute_loss(batch).backward()
            optimizer.step()

    scheduler = LearningRateScheduler(StepDecay(0.1, every="1ep"))
    with pytest.warns(UserWarning, match="counted 12 optimizer steps in this fit, Lightning counted 0"):
        fit(Raw(), scheduler, train=FOUR)
    assert used == scheduler.trace["lr"].values.tolist() == HALVED


def test_optimizer_unknown_to_the_trainer_warns_once(recwarn):
    class Aside(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            aside = SGD(self.parameters(), lr=0.3)
            for optimizer in (self.optimizers(), aside):
                optimizer.zero_grad()
                self.manual_backward(self.compute_loss(batch))
                optimizer.step()

    scheduler = LearningRateScheduler(Constant(0.1))
    fit(Aside(), scheduler, train=FOUR)
    told = [str(one.message) for one in recwarn if "not one of the Trainer's optimizers" in str(one.message)]
    assert len(told) == 1
    assert "SGD" in told[0]
    assert len(scheduler.trace["lr"]) == 12


def test_trace_without_a_scheduler_follows_the_new_optimizer():
    trace = LearningRateTrace()
    new = Does(lambda trainer, module: setattr(trainer.strategy, "optimizers", [SGD(module.parameters(), lr=0.7)]))
    fit(None, new, trace, train=FOUR)
    assert trace.trace["lr"].values.tolist() == [0.1] * 4 + [0.7] * 8


def test_loss_driven_schedule_drives_the_new_optimizer():
    scheduler = LearningRateScheduler(LossDriven(0.001))
    fit(None, Does(by_setup(lambda parameters: SGD(parameters, lr=5.0))), scheduler, train=FOUR)
    assert len(scheduler.trace["lr"]) == 12
    assert (scheduler.trace["lr"].values[4:] < 0.1).all()


def test_nothing_is_followed_after_the_fit():
    from lr_plugins.engine import step_hooks

    fit(None, Does(by_strategy(SGD)), LearningRateScheduler(Constant(0.1)), train=FOUR)
    assert (step_hooks._followers, step_hooks._watchers, step_hooks._handles) == ({}, [], [])


class Both(Toy):
    """Two optimizers, one per layer; the second steps at every other batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            if isinstance(optimizer, SGD) or batch_idx % 2 == 0:
                optimizer.zero_grad()
                self.manual_backward((self.layer(batch[0]) + self.other(batch[0])).square().mean())
                optimizer.step()

    def configure_optimizers(self):
        return [SGD(self.layer.parameters(), lr=0.1), Adam(self.other.parameters(), lr=0.01)]


def test_swapped_optimizers_keep_their_series():
    def act(trainer, module):
        first, second = trainer.optimizers
        trainer.strategy.optimizers = [second, first]

    scheduler = LearningRateScheduler(StepDecay(every="3st"))
    fit(Both(), Does(act), scheduler, train=FOUR)
    assert scheduler.trace["lr/SGD-0"].values.tolist() == [0.1 * 0.5 ** (step // 3) for step in range(12)]
    assert scheduler.trace["lr/Adam-1"].values.tolist() == [0.01 * 0.5 ** (step // 3) for step in range(6)]


def test_removed_optimizer_is_released(recwarn):
    from lr_plugins.engine import step_hooks

    gone = []

    def act(trainer, module):
        gone.append(trainer.optimizers[0])
        trainer.strategy.optimizers = [trainer.optimizers[1]]

    class Looks(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            self.followed = id(gone[0]) in step_hooks._followers if gone else None

    looks = Looks()
    scheduler = LearningRateScheduler(StepDecay(every="3st"))
    fit(Both(), Does(act), scheduler, looks, train=FOUR)
    assert looks.followed is False
    assert len(scheduler.trace["lr/SGD-0"]) == 4
    assert scheduler.trace["lr/Adam-1"].values.tolist() == [0.01 * 0.5 ** (step // 3) for step in range(6)]
    assert [one for one in recwarn if "Lightning counts" in str(one.message)] == []


def test_rate_written_before_the_first_step_warns():
    class Writes(pl.Callback):
        def on_train_start(self, trainer, module):
            trainer.optimizers[0].param_groups[0]["lr"] = 0.7

    schedules = [StepDecay(0.1, every="1ep"), Assign(Constant(0.9), to="momentum")]
    module = Toy(lambda parameters: SGD(parameters, lr=0.1, momentum=0.5))
    with pytest.warns(UserWarning, match=r"before step 0, other code has set lr to 0\.7"):
        fit(module, LearningRateScheduler(schedules), Writes(), train=FOUR)


def test_swapped_optimizers_keep_the_memory_of_their_schedules():
    def act(trainer, module):
        first, second = trainer.optimizers
        trainer.strategy.optimizers = [second, first]

    scheduler = LearningRateScheduler(lambda epoch, lr: lr * 0.5)
    fit(Both(), Does(act, "on_train_batch_start", 1, 2), scheduler, train=FOUR)
    assert scheduler.trace["lr/SGD-0"].values.tolist() == [0.05] * 4 + [0.025] * 4 + [0.0125] * 4
    assert scheduler.trace["lr/Adam-1"].values.tolist() == [0.005] * 2 + [0.0025] * 2 + [0.00125] * 2
