"""The reference module in real small trainings: the logged means against means computed by hand."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from lr_plugins.errors import InvalidArgumentError
from lr_plugins.training.classifier import Classifier, EpochMean
from lr_plugins.training.data import Digits, Fake, Iris
from lr_plugins.training.models import CNN, MLP

SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


def classifier(data=None, optimizer=SGD):
    torch.manual_seed(0)
    shape, classes = ((4,), 3) if data is None else (data.input_shape, data.num_classes)
    return Classifier(MLP(shape, classes, hidden=(16,)), nn.CrossEntropyLoss(), optimizer)


def trainer(folder, callbacks=(), **options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{"enable_checkpointing": False, **options},
    )


class Reference(pl.Callback):
    """Per-sample losses and hits of every batch, kept apart from the module's own sums."""

    def __init__(self):
        self.logged, self.expected, self.rows = [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            logits = pl_module(x)
        losses = nn.functional.cross_entropy(logits, y, reduction="none").double()
        self.rows += list(zip(losses.tolist(), (logits.argmax(1) == y).tolist(), strict=True))

    def on_train_epoch_end(self, trainer, pl_module):
        self.expected.append([sum(column) / len(self.rows) for column in zip(*self.rows, strict=True)])

    def on_train_end(self, trainer, pl_module):
        assert self.rows


class Logged(ModelCheckpoint):
    """What a monitoring callback sees at the end of each epoch."""

    def __init__(self):
        super().__init__(monitor="loss", save_top_k=0)
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append([trainer.callback_metrics[key].item() for key in ("loss", "acc")])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 4},
        {"limit_train_batches": 7},
        {"val_check_interval": 3},
        {"num_sanity_val_steps": 0},
        {"log_every_n_steps": 1},
    ],
    ids=str,
)
def test_epoch_means_are_over_samples(options, tmp_path):
    reference, logged = Reference(), Logged()
    data = Iris(batch_size=7, seed=1)  # 120 samples: the last batch has one
    trainer(tmp_path, [reference, logged], max_epochs=3, enable_checkpointing=True, **options).fit(
        classifier(), datamodule=data
    )
    assert len(logged.seen) == 3
    torch.testing.assert_close(torch.tensor(logged.seen), torch.tensor(reference.expected), rtol=1e-6, atol=0)


def test_validation_means_are_those_of_the_whole_set(tmp_path):
    data = Fake(num_samples=1700, input_shape=(6,), num_classes=3)  # 340 to validate: batches of 256 and 84
    module, run = classifier(data), trainer(tmp_path, max_epochs=2)
    run.fit(module, datamodule=data)
    x, y = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    with torch.no_grad():
        logits = module(x)
    assert run.callback_metrics["val_loss"].item() == pytest.approx(nn.functional.cross_entropy(logits, y).item(), 1e-6)
    assert run.callback_metrics["val_acc"].item() == pytest.approx((logits.argmax(1) == y).double().mean().item(), 1e-6)
    (again,) = run.validate(module, datamodule=data, verbose=False)
    assert again["val_loss"] == pytest.approx(run.callback_metrics["val_loss"].item())


def test_no_validation_set_no_validation_metrics(tmp_path):
    run = trainer(tmp_path, max_epochs=1)
    run.fit(classifier(), datamodule=Iris(validation_fraction=0))
    assert set(run.callback_metrics) == {"loss", "acc"}


def test_a_second_fit_starts_its_means_afresh(tmp_path):
    module, data = classifier(), Iris(batch_size=7, seed=1)
    trainer(tmp_path, max_steps=5).fit(module, datamodule=data)  # stops within the epoch
    reference, logged = Reference(), Logged()
    trainer(tmp_path, [reference, logged], max_epochs=1, enable_checkpointing=True).fit(module, datamodule=data)
    torch.testing.assert_close(torch.tensor(logged.seen), torch.tensor(reference.expected), rtol=1e-6, atol=0)


def test_resumed_epoch_counts_all_of_its_batches(tmp_path):
    def fit(logged, ckpt=None, callbacks=(), **options):
        run = trainer(tmp_path, [logged, *callbacks], max_epochs=2, enable_checkpointing=True, **options)
        run.fit(classifier(), datamodule=Iris(batch_size=20, seed=2), ckpt_path=ckpt)
        return logged.seen

    every_step = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole = fit(Logged(), callbacks=[every_step])
    for step in (1, 4, 7, 11):
        rest = fit(Logged(), f"{tmp_path}/step={step}.ckpt")
        assert rest == whole[-len(rest) :], f"continued after step {step}"
        assert len(rest) == (2 if step < 6 else 1)


