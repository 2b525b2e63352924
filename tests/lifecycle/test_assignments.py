"""Schedules for chosen param groups and layers, and for one of two optimizers."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger

from lr_plugins import (
    Assign,
    Assignments,
    Constant,
    CosineDecay,
    LearningRateScheduler,
    LinearDecay,
    RunLength,
    StepDecay,
)
from tests.lifecycle.assigned import Deep, planned, two_groups, used
from tests.toys import Toy, fit, loader


def test_regular_expression_splits_a_group_and_last_match_wins():
    scheduler = LearningRateScheduler([CosineDecay(), Assign(StepDecay(0.01, every="1ep"), params=r"^backbone\.")])
    trainer = fit(Deep(), scheduler)
    assert set(scheduler.trace) == {"lr/backbone", "lr/others"}
    assert used(scheduler, "lr/backbone") == planned(StepDecay(0.01, every="1ep"))
    assert used(scheduler, "lr/others") == planned(CosineDecay())
    names = [len(group["params"]) for group in trainer.optimizers[0].param_groups]
    assert sorted(names) == [2, 6]


def test_a_dictionary_names_the_groups():
    scheduler = LearningRateScheduler(
        {"body": Assign(Constant(0.01), params="^backbone"), "top": Assign(Constant(0.2), params="head")}
    )
    fit(Deep(), scheduler, epochs=1)
    assert {name: set(used(scheduler, name)) for name in scheduler.trace} == {"lr/body": {0.01}, "lr/top": {0.2}}


@pytest.mark.parametrize("key", ["bias", 1])
def test_group_chosen_by_name_or_index_starts_from_its_own_lr(key):
    scheduler = LearningRateScheduler([Constant(0.3), Assign(StepDecay(every="1ep"), group=key)])
    fit(Toy(two_groups), scheduler)
    assert used(scheduler, "lr/0") == [0.3] * 18
    assert used(scheduler, "lr/bias") == [0.02] * 6 + [0.01] * 6 + [0.005] * 6


def test_groups_without_an_assignment_are_left_alone():
    scheduler = LearningRateScheduler([Assign(Constant(0.5), group="bias")])
    fit(Toy(two_groups), scheduler, epochs=1)
    assert used(scheduler, "lr/0") == [0.1] * 6
    assert used(scheduler, "lr/bias") == [0.5] * 6


def test_recursive_schedule_keeps_separate_state_per_group():
    halved = Assign(lambda epoch, lr: lr / 2, params=".")
    scheduler = LearningRateScheduler([halved])
    fit(Toy(two_groups), scheduler, epochs=2)
    assert used(scheduler, "lr/bias") == [0.01] * 6 + [0.005] * 6
    assert next(iter(scheduler.trace.values())).values.tolist() == [0.05] * 6 + [0.025] * 6


def test_layer_decay_scales_by_layer():
    scheduler = LearningRateScheduler([Assign(CosineDecay(), layer_decay=0.5, layers=[r"backbone\.(\d+)", "head"])])
    trainer = fit(Deep(), scheduler)
    assert list(scheduler.trace) == [f"lr/layer{index}" for index in range(4)]
    for index in range(4):
        assert used(scheduler, f"lr/layer{index}") == pytest.approx(
            [0.5 ** (3 - index) * value for value in planned(CosineDecay())], rel=1e-15
        )
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [2] * 4


def test_layer_decay_finds_layers_like_timm():
    from timm.optim import param_groups_layer_decay

    class Net(torch.nn.Sequential):
        def group_matcher(self, coarse=False):
            return {"stem": r"^0\.", "blocks": [(r"^(\d+)\.", None)]}

    net = Net(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    scales = sorted({group["lr_scale"] for group in param_groups_layer_decay(net, layer_decay=0.75)})
    module = Toy()
    module.layer = net
    scheduler = LearningRateScheduler([Assign(Constant(1.0), layer_decay=0.75)])
    fit(module, scheduler, epochs=1)
    assert sorted({series.last() for series in scheduler.trace.values()}) == scales == [0.5625, 0.75, 1.0]


class TwoOptimizers(Toy):
    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.second = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        for optimizer, layer in zip(self.optimizers(), (self.layer, self.second), strict=True):
            loss = torch.nn.functional.mse_loss(layer(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), lr=0.1), torch.optim.Adam(self.second.parameters(), lr=0.01)


@pytest.mark.parametrize("which", [1, "Adam"])
def test_an_optimizer_is_chosen_by_index_or_class(which, capsys):
    schedules = [Constant(), Assign(StepDecay(every="1ep"), optimizer=which), Assign(Constant(0.5), to="momentum")]
    scheduler = LearningRateScheduler(schedules, verbose=1)
    fit(TwoOptimizers(), scheduler, epochs=2)
    assert used(scheduler, "lr/SGD-0") == [0.1] * 12
    assert used(scheduler, "lr/Adam-1") == [0.01] * 6 + [0.005] * 6
    assert used(scheduler, "momentum/SGD-0") == used(scheduler, "momentum/Adam-1") == [0.5] * 12
    lines = [line for line in capsys.readouterr().out.splitlines() if "00002" in line]
    assert lines == [
        "Epoch 00002: LearningRateScheduler setting SGD-0 learning rate to 0.1.",
        "Epoch 00002: LearningRateScheduler setting Adam-1 learning rate to 0.005.",
        "Epoch 00002: LearningRateScheduler setting momentum to 0.5.",
    ]


def test_message_names_groups_with_different_rates(capsys):
    scheduler = LearningRateScheduler([Constant(0.2), Assign(Constant(0.1), params="^backbone")], verbose=1)
    fit(Deep(), scheduler, epochs=1)
    assert "setting others learning rate to 0.2." in capsys.readouterr().out


def test_groups_unfrozen_later_follow_their_schedule_at_once():
    class Freezing(BackboneFinetuning):
        def on_fit_start(self, trainer, pl_module):
            pass

    scheduler = LearningRateScheduler([Constant(0.2), Assign(StepDecay(0.04, every="1ep"), params="^backbone")])
    module = Deep(lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1))
    fit(module, Freezing(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1.0, verbose=False), scheduler)
    backbone = scheduler.trace["lr/backbone"]
    assert backbone.first_step == 6
    assert backbone.values.tolist() == [0.02] * 6 + [0.01] * 6


def test_optimizer_state_loaded_during_fit_is_overwritten():
    class Reload(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            optimizer = trainer.optimizers[0]
            state = optimizer.state_dict()
            state["param_groups"][0]["lr"] = 99.0
            optimizer.load_state_dict(state)

    scheduler = LearningRateScheduler(LinearDecay(0.1))
    fit(None, scheduler, Reload())
    assert used(scheduler) == planned(LinearDecay(0.1))


def test_learning_rate_monitor_logs_the_split_groups(tmp_path):
    scheduler = LearningRateScheduler([CosineDecay(), Assign(Constant(0.01), params="weight$")])
    monitor = LearningRateMonitor("step")
    fit(Deep(), scheduler, monitor, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert set(monitor.lrs) == {"lr-SGD/weight", "lr-SGD/others"}


def test_a_tensor_is_written_in_place():
    def make(parameters):
        return torch.optim.Adam(parameters, lr=torch.tensor(0.1), foreach=False)

    scheduler = LearningRateScheduler([Assign(StepDecay(0.5, every="1ep"), params="weight")])
    trainer = fit(Toy(make), scheduler, epochs=2)
    lrs = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert lrs["weight"].item() == 0.25
    assert lrs["others"].item() == pytest.approx(0.1)


def test_assignments_compare_print_and_pickle():
    one, other = (Assignments([Constant(0.1), Assign(Constant(0.2), params="a")]) for _ in range(2))
    assert one == other == pickle.loads(pickle.dumps(one))
    assert len({one, other}) == 1
    assert repr(one) == repr(other)
    assert one != Assignments([Constant(0.1)])
    assert "params='a'" in repr(one)


def test_values_computed_in_blocks_equal_single_steps():
    for schedule in (CosineDecay().with_warmup("10%"), LinearDecay() * StepDecay(drop=0.5, every="1ep")):
        scheduler = LearningRateScheduler(schedule)
        fit(None, scheduler, train=loader(1200, 4), epochs=2)
        run = RunLength.of(steps_per_epoch=300, epochs=2)
        assert used(scheduler) == planned(schedule, run=run)


def test_dictionary_key_names_a_group_chosen_by_index():
    scheduler = LearningRateScheduler({"all": Constant(0.1), "low": Assign(Constant(0.5), group=0)})
    fit(Toy(two_groups), scheduler, epochs=1)
    assert {name: series.last() for name, series in scheduler.trace.items()} == {
        "lr/low": 0.5,
        "lr/bias": pytest.approx(0.02),
    }


def test_remainder_of_a_named_group_keeps_its_name():
    module = Toy(lambda parameters: torch.optim.SGD([{"params": list(parameters), "name": "net"}], lr=0.1))
    scheduler = LearningRateScheduler([Constant(0.1), Assign(Constant(0.5), params="bias")])
    fit(module, scheduler, epochs=1)
    assert set(scheduler.trace) == {"lr/net", "lr/net/bias"}


@pytest.mark.parametrize(("model", "layers"), [("vit_tiny_patch16_224", 16), ("resnet18", 11)])
def test_the_layers_of_real_models(model, layers):
    import timm

    from lr_plugins.engine.param_groups import layers_of

    net = timm.create_model(model)
    found = layers_of(Assign(Constant(0.1), layer_decay=0.75), [name for name, _ in net.named_parameters()])
    assert len(set(found.values())) == layers
    head = "fc.weight" if model == "resnet18" else "head.weight"
    assert found[head] == layers - 1


def test_message_shows_the_range_over_groups_with_ratios(capsys):
    fit(Toy(two_groups), LearningRateScheduler(Constant(0.3), verbose=1), epochs=1)
    assert "setting learning rate to 0.3. (0.06 to 0.3 by param group)" in capsys.readouterr().out


def test_group_added_during_training_gets_its_own_series():
    class Joins(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 6:
                late = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.05}
                trainer.optimizers[0].add_param_group(late)

    scheduler = LearningRateScheduler(CosineDecay(0.3))
    fit(Toy(two_groups), scheduler, Joins())
    plan = planned(CosineDecay(0.3))
    assert {name: series.first_step for name, series in scheduler.trace.items()} == {"lr/0": 0, "lr/bias": 0, "lr/2": 6}
    assert used(scheduler, "lr/0") == plan
    assert used(scheduler, "lr/bias") == [value * (0.02 / 0.1) for value in plan]
    assert used(scheduler, "lr/2") == [value * (0.05 / 0.1) for value in plan[6:]]
