"""The learning-rate range test: what it suggests, what becomes of it, and that nothing else is left of the search."""

import csv
import functools
import itertools
import json
import random
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import LearningRateFinder
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lr_plugins import (
    Assign,
    Constant,
    CosineDecay,
    LearningRateAudit,
    LearningRateRangeTest,
    LearningRateScheduleMixin,
    LearningRateScheduler,
    LearningRateTrace,
    StepDecay,
)
from lr_plugins._lightning.atomic_checkpoints import AtomicFiles
from lr_plugins.callbacks import History
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.lr_finder.curve import LossCurve, rates_between
from lr_plugins.callbacks.lr_finder.snapshot import Snapshot
from lr_plugins.callbacks.lr_finder.suggestion import METHODS, suggest
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.errors import InvalidArgument, TrainingError, UnsupportedError
from lr_plugins.training.data import Batches
from tests import toys
from tests.toys import Toy, Used, loader

SEARCH = {"min_learning_rate": 1e-4, "max_learning_rate": 1.0, "num_training_steps": 20, "verbose": 0}
finder = functools.partial(LearningRateRangeTest, **SEARCH)


def alike():
    """Six batches an epoch, all the same: what the loss does is the learning rate's doing."""
    x, y = loader().dataset.tensors
    return DataLoader(TensorDataset(x.repeat(6, 1), y.repeat(6, 1)), batch_size=len(x))


def fit(module, *callbacks, train=None, **options):
    return toys.fit(module, *callbacks, train=alike() if train is None else train, **options)


# --- what a curve suggests ------------------------------------------------------------------------------------------


def curve_of(losses, smoothing=0.0, low=1e-6, high=1.0, mode="exponential"):
    curve = LossCurve(smoothing)
    for rate, loss in zip(rates_between(low, high, len(losses), mode), losses, strict=True):
        curve.add(rate, loss)
    return curve


AXIS = np.linspace(-6, 0, 61)  # powers of ten
FALL = 2.0 - 1.5 / (1 + np.exp(-6 * (AXIS + 2.5))) + np.where(AXIS > -1, 10 * (AXIS + 1), 0)


@pytest.mark.parametrize(("method", "power"), [("steepest", -2.5), ("minimum", -1 - 1)])
def test_the_suggestion_is_where_the_method_says(method, power):
    assert suggest(curve_of(FALL), method, "exponential").learning_rate == pytest.approx(10**power)


def test_the_valley_is_where_fastai_has_it():
    def fastais(losses):
        lengths, start, end = [1] * len(losses), 0, 0
        for at in range(1, len(losses)):
            for before in range(at):
                if losses[at] < losses[before] and lengths[at] < lengths[before] + 1:
                    lengths[at] = lengths[before] + 1
                if lengths[end] < lengths[at]:
                    end, start = at, at - lengths[at]
        third = (end - start) / 3
        return start + int(third) + int(third / 2)

    generator = np.random.default_rng(0)
    for count in (10, 37, 90):
        losses = np.cumsum(generator.normal(-0.05, 0.3, count)) + 10
        rates = np.geomspace(1e-6, 1, count)
        at = int(np.flatnonzero(rates == METHODS["valley"](rates, losses, "exponential"))[0])
        assert abs(at - max(fastais(losses), 0)) <= 1  # theirs is rounded twice


def test_with_linear_distances_the_steepest_fall_is_along_them():
    losses = [1.0] * 20 + [0.9, 0.8, 0.2, 0.1] + [0.05] * 6
    rates = rates_between(0.1, 3.0, 30, "linear")
    found = suggest(curve_of(losses, low=0.1, high=3.0, mode="linear"), "steepest", "linear").learning_rate
    assert found in rates[20:23]


