"""Lengths in samples in real trainings: each optimizer step uses the intended learning rate."""

import itertools

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from lr_plugins import (
    Chain,
    Constant,
    CosineDecay,
    ExponentialDecay,
    LearningRateScheduler,
    RunLength,
    StepDecay,
    preview,
)
from lr_plugins.errors import TrainingError
from lr_plugins.training.data import Batches
from tests.toys import QUIET, Toy, Used, fit, loader

HALVED = StepDecay(0.1, drop=0.5, every="8sp")


def used_in(schedule, train, epochs=2, module=None, **options):
    used = Used()
    fit(module, LearningRateScheduler(schedule), used, epochs=epochs, train=train, **options)
    return used.values


def samples(count=24):
    return loader(count).dataset


class Stream(IterableDataset):
    def __init__(self, count=24):
        self.count = count

    def __iter__(self):
        yield from (samples()[at] for at in range(self.count))


class Unsized:
    """One that does not."""

    def __iter__(self):
        yield from loader(24, 4)


class OwnLoader:
    """A loader that is not a DataLoader and reports its batch size."""

    batch_size = np.int64(4)

    def __iter__(self):
        yield from loader(24, 4)

    def __len__(self):
        return 6


IN_BATCHES_OF_4 = {
    "batch_size": lambda: loader(24, 4),
    "batch sampler": lambda: DataLoader(samples(), batch_sampler=BatchSampler(SequentialSampler(range(24)), 4, False)),
    "shuffled": lambda: DataLoader(samples(), 4, shuffle=True),
    "short last batch": lambda: loader(22, 4),
    "drop_last": lambda: DataLoader(samples(26), 4, drop_last=True),
    "stream": lambda: DataLoader(Stream(), 4),
    "own loader": OwnLoader,
    "ours": lambda: Batches(*samples().tensors, 4),
    "list of one": lambda: [loader(24, 4)],
}


@pytest.mark.parametrize("make", IN_BATCHES_OF_4.values(), ids=IN_BATCHES_OF_4)
def test_eight_samples_equal_two_batches_of_four(make):
    module = OfFirst() if make is IN_BATCHES_OF_4["list of one"] else None
    rates = [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125, 0.00625, 0.00625, 0.003125, 0.003125]
    assert used_in(HALVED, make(), module=module) == rates


class OfFirst(Toy):
    """Trains on the batch of the first loader."""

    def training_step(self, batch, batch_idx):
        while not isinstance(batch[0], torch.Tensor):
            batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
        return super().training_step(batch, batch_idx)

    def compute_loss(self, batch):
        return super().compute_loss(batch if isinstance(batch, (list, tuple)) else next(iter(batch.values())))


@pytest.mark.parametrize(("batch_size", "accumulate", "rates"), [
    (4, 2, [0.1, 0.05, 0.025]),  # 8 samples per step
    (2, 2, [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]),
    (4, 4, [0.1, 0.025]),  # 16 per step; the last step of an epoch has two batches and counts as full
    (3, 1, [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025]),  # after 9, 18 and 24 samples
])  # fmt: skip
def test_accumulated_batches_are_counted(batch_size, accumulate, rates):
    assert used_in(HALVED, loader(24, batch_size), epochs=1, accumulate_grad_batches=accumulate) == rates


class Counting(pl.Callback):
    """An independent counter of the samples that steps have used."""

    def __init__(self):
        self.seen, self.before = 0, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(self.seen)
        self.seen += 4


def test_sample_count_matches_an_independent_counter():
    schedule = ExponentialDecay(0.1, decay_steps="10sp", decay_rate=0.5)
    counting, used = Counting(), Used()
    fit(None, LearningRateScheduler(schedule), counting, used, epochs=3)
    assert used.values == pytest.approx([0.1 * 0.5 ** (seen / 10) for seen in counting.before], rel=1e-12)
    assert len(used.values) == 18


