"""KerasClassifier: a classifier of scikit-learn, a fit of Keras, and a training of Lightning."""

from __future__ import annotations

import logging
import pickle
import random
import re
import signal
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from lr_plugins import History, KerasProgress, LearningRateScheduler, LossDriven
from lr_plugins.callbacks import FullPass
from lr_plugins.errors import InvalidArgument
from lr_plugins.keras import SGD, KerasClassifier
from lr_plugins.training.losses import KerasCategoricalCrossentropy
from lr_plugins.training.models import initialize
from lr_plugins.training.run import train
from tests.docs.pages import ROOT, blocks_of

X, Y = load_iris(return_X_y=True)
NAMES = load_iris().target_names[Y]
ONE_HOT = np.eye(3)[Y]
SCRIPTS = [block.text for block in blocks_of(ROOT / "docs/articles.md") if "KerasClassifier(" in block.text]
CPU = {"accelerator": "cpu"}


def build(units=6, lr=0.01, softmax=True, classes=3):
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, units), nn.ReLU(), nn.Linear(units, classes)]
    network = nn.Sequential(*layers, *([nn.Softmax(dim=-1)] if softmax else []))
    initialize(network, "keras")
    return network, SGD(network.parameters(), lr=lr, momentum=0.9)


def build_for(meta):
    """For data of any size."""
    network = nn.Sequential(nn.Linear(meta["n_features_in_"], 16), nn.ReLU(), nn.Linear(16, meta["n_classes_"]))
    return network, torch.optim.Adam(network.parameters(), lr=0.05)


def build_alone(units=6):
    return build(units)[0]


def step_decay(epoch):
    return 0.01 * 0.9**epoch


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


def classifier(build_fn=build, **arguments):
    return KerasClassifier(build_fn, **{"epochs": 2, "batch_size": 25, "verbose": 0, "random_state": 3, **arguments})


def weights(fitted):
    return torch.cat([parameter.detach().flatten() for parameter in fitted.model_.parameters()])


# --- scikit-learn -------------------------------------------------------------------------------------------


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


def test_parameters_are_those_of_the_class_and_those_given_for_build_fn():
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


def test_a_parameter_named_like_an_argument_of_build_fn_is_for_build_fn():
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
    with pytest.raises(InvalidArgument, match=message):
        classifier(**{wrong: 1})
    one = classifier()
    with pytest.raises(InvalidArgument, match=message):
        one.set_params(epochs=9, **{wrong: 1})
    assert one.epochs == 2
    with pytest.raises(InvalidArgument, match=message):
        GridSearchCV(classifier(), {wrong: [1, 2]}, cv=2).fit(X, Y)
    with pytest.raises(InvalidArgument, match=r"Near it: epochs\."):
        classifier(epoch=3)
    assert classifier(lambda **any_of_them: build(), drop=1).fit(X, Y)


# --- labels and inputs --------------------------------------------------------------------------------------


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
            r"y must be one label for each sample, or one-hot rows.*got an array of shape \(150, 3\)",
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


