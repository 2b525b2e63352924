"""KerasClassifier against the article's scripts in real Keras: same weights, same batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.datasets import load_iris

from lr_plugins.keras import SGD, KerasClassifier
from tests.docs.pages import ROOT, blocks_of

from .test_recipes import EPOCHS, Recorder, composed, keras_path

SCRIPTS = [block.text for block in blocks_of(ROOT / "docs/articles.md") if "KerasClassifier(" in block.text]
# Seeds whose training is not chaotic, see test_recipes.py.
RUNS = [("iris_inverse_time", 0, 9), ("iris_exponential", 1, 2)]
CASES = pytest.mark.parametrize(("recipe", "script", "seed"), RUNS, ids=[recipe for recipe, _, _ in RUNS])
CPU = {"accelerator": "cpu"}


def definitions(script):
    """What a script defines before it trains."""
    names = {}
    exec(SCRIPTS[script].partition("model = Keras")[0], names)
    return names


def fitted(build_fn, callbacks, seed):
    """A classifier after the first epochs of the article."""
    settings = {"epochs": EPOCHS, "batch_size": 5, "verbose": 0, "random_state": seed, "trainer": CPU}
    return KerasClassifier(build_fn, callbacks=callbacks, **settings).fit(*load_iris(return_X_y=True))


@CASES
def test_the_scripts_take_the_path_that_they_take_in_keras(recipe, script, seed, tmp_path):
    names = definitions(script)
    callbacks = [Recorder(), *([names["lrate"]] if "lrate" in names else [])]
    model = fitted(names["create_model"], callbacks, seed)
    ours = next(one for one in model.callbacks_ if isinstance(one, Recorder))
    theirs = keras_path(recipe, composed(recipe, tmp_path, f"seed={seed}"), ours.weights[0])
    assert ours.orders == theirs.orders
    assert len(ours.weights) == len(theirs.weights) == EPOCHS + 1
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        for parameter, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(parameter, expected, rtol=0, atol=1e-5)
    assert model.history_["loss"] == pytest.approx(theirs.losses, rel=0, abs=1e-5)
    assert model.history_["loss"][-1] < 0.5  # a network that learns


@CASES
def test_a_model_of_keras_is_a_network(recipe, script, seed, tmp_path):
    """On the torch backend it is an nn.Module; `fit` of Keras and Lightning's Trainer take it the same way."""
    names, started = definitions(script), []

    def create_model():
        torch_s, optimizer = names["create_model"]()
        started.extend(parameter.detach().numpy().T.copy() for parameter in torch_s.parameters())
        dense = keras.layers.Dense
        layers = [
            keras.layers.Input((4,)),
            dense(4, activation="relu"),
            dense(6, activation="relu"),
            dense(3, "softmax"),
        ]
        with keras.device("cpu"):
            model = keras.Sequential(layers)
            model.set_weights(started)
        return model, SGD(model.parameters(), **optimizer.get_config())

    model = fitted(create_model, [names["lrate"]] if "lrate" in names else None, seed)
    assert not model.from_logits_
    theirs = keras_path(recipe, composed(recipe, tmp_path, f"seed={seed}"), started)
    for parameter, expected in zip(model.model_.get_weights(), theirs.weights[-1], strict=True):
        np.testing.assert_allclose(parameter, expected, rtol=0, atol=1e-5)
    assert model.history_["loss"] == pytest.approx(theirs.losses, rel=0, abs=1e-5)