@pytest.mark.parametrize("seed", range(20))
def test_the_noise_before_the_fall_has_steep_places_that_do_not_count(seed):
    """The first smoothed losses are nearly those of single batches; the fall is between steps 60 and 80."""
    level = np.interp(np.arange(90), [60, 80], [3.0, 1.0])
    losses = level + np.random.default_rng(seed).normal(0, 0.4, 90)
    curve = curve_of(list(losses), low=1e-6, high=1.0, smoothing=0.9)
    found = suggest(curve, "steepest", "exponential").learning_rate
    assert curve.rates[58] < found < curve.rates[89]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ([2.0] * 60, "falls by no more than its noise between"),
        (2.0 + np.random.default_rng(1).normal(0, 0.1, 60), "falls by no more than its noise between"),
        (np.linspace(1, 3, 60), "falls by no more than its noise between"),
        ([float("nan")], "the loss is nan at the first step"),
        ([2.0, 1.9, 1.8], "losses of 3 steps are too few to judge by"),
        ([], "losses of 0 steps are too few to judge by"),
    ],
    ids=["constant", "noise", "rising", "nan", "few", "none"],
)
def test_without_a_fall_there_is_no_suggestion(losses, why, method):
    curve = LossCurve(0.9)
    for rate, loss in zip(itertools.count(1), losses, strict=False):
        curve.add(float(rate), float(loss))
    found = suggest(curve, method, "exponential")
    assert found.learning_rate is None
    assert why in found.note


def test_a_fall_among_noise_is_seen():
    noisy = FALL + np.random.default_rng(2).normal(0, 0.2, len(FALL))
    found = suggest(curve_of(noisy, 0.9), "steepest", "exponential").learning_rate
    assert 1e-3 < found < 0.1


def test_the_smoothed_loss_begins_at_the_loss_and_a_constant_stays_one():
    assert curve_of([3.0] * 9, 0.98).smoothed == pytest.approx([3.0] * 9, rel=1e-12)


def test_it_ends_where_the_loss_is_far_above_its_lowest_or_no_number():
    assert not curve_of([2.0, 1.0, 3.9]).has_diverged(4.0)
    assert curve_of([2.0, 1.0, 4.1]).has_diverged(4.0)
    assert not curve_of([2.0, 1.0, 99.0]).has_diverged(None)
    assert curve_of([2.0, float("inf")]).has_diverged(None)
    assert not curve_of([-1.0, -5.0, 9.0]).has_diverged(4.0)  # a likelihood's loss may be negative
    assert curve_of([-1.0, -5.0, 11.0]).has_diverged(4.0)


# --- nothing is left of the search ----------------------------------------------------------------------------------


class Everything(Toy):
    """With dropout, running means, a buffer that is not saved, a counter, a list, and draws from all random numbers."""

    def __init__(self, make_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01), schedulers=False):
        super().__init__(make_optimizer)
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3))
        self.layer = torch.nn.Linear(8, 1)
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.steps, self.history, self.average = 0, [], {"loss": torch.zeros(())}
        self.schedulers = schedulers

    def compute_loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(self.body(x)), y)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.seen += 1
        self.begun_with = getattr(self, "begun_with", self.trainer.limit_val_batches)  # another one in the search
        self.history.append(random.random() + np.random.random())  # noqa: NPY002
        loss = super().training_step(batch, batch_idx)
        self.average["loss"] += loss.detach()
        self.log("step_loss", loss, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if not self.schedulers:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


class Memory(DummyLogger):
    def __init__(self):
        super().__init__()
        self.points, self.params, self.artifacts = [], [], []

    def log_metrics(self, metrics, step=None):
        self.points.append((step, dict(metrics)))

    def log_hyperparams(self, params, *_):
        self.params.append(params)

    def log_artifact(self, path):
        self.artifacts.append(path.name)


def samples(count=26):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator)
    return x, x.sum(1, keepdim=True)


def shuffled(**options):
    return DataLoader(TensorDataset(*samples()), batch_size=4, shuffle=True, **options)


class Module(pl.LightningDataModule):
    def train_dataloader(self):
        order = torch.randperm(26)  # a division that is drawn anew
        return DataLoader(TensorDataset(*(one[order] for one in samples())), batch_size=4)


DATA = {
    "global": shuffled,
    "generator": lambda: shuffled(generator=torch.Generator().manual_seed(5)),
    "workers": lambda: shuffled(num_workers=1, persistent_workers=True, generator=torch.Generator().manual_seed(5)),
    "our own": lambda: Batches(*samples(), 4, shuffle=True, seed=3),
    "two": lambda: {"a": shuffled(), "b": loader()},
    "drawn": Module,
}


class Two(Everything):
    def compute_loss(self, batch):
        return super().compute_loss(batch["a"]) + super().compute_loss(batch["b"]) if "a" in batch else 0


