"""The recipes of conf/experiment against the articles' scripts in the real Keras: same weights, same batches."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from lr_plugins.training.assembly import Run
from lr_plugins.training.run import train

from .side_by_side import article_mnist, keras_fit

CONF = Path(__file__).resolve().parents[2] / "conf"
EPOCHS, UPDATES = 20, 30  # 150 samples in batches of 5

Weights = list[np.ndarray]


# --- the articles' scripts ----------------------------------------------------------------------------------


def article_exponential(epoch):
    """The Iris article's `exp_decay`, as published."""
    init_lrate = 0.01
    drop = 0.05
    epochs_drop = 10
    return init_lrate * math.pow(drop, math.floor(1 + epoch) / epochs_drop)


def article_step(epoch):
    """As in the article's text: 0.1, halved every 10 epochs."""
    return 0.1 * math.pow(0.5, math.floor(epoch / 10))


class LossDriven(keras.callbacks.Callback):
    """lr = 0.01 * exp(loss on the training set), looked at before each epoch."""

    def __init__(self, layers: keras.Model, data: dict[str, Any]) -> None:
        super().__init__()
        # A model of its own around the same layers: `evaluate` within `fit` counts in the loss that `fit` reports.
        self.twin, self.data = keras.Sequential(layers.layers), data
        self.twin.compile(loss="sparse_categorical_crossentropy")
        self.losses: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.losses.append(self.twin.evaluate(**self.data, batch_size=150, verbose=0))
        self.model.optimizer.learning_rate = 0.01 * math.exp(self.losses[-1])


def keras_setting(recipe: str, model: keras.Model, data: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The learning rate and the callbacks of a recipe in Keras."""
    if recipe == "iris_inverse_time":  # Keras 2's SGD(lr=0.1, decay=0.005)
        return keras.optimizers.schedules.InverseTimeDecay(0.1, decay_steps=1, decay_rate=0.005), []
    if recipe == "iris_loss_driven":
        return 0.01, [LossDriven(model, data)]
    function = {"iris_exponential": article_exponential, "iris_step": article_step}[recipe]
    return 0.1, [keras.callbacks.LearningRateScheduler(function)]


# --- the two runs -------------------------------------------------------------------------------------------


class Training(NamedTuple):
    """The training of a network, epoch by epoch."""

    weights: list[Weights]  # before the first epoch, and after each one
    losses: list[float]  # means over the batches, as they were trained on
    measured: list[float]  # losses on the whole training set before each epoch
    orders: list[bytes]  # inputs of each epoch, in the order of the batches
    run: Run | None = None


class Recorder(pl.Callback):
    def __init__(self) -> None:
        self.weights: list[Weights] = []
        self.orders: list[bytes] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.orders.append(b"")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.orders[-1] += batch[0].numpy().tobytes()

    def on_train_start(self, trainer, pl_module):
        self.weights.append(as_keras(pl_module.net))

    def on_train_epoch_end(self, trainer, pl_module):
        self.weights.append(as_keras(pl_module.net))


def as_keras(net: torch.nn.Module) -> Weights:
    """Kernels and biases in Keras' order; its kernels are (inputs, outputs)."""
    return [parameter.detach().numpy().T.copy() for parameter in net.parameters()]


def composed(recipe: str, folder: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"experiment={recipe}", "logger=none", f"output_dir={folder}", *overrides])


def our_path(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> Training:
    """What `python train.py` does, watched by one callback more."""
    recorder, fit = Recorder(), pl.Trainer.fit

    def watched(trainer: pl.Trainer, *arguments: Any, **options: Any) -> None:
        trainer.callbacks.append(recorder)
        fit(trainer, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "fit", watched)
        run = train(config)
    logged = {name: list(values.values()) for name, values in run.history.values.items()}
    return Training(recorder.weights, logged["loss"], logged.get("training_set_loss", []), recorder.orders, run)


def keras_path(recipe: str, config: DictConfig, start: Weights) -> Training:
    """The article's script, on our weights and on the batches that our data module makes."""
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    x, y = next(iter(data.evaluation_dataloader()))
    assert len(y) == 150
    dense = keras.layers.Dense
    model = keras.Sequential(
        [keras.layers.Input((4,)), dense(4, activation="relu"), dense(6, activation="relu"), dense(3, "softmax")]
    )
    model.set_weights(start)
    learning_rate, callbacks = keras_setting(recipe, model, {"x": x.numpy(), "y": y.numpy()})
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), "sparse_categorical_crossentropy")

    path, loader = Training([start], [], [], []), data.train_dataloader()
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        x, y = (torch.cat(parts).numpy() for parts in zip(*loader, strict=True))
        history = model.fit(
            x, y, batch_size=5, shuffle=False, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=callbacks
        )
        path.losses.extend(history.history["loss"])
        path.orders.append(x.tobytes())
        path.weights.append(model.get_weights())
    return path._replace(measured=callbacks[0].losses if recipe == "iris_loss_driven" else [])