def test_parts_in_samples_start_at_their_sample_count():
    chain = Chain([Constant(0.1), CosineDecay(0.2, decay_steps="16sp"), Constant(0.3)], lengths=["10sp", "20sp"])
    cosine = [0.2 * (1 + np.cos(np.pi * min(seen / 16, 1))) / 2 for seen in (2, 6, 10, 14, 18)]
    # After 12 samples the second part is 2 samples in; after 32 samples the third is.
    assert used_in(chain, loader(48, 4), epochs=1) == pytest.approx([0.1] * 3 + cosine + [0.3] * 4, abs=1e-15)


@pytest.mark.parametrize(
    ("make", "per_step"),
    [
        (lambda: {"labelled": loader(24, 4), "unlabelled": loader(48, 12)}, 16),
        (lambda: [loader(24, 4), loader(24, 4)], 8),
        (lambda: CombinedLoader({"a": loader(24, 4), "b": loader(24, 2)}, "min_size"), 6),
        (lambda: {"a": loader(24, 4), "b": [loader(24, 1), loader(24, 3)]}, 8),
    ],
)
def test_step_counts_the_samples_of_all_loaders(make, per_step):
    scheduler = LearningRateScheduler(HALVED)
    used = Used()
    fit(Any(), scheduler, used, epochs=1, train=make())
    assert scheduler.run_length.batch_size == per_step
    assert used.values == [0.1 * 0.5 ** (step * per_step // 8) for step in range(len(used.values))]


class Any(Toy):
    """Trains on any batch."""

    def training_step(self, batch, batch_idx):
        return self.layer(torch.ones(1, 3)).square().mean()


class Manual(Toy):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.compute_loss(batch)
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()


class Two(Toy):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD([one], lr=0.1) for one in self.parameters()]


UNKNOWN = {
    "batch_size=None": (
        Toy,
        lambda: DataLoader([samples()[:4]] * 6, batch_size=None),
        {},
        r"come from DataLoader with",
    ),
    "own loader": (Toy, Unsized, {}, r"come from Unsized without a batch_size"),
    "one of two": (Any, lambda: [loader(24, 4), Unsized()], {}, r"come from Unsized without"),
    "own sampler": (
        Toy,
        lambda: DataLoader(samples(), batch_sampler=[[0, 1], [2], [3, 4, 5]]),
        {},
        r"without a batch_size",
    ),
    "max_size": (
        Any,
        lambda: CombinedLoader([loader(24, 4), loader(8, 4)], "max_size"),
        {},
        r'in the mode "max_size", a batch lacks',
    ),
    "manual": (Manual, loader, {}, r"under manual optimization the module decides when to step"),
    "two optimizers": (Two, loader, {}, r"under manual optimization the module decides when to step"),
    "accumulation": (
        Toy,
        loader,
        {"callbacks": [GradientAccumulationScheduler({0: 1, 1: 2})]},
        r"GradientAccumulationScheduler changes how many batches a step has",
    ),
}


@pytest.mark.parametrize(("module", "train", "options", "why"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_samples_per_step_are_refused(module, train, options, why):
    callbacks = options.get("callbacks", [])
    told = (
        r"the length 8sp is in samples, and the number of samples in an optimizer step is unknown: "
        rf".*{why}.*\. Give the length in"
    )
    epochs = []
    for schedule in (HALVED, Constant(0.1).then(HALVED, after="2ep"), Constant(0.1).with_warmup("8sp")):
        spy = pl.Callback()
        spy.on_train_epoch_start = lambda *_: epochs.append(1)
        with pytest.raises(TrainingError, match=told):
            fit(module(), spy, LearningRateScheduler(schedule), *callbacks, train=train())
    assert not epochs
    # A schedule that does not count samples trains.
    fit(module(), LearningRateScheduler(StepDecay(0.1, every="1ep")), *callbacks, train=train())


def test_batch_size_set_at_fit_start_is_used():
    class Doubling(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.batch_size = 8

    class OfModule(Toy):
        batch_size = 4

        def train_dataloader(self):
            return loader(24, self.batch_size)

    used = Used()
    trainer = pl.Trainer(max_epochs=1, callbacks=[Doubling(), LearningRateScheduler(HALVED), used], **QUIET)
    trainer.fit(OfModule())
    assert used.values == [0.1, 0.05, 0.025]


# --- resumed runs ---------------------------------------------------------------------------------------------


def begun(tmp_path, schedule, batch_size=4, **options):
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=6)
    scheduler = LearningRateScheduler(schedule)
    fit(None, scheduler, saver, epochs=2, train=loader(24, batch_size), enable_checkpointing=True, **options)
    return tmp_path / "step=6.ckpt"


def went_on(checkpoint, schedule, train, on_resume="error", epochs=2):
    used = Used()
    fit(
        None,
        LearningRateScheduler(schedule, on_resume=on_resume),
        used,
        epochs=epochs,
        train=train,
        ckpt_path=checkpoint,
    )
    return used.values


def test_run_in_samples_resumes_exactly(tmp_path):
    checkpoint = begun(tmp_path, HALVED)
    assert went_on(checkpoint, HALVED, loader(24, 4)) == [0.0125, 0.0125, 0.00625, 0.00625, 0.003125, 0.003125]


def test_new_batch_size_changes_a_plan_in_samples(tmp_path):
    checkpoint = begun(tmp_path, HALVED)
    with pytest.raises(TrainingError) as refused:
        went_on(checkpoint, HALVED, loader(48, 8))
    assert ["samples", "per", "step", "4", "8"] in [line.split() for line in str(refused.value).splitlines()]
    # Step 6 is after 48 samples with batches of 8, six halvings; after 24 with the saved size, three.
    assert went_on(checkpoint, HALVED, loader(48, 8), "config") == [0.1 * 0.5**step for step in range(6, 12)]
    assert went_on(checkpoint, HALVED, loader(48, 8), "checkpoint") == [
        0.1 * 0.5 ** (step // 2) for step in range(6, 12)
    ]


OTHERS = [
    StepDecay(0.1, every="4st"),
    CosineDecay(0.1),
    CosineDecay(0.1).with_warmup("5%"),
    lambda epoch: 0.1 / (1 + epoch),
]


@pytest.mark.parametrize("schedule", OTHERS, ids=["steps", "percent", "warm-up", "function"])
def test_new_batch_size_keeps_a_plan_without_samples(tmp_path, schedule):
    checkpoint = begun(tmp_path, schedule)
    state = torch.load(checkpoint, weights_only=True)["callbacks"]["LearningRateScheduler"]
    # The batch size is not saved with a schedule that does not count samples.
    assert [saved["run"] for saved in state["schedules"].values()] == [[6, 2, 12, None]]
    whole = used_in(schedule, loader(24, 4))
    for policy in ("error", "config", "checkpoint", "rescale"):
        assert went_on(checkpoint, schedule, loader(12, 2), policy) == whole[6:]


# --- preview --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 4, 24])
def test_preview_matches_the_training(batch_size):
    schedule = Chain(
        [StepDecay(0.1, every="10sp"), CosineDecay(0.05, decay_steps="30sp")], lengths=["20sp"]
    ).with_warmup("7sp")
    per_epoch = len(loader(24, batch_size))
    seen = preview(schedule, steps_per_epoch=per_epoch, epochs=3, batch_size=batch_size)
    assert seen.values.tolist() == used_in(schedule, loader(24, batch_size), epochs=3)


def test_preview_reports_a_missing_batch_size():
    with pytest.raises(TrainingError, match=r"8sp is in samples.*give their number as the batch_size of the run"):
        preview(HALVED, steps_per_epoch=6, epochs=2)


def test_sample_counts_at_whole_steps_are_exact():
    for batch_size, length in itertools.product(range(1, 40), (7, 10, 50, 96, 100)):
        one = StepDecay(1.0, drop=0.5, every=f"{length}sp")
        several = Chain([Constant(0.5**at) for at in range(4)], lengths=[f"{length}sp"] * 3)
        again = StepDecay(1.0, drop=0.5, every=f"{length / 2}sp").repeated(f"{length}sp")
        steps = np.arange(2 * length)

        position = RunLength.of(batch_size=batch_size).position(steps)
        done = steps * batch_size // length
        assert one(position).tolist() == (0.5**done).tolist()
        assert several(position).tolist() == (0.5 ** np.minimum(done, 3)).tolist()
        assert again(position).tolist() == np.where(2 * (steps * batch_size % length) < length, 1.0, 0.5).tolist()
