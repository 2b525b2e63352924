"""KerasClassifier: labels, inputs, and what build_fn returns."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from torch import nn

from lr_plugins import LearningRateScheduler
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.keras import SGD
from lr_plugins.training.losses import KerasCategoricalCrossentropy
from tests.keras.helpers import NAMES, ONE_HOT, X, Y, build, classifier, step_decay, weights


def build_alone(units=6):
    return build(units)[0]


class Module(pl.LightningModule):
    """With a loss and an optimizer of its own; its outputs are logits."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (Y, [0, 1, 2]),
        (Y * 10 - 10, [-10, 0, 10]),
        (NAMES, ["setosa", "versicolor", "virginica"]),
        (NAMES.astype(object), ["setosa", "versicolor", "virginica"]),
        (ONE_HOT, [0, 1, 2]),
        (torch.tensor(Y), [0, 1, 2]),
    ],
    ids=["indices", "numbers", "texts", "objects", "one-hot", "tensor"],
)
def test_labels_of_every_kind_train_the_same(labels, classes):
    fitted = classifier().fit(X, labels)
    assert fitted.classes_.tolist() == classes
    predicted = fitted.predict(X)
    assert set(predicted) <= set(classes)
    assert torch.equal(weights(fitted), weights(classifier().fit(X, Y)))
    assert fitted.score(X, labels) == (predicted == np.asarray(classes)[Y]).mean()
    assert fitted.score(X, ONE_HOT) == fitted.score(X, labels)
    assert fitted.score(X, labels, Y == 1) == (predicted[Y == 1] == classes[1]).mean()


def test_one_hot_rows_keep_a_class_without_samples():
    fitted = classifier(classes=4).fit(X, np.eye(4)[Y])
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    assert fitted.predict_proba(X).shape == (150, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(150, 7), "y must be labels of two classes or more; got one class, 7"),
        (
            np.ones((150, 3)),
            r"y must be one label per sample, or one-hot rows.*got an array of shape \(150, 3\)",
        ),
        (np.linspace(0, 1, 150), "Unknown label type: continuous"),
        (Y[:100], "inconsistent numbers of samples"),
    ],
)
def test_labels_that_cannot_be(labels, message):
    with pytest.raises(ValueError, match=message):
        classifier().fit(X, labels)


def test_images_and_doubles_reach_the_network_as_float32():
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append((x.dtype, x.shape[1:]))
            return x

    def convolutional(meta):
        assert meta["X_shape_"] == (300, 1, 8, 8)
        network = nn.Sequential(Look(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, meta["n_classes_"]))
        return network, torch.optim.Adam(network.parameters())

    pixels, digits = load_digits(return_X_y=True)
    images = pixels[:300].reshape(-1, 1, 8, 8).astype(np.uint8)
    fitted = classifier(convolutional).fit(images, digits[:300])
    assert fitted.predict_proba(images).shape == (300, 10)
    assert set(seen) == {(torch.float32, (1, 8, 8))}


def test_predictions_need_a_fit_and_leave_inputs_alone():
    with pytest.raises(NotFittedError):
        classifier().predict(X)

    def in_place():
        network = nn.Sequential(nn.ReLU(inplace=True), build()[0])
        return network, SGD(network.parameters())

    inputs = (X - 3).astype(np.float32)
    before = inputs.copy()
    classifier(in_place).fit(inputs, Y).predict(inputs)
    np.testing.assert_array_equal(inputs, before)


