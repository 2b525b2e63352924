"""The search leaves no trace in the run."""

from __future__ import annotations

import functools
import random
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateFinder
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from lr_plugins import (
    CosineDecay,
    LearningRateScheduler,
    LearningRateTrace,
)
from lr_plugins._lightning.atomic_checkpoints import AtomicFiles
from lr_plugins.callbacks import History
from lr_plugins.callbacks.last_checkpoint import LastCheckpoint
from lr_plugins.callbacks.lr_finder.snapshot import Snapshot
from lr_plugins.callbacks.random_states import RandomStates
from lr_plugins.training.data import Batches
from tests.callbacks.lr_finder.helpers import Everything, Memory, alike, finder, fit
from tests.toys import Toy, Used, loader


def samples(count=26):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator)
    return x, x.sum(1, keepdim=True)


def shuffled(**options):
    return DataLoader(TensorDataset(*samples()), batch_size=4, shuffle=True, **options)


class Module(pl.LightningDataModule):
    def train_dataloader(self):
        order = torch.randperm(26)  # a new random split
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
        assert one == other or one != one, where  # NaN equals NaN here


def outcome(folder, search, data=shuffled, module=Everything, schedule=None, **options):
    """What a run comes to: all that it has trained, logged and saved."""
    pl.seed_everything(1, verbose=False)
    torch.rand(3)
    model, memory, metrics, used = module(), Memory(), History(), Used()
    scheduler = LearningRateScheduler(schedule or CosineDecay(), on_conflict="ours")
    last = LastCheckpoint(folder, every_n_steps=5, min_seconds=0.0)
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


def test_equal_runs_compare_equal_and_different_ones_do_not(tmp_path):
    one = outcome(tmp_path, [])
    same(one, outcome(tmp_path, []))
    with pytest.raises(AssertionError):
        same(one, outcome(tmp_path, [], schedule=CosineDecay(0.02)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data", DATA)
def test_unapplied_search_leaves_the_run_bit_identical(data, tmp_path):
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
def test_unapplied_search_changes_no_way_of_training(way, tmp_path):
    search = finder(apply=False)
    same(outcome(tmp_path, [search], **WAYS[way]), outcome(tmp_path, [], **WAYS[way]))
    assert len(search.curve) > 5


class Assigns(Toy):
    """Has buffers, parameters, modules and attributes that its training reassigns, fills or adds."""

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


def test_attributes_changed_by_the_search_are_restored():
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


def test_list_of_plain_values_is_copied_as_a_whole():
    class Refuses(list):
        clear = None  # nothing that stays as it is is written to

    numbers = list(range(1000))
    snapshot = Snapshot({"numbers": numbers, "constant": Refuses("ab")})
    assert len(snapshot._restores) == 3  # for the dict and the two lists, none for an element
    numbers[5] = -1
    snapshot.restore()
    assert numbers == list(range(1000))


def test_snapshot_handles_cycles_and_shared_values():
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


def test_snapshot_restores_resized_and_cast_values():
    weight, buffer, array = torch.nn.Parameter(torch.ones(2)), torch.ones(2), np.ones(2)
    snapshot = Snapshot([weight, buffer, array])
    weight.data = weight.data.half()
    buffer.resize_(3)
    array.resize(3, refcheck=False)
    snapshot.restore()
    same([weight.data, buffer, array.tolist()], [torch.ones(2), torch.ones(2), [1.0, 1.0]])
    assert weight.dtype == torch.float32


def test_search_leaves_no_gradients_and_frozen_stays_frozen():
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


def test_failed_search_restores_the_trainer():
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