# Seeds whose training is not chaotic and whose network lives. Of all four recipes with the seeds 1 to 20, the largest
# difference of a weight in 20 epochs is below 1e-6 in two thirds and below 1e-5 in five sixths; in the rest a rounding
# grows (to 1e-3; once to 10, from one jump at a ReLU). In those here it is 3e-6 or less. The nets of inverse time and
# of the steps from 0.1 end with two classes merged, which is as good as these recipes get.
RUNS = [
    ("iris_inverse_time", 9),
    ("iris_exponential", 2),
    ("iris_exponential", 20),
    ("iris_step", 9),
    ("iris_loss_driven", 6),
    ("iris_loss_driven", 12),
]
QUIET = (f"trainer.max_epochs={EPOCHS}", "verbose=0", "callbacks.progress=null", "callbacks.trace=null")


@pytest.fixture(scope="module", params=RUNS, ids=[f"{recipe} seed {seed}" for recipe, seed in RUNS])
def paths(request, tmp_path_factory):
    recipe, seed = request.param
    config = composed(recipe, tmp_path_factory.mktemp(recipe), f"seed={seed}", *QUIET)
    threads = torch.get_num_threads()  # this is set up before the fixture that limits them for a test
    torch.set_num_threads(1)
    ours = our_path(config, pytest.MonkeyPatch())
    theirs = keras_path(recipe, config, ours.weights[0])
    torch.set_num_threads(threads)
    return recipe, ours, theirs


def test_weights_take_the_path_that_they_take_in_keras(paths):
    _, ours, theirs = paths
    assert len(ours.weights) == len(theirs.weights) == EPOCHS + 1
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        for parameter, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(parameter, expected, rtol=0, atol=1e-5)
    moved = max(np.abs(last - first).max() for last, first in zip(ours.weights[-1], ours.weights[0], strict=True))
    assert moved > 0.5


def test_batches_are_those_of_keras_in_a_new_order_every_epoch(paths):
    """`fit` shuffles by default; without, Iris lies sorted by class, and training hardly works."""
    _, ours, theirs = paths
    assert ours.orders == theirs.orders
    assert len(set(ours.orders)) == EPOCHS


def test_losses_are_those_of_keras(paths):
    _, ours, theirs = paths
    assert ours.losses == pytest.approx(theirs.losses, rel=0, abs=1e-5)
    assert len(ours.losses) == EPOCHS
    assert ours.losses[-1] < 0.5  # a network that learns: a dead one stays at log(3) = 1.0986


def test_learning_rates_follow_the_formula_at_every_update(paths):
    recipe, ours, theirs = paths
    update, epoch = np.arange(EPOCHS * UPDATES), np.repeat(np.arange(EPOCHS), UPDATES)
    used = ours.run.trace["lr"].values
    if recipe == "iris_loss_driven":
        before_each = used[::UPDATES]
        # The loss that the first update of an epoch reveals holds to its last; how good it is, Keras tells.
        np.testing.assert_array_equal(used, np.repeat(before_each, UPDATES))
        np.testing.assert_allclose(np.log(before_each / 0.01), theirs.measured, rtol=0, atol=1e-5)
        return
    expected = {
        "iris_inverse_time": 0.1 / (1 + 0.005 * update),
        "iris_exponential": 0.01 * 0.05 ** ((1 + epoch) / 10),
        "iris_step": 0.1 * 0.5 ** (epoch // 10),
    }[recipe]
    np.testing.assert_allclose(used, expected, rtol=1e-12, atol=0)


def test_a_measured_loss_is_logged_for_its_own_epoch(paths):
    """`evaluate` before the first epoch, and after each one but the last."""
    recipe, ours, theirs = paths
    assert len(theirs.measured) == (EPOCHS if recipe == "iris_loss_driven" else 0)
    assert ours.measured == pytest.approx(theirs.measured, rel=0, abs=1e-5)


# --- the MNIST article, on digits ---------------------------------------------------------------------------

FEW = ("trainer.max_epochs=8", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer=cpu")


def messages(text: str) -> str:
    return "".join(re.findall(r"\nEpoch \d+: LearningRateScheduler .*\n", text))


def test_digits_piecewise_uses_the_learning_rates_of_the_article(tmp_path, capsys):
    run = train(composed("digits_piecewise", tmp_path, *FEW))
    trace = run.trace["lr"]
    assert trace.values.tolist() == np.repeat([0.002] * 3 + [0.001] * 2 + [0.0005] * 3, 2).tolist()
    keras_text, keras_rates = keras_fit(article_mnist, 8)
    assert trace.values[::2].tolist() == pytest.approx(keras_rates, rel=2**-23)
    # The article's console is one of Keras 2.
    padded = re.sub(r"Epoch (\d)", r"Epoch 0000\1", keras_text)
    assert messages(capsys.readouterr().out) == padded
    assert "\nEpoch 00004: LearningRateScheduler setting learning rate to 0.001.\n" in padded


def test_digits_piecewise_in_the_form_of_keras_3(tmp_path, capsys):
    train(composed("digits_piecewise", tmp_path, *FEW, "style=keras3", "callbacks.trace=null"))
    assert messages(capsys.readouterr().out) == keras_fit(article_mnist, 8).text
