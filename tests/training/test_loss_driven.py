"""The loss-driven recipes: lr = eta0 * exp(loss of the training set) at every update, and both in one picture."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure

from lr_plugins.callbacks import FullPass
from lr_plugins.training.run import train
from tests.training.data.test_torchvision_data import mnist_contents, write_mnist
from tests.training.test_main import ROOT

CONF = str(ROOT / "conf")


@pytest.fixture(name="figures")
def _figures(monkeypatch):
    """The figures that are saved, which are not drawn."""
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: saved.append(figure))
    return saved


@pytest.fixture(name="measured")
def _measured(monkeypatch):
    """The losses that are measured, in float64."""
    losses, measure = [], FullPass.__call__

    def recorded(self, trainer, pl_module):
        losses.append(measure(self, trainer, pl_module))
        return losses[-1]

    monkeypatch.setattr(FullPass, "__call__", recorded)
    return losses


def run(experiment, folder, *overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        quiet = ["logger=none", "callbacks=silent", f"output_dir={folder}"]
        return train(compose("train", [f"experiment={experiment}", *quiet, *overrides]))


def points(axes, label):
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return line.get_xdata(), line.get_ydata()


def assert_is_rule(run, figure, measured, eta0, epochs, updates):
    """The rule at every update, and a picture with the learning rates used and the losses measured."""
    used = run.trace["lr"].values
    assert len(used) == epochs * updates
    assert len(measured) == epochs  # before the first epoch, and after each one but the last
    np.testing.assert_allclose(used, np.repeat(eta0 * np.exp(measured), updates), rtol=1e-12, atol=0)
    rate, loss = figure.axes
    assert (rate.get_ylabel(), loss.get_ylabel()) == ("learning rate", "training set loss")
    assert points(rate, "lr")[1][:-1].tolist() == used.tolist()
    steps, values = points(loss, "training_set_loss")
    assert steps.tolist() == [epoch * updates for epoch in range(epochs)]
    np.testing.assert_allclose(values, measured, rtol=1e-6)


def test_the_cnn_trains_on_digits_by_the_rule(tmp_path, figures, measured):
    result = run("cnn_loss_driven", tmp_path, "trainer.max_epochs=3", "trainer=cpu")
    assert_is_rule(result, figures[0], measured, 0.01, epochs=3, updates=45)
    assert measured[0] == pytest.approx(np.log(10), rel=0.03)  # untrained, so the factor is about 10
    assert measured[-1] < 0.5
    assert result.history["val_acc"][-1] > 0.9
    assert result.best.best_model_path


def test_it_does_on_mnist(tmp_path, figures, measured):
    write_mnist(tmp_path / "data/MNIST/raw", mnist_contents(train=300))
    data = [f"data.data_dir={tmp_path}/data", "data.download=false"]
    result = run("mnist_loss_driven", tmp_path, *data, "trainer.max_epochs=2", "trainer=cpu")
    assert result.module.example_input_array.shape == (1, 1, 28, 28)
    assert_is_rule(result, figures[0], measured, 0.01, epochs=2, updates=3)


def test_iris_follows_the_same_rule(tmp_path, figures, measured):
    result = run("iris_loss_driven", tmp_path, "trainer.max_epochs=3")
    assert_is_rule(result, figures[0], measured, 0.01, epochs=3, updates=30)


def test_a_ceiling_holds_where_the_rule_is_above_it(tmp_path, figures, measured):
    few = ["trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer=cpu"]
    result = run("cnn_loss_driven", tmp_path, *few, "schedule.max_learning_rate=0.05")
    expected = np.minimum(0.05, 0.01 * np.exp(measured))
    np.testing.assert_allclose(result.trace["lr"].values, np.repeat(expected, 3), rtol=1e-12, atol=0)
    assert expected[0] == 0.05


def test_a_resumed_run_draws_the_curves_of_the_whole(tmp_path, figures, measured):
    def part(name, *overrides):
        return run("iris_loss_driven", tmp_path / name, *overrides)

    part("whole", "trainer.max_epochs=4")
    first = part("first", "trainer.max_epochs=2")
    part("resumed", "trainer.max_epochs=4", f"ckpt_path={first.last.path}", "new_run=true")
    whole, _, resumed = figures
    for at, label in enumerate(["lr", "training_set_loss"]):
        for one, other in zip(points(whole.axes[at], label), points(resumed.axes[at], label), strict=True):
            assert one.tolist() == other.tolist()


def test_the_picture_follows_the_metric_that_the_rule_follows(tmp_path, figures):
    few = ["trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer=cpu"]
    run("cnn_loss_driven", tmp_path, *few, "schedule.monitor=val_loss")
    assert points(figures[0].axes[1], "val_loss")[0].tolist() == [3, 6]


def test_the_cnn_recipes_differ_in_the_data_only():
    with initialize_config_dir(CONF, version_base="1.3"):
        one, other = (compose("train", [f"experiment={name}"]) for name in ("cnn_loss_driven", "mnist_loss_driven"))
    names = ["model", "loss", "optimizer", "schedule", "callbacks", "trainer"]
    assert [one[name] for name in names] == [other[name] for name in names]
    assert one.data != other.data
