"""The data modules: their contract, and the samples they have."""

import pytest
import torch
from sklearn.datasets import load_digits, load_iris

from lr_plugins.errors import InvalidArgumentError, LearningRateError
from lr_plugins.training.data import CIFAR10, MNIST, Digits, Fake, FashionMNIST, Iris
from tests.training.data import gathered, order, ready


@pytest.mark.parametrize(
    ("data", "shape", "classes", "train", "val"),
    [
        (Iris(), (4,), 3, 120, 30),
        (Iris(validation_fraction=0), (4,), 3, 150, 0),
        (Digits(), (1, 8, 8), 10, 1437, 360),
        (Digits(validation_fraction=0), (1, 8, 8), 10, 1797, 0),
        (Fake(), (1, 8, 8), 10, 204, 52),
        (Fake(num_samples=7, input_shape=[3], num_classes=2, validation_fraction=0), (3,), 2, 7, 0),
    ],
)
def test_contract(data, shape, classes, train, val):
    assert (data.input_shape, data.num_classes) == (shape, classes)
    ready(data)
    assert (data.num_train, data.num_val) == (train, val)
    x, y = next(iter(data.train_dataloader()))
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert x.shape == (min(data.batch_size, train), *shape)
    assert (data.val_dataloader() == []) == (val == 0)
    evaluated, _ = gathered(data.evaluation_dataloader())
    trained, _ = gathered(data.train_dataloader())
    assert sorted(map(tuple, evaluated.flatten(1).tolist())) == sorted(map(tuple, trained.flatten(1).tolist()))


def test_counts_before_setup_say_what_to_do():
    with pytest.raises(LearningRateError, match=r"call Iris\.setup\(\) first"):
        _ = Iris().num_train


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Iris(batch_size=0), "Iris.batch_size"),
        (lambda: Iris(batch_size=5.0), "Iris.batch_size"),
        (lambda: Iris(batch_size=True), "Iris.batch_size"),
        (lambda: Iris(validation_fraction=1), "Iris.validation_fraction"),
        (lambda: Iris(validation_fraction=-0.1), "Iris.validation_fraction"),
        (lambda: Iris(validation_fraction=float("nan")), "Iris.validation_fraction"),
        (lambda: Iris(standardize="yes"), "Iris.standardize"),
        (lambda: Iris(shuffle=None), "Iris.shuffle"),
        (lambda: Digits(seed=-1), "Digits.seed"),
        (lambda: Digits(seed=2**32), "Digits.seed"),
        (lambda: Digits(validation_fraction="0.2"), "Digits.validation_fraction"),
        (lambda: Fake(num_samples=0), "Fake.num_samples"),
        (lambda: Fake(input_shape=()), "Fake.input_shape"),
        (lambda: Fake(input_shape="44"), "Fake.input_shape"),
        (lambda: Fake(input_shape=(4, 0)), "Fake.input_shape"),
        (lambda: Fake(num_classes=0), "Fake.num_classes"),
        (lambda: Fake(noise=0), "Fake.noise"),
        (lambda: MNIST(data_dir=""), "MNIST.data_dir"),
        (lambda: FashionMNIST(download=1), "FashionMNIST.download"),
        (lambda: CIFAR10(batch_size=-3), "CIFAR10.batch_size"),
    ],
)
def test_bad_arguments_are_refused_at_construction(make, field):
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert caught.value.field == field


def test_iris_without_validation_is_sklearns_iris_in_its_order():
    data = ready(Iris(validation_fraction=0, standardize=False))
    x, y = gathered(data.evaluation_dataloader())
    features, targets = load_iris(return_X_y=True)
    assert torch.equal(x, torch.from_numpy(features).float())
    assert y.tolist() == targets.tolist()
    assert order(ready(Iris(validation_fraction=0, shuffle=False)).train_dataloader()) == targets.tolist()


def test_standardisation_knows_the_training_set_only():
    raw, scaled = ready(Iris(standardize=False, seed=3)), ready(Iris(seed=3))
    x, _ = gathered(scaled.evaluation_dataloader())
    assert torch.allclose(x.mean(0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(x.std(0, correction=0), torch.ones(4), atol=1e-6)
    train, validation = (gathered(raw.evaluation_dataloader())[0], gathered(raw.val_dataloader())[0])
    expected = (validation - train.mean(0)) / train.std(0, correction=0)
    assert torch.allclose(gathered(scaled.val_dataloader())[0], expected, atol=1e-5)


def test_standardising_one_sample_leaves_no_nan():
    x, _ = gathered(ready(Iris(validation_fraction=0.999)).evaluation_dataloader())
    assert x.tolist() == [[0.0] * 4]


def test_digits_are_sklearns_digits_in_the_unit_interval():
    x, y = gathered(ready(Digits(validation_fraction=0)).evaluation_dataloader())
    pixels, targets = load_digits(return_X_y=True)
    assert torch.equal(x.flatten(1) * 16, torch.from_numpy(pixels).float())
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert y.tolist() == targets.tolist()


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_digits_changed_in_place_are_not_those_of_the_next_module(fraction):
    first, second = Digits(validation_fraction=fraction), Digits(validation_fraction=fraction)
    first.setup()
    before = first.digest
    for tensor in first._sets()[0]:
        tensor.zero_()
    second.setup()
    assert second.digest == before != first.digest


def test_fake_samples_depend_on_the_seed_and_can_be_told_apart():
    first, again, other = (gathered(ready(Fake(seed=s)).evaluation_dataloader()) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    data = ready(Fake(num_samples=500, seed=1))
    x, y = gathered(data.evaluation_dataloader())
    centres = torch.stack([x[y == c].mean(0) for c in range(10)]).flatten(1)
    x, y = gathered(data.val_dataloader())
    assert (torch.cdist(x.flatten(1), centres).argmin(1) == y).float().mean() > 0.95