def same(one, other, where="checkpoint"):
    """Whether everything in two trees of values is equal, bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            same(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}[{index}]")
    else:
        assert one == other or one != one, where  # NaN is what it is


def outcome(folder, search, data=shuffled, module=Everything, schedule=None, **options):
    """What a run comes to: all that it has trained, logged and saved."""
    pl.seed_everything(1, verbose=False)
    torch.rand(3)
    model, memory, metrics, used = module(), Memory(), History(), Used()
    scheduler = LearningRateScheduler(schedule or CosineDecay(), on_conflict="ours")
    last = LastCheckpoint(folder, every_n_steps=5)
    callbacks = [metrics, last, scheduler, LearningRateTrace(), used, *search, RandomStates()]
    options = {"val": loader(8), "logger": memory, "log_every_n_steps": 2, "num_sanity_val_steps": 1, **options}
    plugins = [AtomicFiles(), *(make() for make in options.pop("plugins", ()))]
    trainer = fit(model, *callbacks, train=data(), plugins=plugins, **options)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    checkpoint["callbacks"].pop("LearningRateRangeTest", None)
    return {
        "checkpoint": checkpoint,
        "attributes": [model.steps, model.history, model.average, model.seen, model.begun_with, model.training],
        "logged": memory.points,
        "metrics": metrics.values,
        "used": used.values,
        "drawn next": [torch.rand(3), random.random(), np.random.random()],  # noqa: NPY002
        "callback_metrics": dict(trainer.callback_metrics),
    }


def test_the_same_run_twice_is_the_same_and_another_is_not(tmp_path):
    one = outcome(tmp_path, [])
    same(one, outcome(tmp_path, []))
    with pytest.raises(AssertionError):
        same(one, outcome(tmp_path, [], schedule=CosineDecay(0.02)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data", DATA)
def test_a_run_whose_result_is_not_applied_is_bit_for_bit_the_run_without_a_search(data, tmp_path):
    module = Two if data == "two" else Everything
    options = {"data": DATA[data], "module": module, "val": None if data in ("two", "drawn") else loader(8)}
    search = finder(apply=False)
    same(outcome(tmp_path, [search], **options), outcome(tmp_path, [], **options))
    assert len(search.curve) == 20


def test_lightnings_own_search_changes_the_run(tmp_path):
    """So this would be seen, if it were so of ours."""
    search = LearningRateFinder(1e-4, 1.0, 20, update_attr=False)
    with pytest.raises(AssertionError):
        same(outcome(tmp_path, [search], default_root_dir=tmp_path), outcome(tmp_path, []))


WAYS = {
    "accumulated": {"accumulate_grad_batches": 3},
    "clipped": {"gradient_clip_val": 0.1},
    "validated often": {"val_check_interval": 2},
    "by steps": {"max_steps": 11, "epochs": None},
    "few batches": {"limit_train_batches": 2},
    "reloaded": {"reload_dataloaders_every_n_epochs": 1, "data": DATA["generator"]},
    "bfloat16": {"precision": "bf16-mixed"},
    "scaled": {"plugins": [lambda: MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", growth_interval=5))]},
    "scheduled by torch": {"module": functools.partial(Everything, schedulers=True)},
    "sgd with momentum": {
        "module": functools.partial(Everything, lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9))
    },
    "adagrad": {"module": functools.partial(Everything, lambda parameters: torch.optim.Adagrad(parameters, lr=0.01))},
    "a tensor as lr": {
        "module": functools.partial(Everything, lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)))
    },
    "lbfgs": {"module": functools.partial(Everything, lambda parameters: torch.optim.LBFGS(parameters, lr=0.01))},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_so_it_is_in_whatever_way_it_trains(way, tmp_path):
    search = finder(apply=False)
    same(outcome(tmp_path, [search], **WAYS[way]), outcome(tmp_path, [], **WAYS[way]))
    assert len(search.curve) > 5


class Assigns(Toy):
    """Has buffers, parameters, modules and attributes that its training assigns anew, fills or adds."""

    def __init__(self):
        super().__init__(Counting)
        torch.manual_seed(0)
        self.register_buffer("center", torch.zeros(1))
        self.register_buffer("filled", None)
        self.register_buffer("turns", torch.zeros(1), persistent=False)
        self.register_parameter("scale", None)
        self.teacher = [torch.nn.Linear(3, 1)]  # in a list, where torch does not see it
        self.draws = [torch.Generator().manual_seed(1), np.random.default_rng(2), random.Random(3)]
        self.draws.append(np.random.RandomState(4))
        self.total, self.names, self.last = np.zeros(2), {"a"}, deque([0.0], maxlen=3)
        self.ordered, self.counts = OrderedDict(b=1, a=2), defaultdict(int)
        self.mixed = {"unknown": object(), "seen": [], "pair": (1, [0])}

    def training_step(self, batch, batch_idx):
        self.center = 0.9 * self.center + 0.1
        self.filled = torch.ones(1) if self.filled is None else self.filled + 1
        self.register_buffer("turns", self.turns + 1)  # persistent from here on
        if self.scale is None:
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.late, self.layer = torch.nn.Linear(1, 1), torch.nn.Linear(3, 1)
            self.layer.register_forward_hook(lambda module, args, output: output * 2)
        self._draw()
        return super().training_step(batch, batch_idx) + 0 * self.scale.sum()

    def _draw(self):
        ours, numpys, pythons, legacy = self.draws
        with torch.no_grad():
            self.teacher[0].weight += torch.rand(1, generator=ours)
        self.total += numpys.random(2)
        self.last.append(pythons.random() + legacy.rand())
        self.names.add(f"{self.last[-1]:.3f}")
        self.ordered.move_to_end("b")
        self.ordered["b"] += 1
        self.counts[len(self.names) % 4] += 1
        self.mixed["seen"].append(len(self.names))
        self.mixed["pair"][1][0] += 1


class Counting(torch.optim.SGD):
    def __init__(self, parameters):
        super().__init__(parameters, lr=0.01)
        self.steps_taken, self.norms = 0, []

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps_taken += 1
        self.norms.append(sum(float(value.detach().norm()) for value in self.param_groups[0]["params"]))
        return loss


def test_what_is_assigned_anew_filled_or_added_is_put_back_and_so_are_objects_in_attributes():
    def outcome(*search):
        module = Assigns()
        optimizer = fit(module, *search).optimizers[0]
        return {
            "state": dict(module.state_dict()),
            "modules": [name for name, _ in module.named_modules()],
            "teacher": module.teacher[0].weight,
            "plain": [module.total.tolist(), sorted(module.names), list(module.last), list(module.ordered.items())],
            "counts": dict(module.counts),
            "mixed": [module.mixed["seen"], module.mixed["pair"]],
            "optimizer": [optimizer.steps_taken, optimizer.norms],
        }

    search = finder(apply=False)
    same(outcome(search), outcome())
    assert len(search.curve) == 20


def test_a_list_of_plain_values_is_copied_as_one():
    class Refuses(list):
        clear = None  # nothing that stays as it is is written to

    numbers = list(range(1000))
    snapshot = Snapshot({"numbers": numbers, "constant": Refuses("ab")})
    assert len(snapshot._restores) == 3  # for the dict and the two lists, none for an element
    numbers[5] = -1
    snapshot.restore()
    assert numbers == list(range(1000))


def test_a_snapshot_ends_where_values_are_in_themselves_and_keeps_what_is_shared():
    shared = torch.zeros(2)
    values = [shared, {"again": shared}]
    values.append(values)
    snapshot = Snapshot(values)
    shared += 1
    values[1]["again"] = torch.ones(2)
    snapshot.restore()
    assert values[1]["again"] is values[0] is shared
    assert values[2] is values
    assert shared.tolist() == [0, 0]


def test_a_snapshot_puts_back_what_was_resized_or_cast_in_place():
    weight, buffer, array = torch.nn.Parameter(torch.ones(2)), torch.ones(2), np.ones(2)
    snapshot = Snapshot([weight, buffer, array])
    weight.data = weight.data.half()
    buffer.resize_(3)
    array.resize(3, refcheck=False)
    snapshot.restore()
    same([weight.data, buffer, array.tolist()], [torch.ones(2), torch.ones(2), [1.0, 1.0]])
    assert weight.dtype == torch.float32


def test_there_are_no_gradients_left_and_what_was_frozen_is():
    class Unfreezes(Toy):
        def training_step(self, batch, batch_idx):
            self.layer.bias.requires_grad_(True)
            return super().training_step(batch, batch_idx)

    class Look(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.found = [(one.requires_grad, one.grad) for one in pl_module.parameters()]

    module, look = Unfreezes(), Look()
    module.layer.bias.requires_grad_(False)
    fit(module, finder(apply=False), look)
    assert look.found == [(True, None), (False, None)]


def test_a_search_that_fails_leaves_the_trainer_as_it_was():
    class Fails(Toy):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 4:
                raise KeyError("broken data")
            return super().training_step(batch, batch_idx)

    module, callbacks = Fails(), [finder(), LearningRateScheduler(CosineDecay())]
    trainer = pl.Trainer(max_epochs=2, callbacks=callbacks, logger=False, enable_checkpointing=False, accelerator="cpu")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(KeyError):
        trainer.fit(module, alike())
    same(dict(module.state_dict()), before)
    assert all(one in trainer.callbacks for one in callbacks)
    assert (trainer.global_step, trainer.max_epochs, trainer.limit_val_batches) == (0, 2, 1.0)


# --- what is searched -----------------------------------------------------------------------------------------------


class Rates(Toy):
    """Notes the learning rate of each batch."""

    def training_step(self, batch, batch_idx):
        if not hasattr(self.trainer, "noted"):
            self.trainer.noted = []
        self.trainer.noted.append([float(group["lr"]) for group in self.trainer.optimizers[0].param_groups])
        return super().training_step(batch, batch_idx)


def test_each_step_has_its_learning_rate_and_the_curve_has_the_loss_of_each():
    search = finder(apply=False, smoothing=0.0, early_stop_threshold=None)
    trainer = fit(Rates(), search, epochs=1)
    expected = rates_between(1e-4, 1.0, 20, "exponential")
    assert [rate for (rate,) in trainer.noted[:20]] == search.curve.rates == expected
    assert (expected[0], expected[-1]) == (1e-4, 1.0)
    assert search.curve.losses == search.curve.smoothed == pytest.approx(search.curve.losses)
    assert [rate for (rate,) in trainer.noted[20:]] == [0.1] * 6


def test_a_step_of_several_batches_has_one_learning_rate_and_their_mean_loss():
    search = finder(apply=False, early_stop_threshold=None)
    trainer = fit(Rates(), search, accumulate_grad_batches=4, epochs=1)
    # An epoch of 6 batches has a step of 4 and one of 2.
    counts = [4, 2] * 10
    rates = rates_between(1e-4, 1.0, 20, "exponential")
    expected = [rate for rate, count in zip(rates, counts, strict=True) for _ in range(count)]
    assert [rate for (rate,) in trainer.noted[:60]] == expected
    assert search.curve.rates == rates


def test_param_groups_keep_their_ratio():
    def make(parameters):
        first, *others = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.02}, {"params": others}], lr=0.1)

    search = finder(early_stop_threshold=None)
    trainer = fit(Rates(make), search, LearningRateScheduler(CosineDecay()), epochs=1)
    searched = np.array(trainer.noted[:20])
    assert searched[:, 1].tolist() == rates_between(1e-4, 1.0, 20, "exponential")
    assert searched[:, 0] == pytest.approx(0.2 * searched[:, 1])
    assert trainer.noted[20] == pytest.approx([0.2 * search.found.learning_rate, search.found.learning_rate])


def test_it_takes_as_many_epochs_as_it_needs_and_does_not_validate():
    class Counts(Everything):
        validations = 0

        def validation_step(self, batch, batch_idx):
            type(self).validations += 1

    search = finder(apply=False, num_training_steps=50, early_stop_threshold=None)
    trainer = fit(Counts(), search, epochs=1, val=loader(8, 8))
    assert len(search.curve) == 50
    assert (trainer.global_step, trainer.current_epoch, Counts.validations) == (
        6,
        1,
        2,
    )  # one of them before the training


def test_a_stream_that_ends_gives_as_many_losses_as_it_has():
    class Once(IterableDataset):
        left = iter(range(30))

        def __iter__(self):
            return ((torch.ones(3), torch.ones(1)) for _ in self.left)

    search = finder(apply=False)
    fit(Toy(), search, train=DataLoader(Once(), batch_size=2), epochs=1)
    assert len(search.curve) == 15


def test_batches_without_a_loss_are_left_out():
    class Skips(Toy):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.global_step % 2 else super().training_step(batch, batch_idx)

    search = finder(apply=False, early_stop_threshold=None)
    fit(Skips(), search, epochs=1)
    assert search.curve.rates == rates_between(1e-4, 1.0, 20, "exponential")[::2]


# --- what becomes of it ---------------------------------------------------------------------------------------------


def built_with(rate, kind=torch.optim.SGD):
    return Toy(lambda parameters: kind(parameters, lr=rate))


def weights(module):
    return {name: value.tolist() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("schedule", [CosineDecay(), StepDecay(every="1ep").with_warmup(4), lambda epoch, lr: lr * 0.5])
def test_the_run_is_the_one_of_an_optimizer_built_with_what_is_found(schedule, order):
    search, scheduler, used = finder(), LearningRateScheduler(schedule), Used()
    module, audit = built_with(0.1), LearningRateAudit()
    fit(module, *[search, scheduler][::order], used, audit)
    found = search.found.learning_rate
    assert found not in (None, 0.1)
    other, again = LearningRateScheduler(schedule), built_with(found)
    fit(again, other)
    assert used.values == scheduler.trace["lr"].values.tolist() == other.trace["lr"].values.tolist()
    assert (scheduler.audit.steps, scheduler.audit.followed) == (18, 18)
    assert weights(module) == weights(again)


def test_without_a_scheduler_it_is_the_learning_rate_of_all_steps():
    search, trace = finder(), LearningRateTrace()
    fit(built_with(0.1), search, trace)
    assert trace.trace["lr"].values.tolist() == [search.found.learning_rate] * 18


@pytest.mark.parametrize("lr", [0.0, 0.1, torch.tensor(0.1)])
def test_whatever_the_optimizer_was_built_with(lr):
    search, scheduler = finder(), LearningRateScheduler(Constant())
    trainer = fit(built_with(lr), search, scheduler)
    assert scheduler.trace["lr"].values == pytest.approx([search.found.learning_rate] * 18)
    assert float(trainer.optimizers[0].defaults["lr"]) == pytest.approx(search.found.learning_rate)


def test_the_schedule_of_a_module_starts_from_it_and_so_do_those_of_groups():
    class Net(LearningRateScheduleMixin, Toy):
        def configure_learning_rate_schedule(self):
            return [CosineDecay(), Assign(Constant(), params="bias")]

    search, used = finder(), Used()
    trainer = fit(Net(), search, used)
    found = search.found.learning_rate
    rates = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert used.values[0] == rates["bias"] == found


def test_a_scheduler_that_the_module_returns_as_well_is_overridden_as_ever():
    class Net(Toy):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    search, scheduler = finder(), LearningRateScheduler(StepDecay(every="1ep"))
    with pytest.warns(UserWarning, match="overrides it"):
        fit(Net(), search, scheduler)
    found = search.found.learning_rate
    assert scheduler.trace["lr"].values.tolist() == [found * factor for factor in (1, 0.5, 0.25) for _ in range(6)]


@pytest.mark.parametrize(
    "schedule",
    [CosineDecay(0.1), Constant(0.1) * StepDecay(), lambda epoch: 0.1, [Assign(Constant(0.1), params="bias")]],
)
def test_it_is_refused_where_no_schedule_would_start_from_it(schedule):
    with pytest.raises(UnsupportedError, match="cannot apply its suggestion, because the schedule has"):
        fit(None, finder(), LearningRateScheduler(schedule))
    search = finder(apply=False)
    fit(None, search, LearningRateScheduler(schedule))
    assert search.found.learning_rate


@pytest.mark.parametrize("callbacks", [[], [LearningRateScheduler(CosineDecay(), on_conflict="theirs")]])
def test_it_is_refused_where_schedulers_of_the_module_drive(callbacks):
    with pytest.raises(UnsupportedError, match=r"cannot apply its suggestion to the module's LR schedulers \(StepLR\)"):
        fit(Everything(schedulers=True), finder(), *callbacks)


class Diverges(Toy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * float("nan")


class Flat(Toy):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0 + 1


@pytest.mark.parametrize(("kind", "why"), [(Diverges, "is nan at the first step"), (Flat, "by no more than its noise")])
def test_without_a_suggestion_the_run_goes_on_as_it_was_or_ends(kind, why, capsys):
    search, scheduler = finder(verbose=1), LearningRateScheduler(Constant())
    fit(kind(), search, scheduler)
    assert scheduler.trace["lr"].values.tolist() == [0.1] * 18
    assert search.found.learning_rate is None
    first, line = capsys.readouterr().out.splitlines()
    assert first == "Learning-rate range test: 20 steps with learning rates from 0.0001 to 1"
    assert line.startswith("Learning-rate range test: no suggestion: ")
    assert why in line
    assert line.endswith("; SGD.lr stays 0.1")
    with pytest.warns(UserWarning, match="range test: no suggestion"):
        fit(kind(), finder())
    with pytest.raises(TrainingError, match="no suggestion"):
        fit(kind(), finder(on_failure="error"))


def test_it_says_what_it_did(capsys):
    search = finder(verbose=1)
    fit(built_with(0.1), search)
    *_, line = capsys.readouterr().out.splitlines()
    found = search.found
    assert line == f"Learning-rate range test: {found}; SGD.lr is {found.learning_rate:.6g} instead of 0.1"
    fit(built_with(0.1), finder(apply=False, verbose=1))
    *_, line = capsys.readouterr().out.splitlines()
    assert line == f"Learning-rate range test: {found}; not applied, SGD.lr stays 0.1"


def test_the_table_the_picture_and_the_loggers(tmp_path):
    memory, search = Memory(), finder(dirpath=tmp_path / "new")
    fit(None, search, logger=memory)
    with (tmp_path / "new/lr_finder.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == search.curve.rates
    assert [float(row["loss"]) for row in rows] == search.curve.losses
    with Image.open(tmp_path / "new/lr_finder.png") as picture:
        assert picture.size == (960, 540)
    assert memory.artifacts == ["lr_finder.csv", "lr_finder.png"]
    assert {"lr_finder": {"suggestion": search.found.learning_rate, "applied_to": "SGD.lr"}} in memory.params


@pytest.mark.parametrize("kind", [Diverges, Flat])
def test_there_is_a_picture_without_a_suggestion_too(kind, tmp_path):
    fit(kind(), finder(dirpath=tmp_path), logger=CSVLogger(tmp_path))
    with Image.open(tmp_path / "lr_finder.png") as picture:
        assert picture.size == (960, 540)


# --- a run that goes on ---------------------------------------------------------------------------------------------


class Never(LearningRateRangeTest):
    """Must not search."""

    def _search(self, trainer, pl_module):
        raise AssertionError("searched again")

    state_key = "LearningRateRangeTest"


def trained(folder, search, schedule, epochs, ckpt_path=None, module=None):
    scheduler, last = LearningRateScheduler(schedule), LastCheckpoint(folder)
    module = module or built_with(0.1)
    fit(module, last, scheduler, search, epochs=epochs, ckpt_path=ckpt_path)
    return module, scheduler


def test_a_run_that_goes_on_keeps_what_was_found_and_does_not_search_again(tmp_path):
    schedule, search, again = StepDecay(every="1ep"), finder(), Never(**SEARCH)
    whole, _ = trained(tmp_path / "whole", finder(), schedule, 4)
    trained(tmp_path / "first", search, schedule, 2)
    rest, scheduler = trained(tmp_path / "rest", again, schedule, 4, tmp_path / "first/last.ckpt")
    assert again.found == search.found
    assert again.curve is None
    assert weights(rest) == weights(whole)
    found = search.found.learning_rate
    assert scheduler.trace["lr"].values.tolist() == [found * factor for factor in (0.25, 0.125) for _ in range(6)]


def test_without_a_scheduler_it_goes_on_with_what_was_found(tmp_path):
    search, trace, last = finder(), LearningRateTrace(), LastCheckpoint(tmp_path)
    fit(built_with(0.1), last, search, epochs=1)
    fit(built_with(0.1), trace, Never(**SEARCH), epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert trace.trace["lr"].values.tolist() == [search.found.learning_rate] * 6


@pytest.mark.parametrize("change", ["no finder", "apply=False"])
def test_a_run_that_goes_on_without_it_would_jump_and_is_refused(change, tmp_path):
    schedule, search = StepDecay(every="1ep"), finder()
    trained(tmp_path, search, schedule, 2)
    other = pl.Callback() if change == "no finder" else finder(apply=False)
    with pytest.raises(TrainingError) as refusal:
        trained(tmp_path / "rest", other, schedule, 4, tmp_path / "last.ckpt")
    assert f"the optimizer's learning rate  {search.found.learning_rate:g}" in str(refusal.value)


def test_a_run_that_was_begun_without_it_goes_on_without_it(tmp_path, capsys):
    schedule = StepDecay(every="1ep")
    trained(tmp_path, pl.Callback(), schedule, 2)
    again = Never(**{**SEARCH, "verbose": 1})
    _, scheduler = trained(tmp_path, again, schedule, 3, tmp_path / "last.ckpt")
    assert scheduler.trace["lr"].values.tolist() == [0.025] * 6
    assert "range test: none, because the run was started without" in capsys.readouterr().out


def test_a_second_fit_of_a_trainer_goes_on_and_a_new_trainer_searches_anew():
    search, scheduler, module = finder(), LearningRateScheduler(StepDecay(every="1ep")), built_with(0.1)
    trainer = fit(module, search, scheduler, epochs=1)
    found = search.found
    search._search = None  # must not be called
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, alike())
    assert scheduler.trace["lr"].values.tolist() == [found.learning_rate] * 6 + [found.learning_rate / 2] * 6
    del search._search
    fit(built_with(0.3), search, epochs=1)
    assert search.found == found


def test_a_search_that_was_interrupted_is_made_when_the_run_goes_on(tmp_path):
    class Interrupted(Toy):
        stops = True

        def training_step(self, batch, batch_idx):
            if self.stops and self.trainer.global_step == 7:
                self.trainer._signal_connector.received_sigterm = True
            return super().training_step(batch, batch_idx)

    whole, _ = trained(tmp_path / "whole", finder(), StepDecay(every="1ep"), 2)
    with pytest.raises(SystemExit):
        trained(tmp_path / "first", finder(), StepDecay(every="1ep"), 2, module=Interrupted())
    search, module = finder(), Interrupted()
    module.stops = False
    rest, _ = trained(tmp_path / "rest", search, StepDecay(every="1ep"), 2, tmp_path / "first/last.ckpt", module)
    assert search.found.learning_rate
    assert weights(rest) == weights(whole)


# --- several processes ----------------------------------------------------------------------------------------------


def test_two_processes_find_the_same_from_the_mean_of_their_losses_and_undo_it(tmp_path):
    command = [sys.executable, "-m", "tests.callbacks.lr_finder_ranks", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=150)
    assert all((tmp_path / f"{rank}.json").exists() for rank in (0, 1)), done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for ways in (first, second):
        undone = {**ways["not applied"], "losses": [], "found": None}
        assert undone == ways["without"]
        assert ways["applied"]["lr"][0] == ways["applied"]["found"] != 0.01
        assert ways["not applied"]["found"] == ways["applied"]["found"]
    assert first["applied"]["losses"] == second["applied"]["losses"]
    assert first["applied"]["weights"] == second["applied"]["weights"]
    # The first process writes and speaks.
    assert sorted(path.name for path in (tmp_path / "True").iterdir()) == ["lr_finder.csv", "lr_finder.png"]
    assert done.stdout.count("steps with learning rates from") == 2


# --- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("min_learning_rate", 0),
        ("min_learning_rate", "low"),
        ("max_learning_rate", 1e-9),
        ("num_training_steps", 9),
        ("num_training_steps", 20.0),
        ("mode", "cubic"),
        ("early_stop_threshold", 1),
        ("smoothing", 1.0),
        ("smoothing", -0.1),
        ("suggestion", "best"),
        ("apply", "yes"),
        ("on_failure", "ignore"),
        ("verbose", "yes"),
    ],
)
def test_an_argument_out_of_its_range_is_named(argument, value):
    with pytest.raises(InvalidArgument, match=f"LearningRateRangeTest.{argument} must be"):
        LearningRateRangeTest(**{argument: value})


def test_what_cannot_be_searched_is_refused():
    class Manual(Toy):
        def __init__(self, count=1):
            super().__init__(lambda parameters: [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(count)])
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            pass

    with pytest.raises(UnsupportedError, match="does not support manual optimization"):
        fit(Manual(), finder())
    with pytest.raises(UnsupportedError, match=r"needs exactly one optimizer, but configure_optimizers\(\) returned 2"):
        fit(Manual(2), finder())

    class Lazy(Toy):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.LazyLinear(1)

    with pytest.raises(UnsupportedError, match="lazy modules"):
        fit(Lazy(), finder())


def test_a_dry_run_does_not_search():
    search = finder()
    fit(None, search, fast_dev_run=True)
    assert search.found is None


def test_trainers_of_the_other_package_search_as_well():
    import lightning.pytorch as lightning

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return torch.nn.functional.mse_loss(self.layer(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    search, scheduler = finder(), LearningRateScheduler(Constant())
    lightning.Trainer(max_epochs=1, callbacks=[scheduler, search], **toys.QUIET).fit(Net(), alike())
    assert scheduler.trace["lr"].values.tolist() == [search.found.learning_rate] * 6
