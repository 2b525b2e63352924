"""Schedules for some param groups, for other hyper-parameters, for one of several optimizers."""

import pickle
import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lr_plugins import (
    Assign,
    Assignments,
    Constant,
    CosineDecay,
    CycleThrough,
    KerasSGD,
    LearningRateScheduler,
    LinearDecay,
    OneCycle,
    RunLength,
    StepDecay,
)
from lr_plugins.errors import InvalidArgumentError, TrainingError
from tests.toys import Toy, fit, loader


class Deep(Toy):
    """Three layers in a backbone, and a head."""

    def __init__(self, make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)):
        super().__init__(make_optimizer)
        del self.layer
        torch.manual_seed(0)
        self.backbone = torch.nn.Sequential(*[torch.nn.Linear(3, 3) for _ in range(3)])
        self.head = torch.nn.Linear(3, 1)

    def compute_loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.head(self.backbone(x)), y)


def used(scheduler, name="lr"):
    return scheduler.trace[name].values.tolist()


RUN = RunLength.of(steps_per_epoch=6, epochs=3)


def planned(schedule, base=0.1, run=RUN):
    return [schedule(run.position(step, base)) for step in range(run.steps)]


def test_a_regular_expression_splits_a_group_and_the_last_that_fits_counts():
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


def two_groups(parameters):
    weight, bias = parameters
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.02, "name": "bias"}]
    return torch.optim.SGD(groups, lr=0.1)


@pytest.mark.parametrize("key", ["bias", 1])
def test_a_group_is_chosen_by_name_or_index_and_starts_from_its_own(key):
    scheduler = LearningRateScheduler([Constant(0.3), Assign(StepDecay(every="1ep"), group=key)])
    fit(Toy(two_groups), scheduler)
    assert used(scheduler, "lr/0") == [0.3] * 18
    assert used(scheduler, "lr/bias") == [0.02] * 6 + [0.01] * 6 + [0.005] * 6


def test_groups_that_nothing_is_assigned_to_are_left_alone():
    scheduler = LearningRateScheduler([Assign(Constant(0.5), group="bias")])
    fit(Toy(two_groups), scheduler, epochs=1)
    assert used(scheduler, "lr/0") == [0.1] * 6
    assert used(scheduler, "lr/bias") == [0.5] * 6


def test_chosen_groups_that_start_from_their_own_have_states_of_their_own():
    halved = Assign(lambda epoch, lr: lr / 2, params=".")
    scheduler = LearningRateScheduler([halved])
    fit(Toy(two_groups), scheduler, epochs=2)
    assert used(scheduler, "lr/bias") == [0.01] * 6 + [0.005] * 6
    assert next(iter(scheduler.trace.values())).values.tolist() == [0.05] * 6 + [0.025] * 6


def test_one_cycle_cycles_momentum_as_torchs_does():
    def train(**kind):
        scheduler = LearningRateScheduler([OneCycle(0.1), Assign(CycleThrough(0.95, 0.85, 0.95), to="momentum")])
        module = Toy(lambda parameters: kind["optimizer"](parameters, lr=0.01, **kind["options"]))
        fit(module, scheduler)
        return scheduler

    for kind in (
        {"optimizer": torch.optim.SGD, "options": {"momentum": 0.9}},
        {"optimizer": torch.optim.AdamW, "options": {}},
        {"optimizer": KerasSGD, "options": {"momentum": 0.9}},
    ):
        scheduler = train(**kind)
        theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01, momentum=0.9)
        torch_scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=18)
        expected = []
        for step in range(18):
            expected.append((theirs.param_groups[0]["lr"], theirs.param_groups[0]["momentum"]))
            theirs.step()
            if step < 17:
                torch_scheduler.step()
        rates, momenta = zip(*expected, strict=True)
        assert used(scheduler, "lr") == pytest.approx(rates, rel=1e-12)
        assert used(scheduler, "momentum") == pytest.approx(momenta, rel=1e-12)


