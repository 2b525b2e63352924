"""KerasClassifier as an estimator of scikit-learn."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from lr_plugins import LearningRateScheduler
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.keras import KerasClassifier
from tests.keras.helpers import NAMES, ONE_HOT, X, Y, build, classifier, step_decay, weights

CPU = {"accelerator": "cpu"}


def build_for(meta):
    """For data of any size."""
    network = nn.Sequential(nn.Linear(meta["n_features_in_"], 16), nn.ReLU(), nn.Linear(16, meta["n_classes_"]))
    return network, torch.optim.Adam(network.parameters(), lr=0.05)


# scikit-learn's own names of the checks have an address of memory in them, which differs between processes.
CHECKS = list(
    parametrize_with_checks([KerasClassifier(build_for, epochs=20, batch_size=64, verbose=0, trainer=CPU)]).args[1]
)


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[check.func.__name__ for _, check in CHECKS])
def test_it_passes_all_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_cross_validation_trains_a_new_network_for_each_fold():
    pipeline = make_pipeline(StandardScaler(), classifier(epochs=15, batch_size=5, lr=0.05))
    scores = cross_val_score(pipeline, X, NAMES, cv=3)
    assert scores.min() > 0.8
    assert cross_val_score(classifier(), X, ONE_HOT, cv=3).shape == (3,)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_of_epochs_batch_sizes_and_arguments_of_build_fn(n_jobs):
    scheduled = classifier(callbacks=[LearningRateScheduler(step_decay)])
    grid = {"epochs": [1, 2], "batch_size": [50], "units": [3, 5], "optimizer": [None]}
    search = GridSearchCV(scheduled, grid, cv=2, n_jobs=n_jobs, error_score="raise").fit(X, Y)
    best, found = search.best_params_, search.best_estimator_
    assert len(found.history_["loss"]) == best["epochs"] == found.epochs
    assert found.model_[2].out_features == best["units"]
    assert found.history_["lr"] == [step_decay(epoch) for epoch in range(best["epochs"])]
    assert {(one["epochs"], one["units"]) for one in search.cv_results_["params"]} == {(1, 3), (1, 5), (2, 3), (2, 5)}


def test_a_pickle_predicts_the_same_and_can_be_fitted_again():
    fitted = classifier(callbacks=[LearningRateScheduler(step_decay)]).fit(X, NAMES)
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
    assert copied.history_.history == fitted.history_.history
    assert torch.equal(weights(copied.fit(X, NAMES)), weights(fitted))


def test_parameters_include_those_given_for_build_fn():
    one = classifier(units=5)
    assert one.get_params()["units"] == 5
    assert "lr" not in one.get_params()
    assert one.set_params(lr=0.5, epochs=7) is one
    assert (one.get_params()["lr"], one.epochs) == (0.5, 7)
    copied = clone(one)
    assert copied.get_params() == one.get_params()
    assert copied is not one
    assert "units=5" in repr(one)
    assert "units" in one._repr_html_()


def test_parameter_of_a_shared_name_goes_to_build_fn():
    got = []

    def chosen(optimizer="sgd", epochs=0, loss=None):
        got.append((optimizer, epochs, loss))
        network = build()[0]
        return network, torch.optim.Adam(network.parameters())

    classifier(chosen, optimizer="adam").fit(X, Y)
    classifier(chosen).fit(X, Y, epochs=1)
    assert got == [("adam", 2, None), ("sgd", 1, None)]


@pytest.mark.parametrize("wrong", ["epoch", "drop", "units__x"])
def test_a_name_that_nothing_takes(wrong):
    message = rf"must be one of batch_size, .*build_fn \(units, lr, softmax, classes\); got '{wrong}'"
    with pytest.raises(InvalidArgumentError, match=message):
        classifier(**{wrong: 1})
    one = classifier()
    with pytest.raises(InvalidArgumentError, match=message):
        one.set_params(epochs=9, **{wrong: 1})
    assert one.epochs == 2
    with pytest.raises(InvalidArgumentError, match=message):
        GridSearchCV(classifier(), {wrong: [1, 2]}, cv=2).fit(X, Y)
    with pytest.raises(InvalidArgumentError, match=r"Did you mean epochs\?"):
        classifier(epoch=3)
    assert classifier(lambda **any_of_them: build(), drop=1).fit(X, Y)
