"""Constraints in a Trainer: each real update of any optimizer is followed by one."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.cli import LightningCLI
from torch import nn

from lr_plugins import Assign, Constant, KerasSGD, LearningRateScheduler, StepDecay
from lr_plugins.errors import InvalidArgumentError, LearningRateError, TrainingError
from lr_plugins.keras.constraints import (
    Constraints,
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    UnitNorm,
    constrain,
)
from lr_plugins.training.assembly import weight_constraints
from tests.lifecycle.test_replaced_optimizers import Does, by_strategy
from tests.lifecycle.wrapping_optimizers import AUTOMATIC, Dictionary, OwnArithmetic, TwoSteps
from tests.toys import QUIET, Toy, fit, loader

FOUR = loader(16, 4)  # batches an epoch


class Noted(pl.Callback):
    """The norm of the weight as other callbacks see it."""

    def __init__(self):
        self.at_start, self.at_step, self.at_end = [], [], []

    @staticmethod
    def norm(module):
        return module.layer.weight.detach().norm().item()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.at_start.append(self.norm(pl_module))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.at_step.append(self.norm(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.at_end.append(self.norm(pl_module))


UNIT = {"layer.weight": UnitNorm()}
AT_START = 0.75**0.5  # the norm of the toy's weight


def is_one(norm):
    return norm == pytest.approx(1.0, abs=1e-5)


def test_each_batch_ends_with_the_constrained_weights():
    noted = Noted()
    fit(Toy(), noted, Constraints(UNIT), epochs=2)  # before it in the list: it happens within the step all the same
    assert noted.at_start[0] == noted.at_step[0] == pytest.approx(AT_START)
    assert all(map(is_one, noted.at_end))
    assert all(map(is_one, noted.at_start[1:]))


def test_a_lightning_fit_is_the_plain_loop_bit_for_bit():
    make = lambda parameters: KerasSGD(parameters, lr=0.1, momentum=0.9)  # noqa: E731
    meant = {"weight": MaxNorm(0.7), "bias": NonNeg()}
    module, by_hand = Toy(make), Toy(make)
    fit(module, Constraints(meant), epochs=2, train=FOUR)
    optimizer = by_hand.configure_optimizers()
    constrain(optimizer, by_hand, meant)
    for _ in range(2):
        for batch in FOUR:
            optimizer.zero_grad()
            by_hand.compute_loss(batch).backward()
            optimizer.step()
    for one, other in zip(module.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(one, other)
    assert module.layer.weight.norm() <= 0.7


def test_accumulated_batches_are_constrained_once():
    calls, noted = [], Noted()
    fit(Toy(), Constraints({"weight": lambda w: (calls.append(1), w / w.norm())[1]}), noted, accumulate_grad_batches=3)
    assert len(calls) == 3 * 2
    assert noted.at_end[:2] == pytest.approx([AT_START] * 2)
    assert all(map(is_one, noted.at_end[2:]))


class Manual(Toy):
    """Steps in every other batch, twice."""

    def __init__(self, make=lambda parameters: KerasSGD(parameters, lr=0.1)):
        super().__init__(make)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for _ in range(2 * (batch_idx % 2)):
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            optimizer.step()


def counting():
    """A constraint that counts how often it is applied."""
    calls = []

    def unit(weight):
        calls.append(tuple(weight.shape))
        return weight / weight.norm()

    return calls, unit


def test_under_manual_optimization():
    (calls, unit), noted = counting(), Noted()
    fit(Manual(), Constraints({"weight": unit}), noted, epochs=1, train=FOUR)
    assert len(calls) == 4
    assert noted.at_end[0] == pytest.approx(AT_START)
    assert all(map(is_one, noted.at_end[1:]))


class Pair(Toy):
    """Two layers, each with its own optimizer, one of them unknown to Lightning."""

    def __init__(self, private):
        super().__init__()
        self.automatic_optimization = False
        self.second, self.private = nn.Linear(3, 1), private
        self.seen = []

    def configure_optimizers(self):
        first, second = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (self.layer, self.second))
        self.kept = second
        return [first] if self.private else [first, second]

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizers = self.optimizers()
        turn = [optimizers, self.kept] if self.private else optimizers
        optimizer = turn[batch_idx % 2]
        optimizer.zero_grad()
        self.manual_backward(nn.functional.mse_loss(self.layer(x) + self.second(x), y))
        before = [one.weight.detach().clone() for one in (self.layer, self.second)]
        optimizer.step()
        after = [one.weight.detach().clone() for one in (self.layer, self.second)]
        self.seen.append([not torch.equal(*each) for each in zip(before, after, strict=True)])


@pytest.mark.parametrize("private", [False, True], ids=["Lightning's", "one of the module's own"])
def test_each_optimizer_constrains_its_own_weights(private):
    calls, unit = counting()
    module = Pair(private)
    fit(module, Constraints({"weight": unit}), epochs=2, train=FOUR)
    assert len(calls) == 8
    assert module.seen == [[True, False], [False, True]] * 4
    assert is_one(module.layer.weight.norm().item())
    assert is_one(module.second.weight.norm().item())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", AUTOMATIC)
@pytest.mark.filterwarnings("ignore:.*no call of step.. was seen")
def test_every_update_is_followed_by_one_constraint(kind, accumulate):
    (calls, unit), noted = counting(), Noted()
    fit(
        Dictionary(AUTOMATIC[kind]), noted, Constraints({"weight": unit}),
        train=FOUR, epochs=2, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    assert len(calls) == 8 // accumulate
    late = kind == "read-only duck"  # whose step is only noticed when the batch is over
    assert all(map(is_one, noted.at_start[accumulate:] if late else noted.at_end[accumulate - 1 :]))


@pytest.mark.parametrize("kind", ["SAM", "SAM, groups copied"])
def test_sam_in_two_steps(kind):
    (calls, unit), noted = counting(), Noted()
    fit(TwoSteps(AUTOMATIC[kind]), Constraints({"weight": unit}), noted, train=FOUR, epochs=2)
    assert len(calls) == 8
    assert all(map(is_one, noted.at_end))


def test_unannounced_steps_are_noticed_by_batch_and_warn_once():
    calls, unit = counting()
    with pytest.warns(UserWarning, match="Constraints: the weights of OwnArithmetic have changed, but no call") as told:
        fit(TwoSteps(OwnArithmetic), Constraints({"weight": unit}), train=FOUR, epochs=2)
    assert len(calls) == 8
    assert sum("no call of step()" in str(one.message) for one in told) == 1


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("with_scheduler", [False, True])
def test_replacement_optimizer_is_followed(hook, with_scheduler):
    calls, unit = counting()
    act = Does(
        by_strategy(lambda parameters: torch.optim.Adam(parameters, lr=0.1)), hook, batch=1 if "batch" in hook else 0
    )
    others = [LearningRateScheduler(Constant(0.1))] if with_scheduler else []
    module = Toy()
    fit(module, Constraints({"weight": unit}), *others, act, train=FOUR)
    assert act.done
    assert len(calls) == 12
    assert is_one(module.layer.weight.norm().item())


def test_scheduler_that_splits_the_groups():
    calls, unit = counting()
    scheduler = LearningRateScheduler([StepDecay(0.1, every="1ep"), Assign(Constant(0.01), params="bias")])
    fit(Toy(), scheduler, Constraints({"weight": unit}), train=FOUR)
    assert calls == [(3, 1)] * 12
    assert scheduler.audit.followed == scheduler.audit.steps == 12


class Frozen(Toy):
    """Its second layer is unfrozen, and added to the optimizer, in epoch 1."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(1, 1)
        nn.init.constant_(self.second.weight, 2.0)
        self.second.requires_grad_(False)

    def compute_loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.second(self.layer(x)), y)

    def configure_optimizers(self):
        return KerasSGD(self.layer.parameters(), lr=0.01)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.second.requires_grad_(True)
            self.trainer.optimizers[0].add_param_group({"params": self.second.parameters()})