def test_the_optimizer_really_uses_the_momentum():
    seen = []

    class Watched(torch.optim.Adam):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["betas"])
            return super().step(closure)

    scheduler = LearningRateScheduler(
        [Assign(LinearDecay(0.9, end_learning_rate=0.6), to="beta1"), Assign(Constant(0.99), to="beta2")]
    )
    fit(Toy(lambda parameters: Watched(parameters, lr=0.01)), scheduler)
    assert seen == [(value, 0.99) for value in planned(LinearDecay(0.9, end_learning_rate=0.6))]
    assert used(scheduler, "lr") == [0.01] * 18
    assert used(scheduler, "beta1") == planned(LinearDecay(0.9, end_learning_rate=0.6))


def test_weight_decay_keeps_the_groups_that_have_none():
    def make(parameters):
        weight, bias = parameters
        return torch.optim.AdamW([{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}], weight_decay=0.1)

    scheduler = LearningRateScheduler([Assign(CosineDecay(), to="weight_decay")])
    fit(Toy(make), scheduler)
    assert used(scheduler, "weight_decay/0") == planned(CosineDecay(0.1))
    assert used(scheduler, "weight_decay/1") == [0.0] * 18


def test_layer_decay_scales_by_layer():
    scheduler = LearningRateScheduler([Assign(CosineDecay(), layer_decay=0.5, layers=[r"backbone\.(\d+)", "head"])])
    trainer = fit(Deep(), scheduler)
    assert list(scheduler.trace) == [f"lr/layer{index}" for index in range(4)]
    for index in range(4):
        assert used(scheduler, f"lr/layer{index}") == pytest.approx(
            [0.5 ** (3 - index) * value for value in planned(CosineDecay())], rel=1e-15
        )
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [2] * 4


def test_layer_decay_finds_the_layers_by_itself_as_timm_does():
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


def test_the_message_names_the_groups_where_they_differ(capsys):
    scheduler = LearningRateScheduler([Constant(0.2), Assign(Constant(0.1), params="^backbone")], verbose=1)
    fit(Deep(), scheduler, epochs=1)
    assert "setting others learning rate to 0.2." in capsys.readouterr().out


@pytest.mark.parametrize("resumed_at", [5, 12])
def test_a_resumed_run_gives_each_group_what_an_uninterrupted_one_does(resumed_at, tmp_path):
    def scheduler():
        return LearningRateScheduler(
            [
                lambda epoch, lr: lr * 0.7,
                Assign(lambda epoch, lr: lr * 0.9, params=r"^backbone\.[01]"),
                Assign(StepDecay(0.9, every="4st"), to="momentum"),
                Assign(CosineDecay(), params="head", layer_decay=0.5, layers=["weight", "bias"]),
            ]
        )

    def make(parameters):
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    whole, cut, rest = scheduler(), scheduler(), scheduler()
    fit(Deep(make), whole, epochs=4)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=resumed_at, save_top_k=-1, filename="{step}")
    fit(Deep(make), cut, saver, epochs=4, enable_checkpointing=True)
    fit(Deep(make), rest, epochs=4, ckpt_path=tmp_path / f"step={resumed_at}.ckpt")
    assert len(whole.trace) == 8
    for name, series in whole.trace.items():
        assert rest.trace[name].values.tolist() == series.values.tolist()[resumed_at:], name
    state = torch.load(tmp_path / f"step={resumed_at}.ckpt", weights_only=True)["callbacks"]["LearningRateScheduler"]
    assert sum(saved["state"] is not None for saved in state["schedules"].values()) == 2


def test_groups_that_are_unfrozen_later_get_their_schedule_at_once():
    class Freezing(BackboneFinetuning):
        def on_fit_start(self, trainer, pl_module):
            pass

    scheduler = LearningRateScheduler([Constant(0.2), Assign(StepDecay(0.04, every="1ep"), params="^backbone")])
    module = Deep(lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1))
    fit(module, Freezing(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1.0, verbose=False), scheduler)
    backbone = scheduler.trace["lr/backbone"]
    assert backbone.first_step == 6
    assert backbone.values.tolist() == [0.02] * 6 + [0.01] * 6