def test_monitoring_callbacks_act_on_the_metrics(tmp_path):
    stop = EarlyStopping("loss", patience=2, min_delta=100.0)
    best = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_acc", mode="max")
    run = trainer(tmp_path, [stop, best], max_epochs=10, enable_checkpointing=True)
    run.fit(classifier(), datamodule=Iris())
    assert run.current_epoch == 3
    assert 0 < best.best_model_score.item() <= 1
    assert Classifier.load_from_checkpoint(
        best.best_model_path,
        net=MLP((4,), 3, hidden=(16,)),
        loss=nn.CrossEntropyLoss(),
        optimizer=SGD,
        weights_only=True,
    )


class SecondRank:
    """A strategy that adds what another rank has summed, as a reduction over two ranks does."""

    root_device = torch.device("cpu")

    def __init__(self, other):
        self.strategy, self.other = self, other

    def reduce(self, total, reduce_op):
        assert reduce_op == "sum"
        return total + self.other


@pytest.mark.parametrize("samples", [0, 8])
def test_ranks_are_weighted_by_their_samples(samples):
    mean = EpochMean()
    other = torch.tensor([2 * 3.5, 1.0, 2.0], dtype=torch.float64)  # 2 samples of mean loss 3.5, 1 hit
    expected = {"loss": 3.5, "acc": 0.5}
    if samples:
        mean.add(torch.tensor(1.0), torch.eye(3)[torch.zeros(samples, dtype=torch.long)], torch.zeros(samples))
        expected = {"loss": (8 * 1.0 + 2 * 3.5) / 10, "acc": 0.9}
    assert {key: value.item() for key, value in mean.means(SecondRank(other)).items()} == pytest.approx(expected)


def batches_of(count, classes=3, samples=5):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        logits = torch.randn(samples, classes, generator=generator, requires_grad=True)
        target = torch.randint(0, classes, (samples,), generator=generator)
        yield nn.functional.cross_entropy(logits, target), logits, target


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_batches_that_wait_are_counted_like_single_ones(count):
    together, single, loss, right = EpochMean(), EpochMean(), 0.0, 0
    for batch in batches_of(count):
        together.add(*batch)
        single.add(*batch)
        single.so_far()
        loss += batch[0].item() * 5
        right += (batch[1].argmax(-1) == batch[2]).sum().item()
    assert together.so_far() == single.so_far() == {"loss": loss / (5 * count), "acc": right / (5 * count)}
    assert together.state_dict() == single.state_dict()


def test_batches_of_different_shapes_are_counted_together():
    mean, expected = EpochMean(), 0
    for few, many in zip(batches_of(3), batches_of(3, classes=7, samples=2), strict=True):
        for loss, logits, target in (few, many):
            mean.add(loss, logits, target)
            expected += (logits.argmax(-1) == target).sum().item()
    assert mean.so_far()["acc"] == expected / 21


def test_only_few_numbers_wait():
    mean = EpochMean()
    for loss, logits, target in batches_of(10, classes=1000, samples=30):
        mean.add(loss, logits, target)
        assert sum(waiting.numel() for _, waiting, _ in mean._waiting) < 1 << 16


def test_compute_loss_follows_the_mode_and_logs_nothing():
    data = Fake(input_shape=(1, 8, 8))
    data.setup()
    torch.manual_seed(0)
    module = Classifier(CNN(data.input_shape, 10), nn.CrossEntropyLoss(), SGD)
    batch = next(iter(data.evaluation_dataloader()))
    module.train()
    assert module.compute_loss(batch).item() != module.compute_loss(batch).item(), "dropout is on"
    module.eval()
    assert module.compute_loss(batch).item() == module.compute_loss(batch).item()
    expected = nn.functional.cross_entropy(module(batch[0]), batch[1])
    assert torch.equal(module.compute_loss(batch), expected)


def test_predictions_are_probabilities(tmp_path):
    data, module = Iris(), classifier()
    data.setup()
    outputs = trainer(tmp_path).predict(module, data.evaluation_dataloader())
    assert outputs[0].shape == (120, 3)
    assert torch.allclose(outputs[0].sum(1), torch.ones(120))
    x, _ = next(iter(data.evaluation_dataloader()))
    assert torch.equal(module.predict_step(x), outputs[0])


def test_iris_and_digits_are_learnt(tmp_path):
    run = trainer(tmp_path, max_epochs=15)
    run.fit(classifier(), datamodule=Iris())
    assert run.callback_metrics["val_acc"] > 0.8
    data = Digits()
    run = trainer(tmp_path, max_epochs=3)
    run.fit(classifier(data, partial(torch.optim.Adam, lr=0.01)), datamodule=data)
    assert run.callback_metrics["val_acc"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("net", nn.CrossEntropyLoss(), SGD), "Classifier.net"),
        ((nn.Linear(4, 3), nn.functional.cross_entropy, SGD), "Classifier.loss"),
        ((nn.Linear(4, 3), nn.CrossEntropyLoss(), {"lr": 0.1}), "Classifier.optimizer"),
    ],
)
def test_bad_arguments(arguments, field):
    with pytest.raises(InvalidArgumentError) as caught:
        Classifier(*arguments)
    assert caught.value.field == field
