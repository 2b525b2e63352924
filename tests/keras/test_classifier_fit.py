"""KerasClassifier: the fit, its random numbers, and the scripts of the articles."""

from __future__ import annotations

import logging
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

from lr_plugins import History, KerasProgress, LearningRateScheduler, LossDriven
from lr_plugins.callbacks import FullPass
from lr_plugins.errors import InvalidArgumentError
from lr_plugins.training.run import train
from tests.docs.pages import ROOT, blocks_of
from tests.keras.helpers import NAMES, X, Y, classifier, step_decay, weights

SCRIPTS = [block.text for block in blocks_of(ROOT / "docs/articles.md") if "KerasClassifier(" in block.text]


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
    with pytest.raises(InvalidArgumentError, match=r"one-hot rows with a column per class"):
        classifier().fit(X, Y, validation_data=(X, np.eye(4)[Y]))
    with pytest.raises(InvalidArgumentError, match=r"validation_data must be None or a tuple \(X, y\)"):
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
    # Spaces cover what is left of a longer line.
    assert re.search(r"acc: \d\.\d{4} - loss: \d\.\d{4} *\n$", out)
    classifier().fit(X, Y)
    assert capsys.readouterr() == ("", "")


SILENT = """
import warnings
warnings.simplefilter("error")
from sklearn.datasets import load_iris
from tests.keras.helpers import classifier
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a process that a shell has put in background

    class Stop(pl.Callback):
        def on_train_batch_end(self, *arguments):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier(callbacks=[Stop()]).fit(X, Y)
    with pytest.raises(KeyboardInterrupt):  # Lightning has it ignored after the first
        signal.raise_signal(signal.SIGINT)


def states():
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


def test_integer_seed_leaves_the_global_random_state_alone():
    pl.seed_everything(1, verbose=False)
    expected = states()
    pl.seed_everything(1, verbose=False)
    first = classifier().fit(X, Y)
    with pytest.raises(InvalidArgumentError):
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