def test_a_state_loaded_in_mid_fit_is_written_over():
    class Reload(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            optimizer = trainer.optimizers[0]
            state = optimizer.state_dict()
            state["param_groups"][0]["lr"] = 99.0
            optimizer.load_state_dict(state)

    scheduler = LearningRateScheduler(LinearDecay(0.1))
    fit(None, scheduler, Reload())
    assert used(scheduler) == planned(LinearDecay(0.1))


def test_lightnings_monitor_works_beside(tmp_path):
    scheduler = LearningRateScheduler([CosineDecay(), Assign(Constant(0.01), params="weight$")])
    monitor = LearningRateMonitor("step")
    fit(Deep(), scheduler, monitor, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert set(monitor.lrs) == {"lr-SGD/weight", "lr-SGD/others"}


def test_another_fit_of_the_same_optimizer_reads_what_its_groups_were_built_with():
    module = Toy()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module.make_optimizer = lambda parameters: optimizer
    for _ in range(2):
        scheduler = LearningRateScheduler(
            [Assign(StepDecay(every="1ep"), params="weight"), Assign(LinearDecay(), to="momentum")]
        )
        fit(module, scheduler)
        assert used(scheduler, "lr/weight") == [0.1] * 6 + [0.05] * 6 + [0.025] * 6
        assert used(scheduler, "momentum/weight") == planned(LinearDecay(), base=0.9)
    assert len(optimizer.param_groups) == 2


def test_a_tensor_is_written_in_place():
    def make(parameters):
        return torch.optim.Adam(parameters, lr=torch.tensor(0.1), foreach=False)

    scheduler = LearningRateScheduler([Assign(StepDecay(0.5, every="1ep"), params="weight")])
    trainer = fit(Toy(make), scheduler, epochs=2)
    lrs = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert lrs["weight"].item() == 0.25
    assert lrs["others"].item() == pytest.approx(0.1)


ERRORS = [
    ([Assign(Constant(0.1), params="bakbone")], "Assign.params.*backbone.0.weight.*'bakbone'"),
    ([Assign(Constant(0.1), group="head")], r"Assign.group.*\(0\); got 'head'"),
    ([Assign(Constant(0.1), group=3)], "Assign.group.*got 3"),
    ([Assign(Constant(0.1), optimizer="Adam")], "Assign.optimizer.*0: SGD.*'Adam'"),
    ([Assign(Constant(0.1), optimizer=1)], "Assign.optimizer.*0: SGD.*1"),
    ([Assign(Constant(0.1), to="beta1")], "Assign.to.*SGD: lr, momentum.*'beta1'"),
    ([Assign(Constant(0.1), to="params")], "Assign.to.*'params'"),
    ([Assign(Constant(0.1), to="nesterov")], "Assign.to.*'nesterov'"),
    ([Assign(Constant(0.1), layer_decay=0.5, layers=["head"])], "Assign.layers.*None of them finds backbone.0.weight"),
]


@pytest.mark.parametrize(("schedules", "message"), ERRORS, ids=[message[:24] for _, message in ERRORS])
def test_what_is_not_there_is_refused_before_training(schedules, message):
    module = Deep()
    with pytest.raises(InvalidArgumentError, match=message):
        fit(module, LearningRateScheduler(schedules))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 3}, "schedule"),
        ({"to": ""}, "Assign.to"),
        ({"params": "("}, r"Assign.params.*regular expression.*'\('"),
        ({"params": 1}, "Assign.params"),
        ({"group": -1}, "Assign.group"),
        ({"group": 1.5}, "Assign.group"),
        ({"optimizer": True}, "Assign.optimizer"),
        ({"layer_decay": 0}, "Assign.layer_decay.*> 0"),
        ({"layers": ["a"]}, "Assign.layers.*together with layer_decay"),
        ({"layers": "a", "layer_decay": 0.5}, "Assign.layers.*list"),
        ({"layers": ["("], "layer_decay": 0.5}, r"Assign.layers\[0\]"),
        ({"name": ""}, "Assign.name"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Assign(**{"schedule": Constant(0.1), **arguments})


@pytest.mark.parametrize("given", [[], {}, "abc", 3])
def test_assignments_are_a_list_or_a_dictionary(given):
    with pytest.raises(InvalidArgumentError):
        Assignments(given)


def test_a_momentum_of_one_is_refused_with_the_step():
    schedules = [Assign(LinearDecay(0.9, end_learning_rate=1.3), to="beta1")]
    with pytest.raises(TrainingError, match=re.escape("the beta1 must be a number >= 0 and < 1")):
        fit(Toy(lambda parameters: torch.optim.Adam(parameters)), LearningRateScheduler(schedules))


def test_they_can_be_compared_shown_and_pickled():
    one, other = (Assignments([Constant(0.1), Assign(Constant(0.2), params="a")]) for _ in range(2))
    assert one == other == pickle.loads(pickle.dumps(one))
    assert len({one, other}) == 1
    assert repr(one) == repr(other)
    assert one != Assignments([Constant(0.1)])
    assert "params='a'" in repr(one)


def test_values_computed_ahead_are_those_of_each_step_alone():
    for schedule in (CosineDecay().with_warmup("10%"), LinearDecay() * StepDecay(drop=0.5, every="1ep")):
        scheduler = LearningRateScheduler(schedule)
        fit(None, scheduler, train=loader(1200, 4), epochs=2)
        run = RunLength.of(steps_per_epoch=300, epochs=2)
        assert used(scheduler) == planned(schedule, run=run)


# --- what a checkpoint was made under --------------------------------------------------------------------------


def saved(tmp_path, schedules, **options):
    saver = ModelCheckpoint(tmp_path, filename="end", enable_version_counter=False)
    fit(Deep(), LearningRateScheduler(schedules), saver, epochs=2, enable_checkpointing=True, **options)
    return tmp_path / "end.ckpt"


@pytest.mark.parametrize("other", [r"^backbone\.1", r"^backbone\.[01]"])
def test_other_patterns_than_the_checkpoints_are_refused(other, tmp_path):
    checkpoint = saved(tmp_path, [Constant(0.1), Assign(Constant(0.01), params=r"^backbone\.0")])
    again = LearningRateScheduler([Constant(0.1), Assign(Constant(0.01), params=other)], on_resume="config")
    with pytest.raises(InvalidArgumentError, match="the param groups of SGD must be those of the checkpoint"):
        fit(Deep(), again, epochs=4, ckpt_path=checkpoint)


def test_a_checkpoint_without_the_split_is_refused_in_a_sentence(tmp_path):
    checkpoint = saved(tmp_path, [Constant(0.1), Assign(Constant(0.01), params="head")])
    with pytest.raises(InvalidArgumentError, match="the param groups of SGD must be those of the checkpoint"):
        fit(Deep(), LearningRateScheduler(Constant(0.1)), epochs=4, ckpt_path=checkpoint)


def test_the_order_of_assignments_may_change(tmp_path):
    def halve(epoch, lr):
        return lr / 2

    def tenth(epoch, lr):
        return lr / 10

    first, second = Assign(halve, params="weight$"), Assign(tenth, params="bias$")
    checkpoint = saved(tmp_path, [first, second])
    scheduler = LearningRateScheduler([second, first])
    fit(Deep(), scheduler, epochs=3, ckpt_path=checkpoint)
    assert used(scheduler, "lr/weight") == [0.1 / 8] * 6
    assert used(scheduler, "lr/bias") == pytest.approx([0.1 / 1000] * 6)


class Freezing(BackboneFinetuning):
    pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pattern", [None, "^backbone", "bias$"])
def test_a_resumed_run_of_finetuning_gives_what_an_uninterrupted_one_does(pattern, tmp_path):
    def parts():
        module = Deep(lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1))
        chosen = [] if pattern is None else [Assign(LinearDecay(0.05), params=pattern)]
        freezing = Freezing(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01, verbose=False)
        return module, freezing, LearningRateScheduler([CosineDecay(0.2), *chosen])

    module, freezing, whole = parts()
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    fit(module, freezing, whole, saver, epochs=4, enable_checkpointing=True)
    module, freezing, rest = parts()
    fit(module, freezing, rest, epochs=4, ckpt_path=tmp_path / "step=12.ckpt")
    for name, series in rest.trace.items():
        assert series.values.tolist() == whole.trace[name].values.tolist()[-12:], name
    assert whole.trace.last() == rest.trace.last() == whole.trace[next(iter(rest.trace))].last()