# --- what build_fn returns ----------------------------------------------------------------------------------


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
    with pytest.raises(InvalidArgument, match=r"from_logits must be"):
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
        (lambda: (nn.LSTM(4, 3), SGD), {}, r"must be one with 3 outputs, one for each class; got \(tensor"),
        (lambda: (nn.Linear(5, 3), SGD), {}, r"takes a float32 tensor of shape \(32, 4\).*It says: mat1 and mat2"),
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
        (build, {"callbacks": LearningRateScheduler}, r"callbacks must be None or a list of Lightning's callbacks"),
        (build, {"callbacks": [step_decay]}, r"callbacks must be None or a list of Lightning's callbacks"),
        (build, {"trainer": {"max_epochs": 3}}, r"max_epochs must be given as KerasClassifier\(epochs=\.\.\.\)"),
        (build, {"trainer": 3}, r"KerasClassifier\.trainer must be None or a dict"),
    ],
)
def test_what_cannot_be_fitted(build_fn, arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        classifier(build_fn, **arguments).fit(X, Y)


def test_two_classes_take_two_outputs():
    with pytest.raises(InvalidArgument, match=r"2 outputs.*shape \(32, 1\)\. Two classes take two outputs"):
        classifier(classes=1).fit(X[:100], Y[:100])


# --- the fit ------------------------------------------------------------------------------------------------


def test_fit_takes_the_arguments_of_keras_for_this_fit_alone():
    one = classifier()
    fitted = one.fit(X, Y, epochs=3, batch_size=150, shuffle=False, callbacks=[LearningRateScheduler(step_decay)])
    assert fitted is one
    assert one.history_["lr"] == [step_decay(epoch) for epoch in range(3)]
    assert len(one.callbacks_[-1].trace["lr"].values) == 3
    assert one.get_params()["epochs"] == 2
    assert len(one.fit(X, Y).history_["loss"]) == 2


def test_the_end_of_the_data_is_held_out():
    order = np.random.default_rng(0).permutation(150)
    x, y = X[order], NAMES[order]
    split = classifier(validation_split=0.3).fit(x, y)
    given = classifier().fit(x[:105], y[:105], validation_data=(x[105:], y[105:]))
    assert split.history_.history == given.history_.history
    assert list(split.history_) == ["val_loss", "val_acc", "loss", "acc"]
    assert split.history_["val_acc"][-1] == pytest.approx(split.score(x[105:], y[105:]))
    with pytest.raises(ValueError, match="previously unseen labels"):
        classifier().fit(X[:100], Y[:100], validation_data=(X, Y))
    with pytest.raises(InvalidArgument, match=r"one-hot rows of as many numbers as there are classes"):
        classifier().fit(X, Y, validation_data=(X, np.eye(4)[Y]))
    with pytest.raises(InvalidArgument, match=r"validation_data must be None or a tuple \(X, y\)"):
        classifier().fit(X, Y, validation_data=X)


def test_callbacks_start_afresh_in_each_fit():
    stopping = pl.callbacks.EarlyStopping("loss", min_delta=100.0, patience=2)
    callbacks = [LearningRateScheduler(step_decay), stopping]
    one, other = (classifier(epochs=6, callbacks=callbacks) for _ in range(2))
    histories = [fitted.fit(X, Y).history_.history for fitted in (one, one, other)]
    assert histories[0] == histories[1] == histories[2]
    assert len(histories[0]["loss"]) == 3
    assert stopping.stopped_epoch == 0
    assert one.callbacks_[-1].stopped_epoch == 2
    assert one.callbacks is callbacks


def test_a_history_of_the_user_is_the_one_that_is_kept():
    fitted = classifier(callbacks=[History(style="keras3"), KerasProgress(verbose=0)], verbose=1).fit(X, Y)
    assert list(fitted.history_) == ["acc", "loss"]  # in Keras 3's order
    assert [type(one) for one in fitted.callbacks_] == [History, KerasProgress]


def test_a_loss_driven_schedule_measures_the_training_set():
    schedule = LossDriven(0.01, monitor="training_set_loss")
    scheduler = LearningRateScheduler(schedule, measure={"training_set_loss": FullPass()})
    fitted = classifier(callbacks=[scheduler]).fit(X, Y)
    assert len(fitted.history_["training_set_loss"]) == 2


def test_the_console_is_that_of_keras(capsys):
    classifier(verbose=2, callbacks=[LearningRateScheduler(step_decay, verbose=1)]).fit(X, Y)
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = r"Epoch {0}/2\n\nEpoch 0000{0}: LearningRateScheduler setting learning rate to {1}\.\n"
    lines += r" - 0s - loss: \d\.\d{{4}} - acc: \d\.\d{{4}}\n"
    assert re.fullmatch(lines.format(1, r"0\.01") + lines.format(2, r"0\.009\d*"), shown.out), shown.out
    classifier(verbose=1, style="keras3").fit(X, Y, epochs=1)
    assert "6/6" in (out := capsys.readouterr().out)
    assert re.search(r"acc: \d\.\d{4} - loss: \d\.\d{4}\n$", out)
    classifier().fit(X, Y)
    assert capsys.readouterr() == ("", "")


SILENT = """
import warnings
warnings.simplefilter("error")
from sklearn.datasets import load_iris
from tests.keras.test_keras_classifier import classifier
classifier(verbose=1, epochs=1).fit(*load_iris(return_X_y=True))
"""


def test_nothing_else_is_printed_and_no_file_is_left(tmp_path):
    """In a program of its own, where nothing has silenced Lightning."""
    command = [sys.executable, "-c", SILENT]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("Epoch 1/1\n")
    assert re.search(r"150/150 \[=+\] - \S+ \S+ - loss: \d\.\d{4} - acc: \d\.\d{4}\n$", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_the_settings_of_the_program_come_back():
    logger, level = logging.getLogger("pytorch_lightning"), logging.INFO
    logger.setLevel(level)
    filters = list(warnings.filters)
    classifier().fit(X, Y)
    assert logger.level == level
    assert warnings.filters == filters


def test_checkpoints_and_loggers_where_they_are_asked_for(tmp_path):
    saving = pl.callbacks.ModelCheckpoint(tmp_path / "saved", monitor="loss")
    logger = pl.loggers.CSVLogger(tmp_path / "logs")
    fitted = classifier(callbacks=[saving], trainer={"logger": logger, "log_every_n_steps": 1}).fit(X, Y)
    assert len(list((tmp_path / "saved").glob("*.ckpt"))) == 1
    assert list((tmp_path / "logs").rglob("metrics.csv"))
    assert fitted.callbacks_[-1].best_model_path


def test_ctrl_c_arrives_as_such():
    class Stop(pl.Callback):
        def on_train_batch_end(self, *arguments):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier(callbacks=[Stop()]).fit(X, Y)
    with pytest.raises(KeyboardInterrupt):  # Lightning has it ignored after the first
        signal.raise_signal(signal.SIGINT)


# --- random numbers -----------------------------------------------------------------------------------------


def states():
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


def test_an_int_decides_and_leaves_the_random_numbers_of_the_program_alone():
    pl.seed_everything(1, verbose=False)
    expected = states()
    pl.seed_everything(1, verbose=False)
    first = classifier().fit(X, Y)
    with pytest.raises(InvalidArgument):
        classifier(classes=2).fit(X, Y)
    assert states() == expected
    assert torch.equal(weights(first), weights(classifier().fit(X, Y)))
    assert not torch.equal(weights(first), weights(classifier(random_state=4).fit(X, Y)))


@pytest.mark.parametrize(
    "seed",
    [np.random.seed, partial(pl.seed_everything, verbose=False)],
    ids=["numpy", "lightning"],
)
def test_without_one_numpys_seed_decides_as_in_the_article(seed):
    fitted = []
    for number in (4, 4, 5):
        seed(number)
        torch.rand(number)  # what torch's own state is does not matter
        fitted.append(weights(classifier(random_state=None).fit(X, Y)))
    assert torch.equal(fitted[0], fitted[1])
    assert not torch.equal(fitted[0], fitted[2])
    seed(4)
    two = [weights(classifier(random_state=None).fit(X, Y)) for _ in range(2)]
    assert torch.equal(two[0], fitted[0])
    assert not torch.equal(*two)


def test_a_random_state_is_drawn_from():
    state = np.random.RandomState(0)
    one = classifier(random_state=state)
    assert not torch.equal(weights(one.fit(X, Y)), weights(one.fit(X, Y)))


# --- the article --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", SCRIPTS, ids=["linear", "exponential"])
def test_the_scripts_of_the_article(text, capsys):
    names = {}
    assert "epochs=200" in text
    exec(text.replace("epochs=200", "epochs=3"), names)
    model, out = names["model"], capsys.readouterr().out
    assert re.findall(r"^Epoch .*$", out, re.MULTILINE) == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert len(re.findall(r"^150/150 \[=+\] - .* - loss: \d+\.\d{4} - acc: \d\.\d{4}$", out, re.MULTILINE)) == 3
    expected = [names["step_decay"](epoch) for epoch in range(3)] if "step_decay" in names else [0.1] * 3
    assert list(model.history_.learning_rates.values()) == expected
    assert ("lr" in model.history_) == ("step_decay" in names)  # as in Keras


@pytest.mark.parametrize(("recipe", "script"), [("iris_inverse_time", 0), ("iris_exponential", 1)])
def test_it_trains_as_the_recipes_of_train_py_bit_for_bit(recipe, script, tmp_path):
    quiet = ("logger=none", "verbose=0", "callbacks.progress=null", f"output_dir={tmp_path}", "seed=9")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run = train(compose("train", [f"experiment={recipe}", "trainer.max_epochs=5", *quiet]))
    names = {}
    exec(SCRIPTS[script].partition("model = Keras")[0], names)
    callbacks = [names["lrate"]] if "lrate" in names else None
    fitted = classifier(names["create_model"], epochs=5, batch_size=5, callbacks=callbacks, random_state=9).fit(X, Y)
    assert torch.equal(weights(fitted), torch.cat([one.detach().flatten() for one in run.module.net.parameters()]))
    assert fitted.history_["loss"] == run.history["loss"]
    assert fitted.history_["acc"] == run.history["acc"]