def test_a_frozen_parameter_is_constrained_once_it_is_trained():
    module, norms_at_end = Frozen(), []

    class End(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            norms_at_end.append(pl_module.second.weight.abs().item())

    fit(module, Constraints({r"second\.weight": UnitNorm()}), End(), epochs=2)
    assert norms_at_end == [2.0, pytest.approx(1.0, abs=1e-5)]


def test_checkpoints_hold_constrained_weights_and_no_state(tmp_path):
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    fit(Toy(), Constraints(UNIT), checkpoint, epochs=1, enable_checkpointing=True)
    saved = [torch.load(path, weights_only=True) for path in tmp_path.glob("*.ckpt")]
    assert len(saved) == 6
    for one in saved:
        assert is_one(one["state_dict"]["layer.weight"].norm().item())
        assert "Constraints" not in str(one["callbacks"].keys())


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    make = lambda parameters: KerasSGD(parameters, lr=0.1, momentum=0.9)  # noqa: E731
    meant = {"weight": MinMaxNorm(0.5, 0.7, 0.3)}
    whole, first, second = Toy(make), Toy(make), Toy(make)
    fit(whole, Constraints(meant), epochs=3)
    fit(first, Constraints(meant), epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    fit(second, Constraints(meant), epochs=3, ckpt_path=tmp_path / "one.ckpt")
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_constraint_that_does_not_match_the_module_is_refused():
    with pytest.raises(
        InvalidArgumentError,
        match=r"a regular expression found in the name of a parameter \(layer\.weight, layer\.bias\)",
    ):
        fit(Toy(), Constraints({"kernel": MaxNorm()}))
    with pytest.raises(
        InvalidArgumentError, match=r"MaxNorm\.axis must be different axes of layer\.weight, whose shape \(1, 3\)"
    ):
        fit(Toy(), Constraints({"weight": MaxNorm(axis=[0, 1, 2])}))


def test_hydra_builds_the_callback_from_plain_values():
    constraints = {
        r"layer\.weight$": {"_target_": "lr_plugins.keras.constraints.MaxNorm", "max_value": 3, "axis": [0, 1]},
        "bias": "non_neg",
        "head": None,
    }
    node = {"_target_": "lr_plugins.keras.constraints.Constraints", "constraints": constraints}
    callback = instantiate(OmegaConf.create(node))
    assert callback.constraints == {r"layer\.weight$": MaxNorm(3, [0, 1]), "bias": NonNeg(), "head": None}


class NoArguments(Toy):
    def __init__(self):
        super().__init__()


def test_lightning_cli_builds_the_callback_from_plain_values():
    unit = {"class_path": "lr_plugins.keras.constraints.MaxNorm", "init_args": {"max_value": 0.3}}
    callback = {
        "class_path": "lr_plugins.keras.constraints.Constraints",
        "init_args": {"constraints": {r"weight$": unit, r"bias$": "non_neg"}},
    }
    config = {"trainer": {**QUIET, "max_epochs": 1, "callbacks": [callback]}}
    cli = LightningCLI(NoArguments, args=config, run=False, save_config_callback=None)
    cli.trainer.fit(cli.model, FOUR)
    assert cli.model.layer.weight.norm().item() == pytest.approx(0.3, rel=1e-5)
    assert cli.model.layer.bias.item() >= 0


def test_nothing_is_followed_after_a_fit_or_an_error():
    module, callback = Toy(), Constraints(UNIT)
    trainer = fit(module, callback, epochs=1)

    def is_free():
        with torch.no_grad():
            module.layer.weight.fill_(5.0)
        module.compute_loss(next(iter(FOUR))).backward()
        trainer.optimizers[0].step()
        return module.layer.weight.norm().item() > 2

    assert is_free()

    class Fails(pl.Callback):
        def on_train_batch_end(self, *_):
            raise KeyError("no")

    with pytest.raises(KeyError):
        trainer = fit(module, callback, Fails(), epochs=1)
    assert is_free()
    assert callback._followed == callback._foreign == callback._unseen == []
    fit(module, callback, epochs=1)  # and it can be used again
    assert is_one(module.layer.weight.norm().item())


def test_steps_of_a_search_without_the_callback_are_ignored():
    calls, unit = counting()
    callback = Constraints({"weight": unit})

    class Search(pl.Callback):
        """Takes a step while other callbacks have the Trainer, as Lightning's searches do."""

        def on_train_start(self, trainer, pl_module):
            callbacks, trainer.callbacks = trainer.callbacks, []
            pl_module.compute_loss(next(iter(FOUR))).backward()
            trainer.optimizers[0].step()
            trainer.callbacks = callbacks

    fit(Toy(), callback, Search(), epochs=1, train=FOUR)
    assert len(calls) == 4


def test_callback_copies_and_pickles_before_and_during_a_fit():
    copies = []

    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            copies.append(pickle.loads(pickle.dumps(callback)))
            copies.append(copy.deepcopy(callback))

    callback = Constraints({r"weight$": UnitNorm(), "bias": "non_neg"}, layout="torch")
    fit(Toy(), callback, Copies(), epochs=1, train=FOUR)
    assert len(copies) == 8
    for one in copies:
        assert (one.constraints, one.layout) == ({r"weight$": UnitNorm(), "bias": NonNeg()}, "torch")
    module = Toy()
    fit(module, copies[0], epochs=1)
    assert is_one(module.layer.weight.norm(dim=0).max().item())


@pytest.mark.parametrize(
    ("function", "returned"),
    [(lambda w: w.sum(), r"\(\)"), (lambda w: None, "NoneType"), (lambda w: w.numpy(), "ndarray")],
)
def test_function_with_an_invalid_result_is_named(function, returned):
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    constrain(optimizer, layer, {r"weight$": function})
    layer(torch.ones(1, 3)).sum().backward()
    with pytest.raises(
        TrainingError, match=rf"<lambda> must return a tensor of the weight's shape, .*; it returned {returned}"
    ):
        optimizer.step()


NON_NEGATIVE = {"_target_": "lr_plugins.keras.constraints.NonNeg", "params": None, "layout": "keras"}


class Recurrent(Toy):
    def __init__(self):
        super().__init__()
        self.recurrent, self.norm = nn.LSTM(3, 2), nn.LayerNorm(2)


def test_option_of_hydra_constrains_all_parameters_with_two_dimensions():
    config = OmegaConf.create({"constraint": NON_NEGATIVE})
    (callback,) = weight_constraints(config, Recurrent())
    (pattern,) = callback.constraints
    names = [name for name, _ in Recurrent().named_parameters() if re.search(pattern, name)]
    assert names == ["layer.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0"]


def test_option_of_hydra_names_the_parameters_where_none_has_two_dimensions():
    class Scale(Toy):
        def __init__(self):
            super().__init__()
            self.layer = nn.LayerNorm(3)

    config = OmegaConf.create({"constraint": NON_NEGATIVE})
    with pytest.raises(
        LearningRateError,
        match=r"^constraint: the model has no parameter with 2 or more dimensions\. Set constraint\.params to a "
        r"regular expression for the names of the parameters to constrain, among layer\.weight, layer\.bias\.$",
    ):
        list(weight_constraints(config, Scale()))