def test_a_softmax_is_seen_and_not_applied_twice():
    with_softmax, without = classifier(softmax=True).fit(X, Y), classifier(softmax=False).fit(X, Y)
    assert (with_softmax.from_logits_, without.from_logits_) == (False, True)
    assert torch.equal(weights(with_softmax), weights(without))  # the loss has the same arithmetic
    np.testing.assert_allclose(with_softmax.predict_proba(X), without.predict_proba(X), rtol=1e-6)
    np.testing.assert_allclose(without.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    twice = classifier(from_logits=True).fit(X, Y)
    assert twice.history_["loss"] != with_softmax.history_["loss"]


@pytest.mark.parametrize(
    ("build_fn", "optimizer"),
    [
        (build_alone, partial(SGD, lr=0.01, momentum=0.9)),
        (lambda: (build_alone(), partial(SGD, lr=0.01, momentum=0.9)), None),
        (lambda: [*build()], None),
    ],
    ids=["given", "function", "list"],
)
def test_the_optimizer_may_come_in_other_ways(build_fn, optimizer):
    fitted = classifier(build_fn, optimizer=optimizer).fit(X, Y)
    assert torch.equal(weights(fitted), weights(classifier().fit(X, Y)))


def test_a_lightning_module_trains_as_it_says():
    fitted = classifier(Module).fit(X, Y)
    assert list(fitted.history_) == ["loss"]
    assert fitted.from_logits_
    np.testing.assert_allclose(fitted.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    assert type(pickle.loads(pickle.dumps(fitted)).model_) is Module
    other = classifier(lambda: (Module(), partial(torch.optim.SGD, lr=0.5))).fit(X, Y)
    assert other.history_.learning_rates == {0: 0.5, 1: 0.5}
    pickle.dumps(other.model_)


def test_a_module_of_lightning_pytorch():
    import lightning.pytorch as other

    class Other(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        forward, training_step = Module.forward, Module.training_step
        configure_optimizers = Module.configure_optimizers

    scheduler = LearningRateScheduler(step_decay)
    fitted = classifier(Other, callbacks=[scheduler, other.callbacks.EarlyStopping("loss")]).fit(X, Y)
    assert fitted.history_["lr"] == [step_decay(0), step_decay(1)]


def test_a_loss_of_torch():
    own, torch_s = classifier(softmax=False), classifier(softmax=False, loss=nn.CrossEntropyLoss())
    np.testing.assert_allclose(own.fit(X, Y).history_["loss"], torch_s.fit(X, Y).history_["loss"], rtol=1e-5)


def test_probabilities_in_the_loss():
    logits, target = torch.randn(8, 3), torch.arange(8) % 3
    of_probabilities = KerasCategoricalCrossentropy(from_logits=False)
    assert torch.equal(of_probabilities(logits.softmax(-1), target), KerasCategoricalCrossentropy()(logits, target))
    with pytest.raises(InvalidArgumentError, match=r"from_logits must be"):
        KerasCategoricalCrossentropy(from_logits="no")


OTHER = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("build_fn", "arguments", "message"),
    [
        (3, {}, r"KerasClassifier\.build_fn must be a function that returns \(network, optimizer\); got 3"),
        (OTHER, {}, r"build_fn must be a function that returns \(network, optimizer\); got Linear"),
        (lambda: None, {}, r"got one that returns None\. The network is a torch\.nn\.Module"),
        (lambda: (build_alone(), 1, 2), {}, r"got one that returns \(Sequential"),
        (lambda: build()[::-1], {}, r"got one that returns \(SGD"),
        (build_alone, {}, r"got one that returns a network alone\. Or give KerasClassifier\(optimizer=\.\.\.\)"),
        (build, {"optimizer": SGD}, r"optimizer must be left out where build_fn returns an optimizer"),
        (build_alone, {"optimizer": "sgd"}, r"optimizer must be an optimizer of torch, or a function.*got 'sgd'"),
        (build_alone, {"optimizer": SGD(OTHER.parameters())}, r"must be one of the parameters of the network"),
        (build, {"classes": 2}, r"the network of build_fn must be one with 3 outputs.*got outputs of shape \(32, 2\)"),
        (lambda: (nn.LSTM(4, 3), SGD), {}, r"must be one with 3 outputs, one per class; got \(tensor"),
        (lambda: (nn.Linear(5, 3), SGD), {}, r"takes a float32 tensor of shape \(32, 4\).*Its error: mat1 and mat2"),
        (Module, {"loss": nn.CrossEntropyLoss()}, r"loss must be left out where build_fn returns a LightningModule"),
        (build, {"loss": 3}, r"Classifier\.loss must be a torch\.nn\.Module"),
        (build, {"epochs": 0}, r"KerasClassifier\.epochs must be an integer >= 1; got 0"),
        (build, {"batch_size": 2.5}, r"KerasClassifier\.batch_size must be an integer >= 1; got 2\.5"),
        (build, {"shuffle": "batch"}, r"KerasClassifier\.shuffle must be"),
        (build, {"verbose": 3}, r"verbose must be 0 \(nothing\), 1 \(a progress bar\) or 2"),
        (build, {"style": "keras4"}, r"style must be one of keras2, keras3"),
        (build, {"from_logits": "no"}, r"KerasClassifier\.from_logits must be"),
        (build, {"random_state": -1}, r"KerasClassifier\.random_state must be an integer from 0"),
        (build, {"validation_split": 1.0}, r"KerasClassifier\.validation_split must be a number >= 0 and < 1"),
        (build, {"validation_split": 0.999}, r"validation_split must be a share that divides 150 samples"),
        (build, {"callbacks": LearningRateScheduler}, r"callbacks must be None or a list of Lightning callbacks"),
        (build, {"callbacks": [step_decay]}, r"callbacks must be None or a list of Lightning callbacks"),
        (build, {"trainer": {"max_epochs": 3}}, r"max_epochs must be given as KerasClassifier\(epochs=\.\.\.\)"),
        (build, {"trainer": 3}, r"KerasClassifier\.trainer must be None or a dict"),
    ],
)
def test_what_cannot_be_fitted(build_fn, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        classifier(build_fn, **arguments).fit(X, Y)


def test_two_classes_take_two_outputs():
    with pytest.raises(InvalidArgumentError, match=r"2 outputs.*shape \(32, 1\)\. Two classes need two outputs"):
        classifier(classes=1).fit(X[:100], Y[:100])