# --- what else was found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{"group": "net"}, {"group": 3}, {"optimizer": 0, "group": "others"}])
def test_two_selectors_that_have_nothing_in_common_are_refused(more):
    with pytest.raises(InvalidArgumentError, match=r"Assign\.params"):
        fit(Deep(), LearningRateScheduler([Constant(0.1), Assign(Constant(0.5), params="^head", **more)]))


def test_a_name_is_for_groups_chosen_in_any_way():
    scheduler = LearningRateScheduler({"all": Constant(0.1), "low": Assign(Constant(0.5), group=0)})
    fit(Toy(two_groups), scheduler, epochs=1)
    assert {name: series.last() for name, series in scheduler.trace.items()} == {
        "lr/low": 0.5,
        "lr/bias": pytest.approx(0.02),
    }


def test_what_is_left_of_a_named_group_keeps_its_name():
    module = Toy(lambda parameters: torch.optim.SGD([{"params": list(parameters), "name": "net"}], lr=0.1))
    scheduler = LearningRateScheduler([Constant(0.1), Assign(Constant(0.5), params="bias")])
    fit(module, scheduler, epochs=1)
    assert set(scheduler.trace) == {"lr/net", "lr/net/bias"}


def test_tensors_of_betas_are_made_the_groups_own():
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    module = Toy(lambda parameters: torch.optim.Adam(parameters, lr=0.1, betas=betas))
    scheduler = LearningRateScheduler([Assign(Constant(0.5), to="beta1", params="bias")])
    trainer = fit(module, scheduler, epochs=1)
    found = {group["name"]: float(group["betas"][0]) for group in trainer.optimizers[0].param_groups}
    assert found == {"others": pytest.approx(0.9), "bias": 0.5}
    assert float(betas[0]) == pytest.approx(0.9)


def test_lbfgs_is_not_split():
    with pytest.raises(InvalidArgumentError, match="LBFGS, whose parameters cannot be split"):
        fit(
            Toy(lambda parameters: torch.optim.LBFGS(parameters, lr=0.1)),
            LearningRateScheduler([Assign(Constant(0.1), params="bias")]),
        )


@pytest.mark.parametrize(("model", "layers"), [("vit_tiny_patch16_224", 16), ("resnet18", 11)])
def test_the_layers_of_real_models(model, layers):
    import timm

    from lr_plugins.engine.param_groups import layers_of

    net = timm.create_model(model)
    found = layers_of(Assign(Constant(0.1), layer_decay=0.75), [name for name, _ in net.named_parameters()])
    assert len(set(found.values())) == layers
    head = "fc.weight" if model == "resnet18" else "head.weight"
    assert found[head] == layers - 1


def test_a_message_tells_the_span_of_groups_with_ratios(capsys):
    fit(Toy(two_groups), LearningRateScheduler(Constant(0.3), verbose=1), epochs=1)
    assert "setting learning rate to 0.3. (0.06 to 0.3 by param group)" in capsys.readouterr().out


def test_a_group_that_joins_those_of_a_schedule_disturbs_no_record():
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
